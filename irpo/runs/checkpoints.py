"""A run's checkpoints: which of them are whole, and which one a run can go on from.

A checkpoint appears under its name with all of its files, by one renaming, and goes from under it by another. Its
`whole.json` has the digest of each file, so that one which is damaged later no longer fits. It is written before the
validation of its update, whose outcome the Trainer's state in it is told afterwards.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from irpo.files import atomic_file, atomic_path, beside, sha256_of
from irpo.folders import discard, take_place
from irpo.processes import agree, gather, is_first
from irpo.progress import say
from irpo.runs.key import read_json

WHOLE = "whole.json"
STATE = "trainer_state.json"  # the Trainer's own: updates, best checkpoint, callbacks
BEST_PATH = "best_model_checkpoint"  # its key for the folder of the best
PARTIAL = "partial.json"  # sums that the next log line goes on from


def update_of(checkpoint: Path) -> int:
    """The update after which it was saved."""
    return int(checkpoint.name.rpartition("-")[2])


def checkpoint_of(folder: Path, update: int) -> Path:
    """Where an update's checkpoint lies."""
    return folder / f"checkpoint-{update}"


def all_in(folder: Path) -> list[Path]:
    """The checkpoints of a folder, whole or not, oldest first."""
    found = [p for p in folder.glob("checkpoint-*") if p.is_dir() and p.name.rpartition("-")[2].isdecimal()]
    return sorted(found, key=update_of)


@contextmanager
def written(folder: Path, update: int) -> Iterator[Path]:
    """A folder to write `checkpoint-<update>` in; when the block ends well that appears in `folder`, sealed.

    All processes call it, and write into the same one.
    """
    home = checkpoint_of(folder, update)
    aside = Path(agree(str(beside(home))))
    try:
        yield aside
        gather([update])  # all have written what is theirs
        if is_first():
            seal(aside / home.name)
            take_place(aside / home.name, home)
        agree(update)  # it bears its name
    finally:
        if is_first():
            shutil.rmtree(aside, ignore_errors=True)


def seal(checkpoint: Path) -> None:
    """Write the digests of a checkpoint's files: from here on it is whole."""
    files = sorted(p for p in checkpoint.rglob("*") if p.is_file() and p.name != WHOLE)
    _write_seal(checkpoint, {p.relative_to(checkpoint).as_posix(): _digest(p) for p in files})


def _write_seal(checkpoint: Path, digests: dict[str, str]) -> None:
    with atomic_file(checkpoint / WHOLE) as file:
        file.write(json.dumps(digests, indent=2) + "\n")


def amend(checkpoint: Path, state: Any) -> None:
    """Put a later `TrainerState` of the same update into a whole checkpoint.

    One whose process dies between the two files counts as damaged, and the one before it stands.
    """
    with atomic_path(checkpoint / STATE) as work:
        state.save_to_json(str(work))
    _write_seal(checkpoint, read_json(checkpoint / WHOLE) | {STATE: _digest(checkpoint / STATE)})


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
            discard(path)


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
        discard(path)
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
