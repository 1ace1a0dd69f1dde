"""Worker processes of this machine, whose results come in the order of what they were given."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import TypeVar

from irpo import stopping
from irpo.types import UserError

T = TypeVar("T")
R = TypeVar("R")

_AHEAD = 3  # items a process that are under way or wait for their turn


class WorkerDied(UserError):
    """A worker process was killed."""


class Workers:
    """So many processes; one is this process itself. They are started anew, not forked, and end with this one."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._pool: ProcessPoolExecutor | None = None
        self._others: set[BaseProcess] = set()  # children that are not of these

    def __enter__(self) -> Workers:
        self._others = set(multiprocessing.active_children())
        if self._count > 1:
            spawn = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self._count, mp_context=spawn, initializer=_begin)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is None:
            return
        if kind is not None:  # nobody waits for what they are at, and a command that is told to end has little time
            for worker in set(multiprocessing.active_children()) - self._others:
                worker.kill()
        self._pool.shutdown(cancel_futures=True)

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """`function` of each item, in order; no more items are taken than are soon needed."""
        if self._pool is None:
            yield from map(function, items)
            return
        rest, pool = iter(items), self._pool
        under_way: deque[Future[R]] = deque()
        try:
            while True:
                wanted = self._count * _AHEAD - len(under_way)
                for item in islice(rest, wanted):
                    with stopping.later():  # it may start processes, and one half started is nobody's to end
                        under_way.append(pool.submit(function, item))
                if not under_way:
                    return
                yield under_way.popleft().result()
        except BrokenProcessPool:
            raise WorkerDied(
                "a worker process died (killed, or out of memory); the same command goes on where this one was"
            ) from None


def _begin() -> None:
    """In each worker: a signal to the group is the first process's to answer, and nobody outlives it."""
    for number in stopping.SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
