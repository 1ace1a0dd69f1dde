"""This process: which of several that do one job, what is its share, how they meet again; and its memory.

One process is the usual case, and then each function is the identity. Where `torch.distributed` has been set up, it
carries them; nothing here sets it up, and nothing here loads torch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import psutil

from irpo.types import UserError

T = TypeVar("T")

SHARDS = "IRPO_SHARDS"  # an environment variable


def _group() -> Any:
    """`torch.distributed` where processes have met, else None."""
    torch = sys.modules.get("torch")
    distributed = getattr(torch, "distributed", None)
    return distributed if distributed and distributed.is_available() and distributed.is_initialized() else None


def rank() -> int:
    """This process's number, from 0."""
    group = _group()
    return int(group.get_rank()) if group else 0


def count() -> int:
    """How many processes share the job."""
    group = _group()
    return int(group.get_world_size()) if group else 1


def started_as() -> int | None:
    """The number of one of several processes, as the environment gives it before they have met; None for one alone."""
    several = os.environ.get("WORLD_SIZE", "1").isdigit() and int(os.environ.get("WORLD_SIZE", "1")) > 1
    number = os.environ.get("RANK", "")
    return int(number) if several and number.isdigit() else None


def is_first() -> bool:
    """Whether this process speaks and writes for all, also before they have met."""
    return (rank() if _group() else started_as() or 0) == 0


def shards_weights() -> bool:
    """Whether the launcher's configuration asks for FSDP2, as `meet` has found."""
    return os.environ.get(SHARDS) == "1"


_one_try = False


@contextmanager
def no_second_try() -> Iterator[None]:
    """For as long as this lasts, what one process does anew would not be what the others go on with."""
    global _one_try
    before, _one_try = _one_try, True
    try:
        yield
    finally:
        _one_try = before


def require_second_try() -> None:
    """`UserError` where a process that ran out of memory cannot try again in smaller batches."""
    if _one_try:
        raise UserError(
            f"out of memory on process {rank()}: layers are put together by all processes, so this one cannot try "
            "again alone; go on with --resume and half of training.tokens_per_batch"
        )


def share(items: Sequence[T]) -> list[T]:
    """Every `count()`-th of the items, so that the long ones of a sorted sequence are spread evenly."""
    return list(items[rank() :: count()])


def gather(part: Sequence[T]) -> list[T]:
    """What `share` gave to each, put together again in the order before it, in every process.

    All processes call it, with as many items as their shares hold.
    """
    group, each = _group(), count()
    if group is None:
        return list(part)
    parts: list[Any] = [None] * each
    group.all_gather_object(parts, list(part))
    whole = [None] * sum(map(len, parts))
    for start, found in enumerate(parts):
        whole[start::each] = found
    return whole  # type: ignore[return-value]


def agree(value: T) -> T:
    """The first process's value, in every process: what depends on a clock or a folder is decided once."""
    group = _group()
    if group is None:
        return value
    told = [value]
    group.broadcast_object_list(told, src=0)
    return told[0]


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def decided(work: Callable[[], T]) -> T:
    """What the first process finds, in every process, its `UserError` too: who reads a folder that it writes to."""
    found: T | None = None
    wrong: UserError | None = None
    if is_first():
        try:
            found = work()
        except UserError as error:
            wrong = error
    found, wrong = agree((found, wrong))
    if wrong is not None:
        raise wrong
    return found  # type: ignore[return-value]


def total(values: Sequence[float]) -> list[float]:
    """The sum over all processes of each value, in every process; all give as many."""
    group = _group()
    if group is None:
        return list(values)
    torch = sys.modules["torch"]
    told = torch.tensor(values, dtype=torch.float64, device="cuda" if "nccl" in group.get_backend() else "cpu")
    group.all_reduce(told)
    found: list[float] = told.tolist()
    return found


def wait() -> None:
    """Until all processes are here."""
    agree(None)


@contextmanager
def first_of_all() -> Iterator[None]:
    """The first process goes through the block, then the others: what it downloads or asks for, they find."""
    if not is_first():
        wait()
    yield
    if is_first():
        wait()


_CONTAINER = Path("/sys/fs/cgroup/memory.max")


def memory() -> int:
    """Bytes of memory that this machine, or the container it is, has."""
    whole = int(psutil.virtual_memory().total)
    text = _CONTAINER.read_text(encoding="ascii").strip() if _CONTAINER.is_file() else ""
    return min(whole, int(text)) if text.isdigit() else whole


def peak_of_process() -> int:
    """Bytes of memory that this process has held at most."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return int(psutil.Process().memory_info().peak_wset)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
