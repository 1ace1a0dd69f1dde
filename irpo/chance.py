"""Chance from SHA-256 of a key: the same on every machine, in every version of Python and of every library.

Nothing here is an order's or a clock's: who asks with the same key gets the same answer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def digest(text: str) -> bytes:
    """The 32 bytes of SHA-256 of a text; a lone surrogate counts as its escape."""
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).digest()


def fingerprint(text: str, digits: int = 16) -> str:
    """The first hexadecimal digits of SHA-256 of a text: a name for what it says."""
    return digest(text).hex()[:digits]


def number_of(text: str, octets: int = 8) -> int:
    """A number in [0, 256^octets) that depends on the text alone.

    >>> number_of("a key", octets=1) == number_of("a key") >> 56
    True
    """
    return int.from_bytes(digest(text)[:octets], "big")


def in_test_split(key: str, fraction: float) -> bool:
    """Whether what bears this key belongs to the test part; `fraction` in [0, 1] is the part's expected share."""
    return number_of(key) < fraction * 2**64


def key_of(*parts: object) -> str:
    """One text of several parts (a purpose, a seed, an id), so that no two keys run together."""
    return "\0".join(map(ascii, parts))


def order_of(keys: Sequence[str]) -> tuple[int, ...]:
    """The keys' indices in the order of their hashes: a permutation that depends on the keys alone."""
    digests = [digest(key) for key in keys]
    return tuple(sorted(range(len(keys)), key=digests.__getitem__))


def random_order(count: int, *key: object) -> tuple[int, ...]:
    """A permutation of `count` indices that depends on the key alone (a purpose, a seed, an id).

    >>> sorted(random_order(3, "ties", 0, "query 1"))
    [0, 1, 2]
    """
    return order_of([key_of(*key, index) for index in range(count)])


class Chance:
    """Random whole numbers from a key, as many as are asked for."""

    def __init__(self, *key: str | int) -> None:
        self._key = json.dumps(key).encode()
        self._words = self._draw()

    def _draw(self) -> Iterator[int]:
        block = 0
        while True:
            drawn = hashlib.sha256(self._key + block.to_bytes(8, "big")).digest()
            yield from (int.from_bytes(drawn[i : i + 8], "big") for i in range(0, 32, 8))
            block += 1

    def below(self, n: int) -> int:
        """A number in [0, n), each equally likely."""
        limit = 2**64 - 2**64 % n
        return next(word for word in self._words if word < limit) % n

    def shuffled(self, items: Iterable[T]) -> list[T]:
        """The items in random order (Fisher-Yates).

        >>> Chance(0, "an id").shuffled("abcd")
        ['a', 'd', 'c', 'b']
        """
        mixed = list(items)
        for last in range(len(mixed) - 1, 0, -1):
            other = self.below(last + 1)
            mixed[last], mixed[other] = mixed[other], mixed[last]
        return mixed

    def drawn(self, items: Sequence[T], count: int) -> list[T]:
        """`count` different ones of the items, or all of them, in random order.

        >>> Chance(0, "an id").drawn("abcd", 2)
        ['b', 'd']
        """
        left = list(items)
        return [left.pop(self.below(len(left))) for _ in range(min(count, len(left)))]
