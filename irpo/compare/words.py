"""How a report writes words and numbers that come from outside, so that a reader sees them and nothing obeys them."""

from __future__ import annotations

import re

from markupsafe import Markup

# Control characters, lone surrogates, and the characters that turn the direction of what follows them.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def seen(text: str) -> str:
    r"""The text with everything that cannot be seen, or would turn what follows it, as a sign.

    >>> seen("a\x00b\u202ec\ud800d\r\n")
    'a␀b[U+202E]c\ufffdd\n'
    """
    return _UNSEEN.sub(_sign, text.replace("\r\n", "\n"))


def _sign(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20:
        return chr(0x2400 + code)  # Unicode's picture of it
    return "\ufffd" if 0xD800 <= code < 0xE000 else f"[U+{code:04X}]"


def bdi(value: object) -> Markup:
    """A text from outside that is apart from what stands around it, whichever way it is written."""
    return Markup('<bdi dir="auto">{}</bdi>').format(seen(str(value)))


def figure(value: float | None, decimals: int = 3) -> str:
    """A measure as tables print it.

    >>> figure(0.5), figure(1.0), figure(-0.0312), figure(None)
    ('.500', '1.000', '\u2212.031', '\u2013')
    """
    if value is None:
        return "\u2013"
    text = f"{abs(value):.{decimals}f}"
    sign = "\u2212" if value < 0 and float(text) else ""
    return sign + text.removeprefix("0")


def plain(value: str | float | None) -> Markup:
    """A cell of a table of any kind: texts apart, numbers with four digits.

    >>> plain(2_000_000.0), plain(12.25), plain(None)
    (Markup('2,000,000'), Markup('12.25'), Markup('\u2013'))
    """
    if value is None:
        return Markup("\u2013")
    if isinstance(value, str):
        return bdi(value)
    return Markup(f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.4g}")
