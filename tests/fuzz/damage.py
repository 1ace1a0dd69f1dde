"""A case's files with one of them damaged, and what is known of it: the rows that it touched, their lines."""

from __future__ import annotations

import gzip
import json
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz import tables
from tests.fuzz.cases import Case, File, Text, written
from tests.fuzz.rows import Row
from tests.fuzz.values import CELLS, CHANGES, changed

_FAR = 10**6


@dataclass(frozen=True)
class Damage:
    """What was done to a file.

    `touched` are the rows that may have changed (None: any); `lines` those in which an error may stand (None: the
    message names the file alone). `contained`: what cannot be read is one row, and the others can. `sound`: nothing is
    wrong, and the lists are those of the undamaged data. `value` is the row's new value, where it has one.
    """

    name: str  # of the damage
    file: str
    touched: frozenset[int] | None = None
    lines: tuple[int, int] | None = None
    contained: bool = False
    sound: bool = False
    value: Row | None = None
    vanishes: int = 0  # as it is opened for this time, the file goes
    unreadable: bool = False
    rows: tuple[Row, ...] | None = None  # of a hub that is stood in for


def columns(file: File) -> list[str]:
    """A table's header."""
    return list(file.rows[0])


def write(case: Case, folder: Path) -> None:
    """The files as they should be."""
    folder.mkdir(parents=True)
    for file in case.files:
        (folder / file.name).parent.mkdir(exist_ok=True)
        if file.form == "parquet":
            tables.write(folder / file.name, file.rows)
        elif file.form == "prepared":
            (folder / file.name).write_bytes(file.content)
        elif file.form != "hub":
            (folder / file.name).write_bytes(written(file.form, file.rows, columns=columns(file)).bytes())


def damaged(case: Case, folder: Path, chance: random.Random) -> Damage:
    """Write the case's files into a folder, one of them damaged."""
    file = chance.choice(case.targets)
    if file.form == "prepared":
        write(case, folder)
        return _prepared(file, case, folder, chance)
    r = chance.randrange(len(file.rows))
    by_value = CELLS if file.form in ("tsv", "csv") else CHANGES
    write(case, folder)
    kind = chance.choices(("value", "bytes", "file"), (55, 27, 18))[0]
    if file.form == "hub" or kind == "value":
        return _value(file, folder, chance.choice(list(by_value)), chance, r)
    if kind == "file" and chance.random() < 0.4:
        return _placed(file, folder, chance)
    if file.form == "parquet":
        found = chance.choice(list(tables.DAMAGE))
        return Damage(found, file.name, sound=tables.DAMAGE[found](folder / file.name, file.rows, chance))
    return _bytes(file, folder, chance, r) if kind == "bytes" else _whole(file, folder, chance)


def _prepared(file: File, case: Case, folder: Path, chance: random.Random) -> Damage:
    """Another card or another file of lists than the one that was written."""
    path, kind = folder / file.name, chance.random()
    if kind < 0.25:
        return _placed(file, folder, chance)
    if kind < 0.75 and path.suffix == ".json":
        cards, name = [json.loads(file.content), json.loads(case.files[0].content)], chance.choice(list(CHANGES))
        path.write_text(json.dumps(changed(cards, name, chance, 0)[0]))
        return Damage(name, file.name)
    known = tables.BYTES if path.suffix == ".parquet" else tables.ANY_BYTES
    name = chance.choice([*known, "another file's content", "content twice", "empty"])
    if name in tables.BYTES:
        tables.BYTES[name](path, (), chance)
    else:
        other = chance.choice([each for each in case.files if each != file]).content
        path.write_bytes({"empty": b"", "content twice": file.content * 2}.get(name, other))
    return Damage(name, file.name)


def _value(file: File, folder: Path, name: str, chance: random.Random, r: int) -> Damage:
    """Another value in a row, written in the file's form."""
    rows = changed(file.rows, name, chance, r)
    touched = frozenset([r])
    if file.form == "hub":
        return Damage(name, file.name, touched, (r + 1, r + 1), True, value=rows[r], rows=tuple(rows))
    if file.form == "parquet":
        kept = tables.write(folder / file.name, rows)
        lines = (r + 1, r + 1) if kept else (1, len(rows))
        return Damage(name, file.name, touched if kept else None, lines, kept, value=rows[r] if kept else None)
    text = written(file.form, rows, columns=columns(file))
    (folder / file.name).write_bytes(text.bytes())
    return Damage(name, file.name, touched, _lines(text, r), True, value=rows[r])


def _lines(text: Text, r: int) -> tuple[int, int]:
    """The lines, from 1, on which a row stands."""
    start, end = text.span(r)
    whole = text.bytes()
    return whole.count(b"\n", 0, start) + 1, whole.count(b"\n", 0, end) + 1


# ---- bytes of one row ------------------------------------------------------------------------------------------------


def _inserted(*choices: bytes) -> Callable[[bytes, random.Random], bytes]:
    def insert(chunk: bytes, chance: random.Random) -> bytes:
        cut = chance.randrange(len(chunk) + 1)
        return chunk[:cut] + chance.choice(choices) + chunk[cut:]

    return insert


def _flipped(chunk: bytes, chance: random.Random) -> bytes:
    changed = bytearray(chunk)
    for _ in range(chance.choice([1, 1, 3, 20])):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _cut(chunk: bytes, chance: random.Random) -> bytes:
    a, b = sorted(chance.randrange(len(chunk) + 1) for _ in range(2))
    return chance.choice([chunk[:a], chunk[a:], chunk[:a] + chunk[b:]])


def _number(chunk: bytes, chance: random.Random) -> bytes:
    """Something that is no sensible number after one of the colons or commas."""
    places = [n + 1 for n, letter in enumerate(chunk) if letter in b":,["] or [0]
    cut = chance.choice(places)
    new = chance.choice(
        [
            b"NaN",
            b"-Infinity",
            b"1e999",
            b"-",
            b"0x10",
            b"1" * 5000,
            b"1e-400",
            b"01",
            b"1_000",
            b"null",
            b"-0",
            b"1.",
            b"1" * 300_000,
        ]
    )
    return chunk[:cut] + new + chance.choice([b"", b","]) + chunk[cut:]


def _nested(chunk: bytes, chance: random.Random) -> bytes:
    places = [n + 1 for n, letter in enumerate(chunk) if letter in b":,["] or [0]
    cut, depth = chance.choice(places), chance.choice([900, 3000, 100_000])
    opened, closed = chance.choice([(b"[", b"]"), (b'{"a":', b"}")])
    inner = chance.choice([b"1", b""])
    return (
        chunk[:cut]
        + opened * depth
        + inner
        + closed * chance.choice([depth, 0])
        + chance.choice([b",", b""])
        + chunk[cut:]
    )


def _key_twice(chunk: bytes, chance: random.Random) -> bytes:
    """A key of the row, again, with another value, before or after its own."""
    try:
        keys = list(json.loads(chunk))
    except ValueError:
        return chunk + chunk
    again = json.dumps({chance.choice(keys): chance.choice([None, 0, "x", [], {"id": "x"}])})[1:-1].encode()
    if chance.random() < 0.5:
        return b"{" + again + b", " + chunk.lstrip()[1:]
    return chunk.rstrip()[:-1] + b", " + again + b"}"


def _repeated(chunk: bytes, chance: random.Random) -> bytes:
    a, b = sorted(chance.randrange(len(chunk) + 1) for _ in range(2))
    return chunk[:b] + chunk[a:b] * chance.choice([1, 2, 1000]) + chunk[b:]


_BYTES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "bits flipped": _flipped,
    "bytes gone": _cut,
    "bytes again": _repeated,
    "NUL inside": _inserted(b"\x00", b"\x00\x00\x00\x00"),
    "no UTF-8 inside": _inserted(b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80", b"\x80"),
    "BOM inside": _inserted(b"\xef\xbb\xbf"),
    "line ends inside": _inserted(b"\r", b"\n", b"\r\n", b"\x0b", b"\x0c", b"\x85", b"\xe2\x80\xa8"),
    "marks inside": _inserted(b'"', b"'", b"{", b"}", b"[", b"]", b",", b":", b"\\", b"\t", b'""', b"\\u", b"\\ud800"),
    "a number that is none": _number,
    "nested": _nested,
    "a key twice": _key_twice,
    "a long line": _inserted(b"x" * 1_000_000, b" " * 1_000_000),
    "another text": lambda chunk, chance: chance.choice([b"", b"x", b"null", b"[]", b"{}", b'"x"', b"5", b"[5", b"{"]),
}


def _bytes(file: File, folder: Path, chance: random.Random, r: int) -> Damage:
    """Other bytes in a row of a text file."""
    name = chance.choice(list(_BYTES))
    text = written(file.form, file.rows, columns=columns(file))
    chunk = _BYTES[name](text.chunks[r], chance)
    text = Text(text.head, (*text.chunks[:r], chunk, *text.chunks[r + 1 :]), text.joint, text.tail)
    (folder / file.name).write_bytes(text.bytes())
    first, last = _lines(text, r)
    by_line = file.form in ("lines", "tsv")
    touched = frozenset([r] if by_line else range(r, len(file.rows)))
    # In a list or a CSV what follows cannot be told from the inside of what is broken.
    return Damage(name, file.name, touched, (first, last if by_line else _FAR), by_line and _is_utf8(text.bytes()))


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


# ---- the whole file --------------------------------------------------------------------------------------------------


def _whole(file: File, folder: Path, chance: random.Random) -> Damage:
    """Other bytes in the whole of a text file."""
    text = written(file.form, file.rows, columns=columns(file))
    whole, path = text.bytes(), folder / file.name
    ends = [text.span(r)[1] for r in range(len(text.chunks))]
    if chance.random() < 0.3:
        cut = chance.randrange(len(whole) + 1)
        path.write_bytes(whole[:cut])
        touched = frozenset(r for r, end in enumerate(ends) if end > cut)
        return Damage("cut off", file.name, touched, (1, _FAR))
    name = chance.choice(list(_WHOLE))
    new, sound = _WHOLE[name](whole, file)
    path.write_bytes(new)
    return Damage(name, file.name, sound=sound, lines=None if sound else (0, _FAR))


_WHOLE: dict[str, Callable[[bytes, File], tuple[bytes, bool]]] = {
    "line ends CRLF": lambda whole, file: (whole.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"), True),
    "line ends LF": lambda whole, file: (whole.replace(b"\r\n", b"\n"), True),
    "line ends CR": lambda whole, file: (
        whole.replace(b"\r\n", b"\n").replace(b"\n", b"\r"),
        file.form in ("list", "pretty") or (file.form == "csv" and b'"' not in whole),
    ),
    "BOM before": lambda whole, file: (b"\xef\xbb\xbf" + whole, True),
    "two BOMs before": lambda whole, file: (b"\xef\xbb\xbf" * 2 + whole, False),
    "UTF-16": lambda whole, file: (whole.decode().encode("utf-16"), False),
    "UTF-16 without BOM": lambda whole, file: (whole.decode().encode("utf-16-be"), False),
    "UTF-32": lambda whole, file: (whole.decode().encode("utf-32"), False),
    "Latin-1 bytes": lambda whole, file: (whole.replace(b"a", b"\xe4"), False),
    "packed by gzip": lambda whole, file: (gzip.compress(whole), False),
    "a zip's beginning": lambda whole, file: (b"PK\x03\x04" + whole, False),
    "empty": lambda whole, file: (b"", False),
    "blanks": lambda whole, file: (b" \n\t\r\n" * 100, False),
    "zeros": lambda whole, file: (bytes(10_000), False),
    "twice": lambda whole, file: (whole + whole, False),
    "text before": lambda whole, file: (b"# a comment\n" + whole, False),
    "text after": lambda whole, file: (whole + b"the end\n", False),
    "blank lines after": lambda whole, file: (whole + b"\n \n\n", file.form not in ("tsv", "csv")),
    "first line gone": lambda whole, file: (whole.partition(b"\n")[2], False),
    "PAR1 before": lambda whole, file: (b"PAR1" + whole, False),
    "a web page": lambda whole, file: (b"<!DOCTYPE html><html><body>404: Not Found</body></html>\n", False),
    "a git-lfs pointer": lambda whole, file: (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
        False,
    ),
    "one line": lambda whole, file: (whole.replace(b"\r", b"").replace(b"\n", b" "), file.form in ("list", "pretty")),
}


def _placed(file: File, folder: Path, chance: random.Random) -> Damage:
    """Not the file that should be there."""
    path = folder / file.name
    name = chance.choice(
        ["gone", "a folder", "a link to nothing", "a link to itself", "a pipe", "unreadable", "vanishes", "a link"]
    )
    if name in ("unreadable", "vanishes"):
        return Damage(
            name,
            file.name,
            vanishes=chance.choice([1, 2, 3]) if name == "vanishes" else 0,
            unreadable=name == "unreadable",
        )
    content = path.read_bytes()
    path.unlink()
    if name == "a folder":
        path.mkdir()
    elif name == "a link to nothing":
        path.symlink_to(folder / "nowhere")
    elif name == "a link to itself":
        path.symlink_to(path)
    elif name == "a pipe":
        os.mkfifo(path)
    elif name == "a link":
        (folder / ".elsewhere").write_bytes(content)
        path.symlink_to(folder / ".elsewhere")
    return Damage(name, file.name, sound=name == "a link")
