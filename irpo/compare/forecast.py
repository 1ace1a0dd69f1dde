"""What a suite will take, before it runs: cells, time, memory and disk, without a model at hand.

Where cells of a kind were finished in the folder, their median time is taken; else `irpo.estimate` simulates an update
of one trained method a model and task, and the others are taken to cost the same. Decoding is not estimated.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from irpo import disk
from irpo.compare.cells import CELLS
from irpo.compare.planning import Planner
from irpo.compare.results import Result
from irpo.compare.searching import settings_of
from irpo.compare.shared import Prepared
from irpo.compare.statistics.saying import joined, plural
from irpo.compare.suite import Entry
from irpo.config.schema import RunConfig
from irpo.estimate.cards import GIB, Card, card_of
from irpo.progress import lasting, say
from irpo.training.storing import AT_ONCE
from irpo.types import UserError, printable

FORWARD = 1 / 3  # of a training step's time, a pass without gradients
WEIGHTS = 4  # bytes of a trained weight on disk
KEPT = 3  # as many times the adapter a checkpoint holds: weights and AdamW's two moments
RESULT = 100_000  # bytes of a cell's result and log


@dataclass(frozen=True)
class Need:
    """What the cells of one model on one task take; None where it cannot be said, and `missing` says why."""

    model: str
    task: str
    cells: int
    done: int
    seconds: float | None = None  # of what is left, one after the other
    gib: float | None = None  # at the peak of one cell
    disk: float | None = None  # GiB while a cell runs, and for good where runs are kept
    missing: tuple[str, ...] = ()
    measured: bool = False  # the time is that of finished cells


@dataclass(frozen=True)
class Forecast:
    """All of a suite."""

    card: str
    needs: tuple[Need, ...]
    jobs: int = 1
    notes: tuple[str, ...] = ()

    @property
    def missing(self) -> tuple[str, ...]:
        """Everything that keeps cells from running, each once."""
        return tuple(dict.fromkeys(text for need in self.needs for text in need.missing))

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"card": self.card, "jobs": self.jobs, "notes": list(self.notes), "needs": [vars(n) for n in self.needs]}

    def table(self) -> Table:
        """For a terminal; the last row is the total."""
        title = f"On {self.card}" + (f", {self.jobs} cells at a time" if self.jobs > 1 else "")
        table = Table(title=title, title_justify="left", title_style="bold")
        for name in ("model", "task"):
            table.add_column(name, overflow="fold")
        for name in ("cells", "done", "time", "memory", "disk"):
            table.add_column(name, justify="right", no_wrap=True)
        for need in self.needs:
            table.add_row(*(Text(printable(cell)) for cell in _row(need)))
        table.add_section()
        table.add_row(*(Text(cell, style="bold") for cell in self._total()))
        return table

    def show(self) -> None:
        """Print the table, what is missing and the notes."""
        console = Console()
        console.print(self.table())
        for text in (*(f"missing: {text}" for text in self.missing), *(f"note: {text}" for text in self.notes)):
            console.print(Text(printable(text)), soft_wrap=True)

    def _total(self) -> tuple[str, ...]:
        cells, done = sum(n.cells for n in self.needs), sum(n.done for n in self.needs)
        known = [n.seconds for n in self.needs if n.seconds is not None]
        time = lasting(math.fsum(known) / self.jobs) if known else "?"
        more = " and more" if len(known) < len(self.needs) else ""
        memory = max((n.gib for n in self.needs if n.gib is not None), default=None)
        most = max((n.disk for n in self.needs if n.disk is not None), default=None)
        return ("total", "", str(cells), str(done), f"{time}{more}", _gib(memory), _gib(most))


def _row(need: Need) -> tuple[str, ...]:
    time = "?" if need.seconds is None else lasting(need.seconds) if need.seconds else "-"
    return (need.model, need.task, str(need.cells), str(need.done), time, _gib(need.gib), _gib(need.disk))


def _gib(value: float | None) -> str:
    return "?" if value is None else f"{value:.1f} GiB" if value >= 0.1 else f"{1024 * value:.0f} MiB"


@dataclass
class _Forecaster:
    planner: Planner
    card: Card
    _found: dict[Any, Any] = field(default_factory=dict)  # estimates by what they depend on

    def need(self, model: Entry, task: Entry) -> Need:
        """One line of the plan."""
        trained = [m for m in self.planner.suite.methods if m.trains]
        searched = [len(settings_of(self.planner.suite, m, self.planner.config(model, task, m))) for m in trained]
        untrained = len(self.planner.suite.methods) - len(trained)
        cells = sum(searched) + len(self.planner.suite.seeds) * len(trained) + untrained
        results = self._done(model, task)
        missing = [str(found)] if isinstance(found := self.planner.lists.get(task.name), UserError) else []
        missing += self._no_model(model)
        need = Need(model.name, task.name, cells, len(results), missing=tuple(missing))
        if not trained:
            return need
        return self._with_costs(need, model, task, trained[-1], results)

    def _with_costs(self, need: Need, model: Entry, task: Entry, method: Entry, results: Sequence[Result]) -> Need:
        left = need.cells - need.done
        if times := [float(r.cost["seconds"] or 0) for r in results if r.kind in ("run", "trial")]:
            peak = max(r.cost.get("peak_bytes") or 0.0 for r in results) / GIB
            return replace(need, seconds=left * statistics.median(times), gib=peak, measured=True)
        config = self.planner.config(model, task, method)
        try:
            found = self._estimate(config)
        except UserError as error:
            return replace(need, missing=(*need.missing, str(error)))
        taken = run_bytes(found.usage.trainable) / GIB
        return replace(need, seconds=self._seconds(config, found, need, task), gib=found.total / GIB, disk=taken)

    def _seconds(self, config: RunConfig, found: Any, need: Need, task: Entry) -> float | None:
        if found.seconds_per_update is None:
            return None
        updates = config.training.updates
        lists = self.planner.lists.get(task.name)
        counts = (
            {split: part["lists"] for split, part in lists.card["splits"].items()}
            if isinstance(lists, Prepared)
            else {}
        )
        if updates is None:
            if "train" not in counts:
                return None
            updates = math.ceil(counts["train"] * config.training.epochs / config.training.lists_per_update)
        each = found.seconds_per_update / found.lists_per_update
        evaluated = min(counts.get("eval", config.evaluation.max_lists or 0), config.evaluation.max_lists or 10**9)
        passes = self.planner.suite.orders * (2 if "auto" in self.planner.suite.strengths else 1)
        train, measure = float(updates * found.seconds_per_update), evaluated * passes * each * FORWARD
        runs = len(self.planner.suite.seeds) * sum(m.trains for m in self.planner.suite.methods)
        share = max(0.0, 1 - need.done / need.cells)
        return float(share * (need.cells * train + runs * measure))

    def _estimate(self, config: RunConfig) -> Any:
        from irpo.estimate.plan import estimate

        task = {key: value for key, value in config.task.items() if key != "name"}
        key = (config.model.model_dump_json(), repr(task), config.training.lists_per_update, config.prompt.max_tokens)
        if key not in self._found:
            self._found[key] = estimate(config, self.card)
        return self._found[key]

    def _no_model(self, model: Entry) -> list[str]:
        from irpo.scoring.names import require_there

        config = self.planner.config(model, self.planner.suite.tasks[0], self.planner.suite.methods[0])
        name = config.model.name
        if name not in self._found:
            try:
                require_there(name)
                self._found[name] = []
            except UserError as error:
                self._found[name] = [str(error)]
        return list(self._found[name])

    def _done(self, model: Entry, task: Entry) -> list[Result]:
        ready = [
            c for c in self.planner.waiting().ready if (c.spec["model"], c.spec["task"]) == (model.name, task.name)
        ]
        return [result for cell in ready if (result := self.planner.result(cell)) is not None]


def run_bytes(learning: int) -> int:
    """Bytes on disk of a run while it trains so many weights: the checkpoints at once, and what is learnt."""
    return learning * WEIGHTS * (KEPT * AT_ONCE + 1)


def require_disk(planner: Planner, jobs: int) -> None:
    """Say what the cells that are left need of the disk and what is free; `UserError` where that is less.

    The largest `jobs` of them run at once; where runs are kept, all do. Of a model that cannot be built here without
    its weights nothing is known, and nothing is asked.
    """
    left = [cell for cell in planner.waiting().ready if cell.spec["kind"] in ("run", "trial")]
    left = [cell for cell in left if planner.result(cell) is None]
    known: dict[str, int] = {}
    sizes = sorted((run_bytes(_learning(cell.spec, known)) for cell in left), reverse=True)
    if not any(sizes):
        return
    many = len(sizes) if planner.suite.keep_runs else min(jobs, len(sizes))
    there = sum(disk.lies_under(planner.out / CELLS / cell.name) for cell in left)  # of cells that were stopped
    needed = max(0, sum(sizes[:many]) + RESULT * len(sizes) - there)
    what = f"{plural(many, 'run')} at once" if many < len(sizes) else f"{plural(many, 'run')}"
    told, tight = disk.require(planner.out, needed, f"{what}, {disk.size(sizes[0])} the largest")
    say(f"note: {told}: a near thing" if tight else told)


def _learning(spec: Mapping[str, Any], known: dict[str, int]) -> int:
    """How many weights a cell trains, 0 where that cannot be said; each model and tuning is looked at once."""
    from irpo.estimate.memory import build_model
    from irpo.estimate.plan import build_of, shape_of

    model = RunConfig.model_validate(spec["config"]).model
    key = model.model_dump_json()
    if key not in known:
        try:
            config = RunConfig.model_validate(spec["config"])
            known[key] = build_model(shape_of(model.name), build_of(config, card_of(None)))[2]
        except (UserError, ValueError, RuntimeError, AttributeError):
            known[key] = 0
    return known[key]


def forecast(planner: Planner, card: Card, jobs: int) -> Forecast:
    """What is left to do of a suite, model by model and task by task; no model is loaded or fetched."""
    seer = _Forecaster(planner, card)
    needs = tuple(seer.need(model, task) for model in planner.suite.models for task in planner.suite.tasks)
    return Forecast(card.name, needs, jobs, tuple(_notes(planner, needs)))


def _notes(planner: Planner, needs: Sequence[Need]) -> Iterable[str]:
    trained = [m.name for m in planner.suite.methods if m.trains]
    if any(need.seconds is not None and not need.measured for need in needs) and trained:
        yield f"time: simulated for {trained[-1]}, the others as much; loading, validation and decoding are not counted"
    if any(need.measured for need in needs):
        yield "time: the median of finished cells where there are any"
    if planner.suite.search:
        by_trials: dict[int, list[str]] = {}
        for name, number in planner.frame().trials.items():
            if name in trained:
                by_trials.setdefault(number, []).append(name)
        told = "; ".join(f"{joined(names)} {plural(number, 'trial')}" for number, names in by_trials.items())
        yield f"{told}; then {plural(len(planner.suite.seeds), 'seed')} at what they chose"
    others = [c for c in planner.waiting().ready if c.spec["kind"] in ("baseline", "external")]
    if others:
        yield f"{plural(len(others), 'more cell')} of what is trained by nobody here: baselines, published rankers"
