"""Attention over rows that begin with a trunk: the causal kernel for the trunk, a mask only for the columns behind it.

A dense mask makes a kernel compute every pair of columns. The trunk's columns see the trunk alone, so they need none:
on long prompts that is most of the work.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

SPLIT = "sdpa_split"  # the name under which transformers knows it


def split_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """transformers' `sdpa`, except where a mask has fewer rows (T - n) than there are queries (T).

    Such a mask is of the last T - n columns; the first n are causal. query is (R, heads, T, D), the mask (R, 1, T - n,
    T) and the result (R, T, heads, D).
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    trunk = 0 if attention_mask is None else query.shape[2] - attention_mask.shape[2]
    if trunk == 0:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)  # type: ignore[no-any-return]
    first = (query[:, :, :trunk], key[:, :, :trunk], value[:, :, :trunk])
    begun, _ = sdpa_attention_forward(module, *first, None, **options | {"is_causal": True})
    rest, _ = sdpa_attention_forward(module, query[:, :, trunk:], key, value, attention_mask, **options)
    return torch.cat([begun, rest], 1), None


def use_split_attention(model: Any) -> Any:
    """The same model, with `split_attention` where it had `sdpa`."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    if model.config.get_text_config()._attn_implementation == "sdpa":
        AttentionInterface.register(SPLIT, split_attention)
        AttentionMaskInterface.register(SPLIT, sdpa_mask)
        model.set_attn_implementation(SPLIT)
    return model
