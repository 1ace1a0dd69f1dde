"""The data of the plots, those that there is something for; the text of each says its finding in numbers."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from irpo.compare.page import Figure, Panel, Series
from irpo.compare.results import Result
from irpo.compare.statistics.rankers import Array, Compared, main_row
from irpo.compare.statistics.saying import plural
from irpo.compare.writing.wording import number

T = TypeVar("T")
Point = tuple[float | str, float, float | None, float | None]
Points = Sequence[tuple[float | str, float]]  # x, y of one seed
_TOLD = 6  # panels that a text alternative goes through
_SEEDS = "Lines are means over seeds, bars their lowest and highest."


def figures(compared: Compared) -> list[Figure]:
    """All that there is data for."""
    made = [
        _coverage(compared),
        _curves(compared, "strength", "{} by strength", "strength of the learned preferences", _by_strength),
        _curves(compared, "learning", "{} on validation lists while learning", "update", _learning),
        _curves(compared, "policy", "{} by rounds on policy", "answers drawn", _rounds),
        _positions(compared),
        _curves(compared, "margins", "Reward margin by update", "update", _margins, y="nats"),
        _cost(compared),
    ]
    return [made_one for made_one in made if made_one is not None]


def _by_strength(compared: Compared, result: Result) -> Points:
    """Strengths are numbers, but words for all where one is no number ("reward")."""
    words = not all(_is_number(name) for r in compared.of_kind("run") for name in r.by_strength)
    names = sorted(result.by_strength, key=lambda name: float(name) if _is_number(name) else math.inf)
    return [(name if words else float(name), result.by_strength[name]) for name in names]


def _learning(compared: Compared, result: Result) -> Points:
    return [(float(update), float(value)) for update, value in result.validation.get("log", ())]


def _rounds(compared: Compared, result: Result) -> Points:
    measure = compared.frame.main
    return [(float(r.get("answers", r["round"])), float(r[measure])) for r in result.rounds if measure in r]


def _margins(compared: Compared, result: Result) -> Points:
    return [(float(update), value) for update, value in result.margins]


def _curves(
    compared: Compared,
    name: str,
    title: str,
    x: str,
    points: Callable[[Compared, Result], Points],
    *,
    y: str = "",
) -> Figure | None:
    """A panel for each model on a task, a line for each method."""
    lines: dict[tuple[str, str], dict[str, list[Points]]] = {}
    for r in compared.of_kind("run"):
        if found := points(compared, r):
            lines.setdefault((r.task, r.model), {}).setdefault(r.method, []).append(found)
    panels = [
        Panel(_title(compared, *place), tuple(Series(method, _over_seeds(seeds)) for method, seeds in methods.items()))
        for place, methods in _in_order(compared, lines)
    ]
    measure = compared.frame.main
    return _figure((name, title.format(measure)), "line", x, y or measure, panels, (_SEEDS,))


def _over_seeds(seeds: Sequence[Points]) -> tuple[Point, ...]:
    """Mean, lowest and highest at every x that a seed has, in the order of the first that has it."""
    values: dict[float | str, list[float]] = {}
    for points in seeds:
        for x, y in points:
            values.setdefault(x, []).append(y)
    xs: list[float | str] = list(values)
    if all(isinstance(x, float) for x in xs):
        xs.sort(key=float)
    return tuple((x, statistics.fmean(values[x]), *_span(values[x])) for x in xs)


def _span(values: Sequence[float]) -> tuple[float | None, float | None]:
    return (min(values), max(values)) if len(values) > 1 else (None, None)


def _coverage(compared: Compared) -> Figure | None:
    """What free answers name, and what that is worth."""
    return _scatter(compared, ("coverage", "{} against coverage of free answers"), "coverage", _covered)


def _covered(compared: Compared, result: Result) -> tuple[float, float] | None:
    row, measure = result.row("generate", compared.frame.strengths[0], "strict"), compared.frame.main
    if row is None or measure not in row.measures:
        return None
    return row.coverage, float(row.of(measure).mean())


def _cost(compared: Compared) -> Figure | None:
    return _scatter(compared, ("cost", "{} against time"), "seconds", _spent)


def _spent(compared: Compared, result: Result) -> tuple[float, float] | None:
    row = main_row(result, compared.frame, compared.frame.strengths[0])
    seconds, measure = result.cost.get("seconds"), compared.frame.main
    if seconds is None or row is None or measure not in row.measures:
        return None
    return seconds, float(row.of(measure).mean())


def _scatter(
    compared: Compared,
    name: tuple[str, str],
    x: str,
    point: Callable[[Compared, Result], tuple[float, float] | None],
) -> Figure | None:
    """A panel for each model on a task, a point for each method: the mean over seeds."""
    points: dict[tuple[str, str], dict[str, list[tuple[float, float]]]] = {}
    for r in compared.of_kind("run", "untrained"):
        if (found := point(compared, r)) is not None:
            points.setdefault((r.task, r.model), {}).setdefault(r.method, []).append(found)
    panels = []
    for place, methods in _in_order(compared, points):
        series = []
        for method, seeds in methods.items():
            xs, ys = zip(*seeds, strict=True)
            series.append(Series(method, ((statistics.fmean(xs), statistics.fmean(ys), *_span(ys)),)))
        panels.append(Panel(_title(compared, *place), tuple(series)))
    named = name[0], name[1].format(compared.frame.main)
    return _figure(named, "scatter", x, compared.frame.main, panels, ("Points are means over seeds.",))


def _positions(compared: Compared) -> Figure | None:
    """The main measure by where the best candidate stands in the prompt, a line for each method."""
    places = {task: np.array([_best_place(x.relevance) for x in lists]) for task, lists in compared.lists.items()}
    lines: dict[tuple[str, str], dict[str, tuple[Point, ...]]] = {}
    for ranker in compared.rankers:
        for task, ranked in ranker.by_task.items():
            measure = compared.frame.main
            values = [x.row.of(measure) for x in ranked if measure in x.row.measures]
            if ranker.kind in ("trained", "untrained") and values and ranker.strength == compared.frame.strengths[0]:
                points = _by_place(values, places[task])
                lines.setdefault((task, ranker.model), {})[ranker.method] = points
    panels = [
        Panel(_title(compared, *place), tuple(Series(method, points) for method, points in methods.items()))
        for place, methods in _in_order(compared, lines)
    ]
    main = compared.frame.main
    named = "position", f"{main} by position of the best candidate in the prompt"
    return _figure(named, "line", "position in the prompt", main, panels, (_SEEDS,))


def _best_place(relevance: Sequence[float]) -> int:
    """1-based; 0 where no candidate is relevant."""
    best = max(relevance, default=0.0)
    return relevance.index(best) + 1 if best > 0 else 0


def _by_place(values: Sequence[Array], places: NDArray[Any]) -> tuple[Point, ...]:
    found = []
    for place in sorted(set(places[places > 0].tolist())):
        seeds = [float(v[places[: len(v)] == place].mean()) for v in values if (places[: len(v)] == place).any()]
        if seeds:
            found.append((float(place), statistics.fmean(seeds), *_span(seeds)))
    return tuple(found)


def _figure(
    name: tuple[str, str],
    kind: Literal["line", "scatter"],
    x: str,
    y: str,
    panels: Sequence[Panel],
    notes: tuple[str, ...],
) -> Figure | None:
    panels = [p for p in panels if any(s.points for s in p.series)]
    if not panels:
        return None
    return Figure(name[0], name[1], _alt(name[1], x, panels), kind, x, y, tuple(panels), notes)


def _alt(title: str, x: str, panels: Sequence[Panel]) -> str:
    """The highest and the lowest point of every line of the first panels, in numbers."""
    told = []
    for panel in panels[:_TOLD]:
        tops = []
        for series in panel.series:
            high, low = (end(series.points, key=lambda p: p[1]) for end in (max, min))
            lowest = f" (lowest {_point(low)})" if low[1] < high[1] else ""
            tops.append(f"{series.name} {_point(high)}{lowest}")
        told.append(f"{panel.title}: {', '.join(tops)}" if panel.title else ", ".join(tops))
    left = f" {plural(len(panels) - _TOLD, 'more panel')}." if panels[_TOLD:] else ""
    return f"{title}; highest and where ({x}). {'. '.join(told)}.{left}"


def _point(point: Point) -> str:
    """Its height, and where it is.

    >>> _point((1200.0, 0.5, None, None)), _point((74.913, 0.5, None, None)), _point(("reward", 0.5, None, None))
    ('0.500 at 1,200', '0.500 at 74.9', '0.500 at reward')
    """
    x, y, _, _ = point
    if not isinstance(x, str):
        x = f"{x:,.0f}" if x == round(x) else f"{x:.3g}" if abs(x) < 1000 else f"{x:,.0f}"
    return f"{number(y)} at {x}"


def _in_order(compared: Compared, found: Mapping[tuple[str, str], T]) -> list[tuple[tuple[str, str], T]]:
    """By task and then by model, as the frame has them."""
    tasks, models = list(compared.lists), compared.frame.models

    def place(item: tuple[tuple[str, str], T]) -> tuple[int, int, str]:
        (task, model), _ = item
        return tasks.index(task), models.index(model) if model in models else len(models), model

    return sorted(found.items(), key=place)


def _title(compared: Compared, task: str, model: str) -> str:
    return f"{task}, {model}" if len(compared.frame.models) > 1 and model else task


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
