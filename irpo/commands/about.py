"""Commands about irpo itself, and the first ones that a user types: `guide`, `init`, `list`, `doctor`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from irpo import completing, flags, words


def list_(
    kind: Annotated[
        str | None,
        typer.Argument(
            help="objectives, metrics, scorers, tasks, modes, on_policy, rewards, samplers, engines.",
            autocompletion=completing.kinds,
        ),
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


def guide(
    topic: Annotated[
        str | None, typer.Argument(help="Which; without it, the topics.", autocompletion=completing.guides)
    ] = None,
) -> None:
    """Show a guide: own data to a served ranker, the paper's grid, choosing a method, reading a report, ..."""
    from irpo import guiding

    guiding.show(guiding.guide(topic)) if topic else typer.echo(guiding.listing())


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that is empty, or not there yet.")],
) -> None:
    """Begin a project of your own: a commented configuration, twenty example lists and a Makefile."""
    from irpo import starting

    starting.begin(folder)
    typer.echo(starting.told(folder))


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
