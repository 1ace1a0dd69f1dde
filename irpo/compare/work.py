"""What a cell's process does: train where there is anything to train, measure by the suite's protocol, tell."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from irpo import pipeline, runs
from irpo.compare.measuring import Bench, Protocol, filled
from irpo.compare.results import Result, Row
from irpo.compare.shared import lists_of
from irpo.config.schema import RunConfig
from irpo.evaluation.baselines import baselines, label_table
from irpo.folders import discard
from irpo.processes import peak_of_process
from irpo.progress import BEST
from irpo.ranking.choosing import choice_of_run
from irpo.ranking.reranker import Reranker
from irpo.registry import load_plugins
from irpo.runs.environment import environment
from irpo.runs.key import fingerprint
from irpo.runs.rounds import finished_rounds, round_folder
from irpo.scoring.strength import named
from irpo.tasks import TASKS, Lists, relevant_from
from irpo.tasks.mining import popularity
from irpo.training.cost import read_cost
from irpo.types import Diverged, RankingExample, TooFew, UserError

RUN = "run"  # a cell's training run: run.<key>
_COST = ("tokens", "joules", "peak_bytes")


def do(folder: Path, spec: Mapping[str, Any]) -> Result:
    """The cell's result; the suite's folder is two above the cell's."""
    config = RunConfig.model_validate(spec["config"])
    load_plugins(config.plugins)
    lists, card = lists_of(folder.parents[1], str(spec["prepared"]))
    named_so = {name: spec[name] for name in ("key", "kind", "task", "method", "model", "seed", "setting", "trials")}
    result = Result(**named_so, lists=str(spec["lists"]))
    began = time.perf_counter()
    work = _Work(folder, spec, config, lists, card)
    found = work.trained(result) if spec["kind"] in ("run", "trial") else work.as_it_comes(result)
    cost = {"peak_bytes": float(peak_of_process()), **found.cost, "seconds": time.perf_counter() - began}
    model = {"model": fingerprint(config.model.name)} if spec["kind"] != "baseline" else {}
    return replace(found, cost=cost, made={**model, **environment()})


class _Work:
    """A cell at work."""

    def __init__(
        self,
        folder: Path,
        spec: Mapping[str, Any],
        config: RunConfig,
        lists: Lists,
        card: Mapping[str, Any],
    ) -> None:
        self.folder, self.spec, self.config, self.lists, self.card = folder, spec, config, lists, card
        told = spec["protocol"]
        self.protocol = Protocol(
            tuple(told["modes"]),
            tuple(told["measures"]),
            tuple(told["strengths"]),
            orders=told["orders"],
            decoded=told["decoded"],
            lists_per_batch=told["lists_per_batch"],
            relevant_from=told["relevant_from"],
        )

    @property
    def out(self) -> Path:
        """The suite's folder."""
        return self.folder.parents[1]

    @property
    def examples(self) -> Sequence[RankingExample]:
        """The evaluation lists."""
        if "eval" not in self.lists:
            raise UserError(f"task {self.spec['task']!r}: the data hold no evaluation split")
        return self.lists["eval"][: self.spec["protocol"]["max_lists"]]

    # --- what is not trained ------------------------------------------------------------------------------------------

    def as_it_comes(self, result: Result) -> Result:
        """Baselines, which are rows of one cell, or a model that is not trained here."""
        if self.spec["kind"] == "baseline":
            return replace(result, rows=tuple(self._baselines()))
        ranker = Reranker.load(self.config.model.name, like=self.config)
        rows, curve = self._bench(ranker, 1.0, trained=False).rows()
        return replace(result, rows=tuple(rows), by_strength=curve)

    def _baselines(self) -> list[Row]:
        train = self.lists.get("train", ())
        start = relevant_from(TASKS.build(self.config.task))
        found = baselines(self.examples, self.protocol.seed, popularity(train, start))
        found += label_table(self.examples, train, self.protocol.seed)
        blank = Row("", "1", self.protocol.strengths, (), np.zeros((0, 0)), np.zeros((0, 0), dtype=np.int16))
        return [
            filled(
                replace(blank, mode=row.name, tied=row.tied_lists),
                self.examples,
                [row.rankings[e.id] for e in self.examples],
                self.protocol,
            )
            for row in found
        ]

    # --- what is trained ----------------------------------------------------------------------------------------------

    def trained(self, result: Result) -> Result:
        """The run that the cell trains, measured where it is more than a trial."""
        run = self.folder / f"{RUN}.{self.spec['key'][:8]}"  # a name of its own, which trackers show
        try:
            kept, note = self._train(run)
        except Diverged as error:
            discard(run)
            return replace(result, diverged=True, note=error.short)
        result = replace(
            result, validation=self._validation(run, kept), margins=_margins(run), cost=_cost(run), note=note
        )
        if self.spec["kind"] == "run":
            result = self._measured(result, kept)
        result = replace(result, rounds=self._rounds(run))
        if not self.spec["keep_runs"]:
            discard(run)
        return result

    def _train(self, run: Path) -> tuple[Path, str]:
        """The folder of what was learnt, and why that is not all that was to be."""
        goes_on = (run / runs.CARD).is_file() or runs.run_config(run) is not None
        try:
            pipeline.train(self.config, run, resume=goes_on, advises=False, built=(self.lists, self.card))
        except TooFew as error:  # whole answers in a round: what there is is the one before
            done = len(finished_rounds(run)) - 1
            if done < 1:
                raise
            return round_folder(run, done), f"stopped after round {done}: {error}"
        return run, ""

    def _measured(self, result: Result, kept: Path) -> Result:
        choice = choice_of_run(kept, self.config)
        try:
            rows, curve = self._bench(Reranker.load(str(kept)), choice.strength.value).rows()
        except Diverged as error:
            return replace(result, diverged=True, note=str(error))
        return replace(result, rows=tuple(rows), by_strength=curve)

    def _bench(self, ranker: Reranker, auto: float, *, trained: bool = True) -> Bench:
        plain = replace(ranker, strength=replace(ranker.strength, value=1.0), temperature=None)
        base = self.config.model.name if trained else None
        return Bench(plain, self.examples, self.protocol, self.out, base, auto)

    def _validation(self, run: Path, kept: Path) -> dict[str, Any]:
        """What validation lists said, as they saw the run grow and at each strength at its end."""
        log = [[line["update"], line[f"eval_{BEST}"]] for line in _log(run) if f"eval_{BEST}" in line]
        if not runs.chooses(self.config):
            # The weights that are kept are those of the best look at them; before the first update there are none.
            values = [value for update, value in log if update] or [value for _, value in log]
            return {"curve": {"1": max(values)}, "auto": "1", "log": log} if log else {}
        choice = choice_of_run(kept, self.config)
        if not choice.curve:
            return {}
        curve = {named(value): mean for value, mean in choice.curve.items()}
        return {"curve": curve, "auto": named(choice.strength.value), "log": log, "lists": choice.lists}

    def _rounds(self, run: Path) -> tuple[dict[str, Any], ...]:
        """An on-policy run's rounds: the answers drawn so far, and what validation lists said."""
        online = self.config.online
        told, answers = [], 0
        for state in finished_rounds(run):
            drawn = state["drawn"]
            answers += drawn.get("answers", drawn.get("prompts", 0) * (online.samples if online else 0))
            measures = {f"{BEST}": state["measures"][f"score {BEST}"]} if f"score {BEST}" in state["measures"] else {}
            told.append({"round": state["round"], "answers": answers, **state["measures"], **measures})
        return tuple(told)


def _log(run: Path) -> list[dict[str, Any]]:
    try:
        lines = (run / runs.LOG).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines]


def _cost(run: Path) -> dict[str, float | None]:
    """What training took, as the run's folder has it."""
    told = read_cost(run) or {}
    return {"training_seconds": told.get("seconds"), **{name: told[name] for name in _COST if name in told}}


def _margins(run: Path) -> tuple[tuple[int, float], ...]:
    """The reward of relevant candidates over that of others by update, in nats."""
    return tuple((line["update"], line["reward_margin"]) for line in _log(run) if "reward_margin" in line)
