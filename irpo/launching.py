"""`--processes N`: a command as N processes of this machine, by accelerate's launcher, and how they ended.

The launcher runs in this process, so that what it knows of a dead one is told in a line and not as its report. Each
process has a session of its own: Ctrl-C reaches this one, which passes it on, waits, and leaves with the same code.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import psutil

from irpo.meeting import LAUNCHER, LOST, TOLD, going_on
from irpo.processes import cores, started_as
from irpo.progress import say
from irpo.registry import nearest
from irpo.resources import configs_dir
from irpo.types import UserError

LAUNCHES = "launch"  # the folder of the shipped configurations
DEFAULT = "ddp"
_SPOKEN = (2, 128 + signal.SIGINT, 128 + signal.SIGTERM)  # exit codes of which the process has said why
# Seconds within which signals are one: `timeout`, a terminal and Slurm send them to a process and to its group.
_TOGETHER = 0.25
_TYPES = ("MULTI_GPU", "FSDP", "DEEPSPEED")  # accelerate's; any other starts one process, or needs another device


class Failure(Protocol):
    """How a process failed, as torch's launcher tells it."""

    pid: int
    exitcode: int  # minus the signal's number where that ended it


def launch_file(name: str) -> Path:
    """The shipped configuration of accelerate's launcher by its name (`fsdp2`), or a file of one's own."""
    if Path(name).is_file():
        return Path(name)
    shipped = {path.stem: path for path in sorted((configs_dir() / LAUNCHES).glob("*.yaml"))}
    if name in shipped:
        return shipped[name]
    near = nearest(name, shipped)
    meant = f" (did you mean {near!r}?)" if near else f"; choose from {', '.join(shipped)}, or write one's own"
    raise UserError(f"--launch {name!r}: there is no such configuration{meant}")


def without_flags(words: Sequence[str]) -> list[str]:
    """A command's words without --processes and --launch: what each of the processes is to do.

    >>> without_flags(["train", "x.yaml", "--processes", "2", "--launch=zero2", "--out", "y"])
    ['train', 'x.yaml', '--out', 'y']
    """
    kept: list[str] = []
    words = list(words)
    while words:
        word = words.pop(0)
        name, equals, _ = word.partition("=")
        if name in ("--processes", "--launch"):
            del words[: 0 if equals else 1]
        else:
            kept.append(word)
    return kept


def launch(words: Sequence[str], processes: int, name: str) -> int:
    """Run `irpo` with these words as so many processes; returns the exit code.

    `UserError` where that many cannot be, or where the configuration is not one of several processes here.
    """
    if started_as() is not None:
        raise UserError("--processes starts processes, and this is one of several already; leave it out")
    file = launch_file(name)
    kind = _kind(file)
    _require_room(processes, kind)
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, cores() // processes))
    arguments = ["--config_file", str(file), "--num_processes", str(processes), "--main_process_port", "0"]
    arguments += ["--num_cpu_threads_per_process", threads, "--module", "irpo", *without_flags(words)]
    with tempfile.TemporaryDirectory(prefix="irpo-") as folder:
        os.environ |= {LAUNCHER: str(os.getpid()), TOLD: folder}
        try:
            failures = _run(arguments)
        except Stopped as stopped:
            return 128 + stopped.signal
        told = {int(path.name): path.read_text(encoding="utf-8") for path in Path(folder).iterdir()}
    if not failures:
        return 0
    code, text = ended(failures, told, processes)
    if text:
        say(text if told else f"error: {text}; {going_on(words)}")
    return code


class Stopped(Exception):
    """A signal to the launcher ended the processes."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by signal {number}")
        self.signal = number


def _run(arguments: Sequence[str]) -> Mapping[int, Failure]:
    """accelerate's launcher with these arguments; returns the failed processes, the first of them first."""
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.disable(logging.ERROR)  # its report of what `ended` tells in a line
    try:
        with _second_signal_ends_all():
            launch_command(launch_command_parser().parse_args(arguments))
    except ChildFailedError as error:
        failures: Mapping[int, Failure] = error.failures
        return failures
    except SignalException as error:
        raise Stopped(int(error.sigval)) from None
    finally:
        _end_all()
        logging.disable(logging.NOTSET)
    return {}


def _kind(file: Path) -> str:
    """accelerate's word for how the processes share the work (`_TYPES`)."""
    from accelerate.commands.config.config_args import load_config_from_file

    try:
        config = load_config_from_file(str(file))
        kind, machines = str(config.distributed_type.value), int(getattr(config, "num_machines", 1))
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"--launch {file}: no configuration that accelerate can read: {reason}") from None
    if machines > 1:
        raise UserError(f"--launch {file}: num_machines is {machines}; start one of them on each machine by torchrun")
    if kind not in _TYPES:
        raise UserError(f"--launch {file}: distributed_type is {kind}; write {' or '.join(_TYPES)} (on CPUs as well)")
    return kind


def _require_room(processes: int, kind: str) -> None:
    import torch

    gpus = torch.cuda.device_count()
    if processes > gpus > 0:
        raise UserError(f"--processes {processes}: there are {gpus} GPU(s) here, and each process takes one")
    if kind == "DEEPSPEED" and find_spec("deepspeed") is None:
        raise UserError("--launch: ZeRO is DeepSpeed's, which is not installed: pip install 'irpo[deepspeed]'")


def ended(failures: Mapping[int, Failure], told: Mapping[int, str], processes: int) -> tuple[int, str | None]:
    """The exit code for what became of processes, by their number, and what is to be said of it; None: it has been.

    `told` is what processes left to be said. The launcher ends the others as soon as one has failed; that stands first.
    """
    failed = [(number, each) for number, each in failures.items() if each.exitcode != LOST]
    number, first = failed[0] if failed else next(iter(failures.items()))
    if number in told:
        shared = number == 0 or list(told.values()).count(told[number]) > 1
        return first.exitcode, told[number] if shared else f"process {number}: {told[number]}"
    if first.exitcode in _SPOKEN:
        return first.exitcode, None
    how = f"ended with exit code {first.exitcode}; what it said stands above"
    if first.exitcode < 0:
        why = ", as the system does where memory runs out" if first.exitcode == -signal.SIGKILL else ""
        how = f"was killed by {_signal(-first.exitcode)}{why}"
    return 1, f"process {number} of {processes} (pid {first.pid}) {how}"


def _signal(number: int) -> str:
    return {int(each): each.name for each in signal.Signals}.get(number, f"signal {number}")


@contextmanager
def _second_signal_ends_all() -> Iterator[None]:
    """The launcher passes a signal on and waits for the processes; from the next one on they are not waited for."""
    heard, told = socket.socketpair()
    told.setblocking(False)

    def listen() -> None:
        first = 0.0
        while heard.recv(1):
            first = first or time.monotonic()
            if time.monotonic() - first > _TOGETHER:
                _end_all()

    threading.Thread(target=listen, daemon=True).start()
    before = signal.set_wakeup_fd(told.fileno())
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        told.close()


def _end_all() -> None:
    """No process outlives this one, whatever ended the launcher."""
    for child in psutil.Process().children(recursive=True):
        try:
            child.kill()
        except psutil.NoSuchProcess:
            continue
