"""How good are the rankings? Every configured method on the embedded model and its synthetic world, under one protocol.

    python benchmarks/quality.py run objectives --shard 0/2 &     # two processes share the work
    python benchmarks/quality.py run objectives --shard 1/2 &
    python benchmarks/quality.py table objectives                 # -> benchmarks/results/objectives.md

A study is a YAML of `benchmarks/studies/`: shared overrides and named cases. Each case is trained with each learning
rate (seed 0); the one with the best NDCG@10 on validation lists is then run with every seed and measured on test lists,
which no choice has seen, in the three modes. All cases get the same number of updates on the same lists. Every finished
piece is a line of `benchmarks/results/<study>.<shard>.jsonl`; a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from scipy import stats
from transformers.utils import logging

from irpo.config.schema import EvaluationConfig, RunConfig, load_config
from irpo.pipeline import measure, trainer_of
from irpo.progress import BEST
from irpo.ranking.reranker import Reranker
from irpo.tasks.preparing import build
from irpo.training.job import Parts, Splits, assemble, method_of, policy_model, split_training
from irpo.training.logbook import Lines
from irpo.types import UserError

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
MODES = {"score": "score", "generate strict": "generate", "constrain": "constrain"}


class Study:
    """A study's cases and the lists that all of them share."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.plan: dict[str, Any] = yaml.safe_load((HERE / "studies" / f"{name}.yaml").read_text(encoding="utf-8"))
        self._made: dict[str, Parts] = {}
        shared = self.config(next(iter(self.plan["cases"])), 0.001, 0)
        lists, _ = build(shared.task)
        splits = split_training(lists["train"], 0.1, self.plan["validation_lists"])
        self.train, self.validation = splits.train[: self.plan["train_lists"]], splits.validation
        self.test = tuple(lists["eval"][: self.plan["test_lists"]])

    def config(self, case: str, rate: float, seed: int) -> RunConfig:
        given = self.plan["cases"][case] or {}
        files = [f"methods/{given.get('method', case)}.yaml", "quickstart.yaml"]
        overrides = [*self.plan.get("overrides", []), *given.get("overrides", [])]
        return load_config(files, [*overrides, f"training.learning_rate={rate}", f"seed={seed}"])

    def parts(self, config: RunConfig) -> Parts:
        """The job of a case; its lists are put into the configured style once."""
        style = config.prompt.style
        if style not in self._made:
            self._made[style] = assemble(config, method_of(config), Splits(self.train, self.validation), {})
        return replace(self._made[style], config=config, method=method_of(config))


def trained(study: Study, config: RunConfig) -> tuple[Reranker, float, float]:
    """(the ranker, its NDCG@10 on validation lists, mean seconds an update)."""
    parts = study.parts(config)
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(parts, policy_model(config), Path(folder))
        # All updates without a look at validation lists; what is kept is the last.
        trainer.args.disable_tqdm, trainer.args.save_strategy, trainer.args.eval_strategy = True, "no", "no"
        trainer.args.load_best_model_at_end = False
        trainer.remove_callback(Lines)
        start = time.perf_counter()
        trainer.train()
        seconds = (time.perf_counter() - start) / trainer.args.max_steps
        found = trainer.evaluate()[f"eval_{BEST}"]
    builder, method = parts.builder, parts.method
    return Reranker(trainer.model.eval(), builder.tokenizer, builder, method.scorer, method.length), found, seconds


def work(study: Study, case: str, done: dict[str, Any], write: Any) -> None:
    """Choose the case's learning rate on validation lists, then measure every seed on test lists."""
    rates, seeds = study.plan["learning_rates"], study.plan["seeds"]
    if all(f"{case}/seed/{seed}" in done for seed in seeds):
        return
    kept: dict[float, Any] = {}
    for rate in rates:
        key = f"{case}/rate/{rate}"
        if key not in done:
            try:
                kept[rate] = trained(study, study.config(case, rate, seeds[0]))
            except UserError as error:  # the loss was not finite
                done[key] = {"key": key, "case": case, "rate": rate, "validation": -1.0, "diverged": str(error)}
            else:
                done[key] = {"key": key, "case": case, "rate": rate, "validation": kept[rate][1]}
            write(done[key])
    best = max(rates, key=lambda rate: (done[f"{case}/rate/{rate}"]["validation"], -rate))
    for seed in seeds:
        key = f"{case}/seed/{seed}"
        if key in done:
            continue
        ready = kept.get(best) if seed == seeds[0] else None
        ranker, found, seconds = ready or trained(study, study.config(case, best, seed))
        line = {"key": key, "case": case, "seed": seed, "rate": best, "edge": best in (rates[0], rates[-1])}
        write(line | {"validation": found, "seconds": seconds} | test(study, ranker))


def test(study: Study, ranker: Reranker) -> dict[str, Any]:
    """NDCG of each mode on the test lists, and the coverage of free generation."""
    settings = EvaluationConfig(measures=("NDCG@1", "NDCG@5", "NDCG@10"), lists_per_batch=32)
    task = study.config(next(iter(study.plan["cases"])), 0.001, 0).task
    found = measure(ranker, study.test, settings, task=task).summary
    rows = {row.name: row for row in found.rows}
    ndcg = {short: {k: rows[name].measures[f"NDCG@{k}"] for k in (1, 5, 10)} for name, short in MODES.items()}
    return {"ndcg": ndcg, "coverage": rows["generate strict"].answers.coverage}


def base(study: Study, done: dict[str, Any], write: Any) -> None:
    """The untrained model under the same protocol, once a style."""
    for case in study.plan["cases"]:
        config = study.config(case, 0.001, 0)
        key = f"base ({config.prompt.style})"
        if key not in done:
            model = Reranker.load(config.model.name, like=config)
            done[key] = {}
            write({"key": key, "case": key, "seed": 0, "rate": None, "seconds": None} | test(study, model))


def lines(study: str) -> Iterator[dict[str, Any]]:
    for path in sorted(RESULTS.glob(f"{study}*.jsonl")):
        yield from (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())


def run(name: str, shard: str, only: list[str]) -> None:
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    part, parts = (int(n) for n in shard.split("/"))
    study = Study(name)
    done = {line["key"]: line for line in lines(name)}

    def write(line: dict[str, Any]) -> None:
        with (RESULTS / f"{name}.{part}.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    if part == 0:
        base(study, done, write)
    cases = [case for case in study.plan["cases"] if not only or case in only]
    for case in cases[part::parts]:
        work(study, case, done, write)


def interval(values: list[float]) -> tuple[float, float]:
    """Mean and half the width of its 95 % t interval over seeds; nan for one value."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, math.nan
    return mean, float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))


def cell(values: list[float]) -> str:
    mean, half = interval(values)
    return f"{mean:.3f}" if math.isnan(half) else f"{mean:.3f} ± {half:.3f}"


def table(name: str) -> str:
    """Markdown: a row a case, best first by NDCG@10 of the scores."""
    found: dict[str, list[dict[str, Any]]] = {}
    for line in {line["key"]: line for line in lines(name)}.values():
        if "ndcg" in line:
            found.setdefault(line["case"], []).append(line)
    columns = [(mode, k) for mode in MODES.values() for k in ("1", "5", "10")]
    header = ["case", "rate", "validation @10", *(f"{mode} @{k}" for mode, k in columns), "named", "ms/update", "seeds"]
    rows = []
    for case, runs in found.items():
        values = [cell([r["ndcg"][mode][k] for r in runs]) for mode, k in columns]
        named = f"{100 * statistics.fmean(r['coverage'] for r in runs):.0f} %"
        times = [r["seconds"] for r in runs if r["seconds"]]
        speed = f"{1000 * statistics.median(times):.0f}" if times else "-"
        rate = "-" if runs[0]["rate"] is None else f"{runs[0]['rate']:g}"
        main = statistics.fmean(r["ndcg"]["score"]["10"] for r in runs)
        held = [run["validation"] for run in runs if "validation" in run]
        chosen = cell(held) if held else "-"
        rows.append((main, [case, rate, chosen, *values, named, speed, str(len(runs))]))
    rows.sort(key=lambda row: -row[0])
    cells = [header, ["---"] * len(header), *(row for _, row in rows)]
    return "\n".join("| " + " | ".join(row) + " |" for row in cells) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "table"])
    parser.add_argument("study")
    parser.add_argument("--shard", default="0/1", help="part/parts")
    parser.add_argument("--only", nargs="*", default=[], help="cases")
    options = parser.parse_args()
    if options.what == "run":
        run(options.study, options.shard, options.only)
    else:
        text = table(options.study)
        (RESULTS / f"{options.study}.md").write_text(text, encoding="utf-8")
        print(text)


if __name__ == "__main__":
    main()
