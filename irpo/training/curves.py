"""`curves.svg` of a run's folder: what its log says, as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from irpo.config.schema import RunConfig
from irpo.drawing import Chart, Points, write_charts
from irpo.progress import BEST
from irpo.runs import log_lines

CURVES = "curves.svg"
UPDATE = "update"
_SPLITS = {"validation": "eval", "training": "train"}
Line = Mapping[str, Any]  # of log.jsonl


def title_of(config: RunConfig) -> str:
    """What the picture of a run is called."""
    return f"{config.method.title} on {config.task['name']}, {Path(config.model.name).name}"


def draw_log(folder: Path, title: str) -> None:
    """Draw the folder's log as far as it goes, over the picture of an earlier look; nothing where it says nothing."""
    write_charts(folder / CURVES, title, charts(log_lines(folder)))


def charts(lines: Sequence[Line]) -> list[Chart]:
    """Loss, measure, learning rate, and the shares of the loss's terms; where it has one, the margin of rewards."""
    measured = {f"{which} lists": _points(lines, f"{key}_{BEST}") for which, key in _SPLITS.items()}
    margin = {"of relevant above other candidates": _points(lines, "reward_margin")}
    last = shares_chart(lines) if _terms(lines) else Chart("Margin of rewards, in nats", UPDATE, margin)
    return [loss_chart(lines), Chart(BEST, UPDATE, measured), rate_chart(lines), last]


def loss_chart(lines: Sequence[Line]) -> Chart:
    """The loss, and its terms where it has several."""
    return Chart("Loss of a list", UPDATE, {name: _points(lines, name) for name in ("loss", *_terms(lines))})


def rate_chart(lines: Sequence[Line]) -> Chart:
    """The learning rate."""
    return Chart("Learning rate", UPDATE, {"learning rate": _points(lines, "learning_rate")})


def shares_chart(lines: Sequence[Line]) -> Chart:
    """Which part each term has of the loss, and of the gradient."""
    kinds = {"share": "loss", "gradient_share": "gradient"}
    curves = {f"{name}, {of}": _points(lines, f"{name}_{key}") for key, of in kinds.items() for name in _terms(lines)}
    return Chart("Share of the terms", UPDATE, curves, (0.0, 1.0))


def _terms(lines: Sequence[Line]) -> list[str]:
    """The terms of the loss by name, where it has several."""
    keys = dict.fromkeys(key for line in lines for key in line if key.endswith("_share"))
    return [key.removesuffix("_share") for key in keys if not key.endswith("_gradient_share")]


def _points(lines: Sequence[Line], key: str) -> Points:
    return [(line["update"], line[key]) for line in lines if key in line]
