"""`irpo prepare` in this process, as a user would call it, and what came of it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from tests.fuzz.cases import Case
from tests.fuzz.damage import Damage

LIMIT = 10.0  # seconds of this process that a command may take; three times as many on the clock: cores are shared
NOBODY = 65534


class TooLong(BaseException):
    """The time is up."""


@dataclass(frozen=True)
class Outcome:
    """Exit code (None: it raised), what stderr said, the lists by split, and the files' bytes."""

    code: int | None
    said: str
    seconds: float
    lists: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    left: tuple[str, ...] = ()  # what lies beside data and output

    @property
    def card(self) -> dict[str, Any]:
        """What is said of the lists."""
        found: dict[str, Any] = json.loads(self.files["card.json"])
        return found


_vanishing: dict[str, int] = {}  # path -> the opening before which it goes


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _vanishing and isinstance(arguments[0], (str, os.PathLike)):
        path = os.fspath(arguments[0])
        if path in _vanishing:
            _vanishing[path] -= 1
            if not _vanishing[path]:
                os.unlink(path)


_watched = False


def prepare(case: Case, folder: Path, damage: Damage | None = None, *, skip: bool = False) -> Outcome:
    """One run over the data in `folder / "data"`; its output lies in `folder / "out"`, and is taken away."""
    data = folder / "data"
    words = ["prepare", "--task", case.task, "--out", str(folder / "out")]
    words += ["--data", str(data / case.at) if case.at else "hub" if case.files[0].form == "hub" else str(data)]
    words += ["--skip-bad-rows"] * skip + [option.format(data) for option in case.options]
    with _hub(case, damage), _file_state(data, damage):
        outcome = command(words)
    return _collected(outcome, folder)


def command(words: list[str]) -> Outcome:
    """A command of `irpo`, its exit code and what it said."""
    from irpo import cli

    out, said, start = io.StringIO(), io.StringIO(), time.process_time()
    code: int | None = 0
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(said),
        mock.patch.object(sys, "argv", ["irpo", *words]),
    ):
        try:
            with limited(3 * LIMIT):
                cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        except TooLong:
            code = None
            said.write(f"took more than {3 * LIMIT:g} s")
        except BaseException:  # noqa: BLE001 - whatever it is, it is a failure to be told
            code = None
            said.write(traceback.format_exc(limit=-4))
    return Outcome(code, said.getvalue(), time.process_time() - start)


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raises `TooLong` in the block when the time is up."""

    def stop(*_: object) -> None:
        raise TooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _hub(case: Case, damage: Damage | None) -> Iterator[None]:
    """A hub that holds the case's rows."""
    if case.files[0].form != "hub":
        yield
        return
    rows = {file.name: list(file.rows) for file in case.files}
    if damage is not None and damage.rows is not None:
        rows[damage.file] = list(damage.rows)
    answers = mock.patch("irpo.tasks._hub._answers", return_value=True)
    with answers, mock.patch("datasets.load_dataset", return_value=rows):
        yield


@contextlib.contextmanager
def _file_state(data: Path, damage: Damage | None) -> Iterator[None]:
    """A file that may not be read, or that goes as it is opened; it is there again afterwards."""
    global _watched
    path = data / damage.file if damage is not None else data
    if damage is not None and damage.vanishes:
        if not _watched:
            sys.addaudithook(_watch)
            _watched = True
        content = path.read_bytes()
        _vanishing[str(path)] = damage.vanishes
        try:
            yield
        finally:
            _vanishing.clear()
            path.write_bytes(content)
    elif damage is not None and damage.unreadable:
        os.chmod(path, 0)
        os.chmod(data.parent, 0o777)
        root = os.geteuid() == 0
        try:
            if root:
                os.seteuid(NOBODY)
            yield
        finally:
            if root:
                os.seteuid(0)
            os.chmod(path, 0o644)
    else:
        yield


def _collected(outcome: Outcome, folder: Path) -> Outcome:
    """The outcome with what was written, which is removed."""
    out = folder / "out"
    files = {path.name: path.read_bytes() for path in sorted(out.iterdir())} if out.is_dir() else {}
    left = tuple(
        sorted(path.name for path in folder.iterdir() if path.name not in ("data", *(["out"] if files else [])))
    )
    for name in files:
        (out / name).unlink()
    if out.is_dir():
        out.rmdir()
    try:
        lists = {
            name.removesuffix(".jsonl"): [json.loads(line) for line in content.decode().split("\n") if line]
            for name, content in files.items()
            if name.endswith(".jsonl")
        }
    except ValueError as error:
        return Outcome(None, f"the output cannot be read: {error}", outcome.seconds, {}, files, left)
    return Outcome(outcome.code, outcome.said, outcome.seconds, lists, files, left)
