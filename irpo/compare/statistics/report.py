"""From finished cells to what a report says: the same results give the same report, in whatever order they come."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from irpo.compare.page import Report, Source
from irpo.compare.results import EvaluationList, Frame, Result
from irpo.compare.statistics.figures import figures
from irpo.compare.statistics.found import found
from irpo.compare.statistics.plain import (
    cost_table,
    failures_table,
    modes_table,
    orders_table,
    search_table,
    speed_table,
    tests_table,
)
from irpo.compare.statistics.rankers import Compared, title_of
from irpo.compare.statistics.saying import joined, plural
from irpo.compare.statistics.tables import family_tables
from irpo.compare.statistics.viewer import viewed

__all__ = ["report_of", "viewed"]

METHODS = (
    "Intervals are 95 % percentiles of a hierarchical bootstrap: seeds and groups of lists are both drawn anew, "
    "9,999 times, seeds spread as their small number asks (Student's t; Hesterberg 2015); with one seed only groups "
    "are.",
    "Tests are paired by group on the means over seeds: the two methods are swapped in whole groups (exact where there "
    "are few, else 9,999 random swaps). q are p-values corrected for all tests of a table (Benjamini & Hochberg 1995); "
    "+ and - need q < .05 and an interval of the difference that leaves 0 out: a test speaks of the seeds at hand, an "
    "interval of others, too. With one seed both are of that seed alone.",
    "d_z is the mean over the standard deviation of the groups' differences (Cohen).",
    "What a paper printed is compared with nothing by a test: its lists are not at hand.",
)


def report_of(
    frame: Frame,
    results: Sequence[Result],
    lists: Mapping[str, Sequence[EvaluationList]],
    missing: Sequence[Source] = (),
    unknown: int = 0,
) -> Report:
    """The report of a suite; `lists` by digest, `missing` the cells without a result, `unknown` the number of runs that
    wait for a search. `UserError` without the lists.
    """
    compared = Compared.of(frame, results, lists)
    known = {r.key for r in compared.results}
    missing = sorted((s for s in missing if s.key not in known), key=lambda s: (s.name, s.key))
    tables = family_tables(compared)
    tests = [test for table in tables for test in table.tests]
    more = [
        modes_table(compared),
        orders_table(compared),
        search_table(compared),
        cost_table(compared),
        speed_table(compared),
        tests_table(tests),
        failures_table(compared, missing),
    ]
    return Report(
        title=frame.title,
        about=frame.about,
        found=found(compared, tests),
        tables=tuple(table.table for table in tables),
        more=tuple(table for table in more if table.rows),
        figures=tuple(figures(compared)),
        sources=tuple(_sources(compared, missing)),
        cards={task.name: task.card for task in frame.tasks if task.card},
        notes=(*_notes(compared, missing, unknown), *METHODS),
    )


def _searched_for_nothing(compared: Compared) -> list[tuple[str, str, str]]:
    """Methods with trials and without a run, which no table has."""
    places = {
        kind: {(r.model, r.method, r.task): None for r in compared.results if r.kind == kind}
        for kind in ("trial", "run")
    }
    return [place for place in places["trial"] if place not in places["run"]]


def _sources(compared: Compared, missing: Iterable[Source]) -> list[Source]:
    """One for each cell: those with a result in the report's order, then those without."""
    cells: dict[str, list[Result]] = {}
    for r in compared.results:
        cells.setdefault(r.key, []).append(r)
    return [*(_source(results) for results in cells.values()), *missing]


def _source(results: Sequence[Result]) -> Source:
    """A cell; one of baselines has several results."""
    first = results[0]
    return Source(
        key=first.key,
        name=title_of(replace(first, method=joined([r.method for r in results]))),
        state="done" if first.error is None else "failed",
        error=first.error or "",
        made={"lists": first.lists, **first.made},
        seconds=first.cost.get("seconds"),
    )


def _notes(compared: Compared, missing: Sequence[Source], unknown: int) -> list[str]:
    """What is not there."""
    failed = sum(r.error is not None for r in compared.results) + sum(s.state == "failed" for s in missing)
    absent = sum(s.state == "missing" for s in missing)
    notes = [f"{plural(failed, 'cell')} failed."] if failed else []
    if absent:
        notes.append(f"{plural(absent, 'cell')} of the suite {'is' if absent == 1 else 'are'} not done.")
    if unknown:
        notes.append(f"{plural(unknown, 'run')} wait for a search that is not finished, or that came to nothing.")
    for model, method, task in _searched_for_nothing(compared):
        notes.append(f"{method} on {task}" + (f" with {model}" if model else "") + ": trials, and no run.")
    if compared.left_out:
        notes.append("Left out: " + "; ".join(compared.left_out) + ".")
    if compared.frame.printed and compared.frame.source:
        notes.append(f"Printed figures: {compared.frame.source}.")
    return notes
