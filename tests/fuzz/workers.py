"""Many small jobs in processes of their own: one that hangs or dies is told by its number, and the others go on."""

from __future__ import annotations

import math
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any


@dataclass
class Died:
    """A job whose process ended, or had to be ended."""

    number: int
    why: str


@dataclass
class _Worker:
    process: Any
    line: Connection
    number: int | None = None  # of its job; None while it prepares itself, for which it has all the time
    since: float = math.inf


def _serve(line: Connection, job: Callable[[int], Any], prepare: Callable[[], None]) -> None:
    prepare()
    line.send("ready")
    while (number := line.recv()) is not None:
        line.send(job(number))


def _answer(worker: _Worker, *, late: bool) -> Any:
    """What a worker sent, or that it will send nothing more."""
    if late:
        os.kill(worker.process.pid, 9)
    else:
        try:
            return worker.line.recv()
        except EOFError:
            pass
    worker.process.join()
    return Died(worker.number or 0, "no answer" if late else f"the process died (exit code {worker.process.exitcode})")


def run(
    numbers: Iterable[int],
    job: Callable[[int], Any],
    *,
    count: int,
    limit: float,
    prepare: Callable[[], None] = lambda: None,
) -> Iterator[Any]:
    """What `job` makes of each number, as it comes, or `Died`; `limit` seconds a job, counted from outside."""
    context = multiprocessing.get_context("fork")
    rest = iter(numbers)

    def started() -> _Worker:
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, job, prepare), daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, ours)

    def given(worker: _Worker) -> bool:
        worker.number, worker.since = next(rest, None), time.monotonic()
        worker.line.send(worker.number)
        return worker.number is not None

    workers = [started() for _ in range(count)]
    while workers:
        ready = wait([worker.line for worker in workers], timeout=1)
        for worker in list(workers):
            late = worker.line not in ready
            if late and time.monotonic() - worker.since <= limit:
                continue
            answer = _answer(worker, late=late)
            if worker.number is not None:
                yield answer
            elif isinstance(answer, Died):
                raise RuntimeError(f"a worker cannot begin: {answer.why}")
            if isinstance(answer, Died):
                workers[workers.index(worker)] = started()
            elif not given(worker):
                workers.remove(worker)
