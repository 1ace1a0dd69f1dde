"""The `irpo` command. What is heavy is imported inside the command that needs it: `irpo --help` never loads torch."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from irpo import __version__, disk, flags, meeting, stopping, words
from irpo.types import UserError, one_line, printable

app = typer.Typer(
    name="irpo",
    help="Fine-tune language models into listwise rerankers, measure them, and use them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_Usage: type[Any] = typer.BadParameter.__mro__[1]  # a mistake in a command's words; typer gives it no name of its own


def main() -> None:
    """The console script: a user's mistake is one line on stderr and exit code 2; anything else keeps its traceback."""
    meeting.end_with_launcher()
    meeting.quieten()
    try:
        with stopping.handled():
            code = app(standalone_mode=False) or 0
        sys.exit(code)
    except stopping.Stopped as stop:
        meeting.leave_after_a_death()
        stopping.farewell(stop.line)
        sys.exit(stop.code)
    except UserError as error:
        _mistaken(str(error))
    except _Usage as error:
        if len(sys.argv) > 1:
            where = error.ctx.command_path if error.ctx else "irpo"
            _mistaken(f"{error.format_message().rstrip('.')} (`{where} --help` says what there is)")
        typer.echo(error.format_message(), err=True)  # no word at all: the help
        sys.exit(2)
    except OSError as error:
        # A place that is full, closed to this user or of too long a name: the user's to mend, wherever it was met.
        if (told := disk.told(error)) is None:
            raise
        _mistaken(told)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        meeting.give_up(error)
        raise


def _mistaken(text: str) -> NoReturn:
    meeting.speak(f"error: {printable(one_line(text))}")
    sys.exit(2)


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
    task: flags.Task,
    out: flags.Out,
    data: flags.Data = None,
    seed: flags.Seed = None,
    skip_bad_rows: flags.SkipBadRows = False,
    format: flags.Format = "jsonl",
    shard_lists: flags.ShardLists = 10_000,
    processes: flags.Workers = 1,
    plugin: flags.Plugins = None,
    options: flags.Options = None,
) -> None:
    """Turn a dataset's own files into candidate lists: train.jsonl, eval.jsonl (or Parquet shards) and card.json."""
    from irpo import api
    from irpo.tasks import preparing

    words.load_modules(plugin)
    spec = words.task_of(task, options, data, seed)
    layout: dict[str, Any] = {"format": format, "shard_lists": shard_lists, "processes": processes}
    card = api.prepare(spec, out, skip_bad_rows=skip_bad_rows, **layout)
    typer.echo(printable(preparing.summary(card)))
    typer.echo(f"written to {printable(str(out))}", err=True)


@app.command()
def train(
    layers: Annotated[list[str], typer.Argument(metavar="FILE.yaml|KEY=VALUE...", help="Layers, later ones win.")],
    out: flags.Out,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in --out.")] = False,
    processes: flags.Processes = None,
    launch: flags.Launch = None,
    trust_plugins: flags.TrustPlugins = False,
) -> None:
    """Fine-tune a model: layers of YAML (shipped ones by name), then overrides such as training.learning_rate=2e-5."""
    from irpo import api

    if processes is not None or launch is not None:
        api.config_from(layers, trust_plugins=trust_plugins)
        words.as_processes(processes, launch)
    api.train(layers, out, resume=resume, trust_plugins=trust_plugins)


@app.command()
def estimate(
    layers: Annotated[list[str], typer.Argument(metavar="FILE.yaml|KEY=VALUE...", help="Layers, as for `train`.")],
    card: Annotated[str | None, typer.Option(help="A GPU by name or its GiB; default: this machine.")] = None,
    processes: flags.Processes = None,
    launch: Annotated[str | None, typer.Option(metavar="NAME", help="Theirs: ddp, fsdp2, fsdp2_qlora.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    trust_plugins: flags.TrustPlugins = False,
) -> None:
    """Say what `train` would take in memory and time, and whether a card has it; loads no weights."""
    from irpo import api
    from irpo.estimate.cards import card_of
    from irpo.estimate.shapes import published
    from irpo.estimate.sharing import sharing_of
    from irpo.scoring.models import require_there

    sharing = sharing_of(processes, launch)
    config, place = api.config_from(layers, trust_plugins=trust_plugins), card_of(card)
    if published(config.model.name) is None:
        require_there(config.model.name)
    from irpo.estimate.plan import estimate as estimated
    from irpo.estimate.terminal import table

    found = estimated(config, place, sharing)
    if as_json:
        typer.echo(json.dumps(found.as_dict(), indent=2))
        return
    from rich.console import Console

    Console().print(table(found))


@app.command()
def evaluate(
    model: flags.Model,
    out: flags.Out,
    task: Annotated[str | None, typer.Option(help="The task; the run's own where --model is a run.")] = None,
    data: flags.Data = None,
    mode: Annotated[
        list[str] | None,
        typer.Option(help="score, generate, constrain (default: these), generate_strengthened; may be repeated."),
    ] = None,
    style: flags.Style = None,
    strength: flags.Strength = None,
    strength_by: flags.StrengthBy = None,
    like: Annotated[
        str | None, typer.Option(help="A run, or a ranker's .yaml, whose prompt and scorer a base model is given.")
    ] = None,
    max_lists: Annotated[int | None, typer.Option(min=1, help="Measure only so many lists.")] = None,
    lists_per_batch: Annotated[int | None, typer.Option(min=1, help="Lists in one forward pass.")] = None,
    max_tokens: flags.MaxTokens = None,
    seed: flags.Seed = None,
    skip_bad_rows: flags.SkipBadRows = False,
    engine: flags.Engine = "transformers",
    engine_url: flags.EngineUrl = None,
    tensor_parallel: flags.TensorParallel = None,
    plugin: flags.Plugins = None,
    processes: flags.Processes = None,
    launch: flags.Launch = None,
    trust_plugins: flags.TrustPlugins = False,
    options: flags.Options = None,
) -> None:
    """Measure a ranker on a task's evaluation lists; writes results.json, report.md, run files and generations."""
    from irpo import api

    if processes is not None or launch is not None:
        if launch not in (None, "ddp"):
            raise UserError(f"--launch {launch}: `evaluate` holds the whole model on each process, which is ddp")
        words.as_processes(processes, launch)
    words.load_modules(plugin)
    api.evaluate(
        model,
        out,
        task=words.task_of(task, options, data, seed),
        modes=mode or (),
        style=api.require_style(style),
        strength=strength,
        strength_by=strength_by,
        like=like,
        max_lists=max_lists,
        lists_per_batch=lists_per_batch,
        max_tokens=max_tokens,
        skip_bad_rows=skip_bad_rows,
        trust_plugins=trust_plugins,
        engine=words.engine_of(engine, engine_url, tensor_parallel),
    )


@app.command()
def compare(
    suite: Annotated[
        str, typer.Argument(metavar="SUITE.yaml", help="A suite's file, or a shipped one: suites/quick.yaml.")
    ],
    out: flags.Out,
    only: Annotated[
        list[str] | None, typer.Option(metavar="AXIS=NAME", help="task=, method= or model=; may be repeated.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would take, and train nothing.")] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Cells at a time.")] = 1,
    gpus: Annotated[str | None, typer.Option(help="One process on each of these: 0,1,2.")] = None,
    slurm: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Cells as Slurm jobs: partition=gpu; may be repeated.")
    ] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try again what failed before.")] = False,
    data: Annotated[
        Path | None, typer.Option(envvar="IRPO_DATA", help="A folder with one for each task, by the suite's names.")
    ] = None,
    run: flags.Runs = None,
    card: Annotated[
        str | None, typer.Option(help="Of a dry run: a GPU by name or its GiB; default: this machine.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Of a dry run: print JSON.")] = False,
) -> None:
    """Run what is missing of a suite (models x tasks x methods x seeds), write its report; exit code 1: some failed."""
    from irpo import api

    places = tuple(place.strip() for place in (gpus or "").split(",") if place.strip())
    if dry_run:
        found = api.foresee(suite, out, only=only or (), jobs=len(places) or jobs, card=card, data=data)
        if as_json:
            typer.echo(json.dumps(found.as_dict(), indent=2))
        else:
            found.show()
        return
    if as_json or card is not None:
        raise UserError("--json and --card are of a dry run; add --dry-run")
    made = api.compare(
        suite,
        out,
        only=only or (),
        jobs=jobs,
        gpus=places,
        slurm=words.pairs(slurm) if slurm else None,
        retry_failed=retry_failed,
        data=data,
        runs=dict(words.named_paths(run or ())),
    )
    if any(source.state == "failed" for source in made.sources):
        raise typer.Exit(1)


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Folders of one suite's results.")],
    out: Annotated[Path | None, typer.Option(help="The folder to write; default: the first of them.")] = None,
    run: flags.Runs = None,
) -> None:
    """Make a suite's report anew, from its results alone; also across folders of several machines."""
    from irpo import api

    made = api.report(folders, out or folders[0], runs=dict(words.named_paths(run or ())))
    typer.echo(made.found)
    typer.echo(f"written to {out or folders[0]}", err=True)


@app.command()
def rank(
    model: flags.Model,
    query: Annotated[str, typer.Argument(help="What the documents are ranked for.")],
    documents: Annotated[list[str] | None, typer.Argument(metavar="DOC...", help="Two or more documents.")] = None,
    file: Annotated[Path | None, typer.Option(help="A file of documents, one a line.")] = None,
    mode: Annotated[str, typer.Option(help="score, generate, generate_strengthened or constrain.")] = "score",
    style: flags.Style = None,
    strength: flags.Strength = None,
    strength_by: flags.StrengthBy = None,
    max_tokens: flags.MaxTokens = None,
    plugin: flags.Plugins = None,
    trust_plugins: flags.TrustPlugins = False,
    engine: flags.Engine = "transformers",
    engine_url: flags.EngineUrl = None,
    tensor_parallel: flags.TensorParallel = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Rank documents for a query."""
    from irpo import api

    if not query.strip():
        raise UserError("the query is empty; say what the documents are ranked for")
    texts = [*(documents or []), *(words.lines(file) if file else [])]
    if len(texts) < 2:
        raise UserError(f"{len(texts)} document(s) to rank; give at least 2, as arguments or by --file")
    if empty := [number for number, text in enumerate(texts, start=1) if not text.strip()]:
        raise UserError(f"document {empty[0]} of {len(texts)} is empty")
    words.load_modules(plugin)
    api.run_of(model, trust_plugins=trust_plugins)  # its plug-ins, a mode among them perhaps
    (chosen,), checked = api.require_modes([mode]), api.require_style(style)
    value, by = api.require_strength(strength, strength_by)
    by_what = api.require_engine(words.engine_of(engine, engine_url, tensor_parallel))
    api.require_model(model)
    from irpo import pipeline

    loaded = {"style": checked, "max_tokens": max_tokens, "strength": value, "strength_by": by, "engine": by_what}
    rows = pipeline.rank(model, query, texts, chosen, **loaded)
    if as_json:
        typer.echo(json.dumps([words.row_of(row) for row in rows], indent=2, ensure_ascii=False))
    else:
        shown = ("rank", "index", "text", "score", "probability", "note")
        words.show_table(None, words.telling([{name: getattr(row, name) for name in shown} for row in rows]))


@app.command()
def diff(
    before: Annotated[Path, typer.Argument(metavar="RUN_A", help="An evaluation's folder, or a run's that holds one.")],
    after: Annotated[Path, typer.Argument(metavar="RUN_B", help="Another one of the same lists.")],
    measure: Annotated[str | None, typer.Option(help="Which measure; the main one of RUN_A.")] = None,
    most: Annotated[int, typer.Option(min=0, help="Lists to show in each mode.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say which lists RUN_B ranks otherwise than RUN_A, by how much, and whether that is more than chance."""
    from irpo.evaluation.difference import difference

    found = difference(before, after, measure=measure, most=most)
    if as_json:
        typer.echo(json.dumps(found.as_dict(), indent=2, ensure_ascii=False))
        return
    for grid in found.grids():
        grid.show()


@app.command("list")
def list_(
    kind: Annotated[
        str | None,
        typer.Argument(help="objectives, metrics, scorers, tasks, modes, on_policy, rewards, samplers, engines."),
    ] = None,
    plugin: flags.Plugins = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the plug-ins and their options with defaults."""
    from irpo import catalogue

    words.load_modules(plugin)
    found = {name: catalogue.entries(name) for name in catalogue.kinds(kind)}
    if as_json:
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    for name, rows in found.items():
        words.show_table(name, rows)


@app.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Check versions, the device, whether 4-bit really works here, and the attention implementations."""
    from irpo.doctor import examine

    checks = [dataclasses.asdict(check) for check in examine()]
    if as_json:
        typer.echo(json.dumps(checks, indent=2))
    else:
        words.show_table(None, checks)
    if any(check["state"] == "broken" for check in checks):
        raise typer.Exit(1)


@app.command()
def quickstart(
    out: flags.Out = Path("runs/quickstart"),
    config: Annotated[Path | None, typer.Option(help="Another configuration than configs/quickstart.yaml.")] = None,
) -> None:
    """Fine-tune the embedded model by five methods on its synthetic world, and compare them: a table and a report."""
    from irpo.config.checks import require_out
    from irpo.config.layers import find_config

    require_out(out)
    if config is not None:
        find_config(config)
    from irpo.quickstart import run

    run(out, config)
