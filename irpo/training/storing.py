"""What a run keeps on disk: how many bytes that takes, and what is left of it where an error ends the run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from irpo import disk
from irpo.config.schema import RunConfig
from irpo.processes import is_first
from irpo.progress import say
from irpo.runs import ADAPTER, CHECKPOINTS, DIVERGED, FULL, ROUNDS, write_text
from irpo.runs.checkpoints import WHOLE, all_in
from irpo.runs.key import read_json
from irpo.runs.rounds import finished_rounds
from irpo.types import Diverged

AT_ONCE = 3  # checkpoints that lie there while one is written: the newest, the best, and it
STATE = 100_000  # bytes of a checkpoint's states of loop, schedule and chance, and a name and a shape for each tensor
PER_TENSOR = 1_000
LOG_LINE = 700
TOKEN = 80  # bytes of a tokenizer's files for each of its tokens


def learnt_bytes(model: Any) -> int:
    """Bytes of the weights that learn, as they are saved."""
    return sum(int(p.numel()) * int(p.element_size()) + PER_TENSOR for p in model.parameters() if p.requires_grad)


def checkpoint_bytes(model: Any, optimizer: str) -> int:
    """Bytes of a checkpoint: the weights that learn, and AdamW's two moments of each, of a byte where it has 8 bits."""
    learning = [p for p in model.parameters() if p.requires_grad]
    moments = sum(2 * p.numel() * (1 if "8bit" in optimizer else p.element_size()) + PER_TENSOR for p in learning)
    return int(learnt_bytes(model) + moments + STATE)


def require_disk(config: RunConfig, model: Any, tokens: int, out: Path, saves: int) -> None:
    """Say what a run needs of the disk and what is free; `UserError` where that is less.

    `tokens` are the tokenizer's, `saves` how many checkpoints or rounds the run writes. What an earlier process left of
    the run counts as there.
    """
    learnt = learnt_bytes(model) + TOKEN * tokens
    if config.online is not None:
        whole = saves if config.model.tuning == "lora" else min(saves, AT_ONCE)
        parts, what = whole * learnt, f"{whole} round(s) of {disk.size(learnt)}"
    else:
        each, number = checkpoint_bytes(model, config.training.optimizer), min(saves, AT_ONCE)
        parts, what = number * each, f"{number} checkpoint(s) of {disk.size(each)} at once"
    there = sum(disk.lies_under(out / name) for name in (CHECKPOINTS, ROUNDS, ADAPTER, FULL))
    log = LOG_LINE * (config.training.updates or 1000) // config.training.logging_every
    needed = max(0, parts + learnt + log - there)
    told, tight = disk.require(out, needed, f"{what}, and what is learnt: {disk.size(learnt)}")
    say(f"note: {told}: a near thing" if tight else told)


# --- where an error ends the run --------------------------------------------------------------------------------------


@contextmanager
def accounted(out: Path) -> Iterator[None]:
    """Errors that end a run in its folder say what it can go on from; a divergence is written out."""
    try:
        yield
    except disk.NoRoom as error:
        raise disk.NoRoom(error.path, error.code, needed=error.needed, kept=last_good(out)) from None
    except Diverged as error:
        path, last = out / DIVERGED, last_good(out)
        if is_first():
            write_text(path, json.dumps({"error": error.short, **error.found, "last": last}, indent=2) + "\n")
        raise Diverged(f"{error}; {path} names the lists; {last}", error.found, short=error.short) from None


def tell_divergence(out: Path) -> None:
    """What an earlier process wrote of a divergence, and that the run goes on from before it."""
    if why := read_json(out / DIVERGED).get("error"):
        say(f"note: this run diverged before ({why}); it takes these updates again; {last_good(out)}")


def last_good(out: Path) -> str:
    """What a run can go on from, in words."""
    if whole := [path.name for path in all_in(out / CHECKPOINTS) if (path / WHOLE).is_file()]:
        return f"the last good checkpoint is {whole[-1]}"
    rounds = len(finished_rounds(out))
    return f"the last good round is {rounds - 1}" if rounds else "there is no checkpoint yet"
