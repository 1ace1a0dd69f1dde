"""Cells as processes of this machine, each a fresh one: what one of them does to itself reaches no other.

Where no GPU is at hand they are forked from a server that has loaded the heavy modules and done nothing else (0.1 s a
cell); a GPU's driver does not survive a fork, so there each begins from nothing (some 6 s).
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import connection, resource_tracker
from pathlib import Path
from typing import Any, NamedTuple

from irpo.compare.engine.attending import BUSY, Order, as_child
from irpo.processes import cores
from irpo.stopping import SIGNALS

HEAVY = ("torch", "transformers.trainer", "peft", "scipy.stats")
_DEVICES = ("/dev/nvidiactl", "/dev/kfd")
# Nothing that is loaded may begin a thread: a fork does not take it along. Those of numpy's and Arrow's own.
_QUIET = {"OPENBLAS_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}


class Ended(NamedTuple):
    """A cell whose process is no more."""

    order: Order
    how: str  # it died, if its files do not say otherwise; "": it found the cell taken, or settled by another
    seconds: float


@dataclass(frozen=True)
class _Running:
    order: Order
    process: Any  # multiprocessing's Process of any kind
    slot: str
    began: float  # time.monotonic()


class Local:
    """Up to `jobs` processes here, or one a GPU; they end with this process, however it does."""

    def __init__(self, jobs: int, gpus: Sequence[str] = (), preload: Sequence[str] = HEAVY) -> None:
        self.free = list(gpus) or [""] * jobs
        own = os.environ.get("OMP_NUM_THREADS", "")
        self.threads = int(own) if own.isdigit() and int(own) else max(1, cores() // len(self.free))
        self._running: dict[str, _Running] = {}
        forked = sys.platform.startswith("linux") and not gpus and not any(Path(d).exists() for d in _DEVICES)
        self._context: Any = multiprocessing.get_context("forkserver" if forked else "spawn")
        if forked:
            self._context.set_forkserver_preload(["__main__", *preload])
            resource_tracker.ensure_running()  # else it starts with the server, and lets the signals through again

    def start(self, order: Order) -> None:
        """Begin a cell; there must be a free place."""
        slot = self.free.pop(0)
        process = self._context.Process(target=as_child, args=(replace(order, gpu=slot),), name=order.cell.name)
        with _environment({"OMP_NUM_THREADS": str(self.threads)} | _QUIET), _signals_kept():
            process.start()  # with the server, where it does not run yet
        self._running[order.cell.name] = _Running(order, process, slot, time.monotonic())

    def wait(self, seconds: float) -> list[Ended]:
        """The cells whose processes ended, as soon as one has, or none when the time is over."""
        if not self._running:
            time.sleep(seconds)
            return []
        ready = connection.wait([run.process.sentinel for run in self._running.values()], seconds)
        return [self._reap(run) for run in list(self._running.values()) if run.process.sentinel in ready]

    def _reap(self, run: _Running) -> Ended:
        run.process.join()
        del self._running[run.order.cell.name]
        self.free.append(run.slot)
        return Ended(run.order, _how(run.process.exitcode), time.monotonic() - run.began)

    def end(self) -> None:
        """Kill what runs: a cell's files are whole at any moment."""
        for run in self._running.values():
            run.process.kill()
        for run in self._running.values():
            run.process.join()
        self._running.clear()


def _how(code: int) -> str:
    if code == BUSY:
        return ""
    if code >= 0:
        return f"its process ended with exit code {code} before there was a result"
    why = "; the system does this where memory runs out" if code == -9 else ""
    names = {int(s): s.name for s in signal.Signals}
    return f"killed by signal {-code} ({names.get(-code, 'unknown')}{why})"


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Keep what stops a suite for later, here and in what is begun meanwhile: the server would die while it loads."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
