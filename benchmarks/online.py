"""On-policy methods at an equal budget of drawn answers: iterative IRPO and REINFORCE, drawn freely and along walks.

    python benchmarks/online.py run                       # resumable; a line a finished piece
    python benchmarks/online.py run --shard 0/2 &         # processes share the methods
    python benchmarks/online.py run --shard 1/2 &
    python benchmarks/online.py table                     # -> benchmarks/results/online.md, online.png

The embedded model, 5 rounds of 10 updates, 8 drawn answers an update: 400 answers, 4 to a prompt, in every run,
whatever becomes of them. A drawn answer is a list of iterative IRPO, where it names every candidate once; four answers
to a prompt are one list of REINFORCE. `iterative` is the paper's (beta 1, nothing added), `iterative, anchored` has
beta 0.1 and an anchor by token: the list in the order of its labels, from which SFT learns. Each gets the same
search: of four learning rates the one with the best constrained NDCG@10 on validation lists after the last round that
it trained (seed 1000); then five seeds, measured after every round on evaluation lists, and after the last as the
policy too. What is ranked is ranked at strength `auto`, chosen on validation lists by the scorer `independent`, which
is the same for all. About an hour of one core.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from study import RESULTS, about, commit
from study_cases import Protocol, Setting, cases
from study_found import Found, as_cells, markdown, verdicts
from study_trial import Bench, Run, shared
from transformers.utils import logging

from irpo.config.schema import RunConfig, load_config
from irpo.online.rounds import Job, require_sound, run_rounds
from irpo.ranking.choosing import best_of
from irpo.runs import restore, round_folder
from irpo.scoring.strength import Strength, named
from irpo.training.job import method_of, policy_model
from irpo.types import UserError

Line = Mapping[str, Any]
Lines = dict[str, dict[str, Any]]

METHODS: dict[str, tuple[str, list[str]]] = {
    "iterative": ("iterative_irpo", []),
    "iterative, anchored": ("iterative_irpo", ["method.objective.beta=0.1", "method.nll_weight=1"]),
    "reinforce": ("reinforce", []),
}
DRAWS = ("free", "constrained")
SEARCH_SEED = 1000
MEANS = (("score", "auto"), ("constrain", "auto"), ("constrain", "1"), ("generate", "1"))


@dataclass(frozen=True)
class Plan:
    """The budget, the search, and the lists that all is measured on."""

    protocol: Protocol = field(default_factory=lambda: Protocol(validation_lists=120))
    rounds: int = 5
    updates: int = 10  # of a round
    answers: int = 8  # drawn for an update
    samples: int = 4  # of them to one prompt
    prompts: int = 256  # training lists that rounds ask from
    rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3, 1e-2)
    seeds: int = 5

    @property
    def budget(self) -> int:
        """Answers drawn in a run."""
        return self.rounds * self.updates * self.answers

    def shared(self) -> dict[str, Any]:
        """What a line's figures depend on; those of another kind are other results."""
        own = {name: vars(self)[name] for name in ("rounds", "updates", "answers", "samples", "prompts")}
        return about(self.protocol) | {"online": own}


QUICK = Plan(
    Protocol(32, 6, 6, 4, 4, updates=1, lists_per_update=4), rounds=1, updates=1, answers=4, rates=(1e-3,), seeds=1
)


@dataclass(frozen=True)
class Cell:
    """A method, and how its answers are drawn."""

    method: str
    draw: str

    @property
    def name(self) -> str:
        return f"{self.method}, {self.draw}"

    def key(self, rate: float, seed: int) -> str:
        """That of a run's line."""
        return f"{self.name}/{rate:g}/{seed}"

    def config(self, plan: Plan, rate: float, seed: int) -> RunConfig:
        """The run's configuration: as many drawn answers an update, whatever the method makes a list of."""
        file, own = METHODS[self.method]
        lists = plan.answers // (plan.samples if file == "reinforce" else 1)
        settings = [
            f"online.rounds={plan.rounds}",
            f"online.updates_per_round={plan.updates}",
            f"online.samples={plan.samples}",
            f"online.min_valid={plan.answers}",  # of a round: an update full
            f"online.draw={self.draw}",
            f"training.lists_per_update={lists}",
            f"training.learning_rate={rate}",
            "training.schedule=constant",
            "training.warmup_fraction=0",
            "training.updates=null",
            "ranking.strength=1",  # the rounds measure nothing here
            f"seed={seed}",
        ]
        return load_config([f"methods/{file}.yaml", "quickstart.yaml"], [*plan.protocol.overrides, *settings, *own])


CELLS = tuple(Cell(method, draw) for draw in DRAWS for method in METHODS)


def trained(config: RunConfig, plan: Plan) -> Iterator[tuple[dict[str, Any], Any, bool]]:
    """After each round its state, the model, and whether there is no other.

    Where a round cannot be trained, the one before it comes once more, as the last.
    """
    parts = shared(plan.protocol, "text").parts
    method, model = method_of(config), policy_model(config)
    require_sound(config, method)
    examples = tuple(p.example for p in parts.train[: plan.prompts])
    state: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(1, plan.rounds + 1):
            online = config.online.model_copy(update={"rounds": number}) if config.online else None
            job = Job(config.model_copy(update={"online": online}), model, parts.builder, method, examples, ())
            try:
                run_rounds(job, Path(folder), lambda _: None)
            except UserError as error:  # too few whole answers, or a loss that is not finite
                print(error, flush=True)
                if state:
                    restore(model, round_folder(Path(folder), number - 1))
                    yield state, model.eval(), True
                return
            state = json.loads((Path(folder) / "rounds.jsonl").read_text().splitlines()[-1])
            yield state, model.eval(), number == plan.rounds


@cache
def _bench(protocol: Protocol, lists: str) -> Bench:
    """A memory for each split: references are kept by what they are of."""
    return Bench(protocol)


def measured(model: Any, plan: Plan, lists: str, *, policy: bool) -> dict[str, Any]:
    """The model on lists of `validation` or `eval`, at the strength that validation chose; with `policy` at 1 too.

    Free lists are written at 1 alone.
    """
    given = shared(plan.protocol, "text")
    asked = given if lists == "eval" else replace(given, eval=given.parts.validation)
    config = cases()["irpo"].config(Setting(1e-3), plan.protocol, 0, 1)  # scores by `independent`
    run = Run(_bench(plan.protocol, lists), "online", model, config, asked)
    auto = best_of(run.curve(given.validation, None))
    values = dict.fromkeys([1.0, auto] if policy else [auto])
    return {"auto": named(auto), "rows": run.rows([Strength(value) for value in values])}


def searched(cell: Cell, plan: Plan, rate: float) -> dict[str, Any]:
    """How far a rate gets, and its constrained NDCG@10 on validation lists after its last round."""
    for state, model, last in trained(cell.config(plan, rate, SEARCH_SEED), plan):
        if last:
            found = measured(model, plan, "validation", policy=False)
            return {"round": state["round"], "value": row_of(found, "constrain", "auto")["ndcg"]["10"]}
    return {"round": 0, "value": 0.0}


def followed(cell: Cell, plan: Plan, rate: float, seed: int) -> dict[str, Any]:
    """What was drawn and measured in each round."""
    rounds = {}
    for state, model, last in trained(cell.config(plan, rate, seed), plan):
        rounds[state["round"]] = {"drawn": state["drawn"], **measured(model, plan, "eval", policy=last)}
    return {"rounds": list(rounds.values())}


def row_of(found: Line, mode: str, strength: str) -> dict[str, Any]:
    """The row of a mode at a strength, `auto` standing for the one that was chosen."""
    value = found["auto"] if strength == "auto" else strength
    return next(row for row in found["rows"] if (row["mode"], row["strength"]) == (mode, value))


def finished(folder: Path, plan: Plan) -> Lines:
    """The lines of this model, protocol and budget by key."""
    own = json.loads(json.dumps(plan.shared()))
    found: Lines = {}
    for path in sorted(folder.glob("online.*.jsonl")):
        for line in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
            if {name: line.get(name) for name in own} == own:
                found[line["key"]] = line
    return found


def best_rate(cell: Cell, plan: Plan, done: Lines) -> float | None:
    """The rate with the best value after its last trained round, of equals the lowest; None before all were tried.

    What is chosen by is what is reported: a rate that stops early is taken where it has got higher till then.
    """
    tried = {rate: done.get(cell.key(rate, SEARCH_SEED)) for rate in plan.rates}
    if not all(tried.values()):
        return None
    return max(plan.rates, key=lambda rate: (tried[rate]["value"], -rate))  # type: ignore[index]


def run(plan: Plan, folder: Path, shard: str) -> None:
    """Every piece of this shard that is not done yet: all searches, then seed by seed."""
    part, parts = map(int, shard.split("/"))
    done, mine = finished(folder, plan), CELLS[part::parts]
    folder.mkdir(parents=True, exist_ok=True)

    def work(key: str, make: Any, *given: Any) -> None:
        if key not in done:
            done[key] = {"key": key, **make(*given), **plan.shared(), "commit": commit()}
            with (folder / f"online.{part}.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(done[key]) + "\n")
            print(f"done  {key}", flush=True)

    if part == 0:
        work("base", _bench(plan.protocol, "eval").base, "text")
    for cell in mine:
        for rate in plan.rates:
            work(cell.key(rate, SEARCH_SEED), searched, cell, plan, rate)
    for seed in range(plan.seeds):
        for cell in mine:
            rate = best_rate(cell, plan, done)
            if rate is not None:
                work(cell.key(rate, seed), followed, cell, plan, rate, seed)


@dataclass(frozen=True)
class Reader:
    """The lines as tables and a picture."""

    plan: Plan
    done: Lines

    def runs(self, cell: Cell) -> list[Line]:
        """The seeds of a cell that are there and trained a round at least."""
        rate = best_rate(cell, self.plan, self.done)
        keys = [] if rate is None else [cell.key(rate, seed) for seed in range(self.plan.seeds)]
        return [self.done[key] for key in keys if key in self.done and self.done[key]["rounds"]]

    def found(self, cell: Cell, mode: str, strength: str) -> Found | None:
        """What the last rounds had in a mode."""
        rows = tuple(row_of(line["rounds"][-1], mode, strength) for line in self.runs(cell))
        if not rows or "base" not in self.done:
            return None
        return Found(cell.name, rows, self.done["base"]["wishes" if mode == "score" else "wishes_read"])

    def table(self) -> str:
        """A row a cell: NDCG@10 with its interval by seeds and wishes, what of the drawn answers became lists."""
        header = ["method, draw", "rate", "seeds", "rounds", "lists of answers", "strength"]
        header += [f"{mode} at strength {strength}" for mode, strength in MEANS] + ["named"]
        rows = []
        for cell in CELLS:
            runs, found = self.runs(cell), [self.found(cell, mode, strength) for mode, strength in MEANS]
            if not all(found):
                continue
            rounds = " ".join(str(len(line["rounds"])) for line in runs)
            strengths = " ".join(line["rounds"][-1]["auto"] for line in runs)
            cells = [x.cell() for x in found if x]
            coverage = statistics.fmean(row_of(line["rounds"][-1], "generate", "1")["coverage"] for line in runs)
            rate = f"{best_rate(cell, self.plan, self.done):g}"
            rows.append([cell.name, rate, str(len(runs)), rounds, self.kept(runs), strengths, *cells])
            rows[-1].append(f"{100 * coverage:.0f} %")
        return markdown(header, rows)

    def kept(self, runs: Sequence[Line]) -> str:
        """Lists that were trained on, of the answers that a run may draw."""
        drawn = [round_["drawn"] for line in runs for round_ in line["rounds"]]
        a_round = self.plan.updates * self.plan.answers
        lists = sum(account.get("kept", a_round) for account in drawn)  # without it, all were trained on
        return f"{lists / len(runs):.0f} of {self.plan.budget}"

    def tests(self) -> str:
        """Constrained NDCG@10 at strength `auto`, by wish on means over seeds, corrected together (Holm)."""
        iterative, anchored, reinforce = METHODS
        pairs = [(Cell(method, draw), Cell(reinforce, draw)) for draw in DRAWS for method in (iterative, anchored)]
        pairs += [(Cell(method, "constrained"), Cell(method, "free")) for method in METHODS]
        both = [(self.found(a, "constrain", "auto"), self.found(b, "constrain", "auto")) for a, b in pairs]
        there = [(a, b) for a, b in both if a and b]
        rows = [[a.name, b.name, *as_cells(test)] for (a, b), test in zip(there, verdicts(there), strict=True)]
        return markdown(["", "against", "difference", "p, Holm", ""], rows)

    def draw(self, path: Path) -> None:
        """Constrained NDCG@10 by drawn answers: the mean over the seeds that got there; dashed: drawn freely."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6.4, 4), layout="constrained")
        axes = figure.subplots()
        colours = dict(zip(METHODS, ("#d1495b", "#3a7d44", "#1b6ca8"), strict=True))
        base = row_of({"auto": "1", **self.done["base"]}, "constrain", "1")["ndcg"]["10"]
        for cell in CELLS:
            curves = [[row_of(r, "constrain", "auto")["ndcg"]["10"] for r in x["rounds"]] for x in self.runs(cell)]
            there = [[curve[n] for curve in curves if n < len(curve)] for n in range(self.plan.rounds)]
            means = [base, *(statistics.fmean(values) for values in there if values)]
            answers = [n * self.plan.updates * self.plan.answers for n in range(len(means))]
            style = "-" if cell.draw == "constrained" else "--"
            if curves:
                axes.plot(answers, means, style, color=colours[cell.method], label=cell.name, marker="o", markersize=3)
        axes.set(xlabel="drawn answers", ylabel="NDCG@10, constrained, strength auto")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize="small")
        figure.savefig(path, dpi=120)


def report(plan: Plan, done: Lines, folder: Path) -> str:
    """The tables as markdown, and the picture beside them."""
    reader = Reader(plan, done)
    if "base" in done:
        reader.draw(folder / "online.png")
    title = f"{plan.budget} drawn answers a run, {plan.rounds * plan.updates} updates\n\n"
    return title + "\n".join(part for part in (reader.table(), reader.tests()) if part)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "table"])
    parser.add_argument("--shard", default="0/1", help="part/parts of the methods")
    parser.add_argument("--seeds", type=int, default=Plan.seeds, help="of what the search chose")
    parser.add_argument("--quick", action="store_true", help="a few lists and an update, to see that it runs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder of the lines")
    options = parser.parse_args()
    plan = QUICK if options.quick else replace(Plan(), seeds=options.seeds)
    if options.what == "run":
        torch.set_num_threads(1)
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        run(plan, options.results, options.shard)
        return
    text = report(plan, finished(options.results, plan), options.results)
    (options.results / "online.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
