"""The seam for several processes that do one job: who this is, what is its share, and how they meet again.

One process is the usual case, and then each function is the identity. Where `torch.distributed` has been set up, it
carries them; nothing here sets it up, and nothing here loads torch.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, TypeVar

T = TypeVar("T")


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


def is_first() -> bool:
    """Whether this process speaks and writes for all."""
    return rank() == 0


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
