"""Commands that share a ranker: `export`, `push`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from irpo import completing, flags, words
from irpo.types import UserError

License = Annotated[str | None, typer.Option("--license", help="Of the weights, for the card: apache-2.0, llama3.2.")]


def export(
    model: Annotated[str, typer.Option(help="A run's folder.", autocompletion=completing.models)],
    out: flags.Out,
    merge: Annotated[bool, typer.Option("--merge", help="Merge the adapter: weights that any library loads.")] = False,
    dtype: Annotated[str | None, typer.Option(help="Of merged weights: bfloat16 (default), float16, float32.")] = None,
    strength: flags.Strength = None,
    strength_by: flags.StrengthBy = None,
    lists: Annotated[
        int | None, typer.Option(min=0, help="Held-out lists to re-score what was merged on: 50 (default); 0: none.")
    ] = None,
    license: License = None,
    plugin: flags.Plugins = None,
    trust_plugins: flags.TrustPlugins = False,
) -> None:
    """Write a run as a folder of its own that ranks as the run does; with --merge any library loads its weights."""
    from irpo import api
    from irpo.config.checks import require_out

    if dtype not in (None, "bfloat16", "float16", "float32"):
        raise UserError(f"--dtype {dtype!r}: choose from bfloat16, float16, float32")
    words.load_modules(plugin)
    value, by = api.require_strength(strength, strength_by)
    if Path(model).is_dir():  # any other name is refused without asking the hub for it
        api.run_of(model, trust_plugins=trust_plugins)
    require_out(out)
    from irpo.export.merging import plan_of
    from irpo.export.writing import export as write
    from irpo.ranking.choosing import spelt

    plan = plan_of(model, merge=merge, dtype=dtype or "bfloat16", strength=value, by=by)
    given = {"--dtype": dtype, "--lists": lists}
    if not plan.whole and (idle := [flag for flag, value in given.items() if value is not None]):
        raise UserError(f"{idle[0]} is of merged weights, and the adapter leaves as it is: add --merge")
    done = write(plan, out, lists=50 if lists is None else lists, licence=license)
    if done.by_strength is not None:
        change = f"strength {spelt(plan.strength)} in the place of the run's {spelt(plan.was)}"
        typer.echo(f"{change}, {done.by_strength}", err=True)
    if done.difference is not None:
        typer.echo(f"merged at strength {spelt(plan.strength)}, {done.difference}", err=True)
    typer.echo(f"written to {out}: {', '.join(done.files)}", err=True)


def push(
    what: Annotated[str, typer.Argument(metavar="RUN_OR_DIR", help="A run's folder, or one that `export` wrote.")],
    repo_id: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="The hub's repository; made where it is not.")],
    private: Annotated[
        bool, typer.Option("--private", help="Make it private; one that is there and public is refused.")
    ] = False,
    revision: Annotated[str | None, typer.Option(help="A branch, made where it is not; main if not given.")] = None,
    license: License = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be uploaded, and upload nothing.")] = False,
    plugin: flags.Plugins = None,
    trust_plugins: flags.TrustPlugins = False,
) -> None:
    """Upload a ranker to the hub with its model card: no data, no path of this machine, no token."""
    from irpo import api

    words.load_modules(plugin)
    if Path(what).is_dir():
        api.run_of(what, trust_plugins=trust_plugins)
    from irpo.export.pushing import push as upload

    done = upload(what, repo_id, private=private, revision=revision, licence=license, dry_run=dry_run)
    words.show_table(None, [{"file": name, "bytes": size} for name, size in done.files.items()])
    if done.url is None:
        typer.echo(f"nothing was uploaded; without --dry-run these would go to {repo_id}", err=True)
    else:
        if done.removed:
            typer.echo(f"removed there, of an earlier export: {', '.join(done.removed)}", err=True)
        typer.echo(f'{done.url}\nirpo rank --model {repo_id} "query" "first document" "second document"', err=True)
