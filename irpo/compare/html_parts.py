"""What the page's template lays out: tables in groups, drawings with their legends, where every figure comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from markupsafe import Markup

from irpo.compare import plots
from irpo.compare.page import Figure, Report, Source, Table, TableRow

SIGNS = ("*", "†", "‡", "§", "¶", "#")  # for stars: an opponent each


@dataclass(frozen=True)
class Group:
    """Rows that stand under one heading and are sorted by themselves."""

    title: str
    rows: tuple[tuple[int, TableRow, tuple[int, ...]], ...]  # place in the table, row, numbers of its footnotes


@dataclass(frozen=True)
class Layout:
    table: Table
    tasks: tuple[tuple[str, int], ...]  # of the upper header: a task and how many columns it spans
    first: tuple[bool, ...]  # by column: a task begins here
    groups: tuple[Group, ...]
    marks: tuple[str, ...]  # the footnotes
    printed: bool
    intervals: bool


def laid_out(table: Table) -> Layout:
    tasks = tuple((task, len(tuple(columns))) for task, columns in groupby(table.columns, lambda column: column.task))
    first = tuple(i == 0 or column.task != table.columns[i - 1].task for i, column in enumerate(table.columns))
    marks = tuple(dict.fromkeys(mark for row in table.rows for mark in row.marks))
    titles = dict.fromkeys(_title(row) for row in table.rows)
    groups = tuple(
        Group(
            title,
            tuple(
                (place, row, tuple(marks.index(mark) + 1 for mark in dict.fromkeys(row.marks)))
                for place, row in enumerate(table.rows)
                if _title(row) == title
            ),
        )
        for title in titles
    )
    cells = [cell for row in table.rows for cell in row.cells]
    return Layout(
        table,
        tasks,
        first,
        groups,
        marks,
        printed=any(cell.printed is not None for cell in cells),
        intervals=any(cell.low is not None for cell in cells),
    )


def _title(row: TableRow) -> str:
    """The heading under which a row stands."""
    if row.kind == "baseline":
        return "Baselines"
    return row.group or ("Other rankers" if row.kind == "external" else "")


def signs(tables: Sequence[Table]) -> dict[str, str]:
    """By the name of what figures are tested against: the sign that stands for it."""
    names = (test.against for table in tables for row in table.rows for cell in row.cells for test in cell.tests)
    return {
        name: SIGNS[place % len(SIGNS)] * (1 + place // len(SIGNS)) for place, name in enumerate(dict.fromkeys(names))
    }


def drawings(figures: Sequence[Figure]) -> list[Mapping[str, Any]]:
    numbers = plots.names_of(figures)
    return [_drawing(figure, f"figure-{place}", numbers) for place, figure in enumerate(figures, 1)]


def _drawing(figure: Figure, id: str, numbers: Mapping[str, int]) -> Mapping[str, Any]:
    names = dict.fromkeys(series.name for panel in figure.panels for series in panel.series)
    return {
        "id": id,
        "figure": figure,
        "panels": [
            (panel, Markup(plots.panel_svg(figure, panel, numbers, f"{id}-{place}")))
            for place, panel in enumerate(figure.panels, 1)
        ],
        "legend": [
            (name, Markup(plots.swatch(figure.kind, numbers[name], f"{id}-legend-{place}")))
            for place, name in enumerate(names)
        ],
    }


@dataclass(frozen=True)
class Origin:
    """The cells that figures of a table are the mean of."""

    number: int
    names: tuple[tuple[str, str, str], ...]  # row, its group, task of the figures
    first: tuple[Source, ...]  # sources that no origin before this one has
    again: tuple[str, ...]  # keys that one has
    unknown: tuple[str, ...]  # keys of no source


@dataclass(frozen=True)
class Provenance:
    """Where every figure comes from."""

    origins: Mapping[tuple[str, ...], Origin]  # by a cell's keys
    others: tuple[Source, ...]  # no table rests on them
    common: Mapping[str, Any]  # what all sources were made with
    own: Mapping[str, Mapping[str, Any]]  # by key: what else


def provenance(report: Report) -> Provenance:
    """Sources by the figures that rest on them."""
    names: dict[tuple[str, ...], dict[tuple[str, str, str], None]] = {}
    for table in report.tables:
        for row in table.rows:
            for column, cell in zip(table.columns, row.cells, strict=True):
                if cell.value is not None or cell.keys:
                    names.setdefault(cell.keys, {})[row.name, row.group, column.task] = None
    sources = {source.key: source for source in report.sources}
    placed: set[str] = set()
    origins = {}
    for number, (keys, of) in enumerate(names.items(), 1):
        first = tuple(sources[key] for key in keys if key in sources and key not in placed)
        again = tuple(key for key in keys if key in placed)
        unknown = tuple(key for key in keys if key not in sources)
        origins[keys] = Origin(number, tuple(of), first, again, unknown)
        placed.update(keys)
    common, own = _shared([source.made for source in report.sources])
    others = tuple(source for source in report.sources if source.key not in placed)
    return Provenance(origins, others, common, {s.key: one for s, one in zip(report.sources, own, strict=True)})


def _shared(made: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What all that are not empty have in common, and of each the rest."""
    told = [one for one in made if one]
    common: dict[str, Any] = {}
    own: list[dict[str, Any]] = [dict(one) for one in made]
    for name in told[0] if told else ():
        if any(name not in one for one in told):
            continue
        if all(one[name] == told[0][name] for one in told):
            common[name] = told[0][name]
            for one in own:
                one.pop(name, None)
    return common, own
