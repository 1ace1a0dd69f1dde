"""Damage to a row's value: a key gone, another type, a text that is none, another row's part in its place."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from tests.fuzz.rows import Row

Way = tuple[str | int, ...]
Change = Callable[[random.Random, list[Row], int], None]  # changes the row of that number, in place

STRANGE: tuple[Any, ...] = (
    None, "", " ", [], {}, [[]], 0, -1, 1, True, False, 2**63, 10**400, -(10**30), 1e308, -1e308, 5e-324, 0.5,
    float("nan"), float("inf"), float("-inf"), "text", "0", ["x"], [None], {"": None}, {"id": "x"}, [[["x"]]], "1e999",
)  # fmt: skip
TEXTS: tuple[str, ...] = (
    "\x00", "a\x00b", "a\x1b[2Jb", "\u202eabc\u202c", "\u2066x", "a\u2028b\u2029c", "e" + "\u0301" * 2000, "\ud800",
    "x\udfffy", "\ufeffa", "\u200b", "\u00a0", "<|eot_id|>", "<|end|>\n<|assistant|>", "[INST] x [/INST]", "\r", "\r\n",
    "a\nb", "1. x\n2. y", "\U0001f468\u200d\U0001f469", "\ufffe", "%s {0} {{x}} {% raw %}", "../../etc/passwd",
    "\x7f\x85",
    "x" * 1_000_000, "\u0130" * 50, "a b " * 50_000, "\\u0000", "@" + "9" * 5000, "9" * 6000, "(" * 5000, ";" * 3000,
)  # fmt: skip
_LONG = tuple(text for text in TEXTS if len(text) > 5000)


def ways(value: Any, above: Way = ()) -> list[Way]:
    """The way to every value inside a value."""
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    else:
        return []
    return [way for key, below in inner for way in ((*above, key), *ways(below, (*above, key)))]


def at(value: Any, way: Way) -> Any:
    """The value there."""
    for key in way:
        value = value[key]
    return value


def put(value: Any, way: Way, new: Any) -> None:
    """Another value there."""
    at(value, way[:-1])[way[-1]] = new


def _place(chance: random.Random, row: Row, kind: type | tuple[type, ...] = object) -> Way | None:
    fitting = [way for way in ways(row) if isinstance(at(row, way), kind)]
    # Shallow places as often as deep ones, of which there are more.
    depth = chance.choice(sorted({len(way) for way in fitting})) if fitting else 0
    return chance.choice([way for way in fitting if len(way) == depth]) if fitting else None


def _missing(chance: random.Random, rows: list[Row], r: int) -> None:
    way = _place(chance, rows[r])
    if way:
        del at(rows[r], way[:-1])[way[-1]]


def _strange(chance: random.Random, rows: list[Row], r: int) -> None:
    if way := _place(chance, rows[r]):
        put(rows[r], way, chance.choice(STRANGE))


def _strange_label(chance: random.Random, rows: list[Row], r: int) -> None:
    if way := _place(chance, rows[r], (int, float)):
        put(rows[r], way, chance.choice(STRANGE))


def _text(chance: random.Random, rows: list[Row], r: int) -> None:
    if way := _place(chance, rows[r], str):
        old, new = at(rows[r], way), chance.choice(TEXTS)
        cut = chance.randrange(len(old) + 1)
        put(rows[r], way, chance.choice([new, old + new, new + old, old[:cut] + new + old[cut:]]))


def _long_text(chance: random.Random, rows: list[Row], r: int) -> None:
    if way := _place(chance, rows[r], str):
        put(rows[r], way, at(rows[r], way) + chance.choice(_LONG))


def _wrapped(chance: random.Random, rows: list[Row], r: int) -> None:
    if way := _place(chance, rows[r]):
        old = at(rows[r], way)
        put(rows[r], way, chance.choice([[old], {"x": old}, [old, old], {"text": old}, str(old)]))


def _renamed(chance: random.Random, rows: list[Row], r: int) -> None:
    inner = [way for way in ((), *ways(rows[r])) if isinstance(at(rows[r], way), dict) and at(rows[r], way)]
    table = at(rows[r], chance.choice(inner))
    key = chance.choice(list(table))
    table[chance.choice([key.upper(), key + " ", "", key[:-1], "\u202e" + key, "__class__"])] = table.pop(key)


def _added(chance: random.Random, rows: list[Row], r: int) -> None:
    inner = [way for way in ((), *ways(rows[r])) if isinstance(at(rows[r], way), dict)]
    at(rows[r], chance.choice(inner))[chance.choice(["zz", "teacher", "", "group", "chosen", "level"])] = chance.choice(
        STRANGE
    )


def _other_rows_part(chance: random.Random, rows: list[Row], r: int) -> None:
    """The same place of another row: its id, its texts, its candidates."""
    other = rows[chance.choice([n for n in range(len(rows)) if n != r])]
    shared = [way for way in ways(rows[r]) if way in set(ways(other))]
    if shared:
        put(rows[r], way := chance.choice(shared), at(other, way))


def _same_id(chance: random.Random, rows: list[Row], r: int) -> None:
    other = rows[chance.choice([n for n in range(len(rows)) if n != r])]
    for key in ("id", "_id", "conversationId", "dialog_id"):
        if key in rows[r] and key in other:
            rows[r][key] = other[key]


def _row_inside(chance: random.Random, rows: list[Row], r: int) -> None:
    """A whole row in a list of another, or in place of a value."""
    other = rows[chance.choice([n for n in range(len(rows)) if n != r])]
    lists = [way for way in ways(rows[r]) if isinstance(at(rows[r], way), list)]
    if lists:
        found = at(rows[r], chance.choice(lists))
        found.insert(chance.randrange(len(found) + 1), dict(other))
    elif way := _place(chance, rows[r]):
        put(rows[r], way, dict(other))


def _list_changed(chance: random.Random, rows: list[Row], r: int) -> None:
    """A list with an item twice, one alone, none, or much too many."""
    lists = [way for way in ways(rows[r]) if isinstance(at(rows[r], way), list) and at(rows[r], way)]
    if lists:
        found: list[Any] = at(rows[r], chance.choice(lists))
        item = chance.choice(found)
        found[:] = chance.choice([[*found, item], [item], [], [item, item], found[1:], found * 200, found[::-1]])


def _twice(chance: random.Random, rows: list[Row], r: int) -> None:
    """One part of a list's item as in another item: candidates of one id, of one text."""
    lists = [at(rows[r], way) for way in ways(rows[r]) if isinstance(at(rows[r], way), list)]
    lists = [found for found in lists if len(found) > 1 and all(isinstance(item, dict) and item for item in found)]
    if lists:
        one, other = chance.sample(chance.choice(lists), 2)
        key = chance.choice(list(one))
        one[key] = other.get(key)


def _none_relevant(chance: random.Random, rows: list[Row], r: int) -> None:
    """Every number, or every truth, of the row is the same."""
    new = chance.choice([0, 1, False, -1, 5])
    for way in ways(rows[r]):
        if isinstance(at(rows[r], way), bool) or (isinstance(at(rows[r], way), (int, float)) and way[-1] != "idx"):
            put(rows[r], way, bool(new) if isinstance(at(rows[r], way), bool) else new)


def _emptied(chance: random.Random, rows: list[Row], r: int) -> None:
    kind = chance.choice([str, list, dict])
    if way := _place(chance, rows[r], kind):
        put(rows[r], way, kind())


def _deep(chance: random.Random, rows: list[Row], r: int) -> None:
    """Lists in lists; deeper ones are made of bytes."""
    value: Any = "x"
    for _ in range(chance.choice([5, 50, 400])):
        value = [value] if chance.random() < 0.5 else {"x": value}
    if way := _place(chance, rows[r]):
        put(rows[r], way, value)


CHANGES: dict[str, Change] = {
    "a key or item missing": _missing,
    "a strange value": _strange,
    "a strange number": _strange_label,
    "a strange text": _text,
    "a long text": _long_text,
    "a value wrapped": _wrapped,
    "a key renamed": _renamed,
    "a key added": _added,
    "another row's part": _other_rows_part,
    "another row's id": _same_id,
    "another row inside": _row_inside,
    "a list longer or shorter": _list_changed,
    "a part twice": _twice,
    "none relevant": _none_relevant,
    "an empty value": _emptied,
    "a deep value": _deep,
}
CELLS: dict[str, Change] = {  # what a table can say
    name: CHANGES[name]
    for name in ("a strange text", "a long text", "another row's part", "another row's id", "an empty value")
}


def changed(rows: Sequence[Row], name: str, chance: random.Random, r: int) -> list[Row]:
    """The rows with one of them changed; the others are as they were."""
    import copy

    mine = [copy.deepcopy(row) if n == r else row for n, row in enumerate(rows)]
    CHANGES[name](chance, mine, r)
    mine[r] = copy.deepcopy(mine[r])  # what came from another row is a copy of it
    return mine
