"""Training that is killed at every change of its files, and at random moments, ends as if it had not: JSON lines.

python benchmarks/kill_training.py [--kinds offline patience iterative reinforce full] [--random 20] [--every 1]

A run is a real `irpo train` of some updates on the embedded model, in a process forked from one that has imported
everything. SIGKILL comes before the n-th change of a file (a file opened for writing, synced, renamed, removed, a
folder made), and within writing the log, weights and optimiser, where half a file is left; `--every 3` takes every
third n, `--names` the last change of each of some names. Then, by chance, it comes twice in a row at random moments.
`irpo train --resume` follows in another process, and all that lies in the folder is compared with what an undisturbed
run left, but for times.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BASE = ("models/embedded.yaml", "tasks/world.yaml")
SMALL = (
    *("task.train_lists=40", "task.eval_lists=4", "task.candidates=4", "model.lora.r=2", "model.lora.targets=[q_proj]"),
    *("prompt.max_tokens=512", "training.updates=4", "training.lists_per_update=2", "training.evaluate_every=2"),
    *("training.max_validation_lists=2", "training.learning_rate=0.01", "training.logging_every=1"),
)
ROUNDS = (
    *("online.rounds=2", "online.updates_per_round=1", "online.samples=2", "online.min_valid=1"),
    *("online.draw=constrained", "training.max_validation_lists=1"),
)
LABELS = ("prompt.style=label", "method.scorer=label")
KINDS = {
    "offline": ("methods/irpo.yaml", *LABELS, "ranking.strength=auto"),
    "patience": (
        *("methods/dpo.yaml", *LABELS, "training.updates=9", "training.evaluate_every=1"),
        *("training.patience=2", "training.learning_rate=1e-9"),
    ),
    "iterative": ("methods/iterative_irpo.yaml", *ROUNDS),
    "reinforce": ("methods/reinforce.yaml", *ROUNDS),
    "full": (
        *("methods/iterative_irpo.yaml", *ROUNDS, "model.tuning=full", "online.reference=previous"),
        *("method.reference=precomputed", "ranking.strength=1", "training.learning_rate=1e-4"),
    ),
}
TIMES = ("tokens_per_s", "lists_per_s", "waiting", "peak_memory_mb", "eval_seconds")  # of a log line
LIMIT = 600.0  # seconds in which a run ends


def main() -> None:
    """Kill each kind of run, print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--random", type=int, default=20, help="runs that are killed at random moments")
    parser.add_argument("--every", type=int, default=1, help="at every so manieth change")
    parser.add_argument("--names", nargs="+", default=(), help="at the last change of each name, such as 'fsync'")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    wrong = False
    for kind in options.kinds:
        with tempfile.TemporaryDirectory() as home:
            began = time.perf_counter()
            trial = Trial.begun(kind, Path(home))
            last = {name: number for number, name in enumerate(trial.changes)}
            places = [last[name] for name in options.names] or range(0, len(trial.changes), options.every)
            found = [*trial.at(places), *trial.random(options.random, random.Random(options.seed))]
        unlike = [end for end in found if end.differences]
        line = {"benchmark": "kill_training", "kind": kind, "changes": len(trial.changes), "killed_at": len(places)}
        line |= {"random": options.random, "seed": options.seed, "places": Counter(trial.changes[n] for n in places)}
        line |= {"equal": len(found) - len(unlike), "differ": [vars(end) for end in unlike[:10]]}
        print(json.dumps(line | {"seconds": round(time.perf_counter() - began)}), flush=True)
        wrong = wrong or bool(unlike)
    sys.exit(wrong)


@dataclass(frozen=True)
class End:
    """How a killed run ended."""

    killed: str  # where, or after how many seconds
    differences: tuple[str, ...]


@dataclass(frozen=True)
class Trial:
    """A kind of run, and what it leaves where nothing disturbs it."""

    kind: str
    home: Path
    changes: tuple[str, ...]  # of its files, in order
    seconds: float
    left: dict[str, Any]

    @classmethod
    def begun(cls, kind: str, home: Path) -> Trial:
        """One run to import everything into this process, and one in a fork of it."""
        warm(kind, home / "warm")
        began, told = time.perf_counter(), home / "changes.txt"
        code = in_child(lambda: train(kind, home / "calm"), home / "calm.log", lambda: watch(told, None))
        if code != 0:
            raise SystemExit(f"{kind}: {(home / 'calm.log').read_text()}")
        seconds = time.perf_counter() - began
        return cls(kind, home, tuple(told.read_text().splitlines()), seconds, contents(home / "calm"))

    def at(self, places: Iterable[int]) -> Iterator[End]:
        """Runs that are killed before each of these changes."""
        for number in places:
            yield self._killed(f"{number}: {self.changes[number]}", [lambda n=number: watch(None, n)], [None])

    def random(self, count: int, chance: random.Random) -> Iterator[End]:
        """Runs that are killed at a random moment, and once more after they went on."""
        for _ in range(count):
            moments = [chance.uniform(0, self.seconds) for _ in range(2)]
            yield self._killed(" and ".join(f"{moment:.2f} s" for moment in moments), [None, None], moments)

    def _killed(self, where: str, armed: list[Callable[[], None] | None], moments: list[float | None]) -> End:
        out, log = self.home / "killed", self.home / "killed.log"
        shutil.rmtree(out, ignore_errors=True)
        log.unlink(missing_ok=True)
        for arm, moment in zip(armed, moments, strict=True):
            code = in_child(lambda: train(self.kind, out), log, arm, kill_after=moment)
            if code not in (0, -signal.SIGKILL):
                return End(where, (f"exit code {code}", *log.read_text().splitlines()[-3:]))
            if arm is not None and code == 0:
                return End(where, ("it was not killed",))
        code = in_child(lambda: train(self.kind, out), log)
        if code != 0:
            return End(where, (f"exit code {code} on going on", *log.read_text().splitlines()[-3:]))
        return End(where, tuple(differences(self.left, contents(out))))


def words(kind: str, out: Path) -> list[str]:
    """The command of a run."""
    layer, *overrides = KINDS[kind]
    return ["irpo", "train", *BASE, layer, *SMALL, *overrides, "--out", str(out), "--resume"]


def train(kind: str, out: Path) -> None:
    """`irpo train`, begun or gone on with."""
    from irpo import cli

    sys.argv = words(kind, out)
    cli.main()


def warm(kind: str, out: Path) -> None:
    """Import what such a run imports; torch computes in one thread, which a fork survives."""
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": ""}
    import torch

    torch.set_num_threads(1)
    from irpo import api, pipeline

    _, _, *layers = words(kind, out)
    pipeline.train(api.config_from(layers[: layers.index("--out")]), out)


def in_child(
    work: Callable[[], None], log: Path, arm: Callable[[], None] | None = None, kill_after: float | None = None
) -> int:
    """The exit code of a fork of this process that does the work; -9 where it was killed. Its words go to the log."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # libraries that a run imports and does not use have threads
        child = os.fork()
    if child == 0:
        code = 1
        try:
            file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(file, 1)
            os.dup2(file, 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            if arm is not None:
                arm()
            work()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        except BaseException:  # noqa: BLE001 - a fork must not go on as its parent
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return _ended(child, LIMIT if kill_after is None else kill_after)


def _ended(child: int, limit: float) -> int:
    end = time.monotonic() + limit
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


# --- changes of files -------------------------------------------------------------------------------------------------


def watch(told: Path | None, last: int | None) -> None:
    """In a child: write the name of each change of a file to `told`, or die before the one numbered `last`."""
    count = 0
    into = os.open(told, os.O_WRONLY | os.O_CREAT) if told else None

    def changes(what: str) -> bool:
        """Whether the process is to die of this one."""
        nonlocal count
        count += 1
        if into is not None:
            os.write(into, f"{what}\n".encode())
        return count - 1 == last

    def before(what: str) -> None:
        if changes(what):
            os.kill(os.getpid(), signal.SIGKILL)

    def heard(event: str, given: tuple[Any, ...]) -> None:
        if what := _change(event, given):
            before(what)

    sync = os.fsync

    def synced(file: int) -> None:
        before("fsync")
        sync(file)

    os.fsync = synced
    _tear(changes)
    sys.addaudithook(heard)


def _change(event: str, given: tuple[Any, ...]) -> str | None:
    """What an event of Python's audit does to files; None where it changes none of a run's."""
    if event == "open" and isinstance(given[0], str) and given[2] & (os.O_WRONLY | os.O_RDWR):
        return None if given[0].startswith("/dev/") else f"open {_plain(given[0])}"
    if event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir"):
        return f"{event.removeprefix('os.')} {_plain(str(given[1 if event == 'os.rename' else 0]))}"
    return None


def _plain(path: str) -> str:
    """A file's name without a hidden one's number."""
    name = Path(path).name
    return name[1:].rpartition(".")[0] if name.startswith(".") and name.count("-") >= 2 else name


def _tear(changes: Callable[[str], bool]) -> None:
    """Of these files half may be written when the process dies."""
    import safetensors.torch
    import torch

    from irpo.training.logbook import Logbook

    save, serialize, write = torch.save, safetensors.torch.serialize_file, Logbook.write

    def die(path: Path, start: int) -> None:
        os.truncate(path, (start + path.stat().st_size) // 2)
        os.kill(os.getpid(), signal.SIGKILL)

    def saved(thing: Any, path: Any, *rest: Any, **named: Any) -> None:
        save(thing, path, *rest, **named)
        if isinstance(path, (str, Path)) and changes(f"half of {Path(path).name}"):
            die(Path(path), 0)

    def serialized(tensors: Any, path: Any, *rest: Any, **named: Any) -> None:
        serialize(tensors, path, *rest, **named)
        if changes(f"half of {Path(path).name}"):
            die(Path(path), 0)

    def written(book: Logbook, line: Any) -> None:
        start = book.path.stat().st_size if book.path.exists() else 0
        write(book, line)
        if changes("half of a line of log.jsonl"):
            die(book.path, start)

    torch.save, safetensors.torch.serialize_file, Logbook.write = saved, serialized, written


# --- what a run left --------------------------------------------------------------------------------------------------


def contents(out: Path) -> dict[str, Any]:
    """Everything in a run's folder by its path, but for times; of a checkpoint the weights alone."""
    files = sorted(path for path in out.rglob("*") if path.is_file() or not any(path.iterdir()))
    return {path.relative_to(out).as_posix(): _content(path) for path in files}


def _content(path: Path) -> Any:
    if path.is_dir():
        return "an empty folder"
    if path.name == "log.jsonl":
        lines = map(json.loads, path.read_text().splitlines())
        return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]
    if path.name == "cost.json":
        return json.loads(path.read_text())["tokens"]
    if path.parent.name.startswith("checkpoint-") and path.suffix != ".safetensors":
        return "there"
    return hashlib.sha256(path.read_bytes()).hexdigest()


def differences(one: dict[str, Any], other: dict[str, Any]) -> Iterator[str]:
    """Paths that are in one folder alone, or do not hold the same."""
    for path in sorted(one.keys() | other.keys()):
        if path not in other:
            yield f"{path} is missing"
        elif path not in one:
            yield f"{path} is left over"
        elif one[path] != other[path]:
            yield f"{path}: {str(one[path])[:300]}, {str(other[path])[:300]}"


if __name__ == "__main__":
    main()
