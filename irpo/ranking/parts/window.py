"""Sliding windows."""

from __future__ import annotations

from dataclasses import dataclass

from irpo.ranking.modes import RANKING_MODES, RankingMode
from irpo.ranking.parts.asking import ByParts, Placed, Plan, Start, require_at_least
from irpo.registry import plugin_field
from irpo.types import UserError


def window_starts(count: int, size: int, stride: int) -> tuple[int, ...]:
    """Where the windows of one pass begin, from the end of the list to its front; the last one begins at 0.

    >>> window_starts(9, 4, 2)
    (5, 3, 1, 0)
    """
    return (*range(count - size, 0, -stride), 0)


def windows(count: int, size: int, stride: int, passes: int) -> Plan:
    """The plan: a window's best `size - stride` are carried into the next, so p passes get the best p times as many.

    A window shows candidates as they stand at that time. `passes * (1 + ceil((count - size) / stride))` prompts, one a
    pass where the list is no longer than a window.
    """
    order = tuple(range(count))
    for _ in range(passes):
        for start in window_starts(count, size, stride):
            (ranked,) = yield [order[start : start + size]]
            order = order[:start] + ranked + order[start + size :]
    return Placed(order)


@RANKING_MODES.register("window")
@dataclass(frozen=True)
class Window(ByParts):
    """By windows that slide from the end of the list to its front, each ranked by another mode (RankGPT).

    Sun et al. 2023, arXiv 2304.09542. There the list begins in its first stage's order, here `start: given`.
    """

    size: int = 20  # candidates in a prompt
    stride: int = 10  # places from a window to the next; size - stride candidates are in both
    passes: int = 1  # over the whole list
    by: RankingMode = plugin_field(RANKING_MODES, "score")  # how a window is ranked
    start: Start = "chance"

    def __post_init__(self) -> None:
        require_at_least("window", "size", self.size, 2)
        require_at_least("window", "stride", self.stride, 1)
        require_at_least("window", "passes", self.passes, 1)
        if self.stride > self.size:
            raise UserError(
                f"ranking mode 'window': stride is {self.stride} and size {self.size}; a stride above the size would "
                "leave candidates between two windows unread"
            )

    def plan(self, count: int, _: str = "") -> Plan:
        """What to ask of so many candidates."""
        return windows(count, self.size, self.stride, self.passes)
