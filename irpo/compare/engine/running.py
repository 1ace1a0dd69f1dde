"""Runs a suite's cells, each in a process of its own, and goes on where an earlier suite's process ended.

States. Files alone say how far a cell is, so nothing is lost whenever anything dies: `result.json` (readable) - done;
else `error.json` - failed, kept until it is asked to be tried again; else it is to be done. Each file is whole or
absent. A cell's process writes them; the suite's writes `error.json` only for one that died without a word.

Locks. A cell belongs to the process that works on it, by a lock on its folder (`irpo.runs.claimed`) that the system
takes back when that process dies, however it does. So several suites may run on one folder, of several machines too
where the file system has `flock` (NFS from version 4 on; where it has none, a line says so): each leaves what another
has taken, does the rest, and looks again every second until it is done or its owner dead. What is found done, by
whom ever, is not done again.

Processes end with the suite's: they watch it, and stop when it is gone. Only Slurm's jobs go on without it.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from irpo.compare.cells import CELLS, Cell
from irpo.compare.engine.attending import Order, State, bury, is_free, read_error, state, take_full, took
from irpo.compare.engine.live import Pace, Running, Status, elapsed, left_in_words, panel
from irpo.compare.engine.local import HEAVY, Ended, Local
from irpo.compare.engine.slurm import Slurm
from irpo.progress import say
from irpo.stopping import TOGETHER, farewell, heeded
from irpo.types import UserError

_POLL = 1.0  # seconds between looks at cells that others do
_TOGETHER = 0.1  # seconds within which a signal to the whole group has reached all of it


@dataclass(frozen=True)
class Options:
    """How cells are run."""

    jobs: int = 1  # cells at a time
    gpus: tuple[str, ...] = ()  # CUDA_VISIBLE_DEVICES of each process; one at a time on each, whatever `jobs` is
    slurm: Mapping[str, Any] | None = None  # submitit's parameters (partition, time, ...): cells are Slurm's jobs
    retry_failed: bool = False  # cells that failed before now are tried again; their logs become log.1.txt, ...
    work: str = "irpo.compare.work:do"  # what does a cell (`irpo.compare.engine.attending.Work`)
    preload: tuple[str, ...] = HEAVY  # modules that the processes share where they can

    def __post_init__(self) -> None:
        if self.jobs < 1:
            raise UserError(f"jobs is {self.jobs}; at least 1 cell must run at a time")


@dataclass(frozen=True)
class Waiting:
    """A suite's cells as far as they are known."""

    ready: tuple[Cell, ...]  # known now, finished ones among them; the first are begun first
    unknown: int = 0  # cells that will be known when others are done


@dataclass(frozen=True)
class Outcome:
    """How a suite ended."""

    done: int  # by this process
    failed: int  # now, or earlier and not tried again
    skipped: int  # done before, or by another process


class Launcher(Protocol):
    """Where cells run (`irpo.compare.engine.local`, `irpo.compare.engine.slurm`)."""

    free: list[str]  # places
    threads: int  # of each cell

    def start(self, order: Order) -> None:
        """Begin a cell in a free place."""

    def wait(self, seconds: float) -> list[Ended]:
        """The cells whose processes ended, as soon as one has, or none when the time is over."""

    def end(self) -> None:
        """End what runs."""


def run_cells(folder: Path, plan: Callable[[], Waiting], options: Options | None = None) -> Outcome:
    """Do what is to be done of a suite whose cells lie in `folder`/cells; `plan` is asked again after every cell.

    Returns when nothing is left: every known cell is done or failed. SIGINT, SIGTERM and SIGHUP end the cells'
    processes and raise `SystemExit` with 128 + the number. As it starts processes, a script calls it under
    `if __name__ == "__main__":`.
    """
    options = options or Options()
    try:
        (folder / CELLS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {folder}: cannot be written: {error.strerror}") from None
    suite = _Suite(folder, plan, options, _launcher(folder, options))
    try:
        with _stoppable(suite), panel(suite.status, suite.pace):
            return suite.run()
    except SystemExit:
        farewell("stopped: what ran was ended, what is done stays; the same command goes on from here")
        raise
    finally:
        suite.launcher.end()


def _launcher(folder: Path, options: Options) -> Launcher:
    if options.slurm is not None:
        return Slurm(folder, options.jobs, options.slurm)
    preload = (__name__, options.work.partition(":")[0], *options.preload)
    return Local(options.jobs, options.gpus, preload)


@dataclass
class _Suite:
    """The loop and what it knows. The files are the truth; what is settled is not looked at again."""

    folder: Path
    plan: Callable[[], Waiting]
    options: Options
    launcher: Launcher
    settled: dict[str, State] = field(default_factory=dict)  # by cell's name: done or failed
    running: dict[str, Running] = field(default_factory=dict)  # here, by name
    elsewhere: set[str] = field(default_factory=set)  # names of cells that others were last seen to have
    here: dict[str, float] = field(default_factory=dict)  # seconds of the cells that ended here, by name
    pace: Pace = field(default_factory=Pace)
    began: float = field(default_factory=time.monotonic)
    since: float = field(default_factory=time.time)
    stopped: int = 0  # by this signal
    _status: Status = field(default_factory=Status)

    def run(self) -> Outcome:
        waiting = self.plan()
        self._first(waiting)
        while True:
            if self.stopped:
                raise SystemExit(128 + self.stopped)
            if self._news(waiting):
                waiting = self.plan()
                continue
            todo = [cell for cell in waiting.ready if cell.name not in self.settled]
            self._start(todo)
            self._look(waiting)
            if not todo:
                return self._outcome()
            for ended in self.launcher.wait(_POLL):
                self._ended(ended)

    def status(self) -> Status:
        """As of the last look."""
        return self._status

    def _of(self, cell: Cell) -> Path:
        return self.folder / CELLS / cell.name

    def _state(self, cell: Cell) -> State:
        return state(self._of(cell), self.since if self.options.retry_failed else 0.0)

    def _first(self, waiting: Waiting) -> None:
        """What earlier processes left, told in a line."""
        for cell in waiting.ready:
            self._settle(cell)
        self._look(waiting)
        done, failed = self._status.done, self._status.failed
        parts = [f"{done} done"] * bool(done) + [f"{failed} failed (--retry-failed tries them again)"] * bool(failed)
        if parts:
            say(f"[{done + failed}/{self._status.total}] from before: {', '.join(parts)}")

    def _news(self, waiting: Waiting) -> bool:
        """Tell of the cells that were finished since the last look; whether there are any."""
        news = False
        for cell in waiting.ready:
            if cell.name not in self.settled and cell.name not in self.running and self._settle(cell):
                news = True
                self._look(waiting)
                self._tell(cell)
        return news

    def _settle(self, cell: Cell) -> bool:
        folder, found = self._of(cell), self._state(cell)
        if found == "open":
            return False
        self.settled[cell.name] = found
        self.elsewhere.discard(cell.name)
        if found == "done":
            is_free(folder)  # sweeps up after a process that died between its result and its end
            if (seconds := took(folder)) is not None:
                self.pace.add(_kind(cell), seconds)
        return True

    def _start(self, todo: list[Cell]) -> None:
        for cell in todo:
            if not self.launcher.free:
                return
            if cell.name in self.running:
                continue
            if not is_free(self._of(cell)):
                self.elsewhere.add(cell.name)
                continue
            self.elsewhere.discard(cell.name)
            since = self.since if self.options.retry_failed else 0.0
            self.launcher.start(Order(self._of(cell), cell, self.options.work, self.launcher.threads, since))
            self.running[cell.name] = Running(cell.title, _kind(cell), time.monotonic())

    def _ended(self, ended: Ended) -> None:
        cell = ended.order.cell
        del self.running[cell.name]
        if not ended.how:
            self.elsewhere.add(cell.name)
            return
        self.here[cell.name] = ended.seconds
        if self._state(cell) == "open":
            time.sleep(_TOGETHER)
            if not self.stopped:
                bury(ended.order, ended.how, ended.seconds)
        if (why := take_full(self._of(cell))) is not None:  # and every other cell would end so
            raise UserError(f"{why}; what is done stays, the same command goes on from here")

    def _look(self, waiting: Waiting) -> None:
        busy = self.settled.keys() | self.running.keys() | self.elsewhere
        finished = list(self.settled.values())
        self._status = Status(
            done=finished.count("done"),
            failed=finished.count("failed"),
            elsewhere=len(self.elsewhere),
            running=tuple(self.running.values()),
            waiting=tuple(_kind(cell) for cell in waiting.ready if cell.name not in busy),
            unknown=waiting.unknown,
            places=len(self.running) + len(self.launcher.free),
            began=self.began,
            here=len(self.here),
        )

    def _tell(self, cell: Cell) -> None:
        seconds = self.here.get(cell.name)
        when = " elsewhere" if seconds is None else f" in {elapsed(seconds)}"
        what, why = "done", ""
        if self.settled[cell.name] == "failed":
            what, why = "failed", f": {read_error(self._of(cell))}"
        left = left_in_words(self._status, self.pace)
        number = self._status.done + self._status.failed
        line = f"[{number}/{self._status.total}] {what}{when}: {cell.title}{why}"
        say(f"{line}   ({left})" if left else line)

    def _outcome(self) -> Outcome:
        done = [name for name, found in self.settled.items() if found == "done"]
        here = sum(name in self.here for name in done)
        return Outcome(here, len(self.settled) - len(done), len(done) - here)


def _kind(cell: Cell) -> str:
    return str(cell.spec.get("kind", ""))


@contextmanager
def _stoppable(suite: _Suite) -> Iterator[None]:
    """A signal stops the suite where it next looks, so that no cell is half begun; a second one at once."""
    if threading.current_thread() is not threading.main_thread():  # Python has signals in the main one only
        yield
        return
    since = 0.0

    def stop(number: int, _: Any) -> None:
        nonlocal since
        if suite.stopped and time.monotonic() - since > TOGETHER:
            raise SystemExit(128 + number)
        if not suite.stopped:
            suite.stopped, since = number, time.monotonic()

    before = {number: signal.signal(number, stop) for number in heeded()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
