"""Which column may see which, as each kind of attention takes it."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from irpo.scoring.attention import SPLIT, aligned, in_parts
from irpo.scoring.batching import PAD_LIST, ListBatch
from irpo.scoring.models import per_layer_type


def visible(batch: ListBatch, window: int | None = None, *, first: int = 0) -> Tensor:
    """Which column, from `first` on, may see which, (R, T - first, T) bool.

    It sees the same list, not later, in the trunk or in its own branch. `window` is a sliding window of that many
    *positions* (columns would count the other branches too). A padding column sees itself, so that no softmax runs over
    nothing.
    """
    column = torch.arange(batch.ids.shape[1], device=batch.ids.device)
    causal = column[None, :] <= column[first:, None]
    same_list = batch.lists[:, first:, None] == batch.lists[:, None, :]
    key = batch.branches[:, None, :]
    own_or_trunk = (key == 0) | (key == batch.branches[:, first:, None])
    seen = causal & same_list & own_or_trunk & (batch.lists != PAD_LIST)[:, None, :]
    if window is not None:
        seen &= batch.positions[:, first:, None] - batch.positions[:, None, :] < window
    return seen | (column[None, :] == column[first:, None])


def block_mask(batch: ListBatch, window: int | None = None) -> Any:
    """`visible` as FlexAttention takes it: blocks of columns that see nothing of each other are skipped."""
    from torch.nn.attention.flex_attention import create_block_mask

    lists, branches, positions = batch.lists, batch.branches, batch.positions

    def may_see(row: Tensor, _: Tensor, query: Tensor, key: Tensor) -> Tensor:
        own_or_trunk = (branches[row, key] == 0) | (branches[row, key] == branches[row, query])
        seen = (key <= query) & (lists[row, query] == lists[row, key]) & own_or_trunk
        return seen if window is None else seen & (positions[row, query] - positions[row, key] < window)

    rows, columns = lists.shape
    return create_block_mask(may_see, rows, None, columns, columns, device=str(lists.device))


def attention_masks(config: Any, batch: ListBatch, dtype: torch.dtype) -> Any:
    """The batch's mask as this model family takes it: one, or one a layer type (Gemma, Qwen).

    A block mask for FlexAttention, which skips what no column sees; an additive 4-D mask for the others, of which
    `split_attention` gets the rows behind the trunk, where no sliding window ends within it.
    """
    kind = config._attn_implementation

    def additive(window: int | None) -> Tensor:
        split = kind == SPLIT and (window is None or window >= batch.trunk)
        seen = visible(batch, window, first=batch.trunk if split else 0)[:, None]
        mask = aligned(torch.zeros(seen.shape, dtype=dtype, device=seen.device))
        mask.masked_fill_(~seen, torch.finfo(dtype).min)
        return in_parts(mask, batch.reach) if split else mask

    return per_layer_type(config, partial(block_mask, batch) if kind == "flex_attention" else additive)
