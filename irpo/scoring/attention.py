"""Attention over rows of a trunk and its branches, without computing what the mask would throw away.

A dense mask makes a kernel compute every pair of columns. The trunk's columns see the trunk alone, so they go through
the causal kernel without a mask; the columns behind it go in parts, each with the keys that it can see at all: the
trunk and the few branches of the part, not all the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

SPLIT = "sdpa_split"  # the name under which transformers knows it
# Columns of a part, about: fewer skip more and call the kernel more often, which is what a card waits for.
PART_COLUMNS = {"cpu": 128, "cuda": 512}


@dataclass(frozen=True)
class Part:
    """Columns `start` to `stop` of those behind the trunk; they see the trunk and the columns from `reach` on."""

    start: int
    stop: int
    reach: int  # counted behind the trunk as well
    mask: Tensor  # (R, 1, stop - start, trunk + stop - reach), additive


def parts_on(device: str) -> int:
    """Columns of a part on this kind of device."""
    return PART_COLUMNS["cpu" if device == "cpu" else "cuda"]


def in_parts(mask: Tensor, reach: Sequence[int]) -> Tensor:
    """The mask (R, 1, M, T) of the last M columns, which now carries its parts for `split_attention`.

    `reach[i]` is the first of these columns that any row's column i sees.
    """
    count, trunk = mask.shape[2], mask.shape[3] - mask.shape[2]
    parts = round(count / parts_on(mask.device.type))
    if parts < 2:
        return mask
    found = []
    for start, stop in pairwise(count * part // parts for part in range(parts + 1)):
        first = min(reach[start:stop])
        rows = mask[:, :, start:stop]
        seen = torch.cat([rows[..., :trunk], rows[..., trunk + first : trunk + stop]], -1)
        found.append(Part(start, stop, first, aligned(seen)))
    mask.parts = found  # type: ignore[attr-defined]
    return mask


def aligned(mask: Tensor) -> Tensor:
    """The mask with rows that begin at a multiple of 8 numbers: a GPU's kernel copies any other, in every layer."""
    missing = -mask.shape[-1] % 8
    return torch.nn.functional.pad(mask, (0, missing))[..., :-missing] if missing else mask


def split_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """transformers' `sdpa`, except for a mask with fewer rows (M) than there are queries (T), or one that has parts.

    It is the mask of the last M columns; the first T - M are causal. query is (R, heads, T, D), the mask (R, 1, M, T)
    and the result (R, T, heads, D). A mask that carries no parts is taken whole.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward as sdpa

    trunk = 0 if attention_mask is None else query.shape[2] - attention_mask.shape[2]
    parts: list[Part] | None = getattr(attention_mask, "parts", None)
    if trunk == 0 and parts is None:
        return sdpa(module, query, key, value, attention_mask, **options)  # type: ignore[no-any-return]
    found = []
    if trunk:
        first = (query[:, :, :trunk], key[:, :, :trunk], value[:, :, :trunk])
        found.append(sdpa(module, *first, None, **options | {"is_causal": True})[0])
    if parts is None:
        found.append(sdpa(module, query[:, :, trunk:], key, value, attention_mask, **options)[0])
    for part in parts or ():
        asking = query[:, :, trunk + part.start : trunk + part.stop]
        seen = [_seen(table, trunk, part) for table in (key, value)]
        found.append(sdpa(module, asking, *seen, part.mask, **options)[0])
    return torch.cat(found, 1), None


def _seen(table: Tensor, trunk: int, part: Part) -> Tensor:
    return torch.cat([table[:, :, :trunk], table[:, :, trunk + part.reach : trunk + part.stop]], 2)


def use_split_attention(model: Any) -> Any:
    """The same model, with `split_attention` where it had `sdpa`, and without cuDNN's attention.

    That kernel is tried first on an H100 or H200. With a mask it gives NaN gradients at some lengths (pytorch#196678),
    and it plans about a second for each new shape, of which our rows have a hundred in an update.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    if model.config.get_text_config()._attn_implementation == "sdpa":
        AttentionInterface.register(SPLIT, split_attention)
        AttentionMaskInterface.register(SPLIT, sdpa_mask)
        model.set_attn_implementation(SPLIT)
    return model
