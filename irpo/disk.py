"""Room on a disk: what is asked before a long job begins, and what a write that failed tells the user.

Neither torch nor safetensors nor SQLite hands on the system's error number; their errors are known by their words.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import update_wrapper
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from irpo.types import UserError

P = ParamSpec("P")
T = TypeVar("T")

_WHY = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota is used up",
    errno.EFBIG: "the file is larger than the file system or a limit (ulimit -f) allows",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "cannot be written: permission denied",
    errno.EPERM: "cannot be written: operation not permitted",
    errno.ENAMETOOLONG: "the name is too long",
}
OF_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CUT_SHORT = re.compile(r"PytorchStreamWriter|inline_container|unexpected pos|file write failed")
_SQLITE_FULL = "database or disk is full"
NEAR = 1.25  # times what is needed: with less than this free, a user is told


class NoRoom(UserError):
    """A file that could not be written: the disk is full or read-only, the quota used up, the name too long."""

    def __init__(self, path: Path, code: int | None, *, needed: int | None = None, kept: str = "") -> None:
        self.path, self.code, self.needed, self.kept = path, code, needed, kept
        free = free_at(path)
        if code is None:  # a write was cut short, and the library does not say by what
            code = errno.ENOSPC if needed is None or free < needed else None
        told = f"{path}: {_WHY.get(code, 'cannot be written whole') if code else 'cannot be written whole'}"
        if code in OF_SPACE:
            told += f": {size(needed) if needed is not None else f'more than {size(free)}'} needed, {size(free)} free"
            told += _no_more_files(path)
        elif needed is not None:
            told += f" ({size(needed)} needed)"
        super().__init__(told + (f"; {kept}" if kept else ""))

    def __reduce__(self) -> Any:
        return _no_room, (self.path, self.code, self.needed, self.kept)  # one process may raise it for all

    @property
    def of_space(self) -> bool:
        """Whether it is bytes that are wanting, and not permission or a shorter name."""
        return self.code is None or self.code in OF_SPACE


def _no_room(path: Path, code: int | None, needed: int | None, kept: str) -> NoRoom:
    return NoRoom(path, code, needed=needed, kept=kept)


def size(count: int) -> str:
    """Bytes as one speaks of them.

    >>> size(512), size(3_400_000), size(12_000_000), size(7_250_000_000)
    ('1 kB', '3.4 MB', '12 MB', '7.2 GB')
    """
    for unit, name in ((10**9, "GB"), (10**6, "MB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}" if count < 10 * unit else f"{count / unit:.0f} {name}"
    return f"{-(-count // 1000)} kB"


def free_at(path: Path) -> int:
    """Bytes that this user may still write where the path lies, or would lie."""
    place = path.absolute()
    while not os.path.exists(place):  # not Path.exists: it raises where a name is too long or a folder is closed
        place = place.parent
    return shutil.disk_usage(place).free


def _no_more_files(path: Path) -> str:
    place = next((p for p in (path.absolute(), *path.absolute().parents) if os.path.exists(p)), Path("/"))
    left = os.statvfs(place) if hasattr(os, "statvfs") else None
    return ", and no room for another file (inodes)" if left and left.f_files and not left.f_favail else ""


def lies_under(path: Path) -> int:
    """Bytes of the files in a folder, or of a file; 0 where there is none."""
    if path.is_file():
        return path.stat().st_size
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file()) if path.is_dir() else 0


def require(out: Path, needed: int, what: str) -> tuple[str, bool]:
    """One line on the bytes that a job needs in a folder and those that are free, and whether it is a near thing.

    `what` says of what they are. `UserError` where they are not there.
    """
    free = free_at(out)
    told = f"disk: {size(needed)} needed ({what}), {size(free)} free"
    if needed > free:
        raise UserError(f"--out {out}: the disk has no room: {size(needed)} needed ({what}), {size(free)} free")
    return told, free < NEAR * needed


def near(out: Path, needed: int, what: str) -> str:
    """The line of `require` as a note where it is a near thing, else nothing."""
    told, tight = require(out, needed, what)
    return f"note: {told}: a near thing" if tight else ""


# --- a write that failed ----------------------------------------------------------------------------------------------


def cause(error: BaseException) -> tuple[bool, int | None]:
    """Whether an error says that a file could not be written, and the system's number for why, where it is known."""
    cut_short = False
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _WHY:
            return True, seen.errno
        text = str(seen)
        if text == _SQLITE_FULL:
            return True, errno.ENOSPC
        for code in _WHY:
            if f"(os error {code})" in text or (not isinstance(seen, OSError) and os.strerror(code) in text):
                return True, code
        cut_short = cut_short or (isinstance(seen, RuntimeError) and bool(_CUT_SHORT.search(text)))
        seen = seen.__cause__ or seen.__context__
    return cut_short, None


def told(error: OSError) -> str | None:
    """One line on an error of the system's that nothing expected; None where it names no place and is none of these.

    Of a full disk whose place is not known the fullest of the usual ones is named.
    """
    if error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    if error.errno not in OF_SPACE:
        return None
    place = min((Path.cwd(), Path(tempfile.gettempdir()), Path.home()), key=free_at)
    return f"{_WHY[error.errno]}, perhaps that of {place} ({size(free_at(place))} free): {error.strerror}"


@contextmanager
def written(
    path: Path, *, needed: Callable[[], int] | None = None, kept: Callable[[], str] | None = None
) -> Iterator[None]:
    """Whatever is written in this block is the path's: where it cannot be, `NoRoom` names it.

    `needed` says how many bytes it takes, `kept` what is still there for the user to go on from; both are asked only
    then. An error about a file elsewhere passes as it is.
    """
    try:
        yield
    except NoRoom as error:
        count = needed() if needed else error.needed
        raise NoRoom(path, error.code, needed=count, kept=kept() if kept else error.kept) from None
    except UserError:
        raise
    except Exception as error:
        failed, code = cause(error)
        if not failed or _elsewhere(error, path):
            raise
        raise NoRoom(path, code, needed=needed() if needed else None, kept=kept() if kept else "") from None


@contextmanager
def taking(needed: Callable[[], int]) -> Iterator[None]:
    """What is written in this block takes so many bytes: a `NoRoom` that does not know it says so."""
    try:
        yield
    except NoRoom as error:
        raise NoRoom(error.path, error.code, needed=error.needed or needed(), kept=error.kept) from None


def _elsewhere(error: Exception, path: Path) -> bool:
    """Whether the error names a file that is neither the path nor beside it nor below it."""
    name = getattr(error, "filename", None)
    if not isinstance(name, (str, os.PathLike)):
        return False
    given, own = Path(os.path.abspath(name)), Path(os.path.abspath(path))
    return own.parent not in given.parents and given != own.parent


def telling(
    manager: Callable[Concatenate[Path, P], AbstractContextManager[T]],
) -> Callable[Concatenate[Path, P], AbstractContextManager[T]]:
    """A context manager that writes a path, which says so where the path cannot be written (`written`)."""

    @contextmanager
    def told(path: Path, /, *given: P.args, **named: P.kwargs) -> Iterator[T]:
        with written(path), manager(path, *given, **named) as work:
            yield work

    return update_wrapper(told, manager)


def add_lines(path: Path, text: str) -> None:
    """Add whole lines to a file; where there is no room for them, `NoRoom`, and the file is as it was."""
    content = text.encode("utf-8", "backslashreplace")
    with written(path, needed=lambda: len(content)), path.open("ab", buffering=0) as file:
        before = file.tell()
        try:
            done = 0
            while done < len(content):
                done += file.write(content[done:]) or 0
            os.fsync(file.fileno())
        except OSError:
            file.truncate(before)
            raise
