"""Which prompts a round asks, by a key alone."""

from __future__ import annotations

from collections.abc import Sequence

from irpo.chance import Chance, number_of
from irpo.scoring.tokens import PromptedList


def choose(questions: Sequence[PromptedList], count: int, *key: str | int) -> list[PromptedList]:
    """`count` questions (all, where there are no more) in an order that depends on the key and the ids alone."""
    by_id = sorted(questions, key=lambda q: q.example.id)
    return Chance("questions", *key).shuffled(by_id)[:count]


def seed_of(*key: str | int) -> int:
    """A seed in [0, 2^32) that depends on the key alone.

    >>> seed_of(0, 1) == seed_of(0, 1) != seed_of(0, 2)
    True
    """
    return number_of("/".join(map(str, key)), octets=4)
