"""Commands that measure: `evaluate`, `compare`, `report`, `diff`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from irpo import completing, flags, words
from irpo.types import UserError


def evaluate(
    model: flags.Model,
    out: flags.Out,
    task: Annotated[
        str | None,
        typer.Option(help="The task; the run's own where --model is a run.", autocompletion=completing.tasks),
    ] = None,
    data: flags.Data = None,
    mode: Annotated[
        list[str] | None,
        typer.Option(
            help=f"{flags.MODE} May be repeated; score, generate, constrain if not given.",
            autocompletion=completing.modes,
        ),
    ] = None,
    style: flags.Style = None,
    strength: flags.Strength = None,
    strength_by: flags.StrengthBy = None,
    like: Annotated[
        str | None,
        typer.Option(
            help="A run, or a ranker's .yaml, whose prompt and scorer a base model is given.",
            autocompletion=completing.models,
        ),
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
        modes=[words.mode_of(text) for text in mode or ()],
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


def compare(
    suite: Annotated[
        str,
        typer.Argument(
            metavar="SUITE.yaml",
            help="A suite's file, or a shipped one: suites/quick.yaml.",
            autocompletion=completing.suites,
        ),
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
