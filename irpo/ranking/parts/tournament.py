"""Tournaments of groups."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

from irpo.chance import random_order
from irpo.ranking.modes import RANKING_MODES, RankingMode, by_score
from irpo.ranking.parts.asking import ByParts, Part, Placed, Plan, Start, require_at_least
from irpo.registry import plugin_field
from irpo.types import UserError

Standing = list[list[int]]  # places of equal standing, the best first


def groups_of(field: Part, size: int) -> list[Part]:
    """The fewest groups of at most `size`, dealt in turn: the strongest, who come first, are spread over all of them.

    >>> groups_of((7, 5, 1, 0, 4), 3)
    [(7, 1, 4), (5, 0)]
    """
    count = -(-len(field) // size)
    return [field[number::count] for number in range(count)]


def tournament(start: Part, size: int, keep: int) -> Generator[list[Part], list[Part], Standing]:
    """The plan of one tournament: of each group the best `keep` go on, until all that are left fit one last group.

    That ranks them. Behind them stands who went out, the later the better, of one round by place in the group; those
    of the same place in different groups stand equal. Groups of a round are asked about together, and a prompt shows
    candidates as they stood at the start, so that it tells nothing of earlier rounds. With a ranker that is always
    right the best `keep` of the list come first: in no group stand so many before one of them.
    """
    at = {candidate: place for place, candidate in enumerate(start)}
    field, out = start, Standing()
    while len(field) > size:
        ranked = yield [tuple(sorted(group, key=at.__getitem__)) for group in groups_of(field, size)]
        same = [[group[place] for group in ranked if place < len(group)] for place in range(size)]
        field = tuple(candidate for places in same[:keep] for candidate in places)
        out = [places for places in same[keep:] if places] + out
    (last,) = yield [tuple(sorted(field, key=at.__getitem__))]
    return [[candidate] for candidate in last] + out


def tournaments(count: int, key: str, size: int, keep: int, number: int) -> Plan:
    """The plan of several tournaments: by mean rank, those of equal standing sharing one; equal means by chance.

    The first is dealt as the list starts, each further one in an order of its own, drawn by the key.
    """
    total = [0.0] * count
    for drawn in range(number):
        start = random_order(count, "tournament", drawn, key) if drawn else tuple(range(count))
        before = 0
        for equal in (yield from tournament(start, size, keep)):
            for candidate in equal:
                total[candidate] += before + (len(equal) + 1) / 2
            before += len(equal)
    ranking, tied = by_score([-ranks for ranks in total], key)
    return Placed(ranking.order, tied=tied)


@RANKING_MODES.register("tournament")
@dataclass(frozen=True)
class Tournament(ByParts):
    """By groups, each ranked by another mode, of which the best few go on to the next round (TourRank).

    After Chen et al. 2024, arXiv 2406.11678, who let only the chosen of a group score, a point a round, and add up the
    points of several tournaments. A mode ranks a group whole, so here its places count as well: a tournament is a
    ranking, and several are put together by mean rank. Their groups are dealt by the first stage (`start: given`).
    """

    size: int = 20  # candidates in a group, at most
    keep: int = 10  # of a group, who go on: so many of the list's best are sought
    tournaments: int = 1
    by: RankingMode = plugin_field(RANKING_MODES, "score")  # how a group is ranked
    start: Start = "chance"

    def __post_init__(self) -> None:
        require_at_least("tournament", "size", self.size, 2)
        require_at_least("tournament", "keep", self.keep, 1)
        require_at_least("tournament", "tournaments", self.tournaments, 1)
        if 2 * self.keep > self.size:
            raise UserError(
                f"ranking mode 'tournament': keep is {self.keep} and size {self.size}; give a keep of at most half the "
                "size, or a round might part with nobody"
            )

    def plan(self, count: int, key: str) -> Plan:
        """What to ask of so many candidates."""
        return tournaments(count, key, self.size, self.keep, self.tournaments)
