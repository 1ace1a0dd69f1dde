"""How a report's sentences spell chances, counts and enumerations; measures are spelt as everywhere."""

from __future__ import annotations

from collections.abc import Sequence

from irpo.compare.writing.wording import number


def chance(name: str, value: float) -> str:
    """A p-value or a corrected one.

    >>> chance("q", 0.0123), chance("q", 0.0001)
    ('q = 0.012', 'q < 0.001')
    """
    return f"{name} < 0.001" if value < 0.001 else f"{name} = {number(value)}"


def plural(count: int, what: str) -> str:
    """A number of things.

    >>> plural(1, "list"), plural(1200, "list")
    ('1 list', '1,200 lists')
    """
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def joined(parts: Sequence[str]) -> str:
    """An enumeration.

    >>> joined(["DPO", "SFT", "base"])
    'DPO, SFT and base'
    """
    return " and ".join(p for p in (", ".join(parts[:-1]), *parts[-1:]) if p)
