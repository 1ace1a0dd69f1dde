"""Work done ahead of who needs it, by processes of its own: what comes, and in which order, does not depend on them.

A process does every n-th part and hands each over through a pipe, which holds but a few: it waits until they are taken,
so that nothing piles up. What it raises is raised where the part is taken. It dies with the process that began it; one
that died alone (a machine short of memory kills such) is begun again, once a part.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import pickle  # nosec B403 # of what our own processes write alone
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, Generic, TypeVar

from irpo.progress import say
from irpo.types import UserError

T = TypeVar("T")
Make = Callable[[int, int], Iterator[T]]  # of (first, step): the parts first, first + step, first + 2 step, ... in turn

_MOST = 4  # processes that nobody asked for by number
_LOOK = 0.5  # seconds between looks whether who began this process lives
_QUIET = "TOKENIZERS_PARALLELISM"


def encoding_processes(asked: int | None, *, on_gpu: bool) -> int:
    """How many processes encode ahead: as asked; else none on a CPU, whose cores training itself takes.

    Where GPUs compute, their processes of training share the machine's cores, and each keeps one for itself.
    """
    if asked is not None:
        return asked
    share = max(1, int(os.environ.get("LOCAL_WORLD_SIZE") or 1))  # as torchrun and accelerate set it
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(0, min(_MOST, cores // share - 1)) if on_gpu else 0


def in_order(make: Make[T], processes: int, *, first: int = 0) -> Generator[T, None, None]:
    """The parts from `first` on, in order, made ahead by so many processes; by this one, as they are taken, where 0.

    `make` and the parts must pickle where processes do not fork (all but Linux). Closing the iterator ends them.
    """
    if processes == 0:
        yield from make(first, 1)
        return
    workers = [_Worker(make, first + place, processes) for place in range(processes)]
    try:
        for worker in workers:
            worker.begin()
        for worker in itertools.cycle(workers):
            try:
                part = worker.take()
            except StopIteration:
                return
            yield part
    finally:
        for worker in workers:
            worker.end()


@dataclass
class _Worker(Generic[T]):
    """A process that makes the parts `next`, `next + step`, ..."""

    make: Make[T]
    next: int
    step: int
    _process: Any = field(default=None, repr=False)
    _pipe: Any = field(default=None, repr=False)

    def begin(self) -> None:
        context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
        self._pipe, far = context.Pipe(duplex=False)
        self._process = context.Process(
            target=_work, args=(self.make, self.next, self.step, far, os.getpid()), daemon=True
        )
        with _quiet():
            self._process.start()
        far.close()

    def take(self) -> T:
        """Its next part, waited for; `StopIteration` where there is none."""
        try:
            what = self._received()
        except (EOFError, OSError):
            say(f"an encoding process died ({self._death()}); another does its work")
            self.end()
            self.begin()
            try:
                what = self._received()
            except (EOFError, OSError):
                raise UserError(
                    f"an encoding process died twice at the same place ({self._death()}); is memory short? set "
                    "training.encoding_processes lower, 0 for none"
                ) from None
        if isinstance(what, _End):
            raise StopIteration
        if isinstance(what, BaseException):
            raise what
        self.next += self.step
        part: T = what
        return part

    def _received(self) -> Any:
        return pickle.loads(self._pipe.recv_bytes())  # nosec B301 # our own process wrote it into its pipe

    def _death(self) -> str:
        self._process.join(5)
        code = self._process.exitcode
        return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"

    def end(self) -> None:
        """Kill it: it holds nothing that would be lost."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
            self._process = None


class _End:
    """There are no more parts."""


@contextmanager
def _quiet() -> Iterator[None]:
    """A process that is forked in here uses no threads of the tokenizers library, whatever the user has set.

    It has none: with them it would wait for ever, and some versions warn where the variable is not set at a fork.
    """
    before = os.environ.get(_QUIET)
    os.environ[_QUIET] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_QUIET]
        else:
            os.environ[_QUIET] = before


def _work(make: Make[T], first: int, step: int, pipe: Connection, parent: int) -> None:
    """What a worker does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who began it is told too, and ends it when done
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # not what the training process does at it
    threading.Thread(target=_die_with, args=(parent,), daemon=True).start()
    with suppress(BrokenPipeError):  # nobody takes it any more
        try:
            for part in make(first, step):
                pipe.send_bytes(pickle.dumps(part, pickle.HIGHEST_PROTOCOL))
            told: Any = _End()
        except UserError as error:
            told = error
        except Exception as error:
            if isinstance(error, BrokenPipeError):
                raise
            told = RuntimeError("in an encoding process:\n" + "".join(traceback.format_exception(error)))
        pipe.send_bytes(pickle.dumps(told))
    os._exit(0)  # nothing of the training process's own end happens in here


def _die_with(parent: int) -> None:
    """A killed process says nothing to those that it began: look for it."""
    while os.getppid() == parent:
        time.sleep(_LOOK)
    os._exit(1)
