"""Learning curves: one JSON line a round, and the same as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from irpo.evaluation.results import row_name
from irpo.files import atomic_file, atomic_path, json_line

ROUNDS = "rounds.jsonl"
CURVES = "curves.png"
_COLOURS = ("#1b6ca8", "#d1495b", "#3a7d44", "#8a5a9e", "#b8860b", "#555555")

State = Mapping[str, Any]  # a round's state.json


def write_curves(folder: Path, states: Sequence[State], title: str) -> None:
    """`rounds.jsonl` and `curves.png` of all rounds so far, the start among them as round 0."""
    with atomic_file(folder / ROUNDS) as file:
        file.writelines(json_line(state) + "\n" for state in states)
    draw(states, title, folder / CURVES)


def draw(states: Sequence[State], title: str, path: Path) -> None:
    """NDCG by round on the left, shares (coverage, exact permutations, valid samples, Pass@N) on the right."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    rows = [state["measures"] for state in states]
    for row, style in ((row_name("generate", "strict"), "-"), (row_name("score"), "--")):
        for colour, k in zip(_COLOURS, (1, 5, 10), strict=False):
            _line(left, rows, f"{row} NDCG@{k}", {"color": colour, "linestyle": style})
    shares = [name for name in dict.fromkeys(n for row in rows for n in row) if "NDCG" not in name]
    for colour, name in zip(_COLOURS, [n for n in shares if n != "mean_reward"], strict=False):
        _line(right, rows, name, {"color": colour})
    valid = [
        {"lists per drawn answer": s["kept"] / s["answers"]} if "kept" in s and s.get("answers") else {}
        for s in _drawn(states)
    ]
    _line(right, valid, "lists per drawn answer", {"color": "black", "linestyle": ":"})
    for axes, what in ((left, "NDCG on validation lists"), (right, "share")):
        axes.set(xlabel="round (0: before training)", ylabel=what, ylim=(-0.02, 1.02))
        axes.set_xticks(_ticks(len(states)))
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[1]:
            axes.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, frameon=False)
    figure.suptitle(title)
    with atomic_path(path) as work:
        figure.savefig(work, format="png", dpi=120)


def _drawn(states: Sequence[State]) -> list[Mapping[str, Any]]:
    return [state.get("drawn", {}) for state in states]


def _ticks(rounds: int) -> list[int]:
    """At most eleven round numbers.

    >>> _ticks(4)
    [0, 1, 2, 3]
    """
    return list(range(0, rounds, max(1, -(-rounds // 11))))


def _line(axes: Any, rows: Sequence[Mapping[str, Any]], name: str, look: Mapping[str, Any]) -> None:
    points = [(at, row[name]) for at, row in enumerate(rows) if name in row]
    if points:
        axes.plot(*zip(*points, strict=True), label=name, marker="o", markersize=3.5, **look)
