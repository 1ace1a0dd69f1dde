"""Commands that train, and what they would take: `train`, `estimate`, `quickstart`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from irpo import completing, flags, words


def train(
    layers: flags.Layers,
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


def estimate(
    layers: flags.Layers,
    card: Annotated[str | None, typer.Option(help="A GPU by name or its GiB; default: this machine.")] = None,
    processes: flags.Processes = None,
    launch: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Theirs: ddp, fsdp2, fsdp2_qlora.", autocompletion=completing.launches),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    trust_plugins: flags.TrustPlugins = False,
) -> None:
    """Say what `train` would take in memory and time, and whether a card has it; loads no weights."""
    from irpo import api
    from irpo.estimate.cards import card_of
    from irpo.estimate.shapes import published
    from irpo.estimate.sharing import sharing_of
    from irpo.scoring.names import require_there

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
