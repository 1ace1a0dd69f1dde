"""The main job in miniature: fine-tune the embedded model by several methods, measure all under one protocol."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from irpo.config.schema import RunConfig, load_config
from irpo.evaluation import Evaluation, Summary, write_results
from irpo.evaluation.report import Grid, comparison
from irpo.evaluation.significance import against
from irpo.files import beside
from irpo.pipeline import measure, train
from irpo.progress import say
from irpo.ranking.reranker import Reranker
from irpo.scoring.models import EMBEDDED
from irpo.tasks.preparing import build
from irpo.types import UserError

METHODS = {"SFT": "sft", "DPO": "dpo", "S-DPO": "sdpo", "IRPO": "irpo"}
BASE, OURS = "base", "IRPO"
_MARK = "quickstart.txt"
TESTED = "score"  # the mode whose values the paired tests compare


def run(out: Path, config_file: Path | None = None) -> dict[str, Summary]:
    """Train and evaluate every method into `out`; prints the table, writes report.md; returns the summaries.

    An earlier quickstart's results stay until these are whole, and what else lies in the folder stays.
    """
    _require_ours(out)
    with _beside(out) as work:
        return _compare(work, out, config_file)


def _compare(work: Path, out: Path, config_file: Path | None) -> dict[str, Summary]:
    """The comparison, written into `work`, which comes to be `out`."""
    began = time.perf_counter()
    settings = config_file or Path("quickstart.yaml")
    configs = _configs(settings)
    shared = configs[OURS]
    lists, _ = build(shared.task)
    examples = lists["eval"][: shared.evaluation.max_lists]
    found: dict[str, Evaluation] = {}
    for name, config in {BASE: None, **configs}.items():
        folder = work / name.lower()
        if config is not None:
            say(f"\n{name}: training")
            train(config, folder, advises=False)  # the folder is moved at the end
        ranker = _ranker(config, shared, folder)
        measured = measure(ranker, examples, shared.evaluation, task=shared.task, train=lists["train"])
        found[name] = replace(measured, about={"model": name, "task": shared.task["name"]})
        write_results(folder / "evaluation", found[name])
    report = _report(found, shared, time.perf_counter() - began)
    (work / "report.md").write_text(report, encoding="utf-8")
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


def _require_ours(out: Path) -> None:
    """`UserError` where a folder holds something, and no quickstart."""
    if out.is_dir() and any(out.iterdir()) and not (out / _MARK).is_file():
        raise UserError(f"--out {out}: the folder is not empty and holds no quickstart; give a new one")


@contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """A hidden folder; what is written there takes the place of what has the same name in `out` when all went well."""
    place = out.absolute()
    work = beside(place)
    work.mkdir(parents=True)
    try:
        yield work
        (work / _MARK).write_text(
            "written by irpo quickstart, which may replace what it wrote here\n", encoding="utf-8"
        )
        place.mkdir(exist_ok=True)
        for new in sorted(work.iterdir()):
            old = place / new.name
            if old.exists():
                old.rename(work / f".old.{new.name}")
            new.rename(old)
    finally:
        shutil.rmtree(work, ignore_errors=True)


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
        f"{_subject(config)}, {_length(config)} of {t.lists_per_update} lists, learning rate {t.learning_rate:g}, "
        f"seed {config.seed}; {seconds:.0f} s in all. "
        f"DPO, S-DPO and IRPO share beta and an anchor of weight {config.method.nll_weight:g}, the target list's NLL, "
        "which alone is SFT.",
    ]
    for name in ("NDCG@10", "NDCG@5", "NDCG@1"):
        grid = _grid(found, name)
        parts += [f"## {grid.title}", grid.markdown()]
    parts += [f"- {name}: [{name.lower()}/evaluation/report.md]({name.lower()}/evaluation/report.md)" for name in found]
    return "\n\n".join(parts) + "\n"


def _subject(config: RunConfig) -> str:
    """Which model learns how, on what."""
    model, task = config.model, str(config.task["name"])
    name = "The embedded model" if model.name == EMBEDDED else model.name
    data = f"{task}: {config.task['data']}" if "data" in config.task else task
    where = "its synthetic world" if (model.name, task) == (EMBEDDED, "world") else f"the task {data}"
    return f"{name} on {where}: {f'LoRA rank {model.lora.r}' if model.tuning == 'lora' else 'all weights'}"


def _length(config: RunConfig) -> str:
    t = config.training
    return f"passes over the data: {t.epochs:g}, in updates" if t.updates is None else f"{t.updates} updates"
