"""The tables beside the families': all tests, modes, position bias, search, cost, failures."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from irpo.compare.page import Plain, Source
from irpo.compare.results import Result, Row
from irpo.compare.statistics.rankers import Compared, title_of
from irpo.compare.statistics.tables import main_on
from irpo.compare.statistics.tested import Tested

Line = tuple[str | float | None, ...]
_WHO = ("model", "task", "method")


def tests_table(tests: Sequence[Tested]) -> Plain:
    """Every test."""
    header = (*_WHO, "strength", "against", "measure", "mean", "other's", "difference", "low", "high", "p", "q", "d_z")
    rows = [
        (
            *(x.ranker.model, x.task, x.ranker.method, x.ranker.shown, x.other.method, x.measure, *x.values),
            *(x.test.difference, x.test.low, x.test.high, x.test.p, x.test.q, x.test.effect),
        )
        for x in tests
    ]
    note = "p: swaps of whole groups of lists, two-sided. q: corrected within the task family's table. low, high: 95 %."
    return Plain("tests", "All tests", header, tuple(rows), (note,))


def modes_table(compared: Compared) -> Plain:
    """What every mode of ranking gave, with coverage and exactness of answers."""
    header = (*_WHO, "mode", "strength", "measure", "mean", "coverage", "exact", "problems", "tied lists", "lists")
    rows: list[Line] = []
    for who, named, strength, own in _modes(compared):
        measure = main_on(compared, who[1])
        values = [float(row.of(measure).mean()) for row in own if measure in row.measures]
        told = (_mean(values), _mean(r.coverage for r in own), _mean(r.exact for r in own))
        counts = (_mean(len(r.problems) for r in own), _mean(r.tied for r in own), own[0].values.shape[1])
        rows.append((*who, named, strength, measure, *told, *counts))
    notes = (
        "Means over seeds. strict: what an answer names; repaired: the rest follows in a fixed random order. Rows of "
        "other numbers of lists do not compare: the first lists may be harder, or easier, than all.",
    )
    return Plain("modes", "Modes of ranking", header, tuple(rows), notes)


def speed_table(compared: Compared) -> Plain:
    """What ranking a list took in every mode."""
    rows: list[Line] = []
    for who, named, strength, own in _modes(compared):
        times = _mean(1000 * r.seconds / r.values.shape[1] for r in own if r.seconds is not None)
        passes = _mean(r.passes for r in own if r.passes is not None)
        if times is not None:
            rows.append((*who, named, strength, times, passes))
    header = (*_WHO, "mode", "strength", "ms", "passes")
    note = "Means over seeds, each beside whatever else its machine did; passes: of the model over a list or its parts."
    return Plain("cost-modes", "Cost of a list", header, tuple(rows), (note,))


def _modes(compared: Compared) -> Iterator[tuple[tuple[str, str, str], str, str, list[Row]]]:
    """By who ranked, how and at which strength: the seeds' rows in the prepared order of candidates."""
    for who, results in _by_who(compared.of_kind("run", "untrained")).items():
        for (mode, part, strength), own in _rows(results, lambda row: row.order == 0).items():
            yield who, " ".join(p for p in (mode, part) if p), strength, own


def orders_table(compared: Compared) -> Plain:
    """Position bias: what changes with the order of the candidates in the prompt."""
    header = (*_WHO, "mode", "strength", "orders", "measure", "mean", "deviation", "Kendall's tau", "together")
    rows: list[Line] = []
    for who, results in _by_who(compared.of_kind("run", "untrained", "external")).items():
        measure, lengths = main_on(compared, who[1]), np.array([len(x.texts) for x in compared.lists[who[1]]])
        for mode, part, strength in _rows(results, lambda row: row.order > 0):
            told = [
                _bias(orders, measure, lengths)
                for result in results
                if len(orders := _orders(result, mode, part, strength)) > 1
            ]
            named = " ".join(p for p in (mode, part) if p)
            if told:
                columns = [_mean(x for x in column if x is not None) for column in zip(*told, strict=True)]
                rows.append((*who, named, strength, int(columns[0] or 0), measure, *columns[1:]))
    notes = (
        "deviation: of the mean between candidate orders; Kendall's tau-b: of a list's rankings from two orders, mean "
        "over pairs of orders; together: the rankings of all orders aggregated. Means over seeds.",
    )
    return Plain("orders", "Position bias", header, tuple(rows), notes)


def _orders(result: Result, mode: str, part: str | None, strength: str) -> dict[int, Row]:
    """A result's rows of one setting by the order of the candidates."""
    rows = [r for r in result.rows if (r.mode, r.part) == (mode, part) and strength in r.shown]
    return {row.order: row for row in rows}


def _bias(
    orders: Mapping[int, Row], measure: str, lengths: NDArray[np.int64]
) -> tuple[float, float, float, float, float | None]:
    """Number of orders, mean, deviation, mean tau, and the mean of the aggregated ranking."""
    single = [row for order, row in sorted(orders.items()) if order >= 0]
    means = [float(row.of(measure).mean()) for row in single]
    taus = [kendall(a.rankings, b.rankings, lengths) for i, a in enumerate(single) for b in single[i + 1 :]]
    tau = float(np.mean([t.mean() for t in taus])) if taus else 1.0
    together = float(orders[-1].of(measure).mean()) if -1 in orders else None
    return len(single), statistics.fmean(means), statistics.stdev(means) if len(means) > 1 else 0.0, tau, together


def kendall(one: NDArray[np.int16], other: NDArray[np.int16], lengths: NDArray[np.int64]) -> NDArray[np.float64]:
    """Kendall's tau-b of two rankings of every list, (n, K) each -> (n,): `scipy.stats.kendalltau` of all at once.

    Candidates that a ranking does not name share its last place; `lengths` (n,) say how many a list has. 0 where a
    ranking says nothing.
    """
    n = min(len(one), len(other))
    first, second = np.triu_indices(max(one.shape[1], other.shape[1]), 1)
    real = second < lengths[:n, None]
    signs = []
    for rankings in (one, other):
        places = _places(rankings[:n], max(one.shape[1], other.shape[1]))
        signs.append(np.sign(places[:, first] - places[:, second]) * real)
    both, norms = (signs[0] * signs[1]).sum(1), [np.abs(s).sum(1) for s in signs]
    scale = np.sqrt(norms[0] * norms[1].astype(np.float64))
    return np.asarray(np.divide(both, scale, out=np.zeros(n), where=scale > 0))


def _places(rankings: NDArray[np.int16], candidates: int) -> NDArray[np.int16]:
    """The place of each candidate, (n, K); the number of candidates where it is not named."""
    places = np.full((len(rankings), candidates), candidates, dtype=np.int16)
    lists, ranks = np.nonzero(rankings >= 0)
    places[lists, rankings[lists, ranks]] = ranks
    return places


def search_table(compared: Compared) -> Plain:
    """What each method's search chose, on validation lists."""
    header = (*_WHO, "seed", "chosen", "trials", "strength auto", "validation at 1", "validation at auto")
    rows: list[Line] = []
    for r in compared.of_kind("run"):
        curve, auto = r.validation.get("curve", {}), str(r.validation.get("auto", ""))
        setting = ", ".join(f"{name} {_short(value)}" for name, value in sorted(r.setting.items()))
        values = (_number(curve.get("1")), _number(curve.get(auto)))
        rows.append((r.model, r.task, r.method, r.seed, setting, r.trials, auto or None, *values))
    note = f"validation: the mean {compared.frame.main} on validation lists, which choose setting and strength."
    return Plain("search", "Search", header, tuple(rows), (note,))


def cost_table(compared: Compared) -> Plain:
    """Time, tokens, memory and energy, means over seeds."""
    header = (*_WHO, "seconds", "million tokens", "peak GiB", "kJ")
    units = {"seconds": 1.0, "tokens": 1e6, "peak_bytes": 2.0**30, "joules": 1e3}
    rows: list[Line] = []
    for who, results in _by_who(compared.of_kind("run", "untrained", "external")).items():
        told = []
        for name, unit in units.items():
            value = _mean(v for r in results if (v := r.cost.get(name)) is not None)
            told.append(None if value is None else value / unit)
        if any(value is not None for value in told):
            rows.append((*who, *told))
    note = (
        "Means over seeds; empty: not told by the machine. Time is that of the process that finished the cell; memory "
        "is the GPU's where there was one."
    )
    return Plain("cost", "Cost of a cell", header, tuple(rows), (note,))


def failures_table(compared: Compared, missing: Sequence[Source]) -> Plain:
    """Cells that failed, diverged, or are not there."""
    rows: list[Line] = []
    for r in compared.results:
        if r.error is not None:
            rows.append((title_of(r), r.key, "failed", r.error))
        elif r.diverged:
            rows.append((title_of(r), r.key, "diverged", "a loss or a score was not finite"))
    rows += [(s.name, s.key, s.state, s.error) for s in missing]
    return Plain("failures", "What failed or is missing", ("cell", "key", "state", "why"), tuple(rows))


def _by_who(results: Iterable[Result]) -> dict[tuple[str, str, str], list[Result]]:
    found: dict[tuple[str, str, str], list[Result]] = {}
    for r in results:
        found.setdefault((r.model, r.task, r.method), []).append(r)
    return found


def _rows(results: Sequence[Result], wanted: Callable[[Row], bool]) -> dict[tuple[str, str | None, str], list[Row]]:
    """The seeds' rows by mode, part and strength as the suite calls it; one of two strengths that are the same rows."""
    found: dict[tuple[str, str | None, str], list[Row]] = {}
    for result in results:
        for row in result.rows:
            for strength in row.shown if wanted(row) else ():
                found.setdefault((row.mode, row.part, strength), []).append(row)
    told: dict[tuple[object, ...], tuple[str, str | None, str]] = {}
    for key, rows in found.items():
        told.setdefault((*key[:2], *map(id, rows)), key)
    return {key: found[key] for key in told.values()}


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    mean = statistics.fmean(found) if found else None
    return mean if mean is None or not all(isinstance(x, int) for x in found) or mean % 1 else int(mean)


def _short(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
