"""Reading records with their `file:line`, a part of a file at a time.

What a file holds is found by its content, never by its name: the public datasets carry each other's names.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, Literal, TypeVar

from irpo.files import existing
from irpo.types import UserError

T = TypeVar("T")

Form = Literal["json list", "json lines", "tsv", "csv", "parquet"]
TEXT_FORMS = "a JSON list, JSON lines, a TSV or a CSV with a header"
_BLOCK = 2**18  # bytes of a text file that are read at once
_ROWS = 64  # of other forms
_QUOTED = re.compile(r'"[^"]*""[^"]*(?:""[^"]*)*"')  # a TSV's cell as pandas writes one that holds quotes


@dataclass(frozen=True)
class Row:
    """One record of a file and where it stands; `problem` says why it could not be read, where it could not."""

    value: Mapping[str, Any]
    path: str
    line: int
    problem: str = ""
    number: int = 0  # its place, from 1, among all records that are read together, whose files may be several

    @property
    def where(self) -> str:
        """`path:line`, as an error message shows it."""
        return f"{self.path}:{self.line}"

    @property
    def short(self) -> str:
        """`name:line`: the same on every machine, for a card."""
        return f"{Path(self.path).name}:{self.line}"


@dataclass(frozen=True)
class Chunk:
    """Records of a file that stand together: lines of JSON still to be read, or rows that were read."""

    path: str
    line: int  # of the first line
    count: int  # of records
    lines: bytes = b""
    rows: tuple[Row, ...] = ()
    before: int = 0  # records of earlier chunks


def form_of(path: Path) -> Form:
    """How the file's records are written, found from its first bytes."""
    if existing(path).is_dir():
        raise UserError(f"{path}: this is a folder; a file is needed here")
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    if head.startswith(b"PAR1"):
        return "parquet"
    text = head.decode("utf-8-sig", errors="replace").lstrip()
    lines = [line for line in text.split("\n", 5) if line.strip()] or ["{"]
    # An object in a line of its own behind what neither opens a list nor ends in a comma is no element of one.
    if text.startswith("[") and not (lines[1:] and lines[1].startswith("{") and lines[0].rstrip()[-1] not in "[,"):
        return "json list"
    # One line that begins an object is enough, for the first may be a broken one; but a table's row may begin so, too.
    objects = sum(line.startswith("{") for line in lines)
    header = re.search("[\t,]", lines[0]) and not re.search(r'[{}\[\]]|":', lines[0])
    if objects and (not header or objects > max(1, len(lines) // 2)):
        return "json lines"
    return "tsv" if "\t" in text.split("\n", 1)[0] else "csv"


def read_rows(path: Path) -> Iterator[Row]:
    """The file's records in order, whatever its form; a place that cannot be read comes with its `problem`.

    A file that cannot be read at all (missing, not UTF-8, a broken header) raises `UserError`.
    """
    return chain.from_iterable(map(rows_of, read_chunks(path)))


def read_chunks(path: Path, digest: hashlib._Hash | None = None) -> Iterator[Chunk]:
    """The file's records as chunks, which depend on the file alone; `digest` has seen the whole file at the end."""
    form = form_of(path)
    if form == "parquet":
        return _parquet_chunks(path, digest)
    return _text_chunks(path, form, digest or hashlib.sha256())


def rows_of(chunk: Chunk) -> Iterator[Row]:
    """The records of a chunk, numbered; `UserError` for bytes that are not UTF-8."""
    lines = enumerate(chunk.lines.split(b"\n"), start=chunk.line)
    read = (_line_row(chunk.path, line, _decoded(chunk.path, line, text)) for line, text in lines if _filled(text))
    for number, row in enumerate(chain(chunk.rows, read), start=chunk.before + 1):
        yield replace(row, number=number)


def grouped(path: str, rows: Iterable[Row]) -> Iterator[Chunk]:
    """Rows that were read, as chunks."""
    rest = iter(rows)
    while some := tuple(islice(rest, _ROWS)):
        yield Chunk(path, some[0].line, len(some), rows=some)


class _Hashed(io.RawIOBase):
    """A file whose bytes are hashed as they are read."""

    def __init__(self, path: Path, digest: hashlib._Hash) -> None:
        self._file = path.open("rb", buffering=0)
        self._digest = digest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._file.readinto(buffer)
        self._digest.update(memoryview(buffer)[:count])
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def _text_chunks(path: Path, form: Form, digest: hashlib._Hash) -> Iterator[Chunk]:
    try:
        with io.BufferedReader(_Hashed(path, digest), _BLOCK) as file:
            if form == "json lines":
                yield from _line_chunks(path, file)
            elif form == "json list":
                yield from grouped(str(path), _list_rows(path, file))
            else:
                yield from grouped(str(path), _table_rows(path, file, tabs=form == "tsv"))
            while file.read(_BLOCK):  # what stands behind a broken place
                pass
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def _line_chunks(path: Path, file: IO[bytes]) -> Iterator[Chunk]:
    line = 1
    while lines := file.readlines(_BLOCK):
        count = sum(map(_filled, lines))
        yield Chunk(str(path), line, count, b"".join(lines))
        line += len(lines)


def _filled(line: bytes) -> bool:
    return bool(line.removeprefix(codecs.BOM_UTF8).strip())


def _decoded(path: str | Path, line: int, content: bytes) -> str:
    """The text of one line; a byte order mark at a file's beginning is dropped."""
    try:
        return content.decode("utf-8-sig" if line == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}:{line}: byte {content[error.start]:#04x} is not UTF-8; files are UTF-8 text") from None


def _require_utf8(path: Path) -> None:
    """`UserError` that names the line of the first byte that is not UTF-8."""
    with path.open("rb") as file:
        for line, content in enumerate(file, start=1):
            _decoded(path, line, content)


def _broken(path: str | Path, line: int, problem: str) -> Row:
    return Row({}, str(path), line, problem)


def _record(path: str | Path, line: int, value: Any) -> Row:
    if isinstance(value, dict):
        return Row(value, str(path), line)
    return _broken(path, line, f"the row is {shown(value)}; a row is a JSON object")


def _line_row(path: str, line: int, content: str) -> Row:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        return _broken(path, line, f"broken JSON ({_why(error)}); a line holds one JSON object")
    return _record(path, line, value)


def _why(error: ValueError | RecursionError, column: int = 0) -> str:
    """Why JSON could not be read, where in its line; `column` characters of its first line stand before."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg.removesuffix(' at')} at column {error.colno + (column if error.lineno == 1 else 0)}"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return "a number of more than 4300 digits"  # the only other thing that Python's reader refuses


class _Window:
    """The part of a JSON list's text that is being read.

    The elements are read by `json`, whose values, problems and columns are those of JSON lines: a parser of events
    gives neither lines nor half a surrogate pair, and yajl's dies of a number of 5,000 digits.
    """

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self._path, self._file = path, file
        self._decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self._decoder = json.JSONDecoder()
        self._ended = False
        self._text, self._at = "", 0
        self.line, self._column, self._counted = 1, 0, 0  # of the text's beginning; where lines are counted to

    def next(self) -> str:
        """The next character that is not blank, which is not taken; "" at the file's end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in " \t\r\n":
                self._at += 1
            if self._at < len(self._text) or not self._more():
                self._count()
                return self._text[self._at : self._at + 1]

    def take(self) -> None:
        """Step over one character."""
        self._at += 1

    def element(self) -> tuple[Any, str, int]:
        """The value that begins here; or why it cannot be read, and in which line."""
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except (ValueError, RecursionError) as error:
                if not (self._may_be_cut(error) and self._more()):
                    first = self.line - self._text.count("\n", 0, self._counted)
                    place = error.lineno - 1 + first if isinstance(error, json.JSONDecodeError) else self.line
                    return None, _why(error, self._column), place
            else:
                # A number that ends with the text may go on.
                if end < len(self._text) or not self._more():
                    self._at = end
                    return value, "", self.line

    def _may_be_cut(self, error: ValueError | RecursionError) -> bool:
        """Whether an element is perhaps only not read to its end."""
        if not isinstance(error, json.JSONDecodeError):
            return False
        return error.msg.startswith("Unterminated string") or error.pos > len(self._text) - 16

    def _more(self) -> bool:
        """Read on, as much again as is held, after dropping what was used; whether there was more."""
        if self._ended:
            return False
        self._count()
        used = self._text[: self._at]
        self._column = len(used) - used.rfind("\n") - 1 + (0 if "\n" in used else self._column)
        self._text, self._at, self._counted = self._text[self._at :], 0, 0
        block = self._file.read(max(_BLOCK, len(self._text)))
        self._ended = not block
        try:
            self._text += self._decode(block, self._ended)
        except UnicodeDecodeError:
            _require_utf8(self._path)
            raise
        return True

    def _count(self) -> None:
        self.line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at


def _list_rows(path: Path, file: IO[bytes]) -> Iterator[Row]:
    window = _Window(path, file)
    window.next()
    window.take()  # the bracket by which the form was found

    while (found := window.next()) != "]":
        value, problem, line = window.element()
        if problem:
            # What follows cannot be told apart from the inside of the broken element.
            yield _broken(path, line, f"broken JSON list ({problem}); the rest of the file is not read")
            return
        yield _record(path, line, value)
        found = window.next()
        if found == ",":
            window.take()
        elif found != "]":
            yield _broken(path, line, "broken JSON list (no ',' or ']' after this element)")
            return
    window.take()
    if window.next():
        yield _broken(path, window.line, "there is text after the end of the JSON list")


def _table_rows(path: Path, file: io.BufferedReader[Any], *, tabs: bool) -> Iterator[Row]:
    reader = _tsv_records(path, file) if tabs else _csv_records(path, file)
    _, header = next(reader)
    if len(header) < 2 or len(set(header)) != len(header):
        raise UserError(f"{path}:1: the first line {shown(header)} is no table header; a file is {TEXT_FORMS}")
    for line, cells in reader:
        if not any(cells):
            continue
        if len(cells) == len(header):
            yield Row(dict(zip(header, cells, strict=True)), str(path), line)
        else:
            yield _broken(path, line, f"the row has {len(cells)} cells; the header has {len(header)}")


def _tsv_records(path: Path, file: IO[bytes]) -> Iterator[tuple[int, list[str]]]:
    for line, content in enumerate(file, start=1):
        text = _decoded(path, line, content.removesuffix(b"\n"))
        cells = text.rstrip("\r").split("\t")
        yield line, [cell[1:-1].replace('""', '"') if _QUOTED.fullmatch(cell) else cell for cell in cells]


def _csv_records(path: Path, file: io.BufferedReader[Any]) -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(2**31 - 1)
    first = file.peek().split(b"\n", 1)[0]
    between = next((mark for mark in ",;|" if mark.encode() in first), ",")  # what parts the header's names
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    reader = csv.reader(text, strict=True, delimiter=between)
    try:
        while True:
            line = reader.line_num + 1
            yield line, next(reader)
    except StopIteration:
        return
    except UnicodeDecodeError:
        _require_utf8(path)
        raise
    except csv.Error as error:
        raise UserError(f"{path}:{line}: broken CSV ({error}); a file is {TEXT_FORMS}") from None
    finally:
        if not file.closed:  # as it is where reading was given up
            text.detach()  # the file is its opener's to close


def _parquet_chunks(path: Path, digest: hashlib._Hash | None) -> Iterator[Chunk]:
    yield from grouped(str(path), _parquet_rows(path))
    if digest is None:
        return
    try:
        with io.BufferedReader(_Hashed(path, digest), _BLOCK) as file:
            while file.read(_BLOCK):
                pass
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            batches = file.iter_batches(batch_size=_ROWS, use_threads=False)
            for number, value in enumerate(chain.from_iterable(b.to_pylist() for b in batches), start=1):
                yield _record(path, number, value)
    except (OSError, ValueError, OverflowError, MemoryError, pyarrow.ArrowException) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: broken parquet file: {reason}") from None


def shown(value: object, limit: int = 60) -> str:
    """A value on one short line, for a message.

    >>> shown(["a" * 100], limit=12)
    "['aaaaaaa..."
    """
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def need(value: Mapping[str, Any], key: str, kind: type[T] | tuple[type[T], ...], default: T | None = None) -> T:
    """`value[key]`, checked to be of a kind; a missing key raises `UserError` unless there is a default."""
    if key not in value:
        if default is not None:
            return default
        keys = ", ".join(map(str, value)) or "none"
        raise UserError(f"the row has no {key!r}; its keys are {keys if len(keys) <= 300 else keys[:297] + '...'}")
    found = value[key]
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(found, kinds) or (isinstance(found, bool) and bool not in kinds):
        names = " or ".join(_NAMES.get(k, k.__name__) for k in kinds if k is not int or float not in kinds)
        raise UserError(f"{key!r} is {shown(found)}; it must be {names}")
    return found


_NAMES: dict[type, str] = {str: "a text", int: "a whole number", float: "a number"}
_NAMES |= {list: "a list", dict: "an object", bool: "true or false"}
