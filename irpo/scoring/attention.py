"""Attention over rows of a trunk and its branches, without computing what the mask would throw away.

A dense mask makes a kernel compute every pair of columns. The trunk's columns see the trunk alone, so they go through
the causal kernel without a mask; the columns behind it go in parts, each with the keys that it can see at all: the
trunk and the few branches of the part, not all the others. So what a prompt of blocks takes, in time and in memory,
grows with its length, not with the square of it. Parts that see few keys are rows of one call: a kernel that is called
for each of them waits more than it computes, and each slice of the keys has a gradient as large as all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

Span = tuple[int, int]  # the first, and the one behind the last
SPLIT = "sdpa_split"  # the name under which transformers knows it
# Columns of a part, about: fewer skip more and call the kernel more often, which is what a card waits for.
PART_COLUMNS = {"cpu": 128, "cuda": 512}


Call = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # queries, keys, values, mask -> (R, T, heads, D)


@dataclass(frozen=True)
class Part:
    """Queries `start` to `stop`, which see no keys but those of `spans`."""

    start: int
    stop: int
    spans: tuple[Span, ...]
    mask: Tensor  # (R, 1, stop - start, keys of the spans), additive

    def attend(self, query: Tensor, key: Tensor, value: Tensor, call: Call) -> Tensor:
        """What its queries of (R, heads, T, D) read, (R, stop - start, heads, D)."""
        return call(query[:, :, self.start : self.stop], self._seen(key), self._seen(value), self.mask)

    def _seen(self, table: Tensor) -> Tensor:
        views = [table[:, :, start:stop] for start, stop in self.spans]
        return views[0] if len(views) == 1 else torch.cat(views, 2)


@dataclass(frozen=True)
class Parts:
    """P parts of the queries `start` to `stop`, one behind the other, each with few keys of its own: rows of one call.

    Those with fewer queries or keys than others are padded, with a query that is dropped and keys that none sees.
    """

    start: int
    stop: int
    queries: Tensor  # (P, Q)
    keys: Tensor  # (P, S)
    mask: Tensor  # (R P, 1, Q, S), additive
    real: Tensor | None  # (stop - start,) which of the P Q queries are no padding, where some are

    def attend(self, query: Tensor, key: Tensor, value: Tensor, call: Call) -> Tensor:
        """What its queries of (R, heads, T, D) read, (R, stop - start, heads, D)."""
        read = call(_rows(query, self.queries), _rows(key, self.keys), _rows(value, self.keys), self.mask)
        read = read.reshape(len(query), -1, *read.shape[2:])
        return read if self.real is None else read.index_select(1, self.real)


def _rows(table: Tensor, columns: Tensor) -> Tensor:
    """Columns (P, N) of (R, heads, T, D) as rows, (R P, heads, N, D)."""
    rows, heads, _, size = table.shape
    taken = table.transpose(1, 2).flatten(2).index_select(1, columns.flatten())
    return taken.view(rows * len(columns), -1, heads, size).transpose(1, 2)


def parts_on(device: str) -> int:
    """Columns of a part on this kind of device."""
    return PART_COLUMNS["cpu" if device == "cpu" else "cuda"]


def borders(reach: Sequence[int], size: int) -> list[tuple[int, int]]:
    """Parts of about `size` columns, of which column i sees others from `reach[i]` on; as (start, stop).

    A part ends where a branch begins, if that can be, and where columns begin to see much more than those before them.
    """
    cuts = [0]
    for i in range(1, len(reach)):
        begun = reach[i] > reach[i - 1] and i - cuts[-1] >= size * 3 // 4
        if begun or reach[i] < reach[i - 1] - size or i - cuts[-1] >= size * 3 // 2:
            cuts.append(i)
    return list(pairwise([*cuts, len(reach)]))


def aligned(mask: Tensor) -> Tensor:
    """The mask with rows that begin at a multiple of 8 numbers: a GPU's kernel copies any other, in every layer."""
    missing = -mask.shape[-1] % 8
    return torch.nn.functional.pad(mask, (0, missing))[..., :-missing] if missing else mask


def carrying(parts: list[Part | Parts], shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A mask of this shape, of which nothing is there but its parts."""
    nothing = torch.zeros((), dtype=dtype, device=device)
    whole = nothing.expand(shape)
    # Gemma 4 hands some layers a slice of the mask, which is another view of the same nothing.
    nothing.parts = whole.parts = parts  # type: ignore[attr-defined]
    return whole


def _parts_of(mask: Tensor | None, queries: int) -> list[Part | Parts] | None:
    """The parts that a mask carries; `RuntimeError` where they were lost, or are not those of so many queries."""
    if mask is None:
        return None
    parts: list[Part | Parts] | None = getattr(mask, "parts", None) or getattr(mask._base, "parts", None)
    if parts is None and mask.numel() > 1 and not any(mask.stride()):
        raise RuntimeError("attention: the mask has lost its parts on the way to this layer")
    if parts is not None and parts[-1].stop != queries:
        raise RuntimeError(f"attention: {queries} queries; the mask's parts are those of {parts[-1].stop}")
    return parts


def split_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """transformers' `sdpa`, except for a mask with fewer rows (M) than there are queries (T), or one that has parts.

    It is the mask of the last M columns; the first T - M are causal. query is (R, heads, T, D), the mask (R, 1, M, T)
    and the result (R, T, heads, D). A mask that never had parts is taken whole; of one that has, they alone count,
    and there may be more keys than queries.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward as sdpa

    trunk = 0 if attention_mask is None else query.shape[2] - attention_mask.shape[2]
    parts = _parts_of(attention_mask, query.shape[2])
    if trunk == 0 and parts is None:
        return sdpa(module, query, key, value, attention_mask, **options)  # type: ignore[no-any-return]
    found = []
    if trunk:
        first = (query[:, :, :trunk], key[:, :, :trunk], value[:, :, :trunk])
        found.append(sdpa(module, *first, None, **options | {"is_causal": True})[0])
    if parts is None:
        found.append(sdpa(module, query[:, :, trunk:], key, value, attention_mask, **options)[0])
    for part in parts or ():
        found.append(part.attend(query, key, value, lambda *of: sdpa(module, *of, **options)[0]))
    return torch.cat(found, 1), None


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
