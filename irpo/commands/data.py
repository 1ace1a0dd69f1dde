"""Commands on data: `prepare`, `mine`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from irpo import completing, flags, words
from irpo.types import UserError, printable


def prepare(
    task: flags.Task,
    out: Annotated[Path | None, typer.Option(help="The folder to write; of --check, for its picture and JSON.")] = None,
    data: flags.Data = None,
    seed: flags.Seed = None,
    skip_bad_rows: flags.SkipBadRows = False,
    format: flags.Format = "jsonl",
    shard_lists: flags.ShardLists = 10_000,
    processes: flags.Workers = 1,
    check: Annotated[
        bool,
        typer.Option("--check", help="Write no lists: say what is wrong and what they are like; exit code 1: wrong."),
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(
            help="Of --check: whose tokens count (`embedded`, models/x.yaml, a run, a hub id).",
            autocompletion=completing.models,
        ),
    ] = None,
    style: flags.Style = None,
    max_tokens: flags.MaxTokens = None,
    plugin: flags.Plugins = None,
    options: flags.Options = None,
) -> None:
    """Turn a dataset's own files into candidate lists: train.jsonl, eval.jsonl (or Parquet shards) and card.json."""
    from irpo import api
    from irpo.tasks import preparing

    words.load_modules(plugin)
    spec = words.task_of(task, options, data, seed)
    if check:
        _check(spec, out, model=model, style=style, max_tokens=max_tokens, skip_bad_rows=skip_bad_rows)
        return
    if (model, style, max_tokens) != (None, None, None):
        raise UserError("--model, --style and --max-tokens are of --check; lists are the same for every model")
    if out is None:
        raise UserError("--out is needed: the folder to write; or --check, which writes no lists")
    layout: dict[str, Any] = {"format": format, "shard_lists": shard_lists, "processes": processes}
    card = api.prepare(spec, out, skip_bad_rows=skip_bad_rows, **layout)
    typer.echo(printable(preparing.summary(card)))
    typer.echo(f"written to {printable(str(out))}", err=True)


def mine(
    out: flags.Out,
    task: Annotated[
        str | None,
        typer.Option(
            help="The task whose lists are mined for; see `irpo list tasks`.", autocompletion=completing.tasks
        ),
    ] = None,
    data: flags.Data = None,
    pairs: Annotated[
        str | None, typer.Option(help="In place of a task: rows of `query` and `positive`, a file or a folder.")
    ] = None,
    by: Annotated[str | None, typer.Option(help="bm25 (the default) or dense.")] = None,
    model: Annotated[str | None, typer.Option(help="Of dense: a SentenceTransformer's folder or hub id.")] = None,
    negatives: Annotated[int | None, typer.Option(help="Of a list, at most; 20.")] = None,
    margin: Annotated[
        str | None, typer.Option(help="What scores above (1 - margin) of the relevant text is left out; 0.05; or off.")
    ] = None,
    run: Annotated[Path | None, typer.Option(help="In place of a search: a first stage's TREC run.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Of --run: documents of a list; 100.")] = None,
    corpus: Annotated[
        Path | None, typer.Option(help="Rows of `id` and `text`; default: the split's candidates.")
    ] = None,
    seed: flags.Seed = None,
    skip_bad_rows: flags.SkipBadRows = False,
    plugin: flags.Plugins = None,
    options: flags.Options = None,
) -> None:
    """Give lists hard negatives, from BM25, embeddings or a first stage's run: a folder that `train` takes."""
    from irpo import api
    from irpo.tasks import preparing

    words.load_modules(plugin)
    search = {"by": by, "model": model, "negatives": negatives, "top_k": top_k, "seed": seed}
    given: dict[str, Any] = {name: value for name, value in search.items() if value is not None}
    if margin is not None:
        given["margin"] = None if margin == "off" else words.number(margin, "--margin", "a share below 1, or off")
    if corpus is not None:
        given["corpus"] = str(corpus)
    if pairs is None:
        spec = words.task_of(task, options, data, None)
    else:
        spec, given = words.task_of(task, None, data, None), given | words.pairs(options)
    card = api.mine(out, task=spec, pairs=pairs, run=run, skip_bad_rows=skip_bad_rows, **given)
    typer.echo(printable(preparing.summary(card)))
    typer.echo(f"written to {printable(str(out))}", err=True)


def _check(spec: dict[str, Any], out: Path | None, **options: Any) -> None:
    from irpo import api

    found = api.check(spec, out, **options)
    from irpo.checking import show

    show(found)
    if out is not None:
        typer.echo(f"written to {printable(str(out))}", err=True)
    if found.wrong:
        raise typer.Exit(1)
