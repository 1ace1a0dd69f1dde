"""What an on-policy run's rounds came to: one JSON line a round, and `curves.svg`, the picture that every run has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from irpo.drawing import Chart, Points, write_charts
from irpo.evaluation.results import row_name
from irpo.files import atomic_file, json_line
from irpo.runs import log_lines
from irpo.runs.rounds import round_folder
from irpo.training.curves import CURVES, Line, loss_chart, rate_chart, shares_chart

ROUNDS = "rounds.jsonl"
_ROUND = "round (0: before training)"
_AT = (1, 5, 10)  # of NDCG

State = Mapping[str, Any]  # a round's state.json


def write_curves(folder: Path, states: Sequence[State], title: str) -> None:
    """`rounds.jsonl` and `curves.svg` of all rounds so far, the start among them as round 0."""
    with atomic_file(folder / ROUNDS) as file:
        file.writelines(json_line(state) + "\n" for state in states)
    write_charts(folder / CURVES, title, charts(states, _updates(folder, len(states))))


def charts(states: Sequence[State], lines: Sequence[Line]) -> list[Chart]:
    """NDCG and shares (coverage, exact permutations, valid samples, Pass@N) by round; loss and its terms by update."""
    rows = [state["measures"] for state in states]
    modes = (row_name("generate", "strict"), row_name("score"))
    named = {f"{mode}, @{k}": f"{mode} NDCG@{k}" for mode in modes for k in _AT}
    shares = [n for n in dict.fromkeys(n for row in rows for n in row) if "NDCG" not in n and n != "mean_reward"]
    valid = [_valid(state.get("drawn", {})) for state in states]
    kept = {"lists per drawn answer": _points(valid, "kept")}
    return [
        Chart("NDCG on validation lists", _ROUND, {title: _points(rows, key) for title, key in named.items()}, (0, 1)),
        Chart("Share", _ROUND, {name: _points(rows, name) for name in shares} | kept, (0, 1)),
        loss_chart(lines),
        terms if (terms := shares_chart(lines)).shown else rate_chart(lines),
    ]


def _valid(drawn: Mapping[str, Any]) -> Mapping[str, float]:
    """How many lists came of an answer that was drawn."""
    return {"kept": drawn["kept"] / drawn["answers"]} if "kept" in drawn and drawn.get("answers") else {}


def _points(rows: Sequence[Mapping[str, Any]], name: str) -> Points:
    return [(at, row[name]) for at, row in enumerate(rows) if name in row]


def _updates(folder: Path, rounds: int) -> list[Line]:
    """The logs of all rounds, their updates counted on from round to round."""
    found: list[Line] = []
    for number in range(rounds):
        before = found[-1]["update"] if found else 0
        own = log_lines(round_folder(folder, number))
        found += [{**line, "update": before + line["update"]} for line in own]
    return found
