"""Where a run stands when its process is told to end: what is kept, in words for the user."""

from __future__ import annotations

from pathlib import Path

from irpo.config.schema import RUN_CONFIG
from irpo.runs import CHECKPOINTS, STATE
from irpo.runs.checkpoints import WHOLE, all_in, update_of
from irpo.runs.rounds import round_folder


def standing(out: Path, *, online: bool) -> str:
    """What `--resume` goes on from, by names alone, so that it is told at once and at any moment."""
    if not (out / RUN_CONFIG).is_file():
        return "nothing was written"
    return _rounds(out) if online else _updates(out)


def _updates(out: Path) -> str:
    whole = [update_of(path) for path in all_in(out / CHECKPOINTS) if (path / WHOLE).is_file()]
    if not whole:
        return "there is no checkpoint yet; --resume begins anew"
    return f"--resume goes on from update {whole[-1]}"


def _rounds(out: Path) -> str:
    done = 0
    while (round_folder(out, done) / STATE).is_file():
        done += 1
    if round_folder(out, done).is_dir():
        begun = f"round {done} had begun and is lost; "
        return begun + (f"--resume goes on from round {done - 1}" if done else "--resume begins anew")
    return f"--resume goes on from round {done - 1}" if done else "--resume begins anew"
