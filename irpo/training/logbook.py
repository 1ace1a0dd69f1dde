"""What is seen of a training run while it goes on: the bar or lines on stderr, and the run's log."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from irpo.disk import add_lines
from irpo.processes import is_first
from irpo.progress import BEST, SHOWN, bars, lasting, say
from irpo.runs import BEFORE, LOG, write_text
from irpo.runs.key import read_json

_MUCH = 0.2  # the share of the time that a person is told of: training.encoding_processes could be more


@dataclass(frozen=True)
class Logbook:
    """`log.jsonl` and `before.json` of a run's folder."""

    folder: Path

    @property
    def path(self) -> Path:
        """A JSON line for each logged update."""
        return self.folder / LOG

    def write(self, line: Mapping[str, Any]) -> None:
        """Add a line, on disk at once."""
        if is_first():
            self.folder.mkdir(parents=True, exist_ok=True)
            add_lines(self.path, json.dumps(dict(line)) + "\n")

    def clear(self) -> None:
        """For a run that begins."""
        if is_first():
            for path in (self.path, self.folder / BEFORE):
                path.unlink(missing_ok=True)

    def forget_after(self, update: int, *, looked: bool = True) -> None:
        """Drop the lines of updates that will be taken anew, and any that a process died within or that is damaged.

        Where the update has not been `looked` at by validation lists as far as its checkpoint knows, a line of it that
        says so goes too.
        """
        if self.path.is_file() and is_first():
            lines = self.path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
            kept = [line for line in lines if -1 < _update_in(line) <= update]
            if not looked:
                kept = [line for line in kept if _update_in(line) < update or f"eval_{BEST}" not in json.loads(line)]
            write_text(self.path, "".join(f"{line}\n" for line in kept))

    def before(self) -> dict[str, float] | None:
        """The values by list that `write_before` wrote; None where it did not."""
        return read_json(self.folder / BEFORE).get(BEST)

    def write_before(self, values: Mapping[str, float], *, seconds: float) -> None:
        """Keep the start's measure of every list, and its mean as the log's line of update 0."""
        mean = sum(values.values()) / len(values)
        self.write({"update": 0, f"eval_{BEST}": mean, "eval_lists": len(values), "eval_seconds": round(seconds, 3)})
        if is_first():
            write_text(self.folder / BEFORE, json.dumps({BEST: dict(values)}) + "\n")


def _update_in(line: str) -> int:
    """The update that a line of the log speaks of, -1 where it cannot be read."""
    try:
        return int(json.loads(line)["update"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return -1


class Progress(TrainerCallback):
    """A bar with the latest figures beside it, where stderr is a terminal; else a line for each of them."""

    def __init__(self, *, waits: bool = False) -> None:
        self._latest: dict[str, str] = {}
        self._waits = waits  # whether lists are put as tokens while training goes on
        self._task: Any = None
        self._since, self._from = 0.0, 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The clock starts."""
        self._since, self._from = time.perf_counter(), state.global_step
        with bars() as shown:
            of = {"total": state.max_steps, "completed": state.global_step, "whole": True}
            self._task = shown.add_task("training", **of, figures="")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """One update further."""
        with bars() as shown:
            shown.update(self._task, completed=state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The bar goes."""
        with bars() as shown:
            shown.remove_task(self._task)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Show what is new."""
        new = {name: f"{name} {logs[key]:.4g}" for key, name in SHOWN.items() if key in (logs or {})}
        if self._waits and (logs or {}).get("waiting", 0.0) >= _MUCH:
            new["waiting"] = f"waiting for lists {logs['waiting']:.0%} of the time"
        if "loss" in (logs or {}):
            self._latest.pop("waiting", None)
        self._latest |= new
        with bars() as shown:
            if not shown.disable:
                # In the order of `SHOWN`, not of their coming: what is last falls off a narrow screen.
                order = (*SHOWN.values(), "waiting")
                latest = ", ".join(self._latest[name] for name in order if name in self._latest)
                shown.update(self._task, figures=latest)
            elif new:
                say(f"update {state.global_step} of {state.max_steps}{self._left(state)}: {', '.join(new.values())}")

    def _left(self, state: Any) -> str:
        """How long the rest takes at the speed so far."""
        done, rest = state.global_step - self._from, state.max_steps - state.global_step
        if done <= 0 or rest <= 0:
            return ""
        return f" ({lasting((time.perf_counter() - self._since) / done * rest)} left)"
