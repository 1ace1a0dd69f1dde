"""From a suite to its cells: what there is to do, in the order of what it says, and what can be done already.

A run's cell is known when the search has chosen its setting. A cell's key is made of what changes its result: settings,
model, template and lists by content, and how it is measured. Paths, titles and names are not in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from irpo.compare.cells import CELLS, ERROR, Cell, folder_of
from irpo.compare.engine.running import Waiting
from irpo.compare.printed import read_printed
from irpo.compare.results import Frame, Kind, Result, TaskFrame, read_result
from irpo.compare.searching import Setting, chosen, require_had, settings_of
from irpo.compare.shared import Prepared, digest_of, plugin_sources, prepared
from irpo.compare.suite import Entry, Suite, Value
from irpo.config.schema import RunConfig
from irpo.disk import NoRoom
from irpo.measures import MAIN
from irpo.prompting.prompts import load_template
from irpo.resources import prompts_dir
from irpo.runs import anchored
from irpo.runs.key import contents, settings
from irpo.training.job import method_of
from irpo.types import UserError

_FORM = 1  # of cells; another one makes other keys


@dataclass
class Planner:
    """A suite in its folder."""

    suite: Suite
    out: Path
    lists: dict[str, Prepared | UserError] = field(default_factory=dict)  # by task, found once
    unready: dict[str, str] = field(default_factory=dict)  # rankers that cannot be asked here, and why
    since: float = 0.0  # failures from before this time (of the epoch, s) are tried again
    _results: dict[str, Result] = field(default_factory=dict)
    _configs: dict[Any, RunConfig] = field(default_factory=dict)
    _cells: dict[Any, Cell] = field(default_factory=dict)  # made once: a suite asks for all of them after every cell

    def prepare(self) -> None:
        """Build every task's lists that can be built; what is missing for the others is kept as the reason."""
        model, method = self.suite.models[0], self.suite.methods[0]
        for task in self.suite.tasks:
            if task.name not in self.lists:
                try:
                    self.lists[task.name] = prepared(self.out, self.config(model, task, method))
                except NoRoom:
                    raise
                except UserError as error:
                    self.lists[task.name] = error

    def require_configs(self) -> None:
        """`UserError` for any mistake in the suite's settings, before lists are built and cells begin."""
        s = self.suite
        configs = [self.config(*place) for place in self._combinations()]
        require_had(s, [config for config, (*_, m) in zip(configs, self._combinations(), strict=True) if m.trains])
        for config in configs:
            if "score" not in [mode["name"] for mode in config.evaluation.modes]:
                raise UserError("evaluation.modes: the tables of a suite are by score; add it")
            if s.search and config.online is None and not config.training.validation_fraction:
                raise UserError("training.validation_fraction is 0; a search chooses on validation lists")
        for task in s.tasks:
            for ranker in s.rankers:
                self._ranker_config(task, ranker)

    def config(
        self,
        model: Entry,
        task: Entry,
        method: Entry,
        setting: Mapping[str, Value] | None = None,
        seed: int | None = None,
    ) -> RunConfig:
        """A run's configuration as its cell has it."""
        at = self.suite.seeds[0] if seed is None else seed
        key = (model.name, task.name, method.name, tuple((setting or {}).items()), at)
        if key not in self._configs:
            made = anchored(self.suite.config(model, task, method, setting or {}, at))
            self._configs[key] = _as_compared(made, chooses="auto" in self.suite.strengths)
        return self._configs[key]

    def waiting(self) -> Waiting:
        """All cells that are known, the first ones first, and how many will be."""
        cells, unknown = list(self._without_training()), 0
        for model, task, method in self._combinations():
            if method.trains and isinstance(self.lists.get(task.name), Prepared):
                trials = self.trials(model, task, method)
                cells += [cell for _, cell in trials]
                setting = self.setting(trials)
                if setting is None:
                    unknown += len(self.suite.seeds)
                    continue
                cells += [self._run(model, task, method, setting, seed, len(trials)) for seed in self.suite.seeds]
        return Waiting(tuple(cells), unknown)

    def _combinations(self) -> Iterator[tuple[Entry, Entry, Entry]]:
        for model in self.suite.models:
            for task in self.suite.tasks:
                for method in self.suite.methods:
                    yield model, task, method

    def _without_training(self) -> Iterator[Cell]:
        first = self.suite.models[0]
        for task in self.suite.tasks:
            if isinstance(self.lists.get(task.name), Prepared):
                yield self._cell("baseline", None, task, None, self.config(first, task, self.suite.methods[0]))
        for model, task, method in self._combinations():
            if not method.trains and isinstance(self.lists.get(task.name), Prepared):
                yield self._cell("untrained", model, task, method, self.config(model, task, method))
        for ranker in self.suite.rankers:
            for task in self.suite.tasks:
                if isinstance(self.lists.get(task.name), Prepared):
                    yield from self._ranker(task, ranker)

    def _ranker(self, task: Entry, ranker: Entry) -> Iterator[Cell]:
        """A ranker's cell on a task; none where its prompt or its settings are missing, which `unready` then says."""
        config = self._ranker_config(task, ranker)
        try:
            yield self._cell("external", None, task, ranker, config)
        except UserError as error:
            self.unready[ranker.name] = str(error)

    def _ranker_config(self, task: Entry, ranker: Entry) -> RunConfig:
        return _as_compared(anchored(self.suite.ranker_config(task, ranker)), chooses=False)

    def trials(self, model: Entry, task: Entry, method: Entry) -> list[tuple[Setting, Cell]]:
        """A method's search; [] where nothing is searched."""
        tried = settings_of(self.suite, method, self.config(model, task, method))
        return [
            (
                setting,
                self._cell("trial", model, task, method, self.config(model, task, method, setting.keys, seed), setting),
            )
            for setting, seed in tried
        ]

    def setting(self, trials: list[tuple[Setting, Cell]]) -> Setting | None:
        """What the search chose; None where trials are left, or none came to anything.

        A trial that failed or diverged counts 0.
        """
        if not trials:
            return Setting(())
        values = []
        for setting, cell in trials:
            result = self.result(cell)
            if result is None and not self._failed(cell):
                return None
            values.append((setting, self._reached(result)))
        return chosen(values) if any(value > 0 for _, value in values) else None

    def _failed(self, cell: Cell) -> bool:
        """Whether a cell failed and is not to be tried again."""
        try:
            return (self.out / CELLS / cell.name / ERROR).stat().st_mtime >= self.since
        except FileNotFoundError:
            return False

    def _reached(self, result: Result | None) -> float:
        if result is None or result.diverged or not result.validation:
            return 0.0
        by = self.suite.search.by if self.suite.search else "1"
        curve: Mapping[str, float] = result.validation["curve"]
        return float(curve[result.validation["auto"] if by == "auto" else "1"])

    def _run(self, model: Entry, task: Entry, method: Entry, setting: Setting, seed: int, trials: int) -> Cell:
        config = self.config(model, task, method, setting.keys, seed)
        return self._cell("run", model, task, method, config, setting, trials)

    def result(self, cell: Cell) -> Result | None:
        """A cell's result, read once; None where it is not done."""
        if cell.key not in self._results:
            found = read_result(self.out / CELLS / cell.name)
            if found is None:
                return None
            self._results[cell.key] = found
        return self._results[cell.key]

    def _cell(  # noqa: PLR0913 - a cell is named by what stands on the suite's axes
        self,
        kind: Kind,
        model: Entry | None,
        task: Entry,
        method: Entry | None,
        config: RunConfig,
        setting: Setting | None = None,
        trials: int = 0,
    ) -> Cell:
        names = [entry.name for entry in (model, task, method) if entry is not None]
        asked = (kind, *names, config.seed, setting)
        if asked in self._cells:
            return self._cells[asked]
        lists = self.lists[task.name]
        assert isinstance(lists, Prepared)  # nosec B101 # tells mypy what it is
        protocol = self.protocol(task, config, float(lists.card["relevant_from"]))
        told = {"kind": kind, "form": _FORM, "settings": _settings(config, kind), "lists": lists.digests}
        told |= {"contents": _contents(config, "")} if kind != "baseline" else {}
        told |= {"plugins": plugin_sources(config)} if config.plugins else {}
        told |= {"protocol": _less(protocol, "lists_per_batch")} if kind != "trial" else {}
        key = digest_of(told)
        what = {"trial": f"trial.{config.seed}", "run": f"run.{config.seed}"}.get(kind, kind)
        spec = {
            "kind": kind,
            "model": model.name if model else "",
            "task": task.name,
            "method": method.name if method else "",
            "seed": config.seed if kind in ("run", "trial") else 0,
            "setting": setting.named if setting else {},
            "trials": trials,
            "key": key,
            "prepared": lists.key,
            "lists": lists.lists,
            "config": config.model_dump(mode="json"),
            "protocol": protocol,
            "keep_runs": self.suite.keep_runs,
        }
        cell = Cell(key, folder_of(".".join([*names, what, key[:8]])), _title(spec, setting), spec)
        return self._cells.setdefault(asked, cell)

    def protocol(self, task: Entry, config: RunConfig, relevant_from: float) -> dict[str, Any]:
        """How a task's lists are measured, as JSON."""
        e, s = config.evaluation, self.suite
        measures = dict.fromkeys((*(task.measures or s.measures), MAIN))  # which validation lists are ranked by
        return {
            "modes": list(e.modes),
            "measures": list(measures),
            "strengths": list(s.strengths),
            "orders": s.orders,
            "decoded": s.decoded_lists,
            "max_lists": e.max_lists,
            "lists_per_batch": e.lists_per_batch,
            "relevant_from": relevant_from,
        }

    def frame(self) -> Frame:
        """How the report is laid out."""
        s = self.suite
        tasks = []
        for task in s.tasks:
            found = self.lists.get(task.name)
            frame = TaskFrame(task.name, task.family, task.measures or s.measures)
            if isinstance(found, Prepared):
                most = self.config(s.models[0], task, s.methods[0]).evaluation.max_lists
                own = {"lists": found.lists, "prepared": found.key, "evaluated": most, "card": found.card}
                frame = replace(frame, **own)  # type: ignore[arg-type]
            tasks.append(frame)
        trials = {m.name: len(settings_of(s, m, self.config(s.models[0], s.tasks[0], m))) for m in s.methods}
        printed, source = read_printed(s.printed)
        return Frame(
            title=s.title,
            about=s.about,
            tasks=tuple(tasks),
            models=tuple(m.name for m in s.models),
            methods=tuple(m.name for m in (*s.methods, *s.rankers)),
            against=s.references,
            seeds=len(s.seeds),
            strengths=tuple(s.strengths),
            trials=trials,
            printed=printed,
            source=source,
        )


def _as_compared(config: RunConfig, *, chooses: bool) -> RunConfig:
    """The configuration with its reference taken once where that can be, and with its strength chosen."""
    config = config.model_copy(
        update={"ranking": config.ranking.model_copy(update={"strength": "auto" if chooses else 1.0})}
    )
    if config.ranking.strength_by != "logits":
        raise UserError("ranking.strength_by: a suite takes all strengths from logits; leave it out")
    if config.online is not None:
        return config
    able = _with_reference(config, "adapters_off" if config.model.tuning == "lora" else "precomputed")
    method = method_of(able)  # which knows whether its objective, as it is set, needs one
    if not method.objective.needs.reference:
        return config
    return able if method.draws_walks else _with_reference(config, "precomputed")


def _with_reference(config: RunConfig, kind: str) -> RunConfig:
    return config.model_copy(update={"method": config.method.model_copy(update={"reference": kind})})


def _settings(config: RunConfig, kind: Kind) -> dict[str, Any]:
    """The settings that a cell's result depends on; the task counts by its lists."""
    decisive = {key: value for key, value in settings(config).items() if not key.startswith("task.")}
    if kind in ("run", "trial"):
        return decisive
    kept = ("model.", "prompt.", "method.scorer", "method.length") if kind != "baseline" else ()
    return {key: value for key, value in decisive.items() if key.startswith(kept)}


def _contents(config: RunConfig, lists: str) -> dict[str, Any]:
    own = config.prompt
    template = load_template(
        prompts_dir(), own.template or str(config.task["name"]), own.style, or_default=own.template is None
    )
    return contents(config, template.source, lists)


def _less(told: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Without what changes how fast it goes alone."""
    return {name: value for name, value in told.items() if name not in names}


def _title(spec: Mapping[str, Any], setting: Setting | None) -> str:
    what = {"trial": f"trial, {setting}", "run": f"seed {spec['seed']}", "baseline": "rankings without a model"}
    on = f"{spec['task']}" + (f", {spec['model']}" if spec["model"] else "")
    return ": ".join(
        filter(None, [f"{spec['method']} on {on}".strip().removeprefix("on "), what.get(spec["kind"], "")])
    )
