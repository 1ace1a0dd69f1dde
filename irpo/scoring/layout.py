"""How a list is laid out in one row: the prompt once (the trunk) and continuations of it (branches).

Position ids restart after the trunk and a branch sees the trunk and itself, so a branch gets the log-probabilities that
it would have alone. Where the prompt is one of blocks, its candidates are branches within the trunk, of negative
numbers: each sees what stands before the candidates and itself, and what stands behind them sees all. Their positions
restart too, and what follows goes on behind the longest, so that nothing tells in which order they stand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol

from irpo.scoring.tokens import Choices, EncodedList, Tokens
from irpo.types import Style, target_order

NO_PLACE = -1  # a token that is fed but whose log-probability nobody asks for


@dataclass
class Layout:
    """One list of `size` candidates as columns of a row.

    `reads` are (column, token, place): log p(token | column's prefix) goes to that place of the list's table, candidate
    j at place j; where a scorer scores the candidates anew at each of `ranks` ranks, candidate j at rank i + 1 at place
    i * size + j. The target list's log-likelihood, where asked for, goes to the place after them.

    `among` are (column, tokens, place): log sum p(tokens | column's prefix) is taken off that place, so that what is
    read there is a choice among these tokens alone.
    """

    size: int
    ranks: int = 1
    target: bool = False
    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    branches: list[int] = field(default_factory=list)  # 0 = trunk, -1, -2, ... = blocks within it
    reads: list[tuple[int, int, int]] = field(default_factory=list)
    among: list[tuple[int, Tokens, int]] = field(default_factory=list)

    def grow_trunk(self, tokens: Sequence[int]) -> None:
        """Append tokens that see all so far and that every later branch sees; before the first branch only."""
        begin = max(self.positions, default=-1) + 1
        self.positions += range(begin, begin + len(tokens))
        self.ids += tokens
        self.branches += [0] * len(tokens)

    def add_block(self, prefix: int, tokens: Sequence[int]) -> None:
        """Append tokens of the trunk that see its first `prefix` columns and each other; before the first branch."""
        block = (self.branches[-1] if self.branches else 0) - 1  # a prompt may begin with a block
        self.positions += range(prefix, prefix + len(tokens))
        self.ids += tokens
        self.branches += [block] * len(tokens)

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
        branch = max(self.branches, default=0) + 1
        begin = self.positions[trunk - 1] + 1 if trunk else 0
        self.ids += tokens
        self.positions += range(begin, begin + len(tokens))
        self.branches += [branch] * len(tokens)
        return columns

    def read_choices(self, columns: Sequence[int], tokens: Sequence[int], choices: Choices, place: int) -> None:
        """Read of the tokens, which these columns predict, the choices alone; a token without one has probability 1."""
        for at, allowed in choices:
            self.reads.append((columns[at], tokens[at], place))
            self.among.append((columns[at], allowed, place))

    @property
    def target_place(self) -> int:
        """Where the target list's tokens are read to."""
        return self.size * self.ranks


def add_target(layout: Layout, item: EncodedList) -> None:
    """A branch that holds the whole answer in target order, every token of it read to the target's place."""
    item.require_list("the target list's likelihood (method.nll_weight above 0, or the objective sft)")
    layout.target = True
    tokens = item.answer(target_order(item.relevance))
    trunk = sum(branch <= 0 for branch in layout.branches)
    shared = trunk - len(item.prompt)  # tokens of the answer that already stand in the trunk
    layout.reads += [(len(item.prompt) + i - 1, tokens[i], layout.target_place) for i in range(shared)]
    layout.add_branch(trunk, tokens[shared:], [layout.target_place] * (len(tokens) - shared))


Length = Literal["sum", "mean"]


class Scorer(Protocol):
    """A way of laying out a list; its fields are its options.

    `separable`: a candidate's score does not depend on which others are scored with it. `style`: the only prompt style
    whose answers it reads, None where it reads any. It may say `walks`: that it scores anew at each rank of the target
    list, so that the order of ties is a matter of its layout.
    """

    separable: ClassVar[bool]
    style: ClassVar[Style | None]

    @property
    def as_given(self) -> bool:
        """Whether it scores the answer that names the candidates in the given order, whatever their labels."""
        ...

    def layout(self, item: EncodedList) -> Layout:
        """The list's columns and reads."""
        ...


def trunk_of(item: EncodedList, *, head: bool = True) -> Layout:
    """A layout that holds the prompt, and with `head` what stands before the first candidate."""
    layout = begun(item)
    layout.grow_trunk(item.prompt[len(layout.ids) :] + (item.heads[0] if head else ()))
    return layout


def begun(item: EncodedList) -> Layout:
    """A layout that holds the prompt up to the end of its blocks; nothing where it has none."""
    layout = Layout(size=len(item.bodies))
    if item.blocks:
        prefix = item.blocks[0].start
        layout.grow_trunk(item.prompt[:prefix])
        for block in item.blocks:
            layout.add_block(prefix, item.prompt[block.start : block.stop])
    return layout


def lay_out(items: Sequence[EncodedList], scorer: Scorer | None, *, target: bool = False) -> list[Layout]:
    """Lists as a scorer lays them out, with the target list as one more branch where `target`; no scorer, no scores."""
    layouts = [scorer.layout(item) if scorer is not None else trunk_of(item, head=False) for item in items]
    if target:
        for item, layout in zip(items, layouts, strict=True):
            add_target(layout, item)
    return layouts


def in_budget(layouts: Sequence[Layout], tokens: int) -> list[list[int]]:
    """Groups of lists of at most `tokens` tokens together, a longer list alone; lists of like length meet."""
    groups: list[list[int]] = []
    room = 0
    for index in sorted(range(len(layouts)), key=lambda i: -len(layouts[i].ids)):
        length = len(layouts[index].ids)
        if length > room:
            groups.append([])
            room = max(tokens, length)
        groups[-1].append(index)
        room -= length
    return groups
