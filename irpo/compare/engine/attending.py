"""What a cell's own process does: takes the cell for itself, does the work, and leaves a result or an error.

Everything that the work says goes to the cell's log, what C libraries print as well.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from multiprocessing import connection, parent_process
from pathlib import Path
from typing import Any, Literal

from irpo.compare.cells import CELL, ERROR, LOG, Cell
from irpo.compare.results import RESULT, Result, read_result, write_result
from irpo.disk import NoRoom
from irpo.files import atomic_file
from irpo.runs import LOCK, Taken, claimed
from irpo.runs.key import read_json
from irpo.stopping import SIGNALS
from irpo.types import UserError

State = Literal["done", "failed", "open"]
Work = Callable[[Path, Mapping[str, Any]], Result]
BUSY = 75  # exit code of a process that found its cell taken or settled (EX_TEMPFAIL of sysexits.h)
_TAIL = 30  # lines of a log that an error keeps


@dataclass(frozen=True)
class Order:
    """What a cell's process is told."""

    folder: Path  # the cell's own
    cell: Cell
    work: str  # "module:function", a `Work`
    threads: int  # that torch computes with
    since: float = 0.0  # a failure from before this time (of the epoch, s) is tried again
    gpu: str = ""  # CUDA_VISIBLE_DEVICES, as it is where ""


def state(folder: Path, since: float = 0.0) -> State:
    """How far the cell in a folder is, by its files; a failure from before `since` is as if it had not been."""
    if (folder / RESULT).exists() and read_result(folder) is not None:
        return "done"
    try:
        return "failed" if (folder / ERROR).stat().st_mtime >= since else "open"
    except FileNotFoundError:
        return "open"


def is_free(folder: Path) -> bool:
    """Whether nobody works on the cell; what a dead owner left half-written is taken away."""
    if not (folder / LOCK).exists():
        return True
    try:
        with claimed(folder):
            return True
    except Taken:
        return False


def took(folder: Path) -> float | None:
    """Seconds from a finished cell's last start to its end, by its files' times; None where they do not say."""
    try:
        seconds = (folder / RESULT).stat().st_mtime - (folder / CELL).stat().st_mtime
    except FileNotFoundError:
        return None
    return seconds if seconds >= 0 else None


def attend(order: Order) -> bool:
    """Do a cell; False where another process is at it, or was first. No error of the work leaves this."""
    _limit(order)
    try:
        with claimed(order.folder):
            if state(order.folder, order.since) != "open":
                return False
            _begin(order)
            _work(order)
    except Taken:
        return False
    return True


def as_child(order: Order) -> None:
    """`attend` as the body of a process that ends when the one that started it does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the suite decides what ends
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # the server was begun with them blocked
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if not attend(order):
        sys.exit(BUSY)


def _end_with_parent() -> None:
    # Not the system's own "signal at the parent's death": the parent of a forked cell is the fork server.
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _limit(order: Order) -> None:
    """The device and the number of threads, before the work loads anything."""
    os.environ["OMP_NUM_THREADS"] = str(order.threads)
    if order.gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = order.gpu
    if torch := sys.modules.get("torch"):  # loaded already, in a fork server: the variable comes too late
        torch.set_num_threads(order.threads)


def _begin(order: Order) -> None:
    folder = order.folder
    if (folder / ERROR).exists():
        if (folder / LOG).exists():
            (folder / LOG).rename(_unused(folder))
        (folder / ERROR).unlink()
    file = os.open(folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(file, 1 if stream is sys.stdout else 2)
        stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)  # type: ignore[union-attr]
    os.close(file)
    faulthandler.enable()
    with atomic_file(folder / CELL) as written:
        json.dump(asdict(order.cell) | {"threads": order.threads}, written, indent=1)


def _unused(folder: Path) -> Path:
    """The name of the next old log: log.1.txt, log.2.txt, ..."""
    stem, _, end = LOG.rpartition(".")
    numbers = (f"{stem}.{n}.{end}" for n in range(1, sys.maxsize))
    return next(folder / name for name in numbers if not (folder / name).exists())


def _work(order: Order) -> None:
    began = time.perf_counter()
    try:
        write_result(order.folder, find(order.work)(order.folder, order.cell.spec))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever it is, it fails this cell alone
        told = traceback.format_exc()
        full = isinstance(error, NoRoom) and error.of_space
        with suppress(OSError):  # the log's disk may be the full one
            print(told, file=sys.stderr, flush=True)  # noqa: T201 - into the log
        write_error(order.folder, _in_a_line(error), told, time.perf_counter() - began, full=full)


def find(work: str) -> Work:
    """The function that "module:function" names."""
    module, _, name = work.partition(":")
    found: Work = getattr(importlib.import_module(module), name)
    return found


def _in_a_line(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"it left Python with exit code {error.code}"
    text = str(error) if isinstance(error, UserError) else traceback.format_exception_only(error)[-1]
    return " ".join(text.split())


def write_error(folder: Path, error: str, told: str, seconds: float, *, full: bool = False) -> None:
    """The file that says that a cell failed: why in one line, the traceback or the log's end, seconds of work.

    `full`: for want of disk, which is no fault of the cell's.
    """
    with atomic_file(folder / ERROR) as file:
        json.dump({"error": error, "traceback": told, "seconds": round(seconds, 1), "full": full}, file, indent=1)


def take_full(folder: Path) -> str | None:
    """Why a cell had no room on the disk, in one line, and the cell is open again; None where it failed otherwise."""
    told = read_json(folder / ERROR)
    if not told.get("full"):
        return None
    (folder / ERROR).unlink()
    return str(told["error"])


def read_error(folder: Path) -> str:
    """Why a cell failed, in one line."""
    try:
        return str(json.loads((folder / ERROR).read_text(encoding="utf-8"))["error"])
    except (OSError, ValueError, KeyError):
        return "it has not said why"


def bury(order: Order, how: str, seconds: float) -> None:
    """Write the error of a cell whose process died without a word, unless another has taken the cell up since."""
    try:
        with claimed(order.folder):
            if state(order.folder, order.since) == "open":
                write_error(order.folder, how, _end_of_log(order.folder), seconds)
    except Taken:
        return


def _end_of_log(folder: Path) -> str:
    try:
        with (folder / LOG).open(encoding="utf-8", errors="replace") as file:
            return "".join(deque(file, _TAIL))
    except FileNotFoundError:
        return ""
