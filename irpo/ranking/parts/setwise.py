"""Sorting by sets, of which the best is chosen."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Literal

from irpo.ranking.modes import RANKING_MODES, RankingMode
from irpo.ranking.parts.asking import ByParts, Part, Placed, Plan, Start, require_at_least
from irpo.registry import plugin_field

Sorting = Generator[list[Part], list[Part], list[int]]  # ends in the best, best first
Sort = Literal["heap", "bubble"]


def _best_of(places: Sequence[int]) -> Generator[list[Part], list[Part], int]:
    """The best of a set, which the prompt shows as it stood at the start."""
    (ranked,) = yield [tuple(sorted(places))]
    return ranked[0]


def heap_sort(count: int, size: int, k: int) -> Sorting:
    """The best k by a heap whose nodes have `size - 1` children: a node and its children are compared at once."""
    heap = list(range(count))

    def sift(node: int) -> Generator[list[Part], list[Part], None]:
        while children := range((size - 1) * node + 1, min((size - 1) * (node + 1) + 1, len(heap))):
            best = yield from _best_of([heap[node], *(heap[child] for child in children)])
            chosen = next((child for child in children if heap[child] == best), node)
            if chosen == node:
                return
            heap[node], heap[chosen], node = heap[chosen], heap[node], chosen

    for node in reversed(range((count + size - 3) // (size - 1))):
        yield from sift(node)
    found: list[int] = []
    while heap and len(found) < k:
        if found:
            yield from sift(0)
        found.append(heap[0])
        heap[0] = heap[-1]
        heap.pop()
    return found


def bubble_sort(count: int, size: int, k: int) -> Sorting:
    """The best k, each carried to the front by sets from the end that share one: ceil(others / (size - 1)) a place."""
    order = list(range(count))
    for rank in range(min(k, count - 1)):
        front = count - 1  # where the best so far stands
        while front > rank:
            first = max(rank, front - (size - 1))
            best = yield from _best_of(order[first : front + 1])
            order.remove(best)
            order.insert(first, best)
            front = first
    return order[:k]


def setwise(count: int, size: int, k: int, sort: Sort) -> Plan:
    """The plan: the best k by comparing sets, and then all others as they stood at the start."""
    found = yield from (heap_sort if sort == "heap" else bubble_sort)(count, size, k)
    others = tuple(sorted(set(range(count)) - set(found)))
    return Placed((*found, *others), frozenset(others if len(others) > 1 else ()))


@RANKING_MODES.register("setwise")
@dataclass(frozen=True)
class Setwise(ByParts):
    """By a sort that compares sets of candidates and takes the best of each, for the top k alone (Setwise).

    Zhuang et al. 2024, arXiv 2310.09497; c + 1 there is `size` here. The others follow as they stood at the start, by
    chance or as given, and are not `named`.
    """

    size: int = 4  # candidates in a set
    k: int = 10  # places that are sorted
    sort: Sort = "heap"
    by: RankingMode = plugin_field(RANKING_MODES, "score")  # how a set is ranked, whose first is taken
    start: Start = "chance"

    def __post_init__(self) -> None:
        require_at_least("setwise", "size", self.size, 2)
        require_at_least("setwise", "k", self.k, 1)

    def plan(self, count: int, _: str = "") -> Plan:
        """What to ask of so many candidates."""
        return setwise(count, self.size, self.k, self.sort)
