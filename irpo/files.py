"""Reading texts, and writing files that are whole or not there at all."""

from __future__ import annotations

import glob
import hashlib
import itertools
import json
import os
import platform
import re
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TextIO

import psutil

from irpo.chance import fingerprint
from irpo.disk import telling
from irpo.types import UserError


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


@telling
@contextmanager
def atomic_folder(out: Path, owned: Sequence[str] = (), last: str = "") -> Iterator[Path]:
    """A temporary folder beside `out`; its files are moved into `out` when the block ends well, else all are removed.

    `owned` are the names that this kind of output may have: those that were not written this time are
    removed from `out`, so that it never mixes two runs. Other files in `out` stay. `last` is the file that says that
    the folder is whole: it is taken away before anything is replaced, and comes back when all is there; where it is
    not, no file of the user's that bears one of these names is replaced (`require_ours`).
    """
    require_place(out, owned, last)
    try:
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        work = beside(out)
        work.mkdir()
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror}") from None
    try:
        yield work
        put_in_place(work, out, [path.name for path in work.iterdir()], owned, last)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def require_place(out: Path, owned: Sequence[str], last: str) -> None:
    """`UserError` where files of ours cannot come into a folder; see `atomic_folder`."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: the output folder's name is taken by a file")
    if last:
        require_ours(out, owned, last)


def put_in_place(work: Path, out: Path, names: Sequence[str], owned: Sequence[str], last: str) -> None:
    """Move those files of a folder on the same disk into `out`; see `atomic_folder` for `owned` and `last`."""
    for name in names:
        to_disk(work / name)
    out.mkdir(exist_ok=True)
    if last:
        (out / _going(last)).touch()
    for name in (last, *owned):
        if name and (name == last or name not in names):
            (out / name).unlink(missing_ok=True)
    to_disk(out)
    for name in sorted(names, key=lambda name: (name == last, name)):
        os.replace(work / name, out / name)
    (out / _going(last)).unlink(missing_ok=True)
    to_disk(out)


@contextmanager
def atomic_file(path: Path) -> Iterator[TextIO]:
    """A UTF-8 text file that appears under its name only when the block ends well; line ends are `\\n` everywhere."""
    # A lone surrogate becomes its JSON escape, so a row that holds one can be written and read back.
    with (
        atomic_path(path) as work,
        work.open("x", encoding="utf-8", errors="backslashreplace", newline="\n") as file,
    ):
        yield file


@telling
@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Another name in the same folder; what is written there appears under `path` only when the block ends well."""
    path.absolute().parent.mkdir(parents=True, exist_ok=True)
    work = beside(path)
    try:
        yield work
        to_disk(work)
        os.replace(work, path)
        to_disk(path.absolute().parent)
    finally:
        work.unlink(missing_ok=True)


def sweep(*folders: Path) -> None:
    """Remove what dead processes left half-written in folders, as far as these are there; nobody else writes there."""
    for path in itertools.chain(*(folder.iterdir() for folder in folders if folder.is_dir())):
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


def to_disk(path: Path) -> None:
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
