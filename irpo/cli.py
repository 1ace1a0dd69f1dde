"""The `irpo` command. What is heavy is imported inside the command that needs it: `irpo --help` never loads torch."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from irpo import __version__
from irpo.types import UserError, printable

app = typer.Typer(
    name="irpo",
    help="Fine-tune language models into listwise rerankers, measure them, and use them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Options = Annotated[list[str] | None, typer.Argument(metavar="[OPTION=VALUE]...", help="Options of the task.")]
Task = Annotated[str, typer.Option(help="The task; `irpo list tasks` shows them.")]
Data = Annotated[str | None, typer.Option(help="The folder or file of the dataset, or `hub`.")]
Out = Annotated[Path, typer.Option(help="The folder to write.")]
Seed = Annotated[int | None, typer.Option(help="Of list construction and order.")]
SkipBadRows = Annotated[bool, typer.Option("--skip-bad-rows", help="Count and leave out rows that cannot be read.")]
Plugins = Annotated[list[str] | None, typer.Option("--plugin", metavar="MODULE", help="Import this plug-in module.")]
Model = Annotated[str, typer.Option(help="A run's folder, `embedded`, a model's folder, or a hub id.")]
Style = Annotated[str | None, typer.Option(help="text, label or response; the run's own where it is not given.")]


def main() -> None:
    """The console script: a user's mistake is one line on stderr and exit code 2; anything else keeps its traceback."""
    try:
        app()
    except UserError as error:
        typer.echo(f"error: {printable(' '.join(str(error).split()))}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"irpo {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    pass


@app.command()
def prepare(
    task: Task,
    out: Out,
    data: Data = None,
    seed: Seed = None,
    skip_bad_rows: SkipBadRows = False,
    plugin: Plugins = None,
    options: Options = None,
) -> None:
    """Turn a dataset's own files into candidate lists: train.jsonl, eval.jsonl and card.json."""
    from irpo import preparing
    from irpo.tasks import TASKS

    _load(plugin)
    given = {"data": data, "seed": seed}
    spec = {"name": task, **_pairs(options), **{key: value for key, value in given.items() if value is not None}}
    card = preparing.prepare(TASKS.build(spec), out, task_spec=spec, skip_bad_rows=skip_bad_rows)
    typer.echo(json.dumps(card, indent=2, ensure_ascii=False))
    typer.echo(f"written to {out}", err=True)


@app.command()
def train(
    layers: Annotated[list[str], typer.Argument(metavar="FILE.yaml|KEY=VALUE...", help="Layers, later ones win.")],
    out: Out,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in --out.")] = False,
) -> None:
    """Fine-tune a model: layers of YAML (shipped ones by name), then overrides such as training.learning_rate=2e-5."""
    config = _config(layers)
    from irpo import pipeline

    pipeline.train(config, out, resume=resume)


@app.command()
def estimate(
    layers: Annotated[list[str], typer.Argument(metavar="FILE.yaml|KEY=VALUE...", help="Layers, as for `train`.")],
    card: Annotated[str | None, typer.Option(help="A GPU by name or its GiB; default: this machine.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what `train` would take in memory and time, and whether a card has it; loads no weights."""
    config = _config(layers)
    from irpo import estimate as estimating
    from irpo.cards import card_of

    found = estimating.estimate(config, card_of(card))
    if as_json:
        typer.echo(json.dumps(found.as_dict(), indent=2))
        return
    from rich.console import Console

    Console().print(estimating.table(found))


@app.command()
def evaluate(
    model: Model,
    out: Out,
    task: Annotated[str | None, typer.Option(help="The task; the run's own where --model is a run.")] = None,
    data: Data = None,
    mode: Annotated[
        list[str] | None, typer.Option(help="score, generate or constrain; may be repeated; default: all three.")
    ] = None,
    style: Style = None,
    like: Annotated[str | None, typer.Option(help="A run whose prompt and scorer a base model is given.")] = None,
    max_lists: Annotated[int | None, typer.Option(min=1, help="Measure only so many lists.")] = None,
    lists_per_batch: Annotated[int | None, typer.Option(min=1, help="Lists in one forward pass.")] = None,
    seed: Seed = None,
    skip_bad_rows: SkipBadRows = False,
    plugin: Plugins = None,
    options: Options = None,
) -> None:
    """Measure a ranker on a task's evaluation lists; writes results.json, report.md, run files and generations."""
    from irpo import pipeline
    from irpo.config import EvaluationConfig
    from irpo.reranker import run_config

    _load(plugin)
    given = {"data": data, "seed": seed}
    pairs = _pairs(options) | {key: value for key, value in given.items() if value is not None}
    chosen: dict[str, Any] = {"max_lists": max_lists, "lists_per_batch": lists_per_batch}
    chosen["modes"] = tuple(_modes(mode)) if mode else None
    spec = _task_spec(like or model, task, pairs)
    own = run_config(like or model)
    settings = own.evaluation if own else EvaluationConfig()
    settings = settings.model_copy(update={key: value for key, value in chosen.items() if value is not None})
    pipeline.evaluate(model, spec, out, settings, style=_style(style), like=like, skip_bad_rows=skip_bad_rows)


@app.command()
def rank(
    model: Model,
    query: Annotated[str, typer.Argument(help="What the documents are ranked for.")],
    documents: Annotated[list[str] | None, typer.Argument(metavar="DOC...", help="Two or more documents.")] = None,
    file: Annotated[Path | None, typer.Option(help="A file of documents, one a line.")] = None,
    mode: Annotated[str, typer.Option(help="score, generate or constrain.")] = "score",
    style: Style = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Rank documents for a query."""
    texts = [*(documents or []), *(_lines(file) if file else [])]
    if len(texts) < 2:
        raise UserError(f"{len(texts)} document(s) to rank; give at least 2, as arguments or by --file")
    (chosen,) = _modes([mode])
    checked = _style(style)
    from irpo import pipeline

    rows = [_row(row) for row in pipeline.rank(model, query, texts, chosen, checked)]
    if as_json:
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
    else:
        _table(None, rows)


@app.command("list")
def list_(
    kind: Annotated[str | None, typer.Argument(help="objectives, metrics, scorers, tasks, rewards, samplers.")] = None,
    plugin: Plugins = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the plug-ins and their options with defaults."""
    from irpo import catalogue

    _load(plugin)
    found = {name: catalogue.entries(name) for name in catalogue.kinds(kind)}
    if as_json:
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    for name, rows in found.items():
        _table(name, rows)


@app.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Check versions, the device, whether 4-bit really works here, and the attention implementations."""
    from irpo.doctor import examine

    checks = [dataclasses.asdict(check) for check in examine()]
    if as_json:
        typer.echo(json.dumps(checks, indent=2))
    else:
        _table(None, checks)
    if any(check["state"] == "broken" for check in checks):
        raise typer.Exit(1)


@app.command()
def quickstart(
    out: Out = Path("runs/quickstart"),
    config: Annotated[Path | None, typer.Option(help="Another configuration than configs/quickstart.yaml.")] = None,
) -> None:
    """Fine-tune the embedded model by SFT, DPO, S-DPO and IRPO on its synthetic world, and compare them."""
    from irpo.quickstart import run

    run(out, config)


def _config(layers: Sequence[str]) -> Any:
    """The run that layers of YAML and overrides describe, its plug-ins loaded."""
    from irpo.config import load_config

    config = load_config([x for x in layers if "=" not in x], [x for x in layers if "=" in x])
    _load(config.plugins)
    return config


def _load(modules: Sequence[str] | None) -> None:
    from irpo.registry import load_plugins

    sys.path.insert(0, "")  # a plug-in's or a reward's module may lie in the folder where the command is run
    load_plugins(modules or ())


def _pairs(texts: Iterable[str] | None) -> dict[str, Any]:
    """`option=value` arguments as a mapping; values are read as YAML."""
    from irpo.layers import parse_value

    pairs: dict[str, Any] = {}
    for text in texts or ():
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise UserError(f"argument {text!r}: write option=value, for example candidates=10")
        pairs[key.strip()] = parse_value(value, f"option {key.strip()!r}")
    return pairs


def _task_spec(model: str, task: str | None, pairs: dict[str, Any]) -> dict[str, Any]:
    """The task's mapping: the one that is named, or the one that the run was trained on."""
    from irpo.config import RUN_CONFIG, load_config

    if task is not None:
        return {"name": task, **pairs}
    written = Path(model) / RUN_CONFIG
    if not written.is_file():
        state = "is not a finished run's folder" if Path(model).exists() or model == "embedded" else "is no folder here"
        raise UserError(f"--task is needed: {model!r} {state}, so it has no task of its own")
    config = load_config([written])
    _load(config.plugins)
    return {**config.task, **pairs}


def _modes(modes: list[str]) -> list[Any]:
    from typing import get_args

    from irpo.config import Mode

    return [_one_of("mode", mode, get_args(Mode)) for mode in dict.fromkeys(modes)]


def _style(style: str | None) -> Any:
    from typing import get_args

    from irpo.types import Style as Styles

    return style if style is None else _one_of("style", style, get_args(Styles))


def _one_of(what: str, given: str, allowed: tuple[str, ...]) -> str:
    if given not in allowed:
        raise UserError(f"unknown {what} {given!r}; choose from {', '.join(allowed)}")
    return given


def _lines(file: Path) -> list[str]:
    try:
        return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text in UTF-8"
        raise UserError(f"--file {file}: {reason}") from None


def _row(row: Any) -> dict[str, Any]:
    return dataclasses.asdict(row) if dataclasses.is_dataclass(row) and not isinstance(row, type) else dict(row)


def _table(title: str | None, rows: list[dict[str, Any]]) -> None:
    """A table whose columns are the rows' keys; numbers to four digits."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left")
    for key in rows[0] if rows else ():
        table.add_column(key, overflow="fold")
    for row in rows:
        cells = (
            f"{cell:.4f}" if isinstance(cell, float) else "" if cell is None else str(cell) for cell in row.values()
        )
        table.add_row(*(Text(printable(cell)) for cell in cells))  # Text: a document may hold [brackets]
    Console().print(table)
