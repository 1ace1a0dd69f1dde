"""Batches: lists packed into rows, and what is read from where."""

from __future__ import annotations

import heapq
import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from irpo.scoring.layout import Layout, Scorer, lay_out
from irpo.scoring.tokens import EncodedList

PAD_LIST = -1  # `lists` of a padding column
MAX_PADDING = 0.05  # share of a batch's columns; above it, lists are packed into wider rows
CARD_PADDING = 0.15  # the same where a GPU computes: wide rows cost it more kernels and traffic than padding does


@dataclass(frozen=True)
class ListBatch:
    """B lists in R rows of T columns, and the M reads that make a (B, I, K) table of log-probabilities.

    I is 1, or the number of ranks at which a scorer scores the candidates anew. `cells` are the flat (row * T + column)
    places whose hidden state is needed, each once; a read names its cell by index. `lists` is the list that a column
    belongs to (-1 = padding). A row may hold several lists, which do not see each other.
    """

    ids: Tensor  # (R, T)
    positions: Tensor  # (R, T)
    lists: Tensor  # (R, T)
    branches: Tensor  # (R, T)
    cells: Tensor  # (N,)
    read_cell: Tensor  # (M,) into cells
    read_token: Tensor  # (M,)
    read_place: Tensor  # (M,) into the flat table; B * I * K + b is the target list of list b, and behind all those
    # come the choices: what is allowed at the c-th is read to B * I * K + B + c, and its sum taken off `among_place[c]`
    read_ends: tuple[int, ...]  # (N,) reads of the cells up to each; reads are sorted by cell
    among_read: Tensor  # (A,) the reads of tokens that are allowed at a choice
    among_place: Tensor  # (C,)
    relevance: Tensor  # (B, K)
    mask: Tensor  # (B, K), True = a real candidate
    teacher: Tensor | None  # (B, K) another ranker's scores; None where not every list has them
    ranks: int  # I
    target: bool
    trunk: int  # first columns that are the trunk of the first list in every row, up to its blocks; less than T
    lead: int  # first columns that any column may see, besides those from its `reach` on; at least `trunk`
    reach: tuple[int, ...]  # (T - trunk,) the first column behind `lead` that any row's column sees
    items: tuple[EncodedList, ...]

    def __len__(self) -> int:
        return len(self.items)

    @property
    def names(self) -> tuple[str, ...]:
        """The lists' ids."""
        return tuple(item.id for item in self.items)

    def to(self, device: torch.device | str) -> ListBatch:
        """The same batch on a device, which nobody waits for."""
        tensors = {k: v for k, v in vars(self).items() if isinstance(v, Tensor)}
        moved: dict[str, Any] = {k: v.to(device, non_blocking=True) for k, v in tensors.items()}
        return replace(self, **moved)

    @property
    def blocks(self) -> bool:
        """Whether any list's prompt is one of blocks."""
        return any(item.blocks for item in self.items)

    @property
    def tokens(self) -> int:
        """Columns that are not padding."""
        return int((self.lists != PAD_LIST).sum())

    @property
    def padding(self) -> float:
        """Share of the columns that are padding."""
        return 1 - self.tokens / self.lists.numel()


def collate(
    items: Sequence[EncodedList],
    layouts: Sequence[Layout],
    *,
    pad_id: int = 0,
    left: bool = False,
    alone: bool = False,
) -> ListBatch:
    """Lists packed into rows, one or several a row; `left` pads on the left (the numbers do not change).

    `alone`: row i holds list i.
    """
    lengths = [len(layout.ids) for layout in layouts]
    packed = [[index] for index in range(len(lengths))] if alone else pack(lengths)
    width = max(sum(lengths[index] for index in row) for row in packed)
    rows, starts = [], {}
    for number, row in enumerate(packed):
        column = width - sum(lengths[index] for index in row) if left else 0
        for index in row:
            starts[index] = number * width + column
            column += lengths[index]
        rows.append(_padded([(index, layouts[index]) for index in row], width, pad_id, left))
    cells, reads, among, among_places = _places(layouts, [starts[index] for index in range(len(layouts))])
    size = max(layout.size for layout in layouts)
    taught = all(item.teacher for item in items)
    ids, positions, lists, branches = torch.tensor(rows, dtype=torch.long).unbind(1)
    read_cell, read_token, read_place = torch.tensor(reads, dtype=torch.long).reshape(-1, 3).unbind(1)
    trunks = _trunks(lists, branches)
    trunk = min(int(trunks.min()), width - 1)
    lead = min(int(trunks.max()), width - 1) if (branches < 0).any() else trunk
    return ListBatch(
        ids=ids,
        positions=positions,
        lists=lists,
        branches=branches,
        cells=torch.tensor(cells, dtype=torch.long),
        read_cell=read_cell,
        read_token=read_token,
        read_place=read_place,
        read_ends=tuple(bisect_right(reads, (n, math.inf)) for n in range(len(cells))),
        among_read=torch.tensor(among, dtype=torch.long),
        among_place=torch.tensor(among_places, dtype=torch.long),
        relevance=_table([item.relevance for item in items], size),
        mask=_table([(1.0,) * len(item.relevance) for item in items], size).bool(),
        teacher=_table([item.teacher for item in items], size) if taught else None,
        ranks=max(layout.ranks for layout in layouts),
        target=layouts[0].target,
        trunk=trunk,
        lead=lead,
        reach=_reach(lists, branches, trunks > lead, lead)[trunk:],
        items=tuple(items),
    )


def _table(rows: Sequence[Sequence[float]], size: int) -> Tensor:
    """Rows of ragged length as a table, (B, K) float32, 0 on padding."""
    return torch.tensor([[*row, *[0.0] * (size - len(row))] for row in rows], dtype=torch.float32)


def max_padding() -> float:
    """The share of padding that is taken for narrower rows, on this machine."""
    return CARD_PADDING if torch.cuda.is_available() else MAX_PADDING


def pack(lengths: Sequence[int]) -> list[list[int]]:
    """Which lists share a row: as many rows, and so as narrow ones, as keep padding below `max_padding()`.

    Rows stay narrow because the cost of a dense mask grows with the square of the width; one row has no padding.
    """
    by_length = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    count, most = len(lengths), max_padding()
    while True:
        rows = balanced(lengths, by_length, count)
        width = max(sum(lengths[i] for i in row) for row in rows)
        if 1 - sum(lengths) / (len(rows) * width) < most:
            return rows
        count = min(count - 1, count * 15 // 16)


def balanced(lengths: Sequence[int], by_length: Sequence[int], count: int) -> list[list[int]]:
    """So many rows, each list in the one that is least full, the longest lists first (Graham 1969)."""
    rows: list[list[int]] = [[] for _ in range(count)]
    least = [(0, row) for row in range(count)]
    for index in by_length:
        filled, row = heapq.heappop(least)
        rows[row].append(index)
        heapq.heappush(least, (filled + lengths[index], row))
    return rows


def _places(
    layouts: Sequence[Layout], starts: Sequence[int]
) -> tuple[list[int], list[tuple[int, int, int]], list[int], list[int]]:
    """The cells to take; the reads (index of the cell, token, place in the flat table), sorted by cell; which of them
    are of tokens allowed at a choice; each choice's own place.
    """
    size, ranks = max(layout.size for layout in layouts), max(layout.ranks for layout in layouts)
    table = len(layouts) * ranks * size
    first_choice = table + len(layouts)
    cells: dict[int, int] = {}
    reads: list[tuple[int, int, int]] = []
    places: list[int] = []

    def place_of(index: int, own: int) -> int:
        rank, candidate = divmod(own, layouts[index].size)
        return table + index if own == layouts[index].target_place else (index * ranks + rank) * size + candidate

    for index, layout in enumerate(layouts):
        for column, token, own in layout.reads:
            reads.append((cells.setdefault(starts[index] + column, len(cells)), token, place_of(index, own)))
        for column, tokens, own in layout.among:
            cell = cells.setdefault(starts[index] + column, len(cells))
            reads += [(cell, token, first_choice + len(places)) for token in tokens]
            places.append(place_of(index, own))
    reads.sort()
    return list(cells), reads, [n for n, (_, _, place) in enumerate(reads) if place >= first_choice], places


def _padded(parts: Sequence[tuple[int, Layout]], width: int, pad_id: int, left: bool) -> list[list[int]]:
    """ids, positions, lists, branches of one row."""
    columns: list[tuple[list[int], int]] = [
        ([token for _, layout in parts for token in layout.ids], pad_id),
        ([position for _, layout in parts for position in layout.positions], 0),
        ([index for index, layout in parts for _ in layout.ids], PAD_LIST),
        ([branch for _, layout in parts for branch in layout.branches], 0),
    ]
    gap = width - len(columns[0][0])
    return [[fill] * gap + part if left else part + [fill] * gap for part, fill in columns]


def _trunks(lists: Tensor, branches: Tensor) -> Tensor:
    """First columns of each row that are its first list's trunk, up to its blocks, (R,)."""
    trunk = (lists == lists[:, :1]) & (lists != PAD_LIST) & (branches == 0)
    return trunk.cumprod(1).sum(1)


def _reach(lists: Tensor, branches: Tensor, longer: Tensor, lead: int) -> tuple[int, ...]:
    """The first column behind `lead` that each column sees in any row, (T,).

    A list that does not begin its row, or whose trunk goes on behind `lead` (`longer`, (R,)), is seen from there on,
    and so is one with blocks from behind them; else only one's branch or block.
    """
    column = torch.arange(lists.shape[1]).expand_as(lists)

    def begins(change: Tensor) -> Tensor:
        return torch.where(torch.nn.functional.pad(change, (1, 0), value=True), column, 0).cummax(1).values

    other_list = lists[:, 1:] != lists[:, :-1]
    of_list, of_branch = begins(other_list), begins(other_list | (branches[:, 1:] != branches[:, :-1]))
    behind_blocks = torch.isin(lists, lists[branches < 0]) & (branches >= 0)
    late = (of_list > 0) | longer[:, None] | behind_blocks
    first = torch.where(late, of_list, of_branch)
    first = torch.where(lists == PAD_LIST, column, first).clamp(min=lead)
    return tuple(first.amin(0).tolist())


def make_batch(
    items: Sequence[EncodedList], scorer: Scorer | None, *, target: bool = False, pad_id: int = 0, left: bool = False
) -> ListBatch:
    """All the lists in one batch; see `lay_out`."""
    return collate(items, lay_out(items, scorer, target=target), pad_id=pad_id, left=left)
