"""Which column may see which, as each kind of attention takes it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from irpo.scoring.attention import SPLIT, Part, Parts, Span, aligned, borders, carrying, parts_on
from irpo.scoring.batching import PAD_LIST, ListBatch
from irpo.scoring.models import per_layer_type

FEW = 1024  # keys of a part that are copied, so that it shares a call with others
CALL = 16384  # keys of a call, all its parts together
Bounds = tuple[int, int, tuple[Span, ...]]  # of a part: its first query, the one behind its last, and its keys


def visible(batch: ListBatch, window: int | None = None, *, first: int = 0) -> Tensor:
    """Which column, from `first` on, may see which, (R, T - first, T) bool.

    It sees the same list, not later: the trunk and its own branch, and from a branch or from the trunk behind them the
    candidates' blocks in the trunk, too. `window` is a sliding window of that many *positions* (columns would count the
    other branches too). A padding column sees itself, so that no softmax runs over nothing.
    """
    column = torch.arange(batch.ids.shape[1], device=batch.ids.device)
    return visible_between(batch, window, column[first:], column)


def visible_between(batch: ListBatch, window: int | None, queries: Tensor, keys: Tensor) -> Tensor:
    """`visible` between some columns, (..., Q) and (..., K) in any order -> (R, ..., Q, K)."""

    def pair(table: Tensor) -> tuple[Tensor, Tensor]:
        return table[:, queries][..., None], table[:, keys][..., None, :]

    asking, branch = pair(batch.branches)
    seen = (branch == 0) | (branch == asking) | ((branch < 0) & (asking >= 0))
    query, key = queries[..., None], keys[..., None, :]
    seen &= key <= query
    of_query, of_key = pair(batch.lists)
    seen &= (of_query == of_key) & (of_key != PAD_LIST)
    if window is not None:
        at_query, at_key = pair(batch.positions)
        seen &= at_query - at_key < window
    return seen | (key == query)


def block_mask(batch: ListBatch, window: int | None = None) -> Any:
    """`visible` as FlexAttention takes it: blocks of columns that see nothing of each other are skipped."""
    from torch.nn.attention.flex_attention import create_block_mask

    lists, branches, positions = batch.lists, batch.branches, batch.positions

    def may_see(row: Tensor, _: Tensor, query: Tensor, key: Tensor) -> Tensor:
        asking, branch = branches[row, query], branches[row, key]
        shown = (branch == 0) | (branch == asking) | ((branch < 0) & (asking >= 0))
        seen = (key <= query) & (lists[row, query] == lists[row, key]) & shown
        return seen if window is None else seen & (positions[row, query] - positions[row, key] < window)

    rows, columns = lists.shape
    return create_block_mask(may_see, rows, None, columns, columns, device=str(lists.device))


def attention_masks(config: Any, batch: ListBatch, dtype: torch.dtype) -> Any:
    """The batch's mask as this model family takes it: one, or one a layer type (Gemma, Qwen).

    A block mask for FlexAttention, which skips what no column sees; an additive 4-D mask for the others, of which
    `split_attention` gets the rows behind the trunk, or all where a sliding window ends within it, in parts.
    """
    kind = config._attn_implementation

    def of_window(window: int | None) -> Tensor:
        if kind == SPLIT:
            return _split(batch, window, dtype)
        return additive(visible(batch, window), dtype)

    return per_layer_type(config, partial(block_mask, batch) if kind == "flex_attention" else of_window)


def additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """(R, Q, K) bool as what is added to attention's logits, (R, 1, Q, K)."""
    mask = aligned(torch.zeros(seen.shape, dtype=dtype, device=seen.device))
    return mask.masked_fill_(~seen, torch.finfo(dtype).min)[:, None]


def _split(batch: ListBatch, window: int | None, dtype: torch.dtype) -> Tensor:
    """The mask as `split_attention` takes it: of the columns behind the trunk; where they are many, its parts alone."""
    width = batch.ids.shape[1]
    first = batch.trunk if window is None or window >= batch.trunk else 0
    reach = (*(batch.lead,) * (batch.trunk - first), *batch.reach)
    # A candidate in the prompt is longer than a label or a title behind it.
    size = parts_on(batch.ids.device.type) // (2 if batch.blocks else 1)
    if len(reach) < 1.5 * size:
        return additive(visible(batch, window, first=first), dtype)
    column = torch.arange(width, device=batch.ids.device)
    bounds: list[Bounds] = []
    for start, stop in ((first + a, first + b) for a, b in borders(reach, size)):
        lead = min(batch.lead, stop)
        begin = min(max(lead, min(reach[start - first : stop - first])), stop)
        bounds.append((start, stop, ((0, stop),) if begin == lead else ((0, lead), (begin, stop))))
    return in_parts(batch, window, column, column, bounds, dtype)


def in_parts(
    batch: ListBatch, window: int | None, queries: Tensor, keys: Tensor, bounds: Sequence[Bounds], dtype: torch.dtype
) -> Tensor:
    """The mask between columns (Q,) and (K,) of which nothing is made but its parts."""
    parts: list[Part | Parts] = []
    for some in _alike(bounds):
        (start, _, spans), stop = some[0], some[-1][1]
        if len(some) > 1:
            parts.append(_side_by_side(batch, window, queries, keys, some, dtype))
            continue
        seen = visible_between(batch, window, queries[start:stop], torch.cat([keys[a:b] for a, b in spans]))
        parts.append(Part(start, stop, spans, additive(seen, dtype)))
    return carrying(parts, (len(batch.ids), 1, len(queries) - bounds[0][0], len(keys)), dtype, batch.ids.device)


def _alike(bounds: Sequence[Bounds]) -> list[list[Bounds]]:
    """Neighbours of few keys that can share a call, without much padding; the others alone."""
    found: list[list[Bounds]] = []
    least = most = 0
    for bound in bounds:
        count = sum(stop - start for start, stop in bound[2])
        low, high = min(least, count), max(most, count)
        if found and high <= min(FEW, 2 * low) and (len(found[-1]) + 1) * high <= CALL:
            found[-1].append(bound)
            least, most = low, high
        else:
            found.append([bound])
            least = most = count
    return found


def _side_by_side(
    batch: ListBatch, window: int | None, queries: Tensor, keys: Tensor, bounds: Sequence[Bounds], dtype: torch.dtype
) -> Parts:
    """These as rows of one call."""
    device = batch.ids.device
    asking, real = _padded([range(start, stop) for start, stop, _ in bounds])
    asked, there = _padded([[i for a, b in spans for i in range(a, b)] for _, _, spans in bounds])
    kept = None if real.all() else torch.as_tensor(real.ravel().nonzero()[0], device=device)
    rows, columns = torch.as_tensor(asking, device=device), torch.as_tensor(asked, device=device)
    seen = visible_between(batch, window, queries[rows], keys[columns])
    seen &= torch.as_tensor(there, device=device)[:, None]
    return Parts(bounds[0][0], bounds[-1][1], rows, columns, additive(seen.flatten(0, 1), dtype), kept)


def _padded(rows: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Numbers as (P, N), shorter rows filled with their first, and which of them are no filling."""
    size = max(map(len, rows))
    numbers = np.array([[*row, *[row[0]] * (size - len(row))] for row in rows])
    return numbers, np.arange(size) < np.array([[len(row)] for row in rows])
