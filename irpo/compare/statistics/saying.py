"""How a report's sentences spell numbers and enumerations."""

from __future__ import annotations

from collections.abc import Sequence


def figure(value: float) -> str:
    """Three decimals, without a zero before them.

    >>> figure(0.9764), figure(1.0), figure(-0.02), figure(-0.0001)
    ('.976', '1.000', '-.020', '.000')
    """
    text = f"{value:.3f}"
    text = text.removeprefix("-") if float(text) == 0 else text
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text


def chance(name: str, value: float) -> str:
    """A p-value or a corrected one.

    >>> chance("q", 0.0123), chance("q", 0.0001)
    ('q = .012', 'q < .001')
    """
    return f"{name} < .001" if value < 0.001 else f"{name} = {figure(value)}"


def plural(number: int, what: str) -> str:
    """A number of things.

    >>> plural(1, "list"), plural(1200, "list")
    ('1 list', '1,200 lists')
    """
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def joined(parts: Sequence[str]) -> str:
    """An enumeration.

    >>> joined(["DPO", "SFT", "base"])
    'DPO, SFT and base'
    """
    return " and ".join(p for p in (", ".join(parts[:-1]), *parts[-1:]) if p)
