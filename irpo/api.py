"""The commands as functions: what `irpo prepare`, `irpo train` and `irpo evaluate` do, from Python.

import irpo

irpo.prepare({"name": "hotpotqa", "data": "FOLDER"}, "lists/")
irpo.train(["models/llama3.2-3b.yaml", "tasks/hotpotqa.yaml", "methods/irpo.yaml", "task.data=FOLDER"], "runs/x")
irpo.evaluate("runs/x", "runs/x/evaluation", modes=["score", "constrain"]).rows

Wrong words, files, options and folders raise `UserError` before anything heavy is imported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from irpo.config.checks import checked_config, require_out
from irpo.config.schema import RUN_CONFIG, EvaluationConfig, RunConfig, load_config
from irpo.config.trust import load_theirs, require_own_endpoint
from irpo.meeting import meet
from irpo.registry import Spec, load_plugins
from irpo.runs.rankers import is_ranker, model_behind, ranker_config
from irpo.types import Style, UnknownName, UserError

if TYPE_CHECKING:
    from irpo.checking import Check
    from irpo.compare.forecast import Forecast
    from irpo.compare.page import Report
    from irpo.evaluation import Summary
    from irpo.training.outcome import Outcome

Layer = str | Path  # a file of YAML, shipped or your own, or an override "key.sub=value"
TaskSpec = str | Mapping[str, Any]  # a task's name, or a mapping with "name" and its options


def config_from(layers: Sequence[Layer], *, trust_plugins: bool = False) -> RunConfig:
    """The run that files and overrides describe, later ones winning, its plug-ins loaded and found right.

    Of a layer that is another run's config.yaml plug-ins are imported where `trust_plugins` says so.

    Every mistake is one line that names the file and line, or the override, where it stands.
    """
    files = [layer for layer in layers if isinstance(layer, Path) or "=" not in layer]
    overrides = [layer for layer in layers if isinstance(layer, str) and "=" in layer]
    return checked_config(files, overrides, trust_plugins=trust_plugins)


def prepare(
    task: TaskSpec,
    out: Path | str,
    *,
    skip_bad_rows: bool = False,
    format: str = "jsonl",
    shard_lists: int = 10_000,
    processes: int = 1,
) -> dict[str, Any]:
    """Turn a dataset's own files into candidate lists in `out`: train.jsonl, eval.jsonl and card.json.

    Returns the card. `skip_bad_rows` counts broken rows instead of stopping at the first. `format` parquet writes
    train-00000.parquet, ... of `shard_lists` lists each. A script that asks for more than one process does so under
    `if __name__ == "__main__":`; the files are the same by any number.
    """
    from irpo.tasks import TASKS, preparing

    spec = {"name": task} if isinstance(task, str) else dict(task)
    layout = preparing.Layout(format, shard_lists, processes)
    built = TASKS.build(spec)
    require_out(Path(out))
    return preparing.prepare(built, Path(out), task_spec=spec, skip_bad_rows=skip_bad_rows, layout=layout)


def mine(
    out: Path | str,
    *,
    task: TaskSpec | None = None,
    pairs: Path | str | None = None,
    run: Path | str | None = None,
    skip_bad_rows: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Give lists, or `pairs` of query and relevant text, hard negatives; writes train.jsonl, eval.jsonl and card.json.

    `options` are those of `irpo.mine.Mining` (by, model, negatives, margin, corpus, seed; query and positive name the
    columns of pairs) or, with a first stage's `run`, of `irpo.mine.FirstStage` (top_k, corpus, seed). Returns the card,
    which counts what was left out, and why.
    """
    from irpo.mine import mining_of
    from irpo.tasks import TASKS, preparing

    spec = {"name": task} if isinstance(task, str) else dict(task or {})
    if "name" in spec:
        TASKS.build(spec)
    built = mining_of(spec, None if pairs is None else str(pairs), None if run is None else str(run), options)
    require_out(Path(out))
    told = {"name": "mine", **({"task": spec} if pairs is None else {"pairs": str(pairs)}), **options}
    return preparing.prepare(built, Path(out), task_spec=told, skip_bad_rows=skip_bad_rows)


def check(
    task: TaskSpec,
    out: Path | str | None = None,
    *,
    model: str | None = None,
    style: str | None = None,
    max_tokens: int | None = None,
    skip_bad_rows: bool = False,
) -> Check:
    """Say what is wrong with a task's lists and what they are like, as `irpo prepare --check` does.

    `model` (`embedded`, a file of layers, a run, a model's folder or hub id) says whose tokens are counted, and by its
    prompt how many of them a list may take; `style` and `max_tokens` say otherwise. With `out` check.json and check.png
    are written there. `Check.wrong` where rows or lists cannot be used; a row that is wrong raises nothing, and counts
    as none where bad rows are skipped.
    """
    from irpo.tasks import TASKS

    spec = {"name": task} if isinstance(task, str) else dict(task)
    built, chosen = TASKS.build(spec), require_style(style)
    if model is None and (style is not None or max_tokens is not None):
        raise UserError("style and max_tokens are of a model's prompt; give the model, too")
    if out is not None:
        require_out(Path(out))
    from irpo.checking import Budget, look, write

    budget = None if model is None else Budget.of(model, str(spec["name"]), style=chosen, max_tokens=max_tokens)
    found = look(built, spec, budget, skip_bad_rows=skip_bad_rows)
    if out is not None:
        write(found, Path(out))
    return found


def train(
    config: RunConfig | Sequence[Layer], out: Path | str, *, resume: bool = False, trust_plugins: bool = False
) -> Outcome | None:
    """Fine-tune as configured into the folder `out`: a configuration, or layers of YAML and overrides as for the CLI.

    Returns what the validation lists say, None where none were set aside. `resume` goes on from the last checkpoint.
    `trust_plugins` as in `config_from`.
    """
    require_out(Path(out))
    config = config if isinstance(config, RunConfig) else config_from(config, trust_plugins=trust_plugins)
    require_model(config.model.name)
    meet()
    from irpo import pipeline

    return pipeline.train(config, Path(out), resume=resume)


def evaluate(  # noqa: PLR0913 - the flags of the command
    model: str,
    out: Path | str,
    *,
    task: TaskSpec | None = None,
    modes: Sequence[Spec] = (),
    style: Style | None = None,
    strength: str | float | None = None,
    strength_by: str | None = None,
    like: str | None = None,
    max_lists: int | None = None,
    lists_per_batch: int | None = None,
    max_tokens: int | None = None,
    skip_bad_rows: bool = False,
    trust_plugins: bool = False,
    engine: Spec = "transformers",
) -> Summary:
    """Measure a run, a model's folder, a hub id or a ranker's configuration; returns what results.json holds.

    `task` is by default what the run was trained on; a mapping without a name changes options of that. `like` is a run
    or a ranker's configuration whose prompt, scorer and loading a base model is given; `max_tokens` is of prompt and
    answer. `strength` is a number above 0 or "reward", `strength_by` logits or adapter: a run's own choice by default.
    `engine` runs the model: `transformers`, or `vllm` with its options (`irpo.ranking.engines`).
    What is not given is as the run's or the ranker's configuration says, for a base model as `EvaluationConfig` says.
    Plug-ins that a run itself names are imported where `trust_plugins` says so; by default it is refused.
    """
    from irpo.tasks import TASKS

    given = {"max_lists": max_lists, "lists_per_batch": lists_per_batch}
    settings: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    own, lent = run_of(like or model, trust_plugins=trust_plugins), ranker_config(like or model)
    load_plugins(lent.plugins if lent else ())  # of others' files: as `run_of` did; a ranker's .yaml the user gave
    if modes:
        settings["modes"] = require_modes(modes)
    style = require_style(style)
    value, by = require_strength(strength, strength_by)
    require_engine(engine)
    spec = _task_of(own, {"name": task} if isinstance(task, str) else task or {}, like or model)
    TASKS.build(spec)
    require_out(Path(out))
    if spec.get("data") and Path(out).resolve() == Path(str(spec["data"])).resolve():
        raise UserError(f"--out {out}: would write where data ({spec['data']}) is read; give a folder of its own")
    require_model(model)
    meet()
    from irpo import pipeline

    wanted = (lent.evaluation if lent else EvaluationConfig()).model_copy(update=settings)
    return pipeline.evaluate(
        *(model, spec, Path(out), wanted),
        style=style,
        strength=value,
        strength_by=by,
        like=like,
        max_tokens=max_tokens,
        skip_bad_rows=skip_bad_rows,
        engine=engine,
    )


def compare(  # noqa: PLR0913 - the flags of the command
    suite: str | Path,
    out: Path | str,
    *,
    only: Sequence[str] = (),
    jobs: int = 1,
    gpus: Sequence[str] = (),
    slurm: Mapping[str, Any] | None = None,
    retry_failed: bool = False,
    runs: Mapping[str, Path] | None = None,
    data: Path | str | None = None,
) -> Report:
    """Run what is missing of a suite into the folder `out` and write its report; returns the report.

    `runs` are TREC run files by the name that the tables give them; `data` is the folder of the tasks' own folders. A
    script calls it under `if __name__ == "__main__":`, for cells are processes of their own.
    """
    from irpo.compare.suite import narrowed, read_suite

    read = read_suite(suite, None if data is None else Path(data))
    narrowed(read, only)
    require_out(Path(out))
    from irpo.compare import comparing
    from irpo.compare.engine.running import Options

    options = Options(jobs=jobs, gpus=tuple(gpus), slurm=slurm, retry_failed=retry_failed)
    return comparing.compare(read, Path(out), only=only, options=options, runs=runs or {})


def foresee(
    suite: str | Path,
    out: Path | str,
    *,
    only: Sequence[str] = (),
    jobs: int = 1,
    card: str | None = None,
    data: Path | str | None = None,
) -> Forecast:
    """What `compare` would take: cells, time, memory, disk, and what is missing; nothing but lists is made."""
    from irpo.compare.suite import narrowed, read_suite
    from irpo.estimate.cards import card_of

    read = read_suite(suite, None if data is None else Path(data))
    narrowed(read, only)
    place = card_of(card)
    from irpo.compare import comparing

    return comparing.foresee(read, Path(out), place, only=only, jobs=jobs)


def report(folders: Sequence[Path | str], out: Path | str, *, runs: Mapping[str, Path] | None = None) -> Report:
    """Make the report of one suite's results, perhaps of several folders, from these files alone."""
    from irpo.compare import comparing

    return comparing.report([Path(folder) for folder in folders], Path(out), runs or {})


def run_of(model: str, *, trust_plugins: bool = False) -> RunConfig | None:
    """A run's configuration with its plug-ins loaded, None where the name is not a run's folder.

    `UserError` where it, or an exported ranker, names plug-ins that the user neither trusts nor has imported.
    """
    written = Path(model) / RUN_CONFIG
    config = load_config([written]) if written.is_file() else None
    theirs = config or (None if is_ranker(model) else ranker_config(model))
    if theirs is not None:
        load_theirs(model, theirs, trusts=trust_plugins)
    return config


def _one_of(what: str, given: str, allowed: Sequence[str]) -> str:
    """The word itself; `UnknownName` with the choice where it is not among the allowed ones."""
    if given not in allowed:
        raise UnknownName(f"unknown {what} {given!r}; choose from {', '.join(allowed)}")
    return given


def require_modes(modes: Sequence[Spec]) -> tuple[dict[str, Any], ...]:
    """The modes as a configuration has them, each once, checked."""
    from irpo.ranking.modes import RANKING_MODES

    found = [{"name": mode} if isinstance(mode, str) else dict(mode) for mode in modes]
    for mode in found:
        RANKING_MODES.build(mode)
    return tuple(mode for i, mode in enumerate(found) if mode not in found[:i])


def require_style(style: str | None) -> Any:
    """A prompt's style as it was given, checked; None is no choice."""
    return style if style is None else _one_of("style", style, get_args(Style))


def require_strength(value: str | float | None, by: str | None) -> tuple[float | None, Any]:
    """A strength and what it is taken by, as they were given, checked; None is no choice."""
    from irpo.ranking.choosing import strength_value
    from irpo.scoring.strength import Strength, StrengthBy

    chosen: Any = by if by is None else _one_of("strength_by", by, get_args(StrengthBy))
    number = None if value is None else strength_value(value)
    Strength(number or 1.0, chosen or "logits")
    return number, chosen


def require_engine(engine: Spec) -> Spec:
    """What runs a model, as it was given, its name and options checked."""
    if engine != "transformers":  # which has no options: what knows the others takes seconds to import
        from irpo.ranking.engines import ENGINES

        ENGINES.build(engine)
    return engine


def _task_of(own: RunConfig | None, task: Mapping[str, Any], model: str) -> dict[str, Any]:
    """The task that is named, or the one that the run was trained on, with other options."""
    if "name" in task:
        return dict(task)
    if own is not None:
        require_own_endpoint(model, own.task, task)
        return {**own.task, **task}
    require_model(model)  # a name that leads nowhere is the mistake, not the task that it has not
    raise UserError(f"--task is needed: {model!r} is not a finished run's folder, so it has no task of its own")


def require_model(name: str) -> None:
    """`UserError` where there is no such model, or none behind a ranker's configuration."""
    from irpo.scoring.names import require_there

    require_there(model_behind(name))
