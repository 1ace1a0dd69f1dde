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
from irpo.progress import BEST, LINE, SHOWN, bars, lasting, say
from irpo.runs import BEFORE, LOG, log_lines, write_text
from irpo.runs.key import read_json
from irpo.training.curves import draw_log

_MEASURED = SHOWN[f"eval_{BEST}"]
_ORDER = (*SHOWN.values(), "waiting")
_SELDOM = 60.0  # seconds between two pictures of a run that goes on; one takes a quarter of a second
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

    def measured(self) -> list[dict[str, Any]]:
        """What its lines say of validations, and nothing else of them."""
        key = f"eval_{BEST}"
        return [{key: line[key]} for line in log_lines(self.folder) if key in line]

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
    """A bar with the latest figures beside it, where stderr is a terminal; else a line for each of them.

    Both say how long is left and what the validation lists have said so far, of the log that the run goes on with too.
    """

    def __init__(self, logbook: Logbook, *, waits: bool = False) -> None:
        self._logbook = logbook
        self._latest: dict[str, str] = {}
        self._waits = waits  # whether lists are put as tokens while training goes on
        self._task: Any = None
        self._since, self._from = 0.0, 0
        self._best: float | None = None  # of the validations so far

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The clock starts."""
        self._since, self._from = time.perf_counter(), state.global_step
        for measured in self._logbook.measured():
            self._latest |= self._told(measured)
        with bars() as shown:
            of = {"total": state.max_steps, "completed": state.global_step, "whole": True}
            self._task = shown.add_task("training", **of, figures=self._figures())

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
        new = self._told(logs or {})
        if "loss" in (logs or {}):
            self._latest.pop("waiting", None)
        self._latest |= new
        with bars() as shown:
            if not shown.disable:
                shown.update(self._task, figures=self._figures())
            elif new:
                say(self._line(state, new))

    def _told(self, logs: Mapping[str, Any]) -> dict[str, str]:
        """The figures of a line of the log as words, by name."""
        told = {name: f"{name} {logs[key]:.4g}" for key, name in SHOWN.items() if key in logs}
        if (value := logs.get(f"eval_{BEST}")) is not None:
            if self._best is not None and self._best > value:
                told[_MEASURED] += f" (best {self._best:.4g})"
            self._best = value if self._best is None else max(value, self._best)
        if self._waits and logs.get("waiting", 0.0) >= _MUCH:
            told["waiting"] = f"waiting for lists {logs['waiting']:.0%} of the time"
        return told

    def _figures(self) -> str:
        """The latest figures, in the order of `SHOWN`, not of their coming."""
        return ", ".join(self._latest[name] for name in _ORDER if name in self._latest)

    def _line(self, state: Any, new: Mapping[str, str]) -> str:
        """What is new, with what the validation lists said last, as far as a line goes."""
        seen = self._latest.get(_MEASURED, "").partition(" (")[0]
        told = ({_MEASURED: seen} if seen else {}) | dict(new)
        line, *others = [told[name] for name in _ORDER if name in told and name != "waiting"]
        line = f"update {state.global_step} of {state.max_steps}{self._left(state)}: {line}"
        for figure in others:
            if len(line) + len(figure) + 2 > LINE:
                break
            line += f", {figure}"
        return f"{line}, {told['waiting']}" if "waiting" in told else line  # however long: it asks for something

    def _left(self, state: Any) -> str:
        """How long the rest takes at the speed so far."""
        done, rest = state.global_step - self._from, state.max_steps - state.global_step
        if done <= 0 or rest <= 0:
            return ""
        return f" ({lasting((time.perf_counter() - self._since) / done * rest)} left)"


class LastLogged(TrainerCallback):
    """Has the last update logged, however seldom the others are."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """After `logging_every` has had its say."""
        control.should_log = control.should_log or state.global_step >= state.max_steps


class Drawn(TrainerCallback):
    """The picture after a validation, where the last one is long enough ago that drawing costs next to nothing."""

    def __init__(self, folder: Path, title: str) -> None:
        self._folder, self._title, self._last = folder, title, time.monotonic()

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Draw, if it is time."""
        if is_first() and time.monotonic() - self._last > _SELDOM:
            draw_log(self._folder, self._title)
            self._last = time.monotonic()
