"""Commands that use a ranker: `rank`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from irpo import completing, flags, words
from irpo.types import UserError, require_text


def rank(
    model: flags.Model,
    query: Annotated[str, typer.Argument(help="What the documents are ranked for.")],
    documents: Annotated[list[str] | None, typer.Argument(metavar="DOC...", help="The documents.")] = None,
    file: Annotated[
        Path | None,
        typer.Option(help='A file of documents, one a line, or of a .jsonl one {"text": ..., "id": ...} a line.'),
    ] = None,
    top_n: Annotated[int | None, typer.Option(min=1, help="Show the best so many.")] = None,
    mode: Annotated[str, typer.Option(help=flags.MODE, autocompletion=completing.modes)] = "score",
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
    require_text("the query", query)
    given = words.documents(documents, file)
    if not given:
        raise UserError("there is no document to rank; give some as arguments or by --file")
    words.load_modules(plugin)
    api.run_of(model, trust_plugins=trust_plugins)  # its plug-ins, a mode among them perhaps
    (chosen,), checked = api.require_modes([words.mode_of(mode)]), api.require_style(style)
    value, by = api.require_strength(strength, strength_by)
    by_what = api.require_engine(words.engine_of(engine, engine_url, tensor_parallel))
    api.require_model(model)
    from irpo import pipeline

    loaded = {"style": checked, "max_tokens": max_tokens, "strength": value, "strength_by": by, "engine": by_what}
    rows = pipeline.rank(model, query, given, chosen, **loaded)[:top_n]
    if as_json:
        typer.echo(json.dumps([words.row_of(row) for row in rows], indent=2, ensure_ascii=False))
    else:
        shown = ("rank", "index", "id", "text", "score", "probability", "note")
        words.show_table(None, words.telling([{name: getattr(row, name) for name in shown} for row in rows]))
