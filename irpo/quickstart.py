"""The main job in miniature: fine-tune the embedded model by several methods, measure all under one protocol."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from irpo.config import RunConfig, load_config
from irpo.evaluation import Evaluation, Summary, write_results
from irpo.pipeline import measure, train
from irpo.preparing import build
from irpo.progress import say
from irpo.report import Grid, comparison
from irpo.reranker import Reranker
from irpo.significance import against
from irpo.types import UserError

METHODS = {"SFT": "sft", "DPO": "dpo", "S-DPO": "sdpo", "IRPO": "irpo"}
BASE, OURS = "base", "IRPO"
_MARK = "quickstart.txt"
TESTED = "score"  # the mode whose values the paired tests compare


def run(out: Path, config_file: Path | None = None) -> dict[str, Summary]:
    """Train and evaluate every method into `out`; prints the table, writes report.md; returns the summaries."""
    _clear(out)
    began = time.perf_counter()
    settings = config_file or Path("quickstart.yaml")
    configs = _configs(settings)
    shared = configs[OURS]
    lists, _ = build(shared.task)
    examples = lists["eval"][: shared.evaluation.max_lists]
    found: dict[str, Evaluation] = {}
    for name, config in {BASE: None, **configs}.items():
        folder = out / name.lower()
        if config is not None:
            say(f"\n{name}: training")
            train(config, folder)
        ranker = _ranker(config, shared, folder)
        measured = measure(ranker, examples, shared.evaluation, task=shared.task, train=lists["train"])
        found[name] = replace(measured, about={"model": name, "task": shared.task["name"]})
        write_results(folder / "evaluation", found[name])
    report = _report(found, shared, time.perf_counter() - began)
    (out / "report.md").write_text(report, encoding="utf-8")
    _show(found)
    say(f"{time.perf_counter() - began:.0f} s; the report is {out / 'report.md'}, each method's own lies beside it")
    return {name: evaluation.summary for name, evaluation in found.items()}


def _configs(settings: Path) -> dict[str, RunConfig]:
    """Every method's; the other preference methods get IRPO's beta and anchor, so that objectives are compared."""
    ours = load_config([f"methods/{METHODS[OURS]}.yaml", settings]).method
    beta = ours.objective["beta"] if ours.objective else 1.0
    same = [f"method.objective.beta={beta}", f"method.nll_weight={ours.nll_weight}"]
    own = {name: [] if name == "SFT" else same for name in METHODS}
    return {name: load_config([f"methods/{file}.yaml", settings], own[name]) for name, file in METHODS.items()}


def _clear(out: Path) -> None:
    """Make the folder, empty; an earlier quickstart's is replaced, anything else is left alone."""
    if out.is_dir() and any(out.iterdir()) and not (out / _MARK).is_file():
        raise UserError(f"--out {out}: the folder is not empty and holds no quickstart; give a new one")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    (out / _MARK).write_text("written by irpo quickstart, which may replace this folder\n", encoding="utf-8")


def _ranker(config: RunConfig | None, shared: RunConfig, folder: Path) -> Reranker:
    """A method's ranker, or the base model under the same prompt."""
    if config is not None:
        return Reranker.load(str(folder))
    return Reranker.load(shared.model.name, like=shared)


def _grid(found: dict[str, Evaluation], measure_name: str | None = None) -> Grid:
    summaries = {name: evaluation.summary for name, evaluation in found.items()}
    protocols = {str(summary.setting) for summary in summaries.values()}
    if len(protocols) > 1:
        raise UserError(f"methods measured by different protocols cannot stand in one table: {sorted(protocols)}")
    ours = summaries[OURS]
    main = measure_name or ours.main_measure
    values = {name: evaluation.values[TESTED][main] for name, evaluation in found.items()}
    note = (
        f"p: {OURS} against each other method in the mode '{TESTED}' (paired permutation test over "
        f"{ours.groups} {'lists' if ours.groups == ours.lists else 'groups of lists'}, "
        "adjusted for the false discovery rate); one seed, so it says nothing about others"
    )
    return comparison(summaries, main, against(OURS, values, found[OURS].units), note)


def _show(found: dict[str, Evaluation]) -> None:
    Console().print(_grid(found).table())


def _report(found: dict[str, Evaluation], config: RunConfig, seconds: float) -> str:
    t = config.training
    parts = [
        "# Quickstart",
        f"The embedded model on its synthetic world: LoRA rank {config.model.lora.r}, {t.updates} updates of "
        f"{t.lists_per_update} lists, learning rate {t.learning_rate:g}, seed {config.seed}; {seconds:.0f} s in all. "
        f"DPO, S-DPO and IRPO share beta and an anchor of weight {config.method.nll_weight:g}, the target list's NLL, "
        "which alone is SFT.",
    ]
    for name in ("NDCG@10", "NDCG@5", "NDCG@1"):
        grid = _grid(found, name)
        parts += [f"## {grid.title}", grid.markdown()]
    parts += [f"- {name}: [{name.lower()}/evaluation/report.md]({name.lower()}/evaluation/report.md)" for name in found]
    return "\n\n".join(parts) + "\n"
