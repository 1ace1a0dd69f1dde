"""The main job in miniature: fine-tune the embedded model by several methods, measure all under one protocol."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from irpo.config.schema import RunConfig, load_config
from irpo.evaluation import Evaluation, Summary, write_results
from irpo.evaluation.contest import Contest, contest_of
from irpo.evaluation.picture import Curve, draw
from irpo.evaluation.report import comparison
from irpo.files import beside, sha256_of
from irpo.pipeline import measure, train
from irpo.progress import BEST, Course, stages
from irpo.ranking.reranker import Reranker
from irpo.resources import embedded_dir
from irpo.runs import LOG
from irpo.scoring.models import EMBEDDED
from irpo.tasks.preparing import build
from irpo.types import UserError

METHODS = {"SFT": "sft", "DPO": "dpo", "S-DPO": "sdpo", "LiPO-lambda": "lipo_lambda", "IRPO": "irpo"}
BASE = "base model"
RESULTS, REPORT, PICTURE = "results.json", "report.md", "quickstart.png"
_MARK = "quickstart.txt"


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
    configs = _configs(config_file or Path("quickstart.yaml"))
    shared = next(iter(configs.values()))
    lists, _ = build(shared.task)
    examples = lists["eval"][: shared.evaluation.max_lists]
    found: dict[str, Evaluation] = {}
    validation: dict[str, float | None] = {}
    with stages(_course(configs)) as step:
        for name, config in {BASE: None, **configs}.items():
            folder = work / _folder(name)
            if config is not None:
                step(f"{name}: training")
                outcome = train(config, folder, advises=False)  # the folder is moved at the end
                validation[name] = outcome.after if outcome else None
            step(f"{name}: measuring")
            ranker = _ranker(config, shared, folder)
            measured = measure(ranker, examples, shared.evaluation, task=shared.task, train=lists["train"])
            found[name] = replace(measured, about={"model": name, "task": shared.task["name"]})
            write_results(folder / "evaluation", found[name])
    contest = contest_of(found, BASE, validation, "wishes" if shared.task["name"] == "world" else "groups of lists")
    summaries = {name: evaluation.summary for name, evaluation in found.items()}
    _write(work, contest, summaries, configs, seconds := time.perf_counter() - began)
    show(contest, seconds, out)
    return summaries


def _write(
    work: Path, contest: Contest, summaries: Mapping[str, Summary], configs: Mapping[str, RunConfig], seconds: float
) -> None:
    """The files of the comparison itself."""
    shared = next(iter(configs.values()))
    told = {"seconds": round(seconds), "model_sha256": _model_sha256(shared), "contest": contest.as_dict()}
    (work / RESULTS).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    draw(contest, {name: _curve(work / _folder(name)) for name in configs}, work / PICTURE)
    (work / REPORT).write_text(_report(contest, summaries, configs, seconds), encoding="utf-8")


def show(contest: Contest, seconds: float, out: Path, console: Console | None = None) -> None:
    """What stands at the end: the table, what it says, and where the rest is."""
    contest.grid().show(console)
    end = f"{seconds:.0f} s; picture: {out / PICTURE}; {REPORT} beside it"
    (console or Console()).print(end, markup=False, highlight=False, soft_wrap=True)


def _course(configs: Mapping[str, RunConfig]) -> Course:
    return Course(("measuring", *("training", "measuring") * len(configs)))


def _folder(name: str) -> str:
    """A method's folder.

    >>> _folder("base model")
    'base-model'
    """
    return name.lower().replace(" ", "-")


def _configs(settings: Path) -> dict[str, RunConfig]:
    """Every method's own: as it ships for the embedded world."""
    return {
        name: load_config([f"methods/{file}.yaml", f"embedded/{file}.yaml", settings]) for name, file in METHODS.items()
    }


def _curve(folder: Path) -> Curve:
    """The measure of validation lists by update, as the run's log has it."""
    try:
        lines = [json.loads(line) for line in (folder / LOG).read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        return []
    return [(line["update"], line[f"eval_{BEST}"]) for line in lines if f"eval_{BEST}" in line]


def _model_sha256(config: RunConfig) -> str | None:
    """Of the model that ships with the package: says which one the figures are of."""
    return sha256_of(embedded_dir() / "model.safetensors") if config.model.name == EMBEDDED else None


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


def _report(
    contest: Contest, summaries: Mapping[str, Summary], configs: Mapping[str, RunConfig], seconds: float
) -> str:
    shared = next(iter(configs.values()))
    grid = contest.grid()
    parts = [
        "# Quickstart",
        f"{_subject(shared)}, {_length(shared)} of {shared.training.lists_per_update} lists, seed {shared.seed}; "
        f"{seconds:.0f} s in all.",
        f"## {grid.title}",
        grid.markdown(),
        f"![]({PICTURE})",
        "## Each method's own settings",
        "\n".join(
            f"- {row.name}: {_own(configs[row.name])}; ranks at strength {row.strength}" for row in contest.trained
        ),
    ]
    for name in ("NDCG@10", "NDCG@5", "NDCG@1"):
        each = comparison(summaries, name)
        parts += [f"## {each.title}, every mode", each.markdown()]
    links = (f"{_folder(name)}/evaluation/report.md" for name in summaries)
    parts.append("\n".join(f"- {name}: [{link}]({link})" for name, link in zip(summaries, links, strict=True)))
    return "\n\n".join(parts) + "\n"


def _own(config: RunConfig) -> str:
    """What a method does not share with the others."""
    m = config.method
    options: dict[str, Any] = {key: value for key, value in (m.objective or {}).items() if key != "name"}
    options |= {"nll_weight": m.nll_weight, "learning_rate": config.training.learning_rate}
    return ", ".join(f"{key} {value}" for key, value in options.items())


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
