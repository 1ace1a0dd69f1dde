"""Answers of models by their number, most of them spoilt, and what the parser makes of them."""

from __future__ import annotations

import random
import string
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import lru_cache
from typing import cast

from irpo.prompting.parsing import parse_ranking, repair
from irpo.types import Missing, Repeated, Style, Unknown, Unparseable
from tests.fuzz.rows import Inventor
from tests.fuzz.running import TooLong, limited

BATCH = 500  # answers of a job
LONG, LONGEST = 10_000, 1_000_000  # characters
_SHORT = 1500  # characters of most answers
SECONDS = {_SHORT: 1.0, LONG: 1.0, LONGEST: 5.0}  # that an answer of up to so many characters may take
EVERY = {LONGEST: 30_000, LONG: 400}  # one in so many answers is of this length


@dataclass
class Batch:
    """What came of a job's answers: how many there were of each kind, and the slowest of each length."""

    number: int
    counts: dict[str, int] = field(default_factory=dict)  # "right": a whole ranking; "partial", "nothing"
    slowest: dict[int, tuple[float, int]] = field(default_factory=dict)  # length -> seconds, the answer's number
    faults: list[str] = field(default_factory=list)


def warm() -> None:
    """Import what the parser imports when it is needed first."""
    import scipy.optimize  # noqa: F401


def batch(number: int, seed: int) -> Batch:
    """The answers `number * BATCH` and on."""
    found = Batch(number)
    for n in range(number * BATCH, (number + 1) * BATCH):
        _one(n, seed, found)
    return found


def _one(n: int, seed: int, found: Batch) -> None:
    text, names, style, whole = answer(n, seed)
    size = next(size for size in SECONDS if len(text) <= size)
    start = time.perf_counter()
    try:
        with limited(20 * SECONDS[size]) if size > _SHORT else nullcontext():  # a timer takes longer than most answers
            ended, fault = _read(text, names, style)
    except TooLong:
        ended, fault = "failed", "it was stopped"
    except Exception:  # noqa: BLE001 - the parser raises nothing at all
        ended, fault = "failed", traceback.format_exc(limit=-3)
    seconds = time.perf_counter() - start
    if seconds > SECONDS[size] / 10 and not fault:  # another process may have had the core
        start = time.process_time()
        _read(text, names, style)
        seconds = min(seconds, time.process_time() - start)
    if whole and ended != "right":
        fault = fault or "a right answer is not read as one"
    if seconds > SECONDS[size]:
        fault = f"{fault} took {seconds:.1f} s for {len(text)} characters"
    found.counts[ended] = found.counts.get(ended, 0) + 1
    found.slowest[size] = max(found.slowest.get(size, (0.0, 0)), (seconds, n))
    if fault:
        found.faults.append(
            f"answers {n}: {style}, {len(names)} names, {len(text)} characters: {fault}\n{text[:200]!r}"
        )


def _read(text: str, names: Sequence[str], style: Style) -> tuple[str, str]:
    """How the answer was read, and what is wrong with that ("" where nothing is)."""
    ranking, problems = parse_ranking(text, names, style)
    everyone = set(range(len(names)))
    named, missing = set(ranking.order), [p.index for p in problems if isinstance(p, Missing)]
    ended = "right" if len(named) == len(names) else "partial" if named else "nothing"
    if not named <= everyone or len(named) != len(ranking.order):
        return ended, f"the ranking is {ranking.order}"
    if missing != sorted(everyone - named):
        return ended, f"missing are {missing}, and named {ranking.order}"
    if any(p.index not in everyone for p in problems if isinstance(p, Repeated)):
        return ended, "one repeats that there is not"
    if not all(isinstance(p, (Missing, Repeated, Unknown, Unparseable)) for p in problems):
        return ended, "a problem of no kind"
    others = [p for p in problems if not isinstance(p, Missing)]
    if any(isinstance(p, Unparseable) for p in others) and (named or len(others) > 1):
        return ended, "an answer that holds something is called unparseable"
    if not named and not others:
        return ended, "an answer of nothing, and no problem"
    if sorted(repair(ranking, len(names), "x", 0).order) != sorted(everyone):
        return ended, "the repaired ranking is no permutation"
    return ended, ""


# ---- who is ranked ---------------------------------------------------------------------------------------------------

_ODD = ("It", "It Follows", "1917", "2001: A Space Odyssey", "10. Downing Street", "Se7en", "M", "[REC]", "9",
    "(500) Days", "*batteries",
        "Am\u00e9lie", "\u5343\u3068\u5343\u5c0b", "WALL\u00b7E", "Alien", "Aliens", "Alien: Covenant", "Rocky II",
        "Rocky III", "The", "A",
        "a > b", "x, y", "-", "1.", "\u202eabc", "e\u0301" * 9, "\U0001f600", "Matrix, The", "The Matrix (1999)",
        "Up (2009)")  # fmt: skip


@lru_cache(maxsize=512)
def _names(kind: int, seed: int) -> tuple[tuple[str, ...], Style]:
    invent, chance = Inventor((kind, seed)), random.Random(f"{kind}/{seed}")
    count = chance.choice([2, 3, 4, 5, 6, 8, 10, 10, 20, 40]) if chance.random() < 0.99 else 100
    form = kind % 8
    if form in (0, 1):
        labels = [*string.ascii_uppercase, *(a + b for a in string.ascii_uppercase for b in string.ascii_uppercase)]
        return tuple(labels[:count] if form == 0 else map(str, range(1, count + 1))), "label"
    if form == 2:
        return tuple(f"{invent.words(2).title()} ({1950 + invent.below(70)})" for _ in range(count)), "text"
    if form == 3:
        return tuple(
            f"{invent.words(2)}: {invent.words(chance.choice([5, 8, 8, 12, 60]))}." for _ in range(count)
        ), "text"
    if form == 4:
        return tuple(chance.choices(_ODD, k=count)), "text"
    if form == 5:  # nearly the same, all of them
        same = invent.words(12)
        return tuple(f"{same} {invent.word()} {same}" for _ in range(count)), "text"
    if form == 6:
        return (invent.words(3),) * count, "text"
    letters = [*map(chr, range(33, 127)), *map(chr, range(0xA1, 0x2FFF))]
    return tuple("".join(chance.choices(letters, k=chance.randrange(1, 30))) for _ in range(count)), "text"


# ---- what is answered ------------------------------------------------------------------------------------------------


def answer(n: int, seed: int) -> tuple[str, tuple[str, ...], Style, bool]:
    """An answer, the candidates' names, the style, and whether it is a right answer that must be read whole."""
    chance = random.Random(f"{seed}/{n}")
    names, style = _names(chance.randrange(256), seed)
    size = next((size for size, every in EVERY.items() if n % every == 0), chance.choice([20, 60, 150, 300]))
    if size >= LONG:
        parts, length, times, joint = [], 0, chance.choice([1, 1, 10, 1000]), chance.choice(["", "\n", "\n", " "])
        while length < size:
            parts += [joint, (chance.choice(_MAKERS)(names, chance) or "x") * times]
            length += len(parts[-1])
        return "".join(parts)[:size], names, style, False
    if chance.random() < 0.05 and style == "label":
        return _right(names, chance, style), names, style, True
    return chance.choice(_MAKERS)(names, chance)[: size * chance.choice([1, 1, 1, 5])], names, style, False


def _right(names: Sequence[str], chance: random.Random, style: Style = "text") -> str:
    order = chance.sample(list(names), len(names))
    if style == "label" or chance.random() < 0.3:
        return " > ".join(f"[{name}]" for name in order)
    return "".join(f"{n}. {name}\n" for n, name in enumerate(order, start=1))


def _spoilt(names: Sequence[str], chance: random.Random) -> str:
    """A right answer with some of its letters changed."""
    text = list(_right(names, chance))
    for _ in range(chance.choice([1, 2, 5, 20])):
        at = chance.randrange(len(text) + 1)
        text[at : at + chance.choice([0, 0, 1, 3, 30])] = chance.choice(
            ["", "\n", ">", "[", "]", "x", " ", "\u202e", "(", "\r", "\x00", "1."]
        )
        text = text or ["x"]
    return "".join(text)


def _lines_mixed(names: Sequence[str], chance: random.Random) -> str:
    lines = _right(names, chance).splitlines()
    chance.shuffle(lines)
    return "\n".join(lines[: chance.randrange(len(lines) + 1)] * chance.choice([1, 2, 3]))


def _noise(names: Sequence[str], chance: random.Random) -> str:
    content = chance.randbytes(chance.randrange(400))
    return content.decode(
        chance.choice(["latin-1", "utf-8", "utf-16-le", "ascii"]), chance.choice(["replace", "ignore"])
    )


def _letters(names: Sequence[str], chance: random.Random) -> str:
    """Any letters of Unicode, halves of surrogate pairs among them."""
    return "".join(chr(chance.randrange(0x110000)) for _ in range(chance.randrange(100)))


_PIECES = ("[", "]", "[[", "(", ")", ">", " > ", "1.", "1)", "(1)", "#1", "- ", "* ", "**", "__", "\t", "  ", "\n",
    "\r\n", ",", ";", "|", ":", ". ",
           "\u2028", "'", '"', "\u201c", "because", "since", "a ", "A", "B", "[A]", "[B]", "Passage A", "[Passage B]",
           "a)", "9" * 30, "[99999999]",
           "II", "xxxviiii", "the ", "an ", "(1999)", "[19", "\u0301", "\ufdfa", "\u0130", "\u00b2", "\u0661",
           "\U0001f600", "\ud800", "\x00", "-", "\u2014 x y z")  # fmt: skip


def _repeated(names: Sequence[str], chance: random.Random) -> str:
    """One or two fragments, many times."""
    parts = [
        chance.choice([chance.choice(_PIECES), chance.choice(names), chance.choice(names)[:5]])
        for _ in range(chance.choice([1, 2, 3]))
    ]
    return "".join(parts) * chance.choice([1, 3, 30, 300, 3000])


def _mixed(names: Sequence[str], chance: random.Random) -> str:
    return "".join(chance.choice([chance.choice(_PIECES), chance.choice(names)]) for _ in range(chance.randrange(60)))


def _near(names: Sequence[str], chance: random.Random) -> str:
    """Names nearly right: cut, a letter more or less, another year, commented on."""
    lines = []
    for name in chance.sample(list(names), len(names)):
        at = chance.randrange(len(name) + 1)
        forms = [
            name,
            name[:at],
            name[:at] + "x" + name[at:],
            name[:at] + name[at + 1 :],
            name.upper(),
            f"The {name}",
            f"{name} (1901)",
        ]
        forms += [
            f"**{name}** - a classic",
            f"{name}: because it is",
            name[::-1],
            name.replace(" ", ""),
            f"{name} {name}",
            f"{name}s",
        ]
        marker = chance.choice(["", "- ", "1. ", f"{len(lines) + 1}) ", "[1] ", "**2.** "])
        lines.append(marker + chance.choice(forms))
    return chance.choice(["\n", " > ", ", ", "; ", " "]).join(lines)


def _labels(names: Sequence[str], chance: random.Random) -> str:
    """Ways to write labels, of candidates and of none."""
    forms = (
        "[{}]",
        "{}",
        "({})",
        "{}.",
        "Passage {}",
        "[Passage {}]",
        "**{}**",
        "[{}",
        "{}]",
        "[[{}]]",
        "<{}>",
        "{}:",
        "'{}'",
        "[ {} ]",
        "[{}]: text",
    )
    given = [
        chance.choice([*names[:40], "Z", "ZZ", "0", "-1", "1000", "9" * 40, "a", "\u0391", "\u24b6"])
        for _ in range(chance.randrange(1, 40))
    ]
    form, joint = chance.choice(forms), chance.choice([" > ", ">", ", ", "\n", " ", "; ", " >= ", " -> ", "|", " = "])
    return chance.choice(["", "The order is ", "<think>"]) + joint.join(form.format(name) for name in given)


def _deep(names: Sequence[str], chance: random.Random) -> str:
    depth = chance.choice([3, 50, 1000])
    opened, closed = chance.choice([("[", "]"), ("(", ")"), ("**", "**"), ('"', '"'), ("{", "}")])
    return opened * depth + chance.choice(names) + closed * chance.choice([depth, 0, 1])


_MAKERS: tuple[Callable[[Sequence[str], random.Random], str], ...] = cast(
    "tuple[Callable[[Sequence[str], random.Random], str], ...]",
    (_right, _spoilt, _lines_mixed, _noise, _letters, _repeated, _mixed, _near, _labels, _deep),
)
