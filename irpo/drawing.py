"""Drawings as SVG whose words are words and whose bytes follow from the data: no date, no version, no chance."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from irpo.files import atomic_file

SERIES = ("#0a5ea8", "#b8400e", "#00724f", "#8b3f96", "#7d6000", "#a82e5f", "#00707c", "#545454")
INK, MUTED, RULE = "#1a1a1b", "#57585a", "#d6d7d8"
# Lengths without a common factor with that of SERIES, so that hundreds of series still differ.
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), (0, (3, 1.5)))
_MANY = 16  # points, above which not each has a marker

_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "irpo",
    "text.parse_math": False,  # a name may hold two dollar signs
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.edgecolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "grid.color": RULE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.formatter.limits": (-4, 5),  # powers of ten; beyond them a factor stands above the axis
}


@contextmanager
def drawing(size: tuple[float, float]) -> Iterator[Any]:
    """An empty drawing of a size in inches, under our settings."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_SETTINGS), warnings.catch_warnings():
        # The viewer's fonts show the words; that matplotlib's own lacks a letter matters to its measuring alone.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield Figure(figsize=size)


def saved(drawn: Any, *, transparent: bool = True) -> str:
    """The drawing as SVG."""
    out = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))  # no time, no version
    drawn.savefig(out, format="svg", transparent=transparent, metadata=nothing)
    return out.getvalue()


def stroke(number: int) -> dict[str, Any]:
    """How the series of a number looks: it differs by marker and dashes as well as by colour."""
    return {
        "color": SERIES[number % len(SERIES)],
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": DASHES[number % len(DASHES)],
        "linewidth": 1.3,
        "markersize": 4.2,
    }


Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Chart:
    """Curves over one axis, by name; those without a point are not drawn. `within` are the limits of y."""

    title: str
    x: str
    curves: Mapping[str, Points]
    within: tuple[float, float] | None = None

    @property
    def shown(self) -> dict[str, Points]:
        """The curves that have points."""
        return {name: points for name, points in self.curves.items() if points}


def write_charts(path: Path, title: str, charts: Sequence[Chart]) -> None:
    """The charts that show anything as one picture, two in a row; no file where none does.

    Those of one x have one range of it.
    """
    charts = [chart for chart in charts if chart.shown]
    if not charts:
        return
    last: dict[str, float] = {}
    for chart in charts:
        last[chart.x] = max(last.get(chart.x, 0), *(x for points in chart.shown.values() for x, _ in points))
    columns, rows = min(2, len(charts)), -(-len(charts) // 2)
    height = 0.3 + 3.4 * rows
    with drawing((4.6 * columns, height)) as whole:
        for number, chart in enumerate(charts):
            _chart(whole.add_subplot(rows, columns, number + 1), chart, last[chart.x])
        # Fixed margins, with room for a legend below: finding them takes longer than drawing does.
        edges = {"left": 0.075 if columns == 2 else 0.14, "right": 0.985, "bottom": 1.05 / height, "wspace": 0.2}
        whole.subplots_adjust(**edges, top=1 - 0.7 / height, hspace=0.68)
        whole.suptitle(title, x=0.012, y=1 - 0.1 / height, ha="left", va="top", fontsize=11)
        text = saved(whole, transparent=False)
    with atomic_file(path) as file:
        file.write(text)


def _chart(axes: Any, chart: Chart, last: float) -> None:
    for number, (name, points) in enumerate(chart.shown.items()):
        every = max(1, len(points) // (_MANY // 2)) if len(points) > _MANY else 1
        axes.plot(*zip(*points, strict=True), label=name, markevery=every, **stroke(number))
    axes.set(xlabel=chart.x, title=chart.title, xlim=(-0.02 * last, 1.02 * last) if last else None)
    if chart.within is not None:
        low, high = chart.within
        axes.set_ylim(low - 0.03 * (high - low), high + 0.03 * (high - low))
    axes.grid(linewidth=0.6)
    axes.set_axisbelow(True)
    axes.xaxis.get_major_locator().set_params(integer=True)
    if len(chart.shown) > 1:
        below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.19), "ncols": 2, "columnspacing": 1.6}
        axes.legend(fontsize=8, frameon=False, handlelength=2.6, **below)
