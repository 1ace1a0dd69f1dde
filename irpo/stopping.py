"""SIGINT, SIGTERM and SIGHUP: a command ends with one line and exit code 128 + the signal's number, in ten seconds.

A signal raises `Stopped` where the main thread stands, so that nothing half-made is left; `main` says the line. Work
that has something to save runs inside `later`: there it asks `asked` where it can stop, and raises `Stopped` itself.
A thread that needs no bytecode of the main one watches: after `GRACE` seconds, or at a second signal, it ends the
process and its children wherever they are; what they leave half-made the next process clears away.

Nothing of this happens in a process that has not entered `handled`: there signals do what Python lets them.
"""

from __future__ import annotations

import atexit
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil

from irpo.processes import is_first
from irpo.progress import say
from irpo.types import printable

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
GRACE = 8.0  # seconds from the first signal to the end, whatever goes on
# Seconds within which signals are one: `timeout`, a terminal and launchers send them to a process and to its group.
TOGETHER = 0.25


def heeded() -> list[int]:
    """The signals that end a command: all of them, but a hang-up under `nohup`.

    A shell that runs a script ignores SIGINT for what it starts in the background, where `kill -INT` is meant.
    """
    return [each for each in SIGNALS if each == signal.SIGINT or signal.getsignal(each) is not signal.SIG_IGN]


class Stopped(BaseException):
    """A signal told the command to end; no `except Exception` takes it."""

    def __init__(self, number: int, line: str = "") -> None:
        super().__init__(number)
        self.number = number
        self.line = line or told(number)

    @property
    def code(self) -> int:
        """The exit code that a shell gives to what died of the signal."""
        return 128 + self.number


@dataclass
class _Asked:
    """What signals have asked of a command, and whether they wait."""

    number: int = 0  # the first signal's
    waits: bool = False  # whether it is left to who asks for it
    raised: bool = False

    def hear(self, number: int, _: Any = None) -> None:
        """A signal has come; raises it where it is not to wait."""
        self.number = self.number or number
        self.look()

    def look(self) -> None:
        """Raise what came while it was to wait; once, so that the second of two does not end the way out."""
        if self.number and not self.waits and not self.raised:
            self.raised = True
            raise Stopped(self.number)


class _Watch(_Asked):
    """One command's signals, as long as its process lives or until it is closed."""

    def __init__(self) -> None:
        super().__init__()
        self._ear, self._mouth = socket.socketpair()
        self._mouth.setblocking(False)
        self._before: dict[int, Any] = {number: signal.signal(number, self.hear) for number in heeded()}
        self._wakeup = signal.set_wakeup_fd(self._mouth.fileno(), warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        atexit.register(self._deafen)

    def close(self) -> None:
        """Everything as it was before; where a signal came all of it stays, for the way out may be long, and is one."""
        if self.number:
            return
        atexit.unregister(self._deafen)
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._mouth.send(b"\0")
        self._thread.join()
        self._ear.close()
        self._mouth.close()

    def _deafen(self) -> None:
        """Python's last steps set handlers back; a second signal would be what the process dies of there."""
        for number in self._before if self.number else ():
            signal.signal(number, signal.SIG_IGN)

    def _watch(self) -> None:
        first = self._heard(None)
        if not first:
            return
        began = time.monotonic()
        while (left := began + GRACE - time.monotonic()) > 0:
            again = self._heard(left)
            if again and time.monotonic() - began > TOGETHER:
                _leave(first, " at once")
        _leave(first, " in the middle of its work")

    def _heard(self, seconds: float | None) -> int:
        """The next signal's number; 0 when the time is over, or the command."""
        ready, _, _ = select.select([self._ear], [], [], seconds)
        return self._ear.recv(1)[0] if ready else 0


def _leave(number: int, how: str) -> None:
    """End this process and what it began."""
    try:
        if is_first() and not _said:
            shown = "\x1b[?25h\n" if os.isatty(2) else ""  # a bar hides the cursor
            os.write(2, f"{shown}{told(number, how)}\n".encode())
        for child in psutil.Process().children(recursive=True):
            child.kill()
    finally:
        os._exit(128 + number)


_watch: _Asked | None = None
_hints: list[Callable[[], str]] = []
_said = False


def farewell(line: str) -> None:
    """Say why the command ends, in its one line: however long its way out then takes, no other follows."""
    global _said
    _said = True
    say(line)


def told(number: int, how: str = "") -> str:
    """The line that says that a command was stopped, and where its work stands."""
    stands = _hints[0]() if _hints else ""  # the outermost is the command's own
    return printable(f"stopped by {signal.Signals(number).name}{how}" + (f"; {stands}" if stands else ""))


@contextmanager
def handled() -> Iterator[None]:
    """While the block runs signals end it as this module says; in the main thread alone, once."""
    global _watch
    if _watch is not None or threading.current_thread() is not threading.main_thread():
        yield
        return
    watch = _Watch()
    _watch = watch
    try:
        yield
    finally:
        _watch = None
        watch.close()


@contextmanager
def telling(stands: Callable[[], str]) -> Iterator[None]:
    """While the block runs the line ends with what `stands` then says of its work; it is asked in any thread."""
    _hints.append(stands)
    try:
        yield
    finally:
        _hints.remove(stands)


def leave() -> None:
    """End the process where its way out would wait for a thread that is at work, or die of it; with its line."""
    _leave(asked(), "")


def asked() -> int:
    """The number of the signal that told this process to end, 0 where none has."""
    return _watch.number if _watch else 0


@contextmanager
def later() -> Iterator[None]:
    """Inside, a signal raises nothing: the work looks at `asked` where it can stop. It has `GRACE` seconds."""
    with _waiting(True):
        yield


@contextmanager
def now() -> Iterator[None]:
    """A part of `later` that has nothing to save: a signal ends it at once."""
    with _waiting(False):
        yield


@contextmanager
def _waiting(waits: bool) -> Iterator[None]:
    watch = _watch
    if watch is None:
        yield
        return
    before, watch.waits = watch.waits, waits
    try:
        watch.look()
        yield
    finally:
        watch.waits = before
    watch.look()


def _in_child() -> None:
    """A forked process belongs to who forked it: that one decides what Ctrl-C ends."""
    global _watch
    if _watch is not None:
        _watch = None
        signal.set_wakeup_fd(-1)
        for number in heeded():
            signal.signal(number, signal.SIG_IGN if number == signal.SIGINT else signal.SIG_DFL)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
