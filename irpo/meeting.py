"""How the processes of one job meet, who of them is gone, and how they end.

Whoever starts them (`irpo train --processes`, accelerate's launcher, torchrun) says in the environment which of how
many this one is. They meet once, before any work; a process that loses another can only end, for a collective cannot be
taken up again. Nothing here loads torch before they meet.
"""

from __future__ import annotations

import atexit
import os
import platform
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

import psutil

from irpo.processes import SHARDS, count, is_first, rank, started_as
from irpo.types import UserError

# In a process that `--processes` started: the launcher's id, and the folder where it looks for what is to be said.
LAUNCHER, TOLD = "IRPO_LAUNCHER", "IRPO_TOLD"
LOST = 70  # exit code of a process that ends because another is gone (EX_SOFTWARE of sysexits.h)
# Of a collective. One process may have far more to do than another (answers are of unequal length), so this is no way
# to see a death: that is seen by closed connections and by whoever started the processes.
_TIMEOUT = timedelta(minutes=30)
_FIRST_SPEAKS = 5.0  # seconds that the others leave the first to say what all of them met, before they end
_NOTICED = 3.0  # seconds from a closed connection until the system has counted its process among the dead
_LAST = 30.0  # seconds that a process which lost its launcher has to write a checkpoint
# What gloo and NCCL say, in words of their own, when the other end of a connection is no more.
_BROKEN = (
    "closed by peer",
    "reset by peer",
    "broken pipe",
    "connection refused",
    "remote process exited",
    "ncclremoteerror",
    "socket error",
    "timed out waiting",
    "failed to recv",
)


@dataclass(frozen=True)
class Peer:
    """A process of the job."""

    rank: int
    host: str
    pid: int

    @property
    def dead(self) -> bool:
        """Whether it is known to be no more; of another machine's nothing is known."""
        if self.host != platform.node():
            return False
        try:
            return psutil.Process(self.pid).status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
        except psutil.NoSuchProcess:
            return True


_peers: tuple[Peer, ...] = ()


def meet() -> None:
    """Meet the other processes of this job, where there are any; again and again changes nothing.

    The device is set, and gloo or NCCL chosen by it. The group is taken down as the process ends. `UserError` where
    there are more processes than GPUs, or weights are spread in a way that no list is scored in.
    """
    global _peers
    if started_as() is None or count() > 1:
        return
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") and os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE") == "3":
        # Lists are scored by the head's weights themselves, outside of its module, where ZeRO-3 leaves them empty.
        raise UserError("ZeRO-3 cannot score lists here; --launch fsdp2 spreads the weights as well, zero2 the moments")
    import torch
    from accelerate import PartialState

    gpus = torch.cuda.device_count()
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if 0 < gpus < here:
        raise UserError(f"{here} processes are started here, and there are {gpus} GPU(s); start one for each")
    if gpus:
        PartialState(timeout=_TIMEOUT)
    elif os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true":  # accelerate has it on what it calls devices
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        PartialState(backend="gloo", timeout=_TIMEOUT)
    else:
        os.environ["ACCELERATE_USE_CPU"] = "true"  # the Trainer's arguments read it
        PartialState(cpu=True, backend="gloo", timeout=_TIMEOUT)
    _shards_by_us()
    atexit.register(_part)
    told: list[Any] = [None] * count()
    torch.distributed.all_gather_object(told, (platform.node(), os.getpid()))
    _peers = tuple(Peer(number, *each) for number, each in enumerate(told))


def _shards_by_us() -> None:
    """Take accelerate's words for FSDP2 as ours: it would shard by a plan in which no weight is read from outside."""
    asked = os.environ.pop("ACCELERATE_USE_FSDP", "").lower() in ("1", "true")
    os.environ.pop("FSDP_CPU_RAM_EFFICIENT_LOADING", None)
    if asked:
        os.environ[SHARDS] = "1"


def _part() -> None:
    import torch

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def quieten() -> None:
    """In all processes but the first: no warning of a library, which the first would say as well."""
    if is_first():
        return
    import logging

    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def end_with_launcher() -> None:
    """From here on this process ends when the one that started it does, however that dies."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:  # it was started by torch's launcher, ours or not
        return
    parent = int(os.environ.get(LAUNCHER, os.getppid()))
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)  # as if it had been told to stop: with a checkpoint, where there is one
    time.sleep(_LAST)
    os._exit(128 + signal.SIGTERM)


def speak(text: str) -> None:
    """Say why this process ends: what all of them met once, by the first, or by the launcher where that is ours.

    Whoever started them ends the others when one has left, so they leave the first some time to be that one.
    """
    number, folder = started_as(), os.environ.get(TOLD)
    if number is not None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if number is not None and folder and Path(folder).is_dir():
        (Path(folder) / str(number)).write_text(text, encoding="utf-8", errors="backslashreplace")
    if not is_first():
        time.sleep(_FIRST_SPEAKS)
    if number is None or not folder:
        print(text if is_first() else f"process {number}: {text}", file=sys.stderr, flush=True)  # noqa: T201


def lost(error: BaseException) -> str | None:
    """Which process is gone, where that is why a collective failed; None for any other error."""
    if not _peers or not isinstance(error, RuntimeError):
        return None
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # who started us is about to send it
    broken = any(words in str(error).lower() for words in _BROKEN)
    end = time.monotonic() + (_NOTICED if broken else 0.0)
    while not (gone := [peer for peer in _peers if peer.dead]) and time.monotonic() < end:
        time.sleep(0.05)
    if not gone and not broken:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        return None
    return missing(_peers, gone, platform.node())


def missing(peers: Sequence[Peer], gone: Sequence[Peer], host: str) -> str:
    """The words for processes that are gone, or that must be, being on another machine, where none of ours is.

    >>> peers = [Peer(0, "a", 7), Peer(1, "a", 8), Peer(2, "b", 7)]
    >>> missing(peers, peers[1:2], "a")
    'process 1 of 3 is gone (pid 8 on a)'
    >>> missing(peers, [], "a")
    'a process of another machine is gone (2 on b)'
    """
    if gone:
        which = ", ".join(f"{peer.rank}" for peer in gone)
        where = ", ".join(f"pid {peer.pid}" + (f" on {peer.host}" if _hosts(peers) > 1 else "") for peer in gone)
        return f"process {which} of {len(peers)} is gone ({where})"
    others = ", ".join(f"{peer.rank} on {peer.host}" for peer in peers if peer.host != host)
    return f"a process of another machine is gone ({others})" if others else "another process is gone"


def going_on(words: Sequence[str]) -> str:
    """What can be done after a death of a process of the command with these words.

    >>> going_on(["evaluate", "--model", "x"])
    'the others were ended; the same command does what is left'
    """
    how = (
        "--resume goes on from the last checkpoint" if words[:1] == ["train"] else "the same command does what is left"
    )
    return f"the others were ended; {how}"


def _hosts(peers: Sequence[Peer]) -> int:
    return len({peer.host for peer in peers})


def give_up(error: BaseException) -> None:
    """Before an error that is nobody's mistake ends one of several processes, which it does not come back from.

    Where another is gone, that is all there is to say: by one process of each machine, or by our launcher.
    """
    if started_as() is None:
        return
    if (gone := lost(error)) is not None:
        _leave(gone)
    speak("".join(traceback.format_exception(error)).rstrip())
    sys.exit(1)


def leave_after_a_death() -> None:
    """Before a signal ends this process: where another is gone it was sent for that, and there is no more to say."""
    if gone := [peer for peer in _peers if peer.dead]:
        _leave(missing(_peers, gone, platform.node()))


def _leave(gone: str) -> NoReturn:
    here = [peer.rank for peer in _peers if peer.host == platform.node() and not peer.dead]
    if LAUNCHER not in os.environ and here and here[0] == rank():  # the first process may be the one that is gone
        print(f"error: {gone}; {going_on(sys.argv[1:])}", file=sys.stderr)  # noqa: T201
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(LOST)  # not by way of NCCL's own farewell, which may wait for the dead
