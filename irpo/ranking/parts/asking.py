"""Plans of what to ask of a list, and how they are carried out: many lists together, each part in its own prompt.

A list is laid out before its plan begins: place 0, 1, ... are its candidates in a random order that is fixed by the
ranker's seed, query and texts, and so the same however the list was given (`start: chance`); or in the order in which
it was given, a first stage's (`start: given`), which is then a hint. A part is a prompt like any other: the builder's,
for an example that holds the part's candidates alone, without labels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from irpo.chance import fingerprint, random_order
from irpo.types import Ranking, RankingExample, UserError

if TYPE_CHECKING:
    from irpo.ranking.modes import RankedList, Ranker, RankingMode

Start = Literal["chance", "given"]
Part = tuple[int, ...]  # places, in the order in which the prompt shows them; answered by the same, best first


@dataclass(frozen=True)
class Placed:
    """What a plan ends in."""

    order: Part  # all places, best first
    left: frozenset[int] = frozenset()  # places in it by nothing but the start: the plan does not rank them
    tied: bool = False  # whether any two have the same standing and follow each other by chance


# Asks for parts to be ranked, is sent them ranked, as many and in their order. A part of one place costs no prompt.
Plan = Generator[list[Part], list[Part], Placed]
Planning = Callable[[int, str], Plan]  # of so many places; the key is the list's own, for whatever chance it needs


def require_at_least(mode: str, option: str, value: int, least: int) -> None:
    """`UserError` where a mode's option is too small."""
    if value < least:
        raise UserError(f"ranking mode {mode!r}: {option} is {value}; give {least} or more")


def in_parts(
    ranker: Ranker, examples: Sequence[RankingExample], by: RankingMode, start: Start, planning: Planning
) -> list[RankedList]:
    """The examples ranked by their plans, in their order; all plans advance together, one call of `by` a step."""
    lists = [_Asked.of(example, ranker.seed, start, planning) for example in examples]
    while waiting := [one for one in lists if one.placed is None]:
        found = iter(by(ranker, [part for one in waiting for part in one.parts()]))
        for one in waiting:
            one.advance(found)
    return [one.ranked() for one in lists]


class ByParts(ABC):
    """A mode that ranks by a plan: `by`, `start` and `plan` are its own."""

    writes: ClassVar[bool] = False
    by_engine: ClassVar[bool] = True
    in_parts: ClassVar[bool] = True

    if TYPE_CHECKING:
        by: RankingMode  # how a part is ranked
        start: Start

    def __call__(self, ranker: Ranker, examples: Sequence[RankingExample]) -> list[RankedList]:
        return in_parts(ranker, examples, self.by, self.start, self.plan)

    @abstractmethod
    def plan(self, count: int, key: str) -> Plan:
        """What to ask of so many candidates."""


@dataclass
class _Asked:
    """A list, its plan under way, and what was found so far."""

    example: RankingExample
    layout: Part  # the candidate at each place
    plan: Plan
    asks: list[Part] = field(default_factory=list)
    placed: Placed | None = None
    prompts: int = 0
    tied: bool = False
    cut: list[int] = field(default_factory=list)  # by candidate, the most of any prompt
    query_cut: int = 0
    special_texts: int = 0
    unnamed: set[int] = field(default_factory=set)  # places that the last answer about them does not name

    @classmethod
    def of(cls, example: RankingExample, seed: int, start: Start, planning: Planning) -> _Asked:
        count, key = len(example.candidates), _key_of(example, seed)
        layout = tuple(range(count)) if start == "given" else _by_chance(example, key)
        one = cls(example, layout, planning(count, key), cut=[0] * count)
        one._go(None)
        return one

    def parts(self) -> Iterator[RankingExample]:
        """What is asked next, as the inner mode is given it."""
        for part in self.asks:
            if len(part) > 1:
                chosen = tuple(self.example.candidates[self.layout[place]] for place in part)
                yield replace(self.example, candidates=chosen)

    def advance(self, found: Iterator[RankedList]) -> None:
        """Take this list's answers of those of all lists, and go on to its next step."""
        self._go([self._answered(part, next(found)) if len(part) > 1 else part for part in self.asks])

    def _go(self, answers: list[Part] | None) -> None:
        try:
            self.asks = next(self.plan) if answers is None else self.plan.send(answers)
        except StopIteration as end:
            self.placed = end.value

    def _answered(self, part: Part, found: RankedList) -> Part:
        """The part's places, best first."""
        for place, cut in zip(part, found.cut or (0,) * len(part), strict=True):
            self.cut[self.layout[place]] = max(self.cut[self.layout[place]], cut)
        self.query_cut = max(self.query_cut, found.query_cut)
        self.special_texts = max(self.special_texts, found.special_texts)
        self.prompts += found.prompts
        self.tied |= found.tied
        named = {part[j] for j in found.named.order}
        self.unnamed = self.unnamed - named | set(part) - named
        return tuple(part[j] for j in found.ranking.order)

    def ranked(self) -> RankedList:
        """The list as its plan placed it."""
        from irpo.ranking.modes import RankedList  # which imports the modes of this package

        placed = self.placed or Placed(())
        return RankedList(
            self.example.id,
            Ranking(tuple(self.layout[place] for place in placed.order)),
            tied=self.tied or placed.tied,
            cut=tuple(self.cut),
            query_cut=self.query_cut,
            special_texts=self.special_texts,
            prompts=self.prompts,
            left=frozenset(self.layout[place] for place in placed.left | self.unnamed),
        )


def _key_of(example: RankingExample, seed: int) -> str:
    """What chance about a list depends on: the seed, the query and the texts, in whatever order they come."""
    return fingerprint(repr((seed, example.query, sorted(example.texts))))


def _by_chance(example: RankingExample, key: str) -> Part:
    by_text = sorted(range(len(example.candidates)), key=lambda j: example.candidates[j].text)
    return tuple(by_text[i] for i in random_order(len(by_text), "start", key))
