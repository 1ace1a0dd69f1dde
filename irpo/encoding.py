"""Tokens: an encoded list, how it is laid out in one row (trunk and branches), and batches of rows.

A row holds the prompt once (the trunk) and any number of continuations of it (branches). Position ids restart after the
trunk and a branch sees the trunk and itself, so a branch gets the log-probabilities that it would have alone.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from irpo.prompting import AnswerForm, Prompt, PromptBuilder, end_of_turn, token_ids_after_newline
from irpo.specials import tokenize
from irpo.types import RankingExample, UserError, target_order

Tokens = tuple[int, ...]
NO_PLACE = -1  # a token that is fed but whose log-probability nobody asks for
PAD_LIST = -1  # `lists` of a padding column
MAX_PADDING = 0.05  # share of a batch's columns; above it, lists are packed into wider rows
CARD_PADDING = 0.15  # the same where a GPU computes: wide rows cost it more kernels and traffic than padding does


@dataclass(frozen=True)
class EncodedList:
    """A list in tokens: prompt, heads[0], bodies[a], heads[1], bodies[b], ..., tail is one complete sequence.

    `bodies[j]` is candidate j's own part, its terminator included; the scored span. Where there is no tail, the
    candidates make no list: each body is a whole answer of its own, its end of turn included.
    """

    id: str
    prompt: Tokens
    heads: tuple[Tokens, ...]
    bodies: tuple[Tokens, ...]
    tail: Tokens
    relevance: tuple[float, ...]

    def answer(self, order: Sequence[int]) -> Tokens:
        """The complete answer that ranks the candidates in this order, end of turn included."""
        parts = (self.heads[rank] + self.bodies[j] for rank, j in enumerate(order))
        return tuple(token for part in parts for token in part) + self.tail

    @property
    def end(self) -> int:
        """The token that ends an answer."""
        return (self.tail or self.bodies[0])[-1]

    def require_list(self, what: str) -> None:
        """`UserError` where the candidates are answers of their own, and `what` needs one list of them."""
        if not self.tail:
            raise UserError(f"{what} needs an answer that lists the candidates; responses of their own make none")

    def only(self, chosen: Sequence[int]) -> EncodedList:
        """The same prompt with some of the candidates to score, in this order."""
        bodies, relevance = tuple(self.bodies[j] for j in chosen), tuple(self.relevance[j] for j in chosen)
        return replace(self, bodies=bodies, relevance=relevance)

    def without_labels(self) -> EncodedList:
        """The same list with every label 0: what evaluation may show to a scorer, so that no label can leak."""
        return replace(self, relevance=(0.0,) * len(self.relevance))


def encode(tokenizer: Any, prompt: Prompt, relevance: Sequence[float], id: str = "") -> EncodedList:
    """Tokens of a prompt (as `generate` is fed it) and of every part of its answers."""
    form = prompt.form
    ids = tokenize(tokenizer, [prompt.text], ends=not prompt.chat)[0].ids
    bodies = token_ids_after_newline(tokenizer, [form.body(name) for name in prompt.names])
    end = (end_of_turn(tokenizer),)
    listed = prompt.style != "response"
    return EncodedList(
        id=id,
        prompt=ids,
        heads=_heads(tokenizer, form, len(prompt.names)),
        bodies=tuple(bodies if listed else (body + end for body in bodies)),
        tail=token_ids_after_newline(tokenizer, [form.tail])[0] + end if listed else (),
        relevance=tuple(relevance),
    )


@dataclass(frozen=True)
class PromptedList:
    """A list as a model is asked about it: the example, its prompt, and the tokens of the prompt and its answers."""

    example: RankingExample
    prompt: Prompt
    tokens: EncodedList


def prompted(builder: PromptBuilder, examples: Sequence[RankingExample], *, labels: bool) -> list[PromptedList]:
    """The examples as `builder` puts them, in their order: the one way from an example to tokens.

    `labels=False` withholds every label and source from prompt, tokens and example alike: what evaluation, ranking and
    validation show, so that none can leak.
    """
    found = []
    for given in examples:
        example = given if labels else _blind(given)
        prompt = builder.build(example)
        tokens = encode(builder.tokenizer, prompt, example.relevance, id=example.id)
        found.append(PromptedList(example, prompt, tokens))
    return found


def _blind(example: RankingExample) -> RankingExample:
    return replace(example, candidates=tuple(replace(c, relevance=0.0, source="") for c in example.candidates))


@cache
def _heads(tokenizer: Any, form: AnswerForm, count: int) -> tuple[Tokens, ...]:
    return tuple(token_ids_after_newline(tokenizer, [form.head(rank) for rank in range(1, count + 1)]))


@dataclass
class Layout:
    """One list of `size` candidates as columns of a row.

    `reads` are (column, token, place): log p(token | column's prefix) goes to that place of the list's table, candidate
    j at place j; where a scorer scores the candidates anew at each of `ranks` ranks, candidate j at rank i + 1 at place
    i * size + j. The target list's log-likelihood, where asked for, goes to the place after them.
    """

    size: int
    ranks: int = 1
    target: bool = False
    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    branches: list[int] = field(default_factory=list)  # 0 = trunk
    reads: list[tuple[int, int, int]] = field(default_factory=list)

    def grow_trunk(self, tokens: Sequence[int]) -> None:
        """Append tokens that every later branch sees; before the first branch only."""
        self.positions += range(len(self.ids), len(self.ids) + len(tokens))
        self.ids += tokens
        self.branches += [0] * len(tokens)

    def add_branch(self, trunk: int, tokens: Sequence[int], places: Sequence[int]) -> list[int]:
        """Append a continuation of the first `trunk` columns; returns the column that predicts each of its tokens.

        The next-token shift lives here: token t is read at the column of token t - 1, the first at the trunk's end.
        The last token is read but never fed, since nothing stands behind it.
        """
        columns = [trunk - 1, *self.feed(trunk, tokens[:-1])]
        for column, token, place in zip(columns, tokens, places, strict=True):
            if place != NO_PLACE:
                self.reads.append((column, token, place))
        return columns

    def feed(self, trunk: int, tokens: Sequence[int]) -> range:
        """Append a branch of which nothing is read; returns its columns."""
        columns = range(len(self.ids), len(self.ids) + len(tokens))
        branch = max(self.branches) + 1
        self.ids += tokens
        self.positions += range(trunk, trunk + len(tokens))
        self.branches += [branch] * len(tokens)
        return columns

    @property
    def target_place(self) -> int:
        """Where the target list's tokens are read to."""
        return self.size * self.ranks


def add_target(layout: Layout, item: EncodedList) -> None:
    """A branch that holds the whole answer in target order, every token of it read to the target's place."""
    item.require_list("the target list's likelihood (method.nll_weight above 0, or the objective sft)")
    layout.target = True
    tokens = item.answer(target_order(item.relevance))
    trunk = layout.branches.count(0)
    shared = trunk - len(item.prompt)  # tokens of the answer that already stand in the trunk
    layout.reads += [(len(item.prompt) + i - 1, tokens[i], layout.target_place) for i in range(shared)]
    layout.add_branch(trunk, tokens[shared:], [layout.target_place] * (len(tokens) - shared))


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
    read_place: Tensor  # (M,) into the flat table; B * I * K + b is the target list of list b
    read_ends: tuple[int, ...]  # (N,) reads of the cells up to each; reads are sorted by cell
    relevance: Tensor  # (B, K)
    mask: Tensor  # (B, K), True = a real candidate
    ranks: int  # I
    target: bool
    trunk: int  # first columns that are the trunk of the first list in every row; less than T
    reach: tuple[int, ...]  # (T - trunk,) the first column behind the trunk that any row's column sees
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
    def tokens(self) -> int:
        """Columns that are not padding."""
        return int((self.lists != PAD_LIST).sum())

    @property
    def padding(self) -> float:
        """Share of the columns that are padding."""
        return 1 - self.tokens / self.lists.numel()


def collate(
    items: Sequence[EncodedList], layouts: Sequence[Layout], *, pad_id: int = 0, left: bool = False
) -> ListBatch:
    """Lists packed into rows, one or several a row; `left` pads on the left (the numbers do not change)."""
    lengths = [len(layout.ids) for layout in layouts]
    packed = pack(lengths)
    width = max(sum(lengths[index] for index in row) for row in packed)
    rows, starts = [], {}
    for number, row in enumerate(packed):
        column = width - sum(lengths[index] for index in row) if left else 0
        for index in row:
            starts[index] = number * width + column
            column += lengths[index]
        rows.append(_padded([(index, layouts[index]) for index in row], width, pad_id, left))
    cells, reads = _places(layouts, [starts[index] for index in range(len(layouts))])
    size = max(layout.size for layout in layouts)
    relevance = torch.zeros(len(items), size)
    mask = torch.zeros(len(items), size, dtype=torch.bool)
    for index, item in enumerate(items):
        relevance[index, : len(item.relevance)] = torch.tensor(item.relevance)
        mask[index, : len(item.relevance)] = True
    ids, positions, lists, branches = torch.tensor(rows, dtype=torch.long).unbind(1)
    read_cell, read_token, read_place = torch.tensor(reads, dtype=torch.long).reshape(-1, 3).unbind(1)
    trunks = _trunks(lists, branches)
    trunk = min(int(trunks.min()), width - 1)
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
        relevance=relevance,
        mask=mask,
        ranks=max(layout.ranks for layout in layouts),
        target=layouts[0].target,
        trunk=trunk,
        reach=_reach(lists, branches, trunks, trunk),
        items=tuple(items),
    )


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
        rows = _balanced(lengths, by_length, count)
        width = max(sum(lengths[i] for i in row) for row in rows)
        if 1 - sum(lengths) / (len(rows) * width) < most:
            return rows
        count = min(count - 1, count * 15 // 16)


def _balanced(lengths: Sequence[int], by_length: Sequence[int], count: int) -> list[list[int]]:
    """So many rows, each list in the one that is least full, the longest lists first (Graham 1969)."""
    rows: list[list[int]] = [[] for _ in range(count)]
    least = [(0, row) for row in range(count)]
    for index in by_length:
        filled, row = heapq.heappop(least)
        rows[row].append(index)
        heapq.heappush(least, (filled + lengths[index], row))
    return rows


def _places(layouts: Sequence[Layout], starts: Sequence[int]) -> tuple[list[int], list[tuple[int, int, int]]]:
    """The cells to take, and the reads (index of the cell, token, place in the flat table), sorted by cell."""
    size, ranks = max(layout.size for layout in layouts), max(layout.ranks for layout in layouts)
    cells: dict[int, int] = {}
    reads = []
    for index, layout in enumerate(layouts):
        for column, token, own in layout.reads:
            rank, candidate = divmod(own, layout.size)
            table = (index * ranks + rank) * size + candidate
            place = len(layouts) * ranks * size + index if own == layout.target_place else table
            reads.append((cells.setdefault(starts[index] + column, len(cells)), token, place))
    return list(cells), sorted(reads)


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
    """First columns of each row that are its first list's trunk, (R,)."""
    trunk = (lists == lists[:, :1]) & (lists != PAD_LIST) & (branches == 0)
    return trunk.cumprod(1).sum(1)


def _reach(lists: Tensor, branches: Tensor, trunks: Tensor, trunk: int) -> tuple[int, ...]:
    """The first column behind `trunk`, counted from there, that each column behind it sees in any row.

    A list that begins behind it, or whose own trunk goes on behind it, is seen from there on; else only one's branch.
    """
    column = torch.arange(lists.shape[1]).expand_as(lists)

    def begins(change: Tensor) -> Tensor:
        return torch.where(torch.nn.functional.pad(change, (1, 0), value=True), column, 0).cummax(1).values

    other_list = lists[:, 1:] != lists[:, :-1]
    of_list, of_branch = begins(other_list), begins(other_list | (branches[:, 1:] != branches[:, :-1]))
    late = (of_list >= trunk) | (trunks > trunk)[:, None]
    first = torch.where(late, of_list, of_branch).clamp(min=trunk)
    first = torch.where(lists == PAD_LIST, column, first)
    return tuple((first.amin(0)[trunk:] - trunk).tolist())


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
