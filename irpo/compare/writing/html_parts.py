"""What the page's template lays out: tables in groups, drawings with their legends, where every figure comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from markupsafe import Markup

from irpo.compare.page import Figure, Report, Source, Table, TableRow
from irpo.compare.writing import plots
from irpo.compare.writing.wording import compared, letters_of, marks_of, numbers_of, tasks_of


@dataclass(frozen=True)
class Placed:
    """A row and where it stands."""

    row: TableRow
    place: int  # in its table
    marks: tuple[int, ...]  # numbers of its footnotes


@dataclass(frozen=True)
class Layout:
    """A task family's table as the page has it."""

    table: Table
    tasks: Sequence[tuple[str, int]]  # of the upper header: a task and how many columns it spans
    first: tuple[bool, ...]  # by column: a task begins here
    groups: Mapping[str, Sequence[Placed]]  # by their heading: rows that are sorted by themselves
    marks: Sequence[str]  # the footnotes
    against: tuple[str, ...]  # the methods that rows are tested against
    letters: Mapping[str, str]  # by such a method
    printed: bool  # figures of the paper stand in it


def laid_out(table: Table) -> Layout:
    """Rows of a model stand together, and so do baselines and what is not ours."""
    marks, against = marks_of(table), compared(table)
    starts = {0, *accumulate(span for _, span in tasks_of(table))}
    groups: dict[str, list[Placed]] = {}
    for place, row in enumerate(table.rows):
        numbers = tuple(map(int, numbers_of(row, marks).split(", "))) if row.marks else ()
        groups.setdefault(_title(row), []).append(Placed(row, place, numbers))
    return Layout(
        table,
        tasks_of(table),
        tuple(place in starts for place in range(len(table.columns))),
        groups,
        marks,
        against,
        letters_of(against) if against else {},
        printed=any(cell.printed is not None for row in table.rows for cell in row.cells),
    )


def _title(row: TableRow) -> str:
    """The heading under which a row stands."""
    if row.kind == "baseline":
        return "Baselines"
    return row.group or ("Other rankers" if row.kind == "external" else "")


def drawings(figures: Sequence[Figure]) -> list[Mapping[str, Any]]:
    numbers = plots.names_of(figures)
    return [_drawing(figure, f"figure-{place}", numbers) for place, figure in enumerate(figures, 1)]


def _drawing(figure: Figure, id: str, numbers: Mapping[str, int]) -> Mapping[str, Any]:
    names = dict.fromkeys(series.name for panel in figure.panels for series in panel.series)
    return {
        "id": id,
        "figure": figure,
        "panels": [
            (panel, Markup(plots.panel_svg(figure, panel, numbers, f"{id}-{place}")))  # nosec B704 # ET wrote it
            for place, panel in enumerate(figure.panels, 1)
        ],
        "legend": [
            (name, Markup(plots.swatch(figure.kind, numbers[name], f"{id}-legend-{place}")))  # nosec B704 # of figures
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
    """What is the same in all that tell it, where more than one does; and of each the rest."""
    values: dict[str, list[Any]] = {}
    for one in made:
        for name, value in one.items():
            values.setdefault(name, []).append(value)
    common = {
        name: found[0] for name, found in values.items() if len(found) > 1 and all(value == found[0] for value in found)
    }
    return common, [{name: value for name, value in one.items() if name not in common} for one in made]
