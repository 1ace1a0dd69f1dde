"""An estimate as a table for a terminal."""

from __future__ import annotations

from rich.table import Column, Table

from irpo.estimate.cards import GIB
from irpo.estimate.ledger import KEPT, LEARNING, PASSING, WEIGHTS
from irpo.estimate.plan import Estimate


def table(found: Estimate) -> Table:
    """The estimate for a terminal."""
    usage = found.usage
    title = f"Estimate: {found.model} on {found.card.name}"
    columns = ("", Column(overflow="fold"))
    grid = Table(*columns, title=title, title_justify="left", title_style="bold", show_header=False)
    learn = f"{usage.trainable:,} learn ({usage.trainable / usage.parameters:.2%})"
    grid.add_row("parameters", f"{usage.parameters:,}, of which {learn}")
    grid.add_row("lists", found.lists)
    update = f"{found.lists_per_update} lists, {found.tokens_per_update:,} tokens, {found.batches_per_update} batch(es)"
    if found.processes > 1:
        update += " of each process"
        grid.add_row("processes", f"{found.processes} by {found.launch}; memory is of each")
    grid.add_row("an update", update, end_section=True)
    for name, size in _parts(found):
        grid.add_row(name, f"{_size(size):>10}")
    verdict = "[bold green]fits[/]" if found.fits else "[bold red]does not fit[/]"
    grid.add_row("[bold]peak memory[/]", f"[bold]{_size(found.total):>10}[/] of {found.card.gib:.1f} GiB: {verdict}")
    if not found.fits:
        grid.add_row("to change", ", or\n".join(found.advice))
    grid.add_section()
    grid.add_row("time (rough)", _time(found))
    for note in found.notes:
        grid.add_row("note", note)
    return grid


def _parts(found: Estimate) -> list[tuple[str, int]]:
    lora, parts = found.usage.trainable < found.usage.parameters, found.usage.bytes
    return [
        ("weights", parts[WEIGHTS]),
        ("adapter, gradients, AdamW" if lora else "gradients, AdamW", parts[LEARNING]),
        ("kept for the backward pass", parts[KEPT]),
        ("passing, logits among it", parts[PASSING]),
        ("driver, fragments (assumed)" if found.card.gpu else "Python, libraries (assumed)", found.overhead),
    ]


def _time(found: Estimate) -> str:
    if found.seconds_per_update is None:
        return found.speed
    tokens = found.tokens_per_update / found.seconds_per_update
    return f"{found.seconds_per_update:.2g} s an update, {tokens:,.0f} tokens/s ({found.speed})"


def _size(size: int) -> str:
    return f"{size / GIB:.2f} GiB" if size >= GIB / 10 else f"{size / 2**20:.1f} MiB"
