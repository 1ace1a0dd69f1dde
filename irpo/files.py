"""Reading rows with their `file:line`, and writing files that are whole or not there at all.

What a file holds is found by its content, never by its name: the public datasets carry each other's names.
"""

from __future__ import annotations

import csv
import glob
import hashlib
import io
import json
import os
import platform
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TextIO, TypeVar

import psutil

from irpo.chance import fingerprint
from irpo.types import UserError

T = TypeVar("T")

Form = Literal["json list", "json lines", "tsv", "csv", "parquet"]
TEXT_FORMS = "a JSON list, JSON lines, a TSV or a CSV with a header"


@dataclass(frozen=True)
class Row:
    """One record of a file and where it stands; `problem` says why it could not be read, where it could not."""

    value: Mapping[str, Any]
    path: str
    line: int
    problem: str = ""

    @property
    def where(self) -> str:
        """`path:line`, as an error message shows it."""
        return f"{self.path}:{self.line}"

    @property
    def short(self) -> str:
        """`name:line`: the same on every machine, for a card."""
        return f"{Path(self.path).name}:{self.line}"


def sha256_of(path: Path) -> str:
    """The file's SHA-256 in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def existing(path: Path) -> Path:
    """The path itself, or a `UserError` where nothing is there."""
    if not path.exists():
        raise UserError(f"{path}: there is no such file or folder")
    return path


def read_text(path: Path) -> str:
    """The file's text (UTF-8, a byte order mark dropped); `UserError` with the line of the first wrong byte."""
    if existing(path).is_dir():
        raise UserError(f"{path}: this is a folder; a file is needed here")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: byte {content[error.start]:#04x} is not UTF-8; files are UTF-8 text") from None


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
    if text.startswith("["):
        return "json list"
    # One line that begins an object is enough: the first one may be the broken one.
    if not text or any(line.startswith("{") for line in text.split("\n", 5)):
        return "json lines"
    return "tsv" if "\t" in text.split("\n", 1)[0] else "csv"


def read_rows(path: Path) -> Iterator[Row]:
    """The file's records in order, whatever its form; a place that cannot be read comes with its `problem`.

    A file that cannot be read at all (missing, not UTF-8, a broken header) raises `UserError`.
    """
    form = form_of(path)
    if form == "parquet":
        return _parquet_rows(path)
    text = read_text(path)
    if form == "json list":
        return _list_rows(path, text)
    if form == "json lines":
        return _line_rows(path, text)
    return _table_rows(path, text, tabs=form == "tsv")


def _broken(path: Path, line: int, problem: str) -> Row:
    return Row({}, str(path), line, problem)


def _record(path: Path, line: int, value: Any) -> Row:
    if isinstance(value, dict):
        return Row(value, str(path), line)
    return _broken(path, line, f"the row is {shown(value)}; a row is a JSON object")


def _line_rows(path: Path, text: str) -> Iterator[Row]:
    # Not splitlines(): a JSON text may hold U+2028 and other line ends of Unicode as they are.
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        try:
            value = json.loads(content)
        except (ValueError, RecursionError) as error:
            yield _broken(path, line, f"broken JSON ({_why(error)}); a line holds one JSON object")
        else:
            yield _record(path, line, value)


def _why(error: ValueError | RecursionError) -> str:
    """Why JSON could not be read, where in its line."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg.removesuffix(' at')} at column {error.colno}"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return "a number of more than 4300 digits"  # the only other thing that Python's reader refuses


def _list_rows(path: Path, text: str) -> Iterator[Row]:
    decoder = json.JSONDecoder()
    at = text.index("[") + 1
    line, counted = 1, 0

    while True:
        at = _skip(text, at)
        line, counted = line + text.count("\n", counted, at), at
        if text[at : at + 1] == "]":
            if text[at + 1 :].strip():
                yield _broken(path, line, "there is text after the end of the JSON list")
            return
        try:
            value, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            # What follows cannot be told apart from the inside of the broken element.
            place = error.lineno if isinstance(error, json.JSONDecodeError) else line
            yield _broken(path, place, f"broken JSON list ({_why(error)}); the rest of the file is not read")
            return
        yield _record(path, line, value)
        at = _skip(text, end)
        if text[at : at + 1] == ",":
            at += 1
        elif text[at : at + 1] != "]":
            yield _broken(path, line, "broken JSON list (no ',' or ']' after this element)")
            return


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _table_rows(path: Path, text: str, *, tabs: bool) -> Iterator[Row]:
    if tabs:
        lines = (line.rstrip("\r").split("\t") for line in text.split("\n"))
        reader: Iterator[tuple[int, list[str]]] = enumerate(lines, start=1)
    else:
        reader = _csv_records(path, text)
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


def _csv_records(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    while True:
        line = reader.line_num + 1
        try:
            yield line, next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise UserError(f"{path}:{line}: broken CSV ({error}); a file is {TEXT_FORMS}") from None


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow.parquet  # type: ignore[import-untyped]

    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: broken parquet file: {str(error).splitlines()[0]}") from None
    for number, value in enumerate(rows, start=1):
        yield _record(path, number, value)


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


def require_ours(out: Path, owned: Sequence[str], last: str) -> None:
    """`UserError` where one of the files `owned` in a folder would be replaced that no earlier output of ours wrote.

    The file `last` says that they are ours, or, where a process died while it replaced them, a hidden one of its name.
    """
    theirs = [name for name in owned if (out / name).exists()]
    if theirs and not any((out / name).exists() for name in (last, _going(last))):
        raise UserError(
            f"--out {out}: {theirs[0]} lies there, and no {last} says that it may be replaced; give another folder"
        )


def _going(last: str) -> str:
    return f".{last}.going"


@contextmanager
def atomic_folder(out: Path, owned: Sequence[str] = (), last: str = "") -> Iterator[Path]:
    """A temporary folder beside `out`; its files are moved into `out` when the block ends well, else all are removed.

    `owned` are the names that this kind of output may have: those that were not written this time are
    removed from `out`, so that it never mixes two runs. Other files in `out` stay. `last` is the file that says that
    the folder is whole: it is taken away before anything is replaced, and comes back when all is there; where it is
    not, no file of the user's that bears one of these names is replaced (`require_ours`).
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: the output folder's name is taken by a file")
    if last:
        require_ours(out, owned, last)
    try:
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        work = beside(out)
        work.mkdir()
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror}") from None
    try:
        yield work
        for path in work.iterdir():
            _to_disk(path)
        out.mkdir(exist_ok=True)
        if last:
            (out / _going(last)).touch()
        written = sorted((path.name for path in work.iterdir()), key=lambda name: (name == last, name))
        for name in (last, *owned):
            if name and (name == last or name not in written):
                (out / name).unlink(missing_ok=True)
        _to_disk(out)
        for name in written:
            os.replace(work / name, out / name)
        (out / _going(last)).unlink(missing_ok=True)
        _to_disk(out)
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextmanager
def atomic_file(path: Path) -> Iterator[TextIO]:
    """A UTF-8 text file that appears under its name only when the block ends well; line ends are `\\n` everywhere."""
    # A lone surrogate becomes its JSON escape, so a row that holds one can be written and read back.
    with (
        atomic_path(path) as work,
        work.open("x", encoding="utf-8", errors="backslashreplace", newline="\n") as file,
    ):
        yield file


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Another name in the same folder; what is written there appears under `path` only when the block ends well."""
    path.absolute().parent.mkdir(parents=True, exist_ok=True)
    work = beside(path)
    try:
        yield work
        _to_disk(work)
        os.replace(work, path)
        _to_disk(path.absolute().parent)
    finally:
        work.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder that takes the path's place, whole, when the block ends well; until then an earlier one stays."""
    work, old = beside(path), beside(path)
    work.mkdir(parents=True)
    try:
        yield work
        for inner in work.iterdir():
            _to_disk(inner)
        if path.exists():
            os.rename(path, old)
        try:
            os.rename(work, path)
        except OSError:
            if old.exists():
                os.rename(old, path)
            raise
        _to_disk(path.absolute().parent)
    finally:
        for folder in (work, old):
            shutil.rmtree(folder, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Remove what dead processes left half-written in a folder in which nobody else writes now."""
    for path in folder.iterdir():
        if re.fullmatch(r"\..+\.[0-9a-f]{6}-\d+-[0-9a-f]{8}", path.name):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def beside(path: Path) -> Path:
    """A hidden name for what will bear the path's; what dead processes of this machine left under such names goes."""
    machine = fingerprint(platform.node(), 6)
    for left in path.absolute().parent.glob(f".{glob.escape(path.name)}.{machine}-*-*"):
        owner = left.name.split("-")[-2]
        if owner.isdecimal() and not psutil.pid_exists(int(owner)):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)
    return path.absolute().with_name(f".{path.name}.{machine}-{os.getpid()}-{secrets.token_hex(4)}")


def _to_disk(path: Path) -> None:
    """Have the operating system write a file, or a folder's names, so that a power cut after a rename loses nothing."""
    folder = path.is_dir()
    # Windows opens no folder, and some network disks do not sync one.
    with suppress(OSError) if folder else nullcontext():
        handle = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def json_line(value: object) -> str:
    """One JSON text without a line end; the same bytes on every machine (keys keep their order)."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(", ", ": "))
