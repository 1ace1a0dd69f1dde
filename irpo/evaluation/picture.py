"""Pictures of results: files that are whole or not there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from irpo.progress import BEST

if TYPE_CHECKING:
    from irpo.evaluation.contest import Contest

COLOURS = ("#1b6ca8", "#d1495b", "#3a7d44", "#8a5a9e", "#b8860b", "#555555")
_WITHOUT = "#888888"  # what was not trained
Curve = Sequence[tuple[int, float]]  # update and measure


def save(figure: Any, path: Path) -> None:
    """Write a figure as PNG."""
    work = path.with_name(f".{path.name}")
    figure.savefig(work, format="png", dpi=120)
    work.replace(path)


def draw(contest: Contest, curves: Mapping[str, Curve], path: Path) -> None:
    """The measure with its intervals on the left, how validation lists saw it grow on the right."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1))
    colours = dict(zip((row.name for row in contest.trained), COLOURS, strict=False))
    _intervals(left, contest, colours)
    _learning(right, curves, colours)
    save(figure, path)


def _intervals(axes: Any, contest: Contest, colours: Mapping[str, str]) -> None:
    rows = contest.rows[::-1]
    for at, row in enumerate(rows):
        colour = colours.get(row.name, _WITHOUT)
        axes.hlines(at, *row.interval, color=colour, linewidth=2.5)
        axes.plot(row.value, at, "o", color=colour, markersize=7)
        axes.annotate(f"{row.value:.3f}", (row.value, at), (0, 7), textcoords="offset points", ha="center", fontsize=8)
    base = next(row.value for row in rows if row.name == contest.base)
    axes.axvline(base, color=_WITHOUT, linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    axes.set_ylim(-0.6, len(rows) - 0.3)
    axes.set_title(f"{contest.lists} evaluation lists", fontsize=10)
    axes.set_xlabel(f"{contest.measure} by {contest.mode}, 95 % interval over {contest.units} {contest.unit}")
    axes.grid(axis="x", alpha=0.3)


def _learning(axes: Any, curves: Mapping[str, Curve], colours: Mapping[str, str]) -> None:
    for name, points in curves.items():
        if points:
            axes.plot(*zip(*points, strict=True), label=name, color=colours.get(name), marker="o", markersize=4)
    axes.set_title("validation lists, while training", fontsize=10)
    axes.set(xlabel="update (0: before training)", ylabel=f"{BEST} by score")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    if any(curves.values()):
        axes.legend(fontsize="small", loc="lower right", frameon=False)
