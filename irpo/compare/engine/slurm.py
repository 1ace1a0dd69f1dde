"""Cells as jobs of Slurm, by submitit: the same work and the same files as on one machine, on a disk that all share.

Whether a cell is taken is asked of its folder's lock, so the disk needs `flock` (NFS from version 4 on, Lustre with
`-o flock`). A suite's process that is killed leaves its jobs in the queue; when it is started anew, what they do or
have done is not done again, and a job that finds its cell taken or done ends at once.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from irpo.compare.engine.attending import Order, attend
from irpo.compare.engine.local import Ended
from irpo.types import UserError

JOBS = "slurm"  # of a suite's folder: submitit's scripts and its own logs
_SHARED = ("name", "timeout_min", "mem_gb", "nodes", "cpus_per_task", "gpus_per_node", "tasks_per_node")
_LOOKS = 0.2  # seconds between looks at the jobs' files


class _Submitted(NamedTuple):
    order: Order
    job: Any  # submitit's
    began: float  # time.monotonic()


class Slurm:
    """Up to `jobs` jobs at a time, queued ones among them.

    `parameters` are submitit's shared ones, or Slurm's own (`partition`, `time`, `constraint`, ...); `cluster: local`
    runs submitit's processes on this machine instead.
    """

    def __init__(self, folder: Path, jobs: int, parameters: Mapping[str, Any]) -> None:
        self.free = [""] * jobs
        threads = str(parameters.get("cpus_per_task", 1))
        if not threads.isdecimal() or not int(threads):
            raise UserError(f"slurm: cpus_per_task is {threads!r}; it is a whole number from 1")
        self.threads = int(threads)
        self._executor = _executor(folder / JOBS, dict(parameters))
        self._submitted: dict[str, _Submitted] = {}

    def start(self, order: Order) -> None:
        """Queue a cell; there must be a free place."""
        self.free.pop()
        job = self._executor.submit(attend, order)
        self._submitted[order.cell.name] = _Submitted(order, job, time.monotonic())

    def wait(self, seconds: float) -> list[Ended]:
        """The cells whose jobs ended, as soon as one has, or none when the time is over."""
        end = time.monotonic() + seconds
        while not (ended := [each for each in self._submitted.values() if each.job.done()]):
            if (left := end - time.monotonic()) <= 0:
                break
            time.sleep(min(_LOOKS, left))
        return [self._reap(each) for each in ended]

    def _reap(self, each: _Submitted) -> Ended:
        del self._submitted[each.order.cell.name]
        self.free.append("")
        return Ended(each.order, _how(each.job), time.monotonic() - each.began)

    def end(self) -> None:
        """Cancel what is queued or runs."""
        for each in self._submitted.values():
            each.job.cancel()
        self._submitted.clear()


def _executor(folder: Path, parameters: dict[str, Any]) -> Any:
    try:
        import submitit
    except ModuleNotFoundError:
        raise UserError("Slurm needs submitit: pip install 'irpo[slurm]'") from None
    cluster = str(parameters.pop("cluster", "slurm"))
    named = {key if key in _SHARED else f"slurm_{key}": value for key, value in parameters.items()}
    try:
        executor = submitit.AutoExecutor(folder, cluster)
        executor.update_parameters(**{"name": "irpo", **named})
    except (RuntimeError, ValueError, TypeError, NameError, AssertionError) as error:
        raise UserError(f"slurm: {' '.join(str(error).split())}") from None
    return executor


def _how(job: Any) -> str:
    """How a job ended if its cell's files do not say it; "" where it found the cell taken, or settled by another."""
    error = job.exception()
    if error is None:
        return "its job ended before there was a result" if job.result() else ""
    return f"its job {job.job_id} ended as {job.state} ({type(error).__name__})"
