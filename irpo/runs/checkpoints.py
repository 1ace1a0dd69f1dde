"""A run's checkpoints: which of them are whole, and which one a run can go on from.

A checkpoint is whole when `whole.json`, written last, is there and every file it names has the digest that it says.
A process that is killed while it saves leaves none; a file that is damaged later no longer fits.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from irpo.files import atomic_file, sha256_of
from irpo.progress import say
from irpo.runs.key import read_json

WHOLE = "whole.json"
STATE = "trainer_state.json"  # the Trainer's own: updates, best checkpoint, callbacks
BEST_PATH = "best_model_checkpoint"  # its key for the folder of the best
PARTIAL = "partial.json"  # sums that the next log line goes on from


def update_of(checkpoint: Path) -> int:
    """The update after which it was saved."""
    return int(checkpoint.name.rpartition("-")[2])


def all_in(folder: Path) -> list[Path]:
    """The checkpoints of a folder, whole or not, oldest first."""
    found = [p for p in folder.glob("checkpoint-*") if p.is_dir() and p.name.rpartition("-")[2].isdecimal()]
    return sorted(found, key=update_of)


def seal(checkpoint: Path) -> None:
    """Write the digests of a checkpoint's files: from here on it is whole."""
    files = sorted(p for p in checkpoint.rglob("*") if p.is_file() and p.name != WHOLE)
    digests = {p.relative_to(checkpoint).as_posix(): _digest(p) for p in files}
    with atomic_file(checkpoint / WHOLE) as file:
        file.write(json.dumps(digests, indent=2) + "\n")


def problem(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, None where it is whole."""
    digests = read_json(checkpoint / WHOLE)
    if STATE not in digests:
        return "it was not finished"
    for name, digest in digests.items():
        try:
            if _digest(checkpoint / name) != digest:
                return f"{name} is damaged"
        except FileNotFoundError:
            return f"{name} is missing"
        except (OSError, ValueError):
            return f"{name} is damaged"
    return None


def prune(folder: Path, best: str | None, keep: int = 2) -> None:
    """Remove all but the newest `keep`; the best stays, as one of them."""
    found = all_in(folder)
    kept = {path.name for path in found if best is not None and path.name == Path(best).name} | {found[-1].name}
    for path in reversed(found):
        if len(kept) < keep:
            kept.add(path.name)
    for path in found:
        if path.name not in kept:
            shutil.rmtree(path, ignore_errors=True)


def last_whole(folder: Path) -> Path | None:
    """The newest whole checkpoint; damaged ones after it are told of and removed, None where there is no whole one.

    Its best checkpoint is looked for here, so that a folder can be moved.
    """
    for path in reversed(all_in(folder)):
        wrong = problem(path)
        if wrong is None:
            _at_home(path)
            return path
        say(f"{path.name}: {wrong}; going back to the checkpoint before, if there is one")
        shutil.rmtree(path, ignore_errors=True)
    return None


def _at_home(checkpoint: Path) -> None:
    """Write where the best checkpoint lies now into a checkpoint's state; where it is not whole, that there is none."""
    state: dict[str, Any] = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    given = state.get(BEST_PATH)
    if given is None:
        return
    best: Path | None = checkpoint.with_name(Path(given).name)
    if best is not None and best != checkpoint and (wrong := problem(best)) is not None:
        say(f"{best.name}, the best so far: {wrong}; the best is sought anew from {checkpoint.name} on")
        best = None
    there = None if best is None else str(best)
    if there != given:
        with atomic_file(checkpoint / STATE) as file:
            file.write(json.dumps(state | {BEST_PATH: there}, indent=2, sort_keys=True) + "\n")


def _digest(path: Path) -> str:
    """SHA-256 of a file; of the Trainer's state without the one path in it, which changes where a folder is moved."""
    if path.name != STATE:
        return sha256_of(path)
    state = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(state, dict):
        raise ValueError(f"{path}: not the Trainer's state")
    rest = {key: value for key, value in state.items() if key != BEST_PATH}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
