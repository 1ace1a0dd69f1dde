"""A suite's tables for a terminal: what a user sees when it ends. The report has the rest."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from irpo.compare.page import Cell, Plain, Report, Table, TableRow
from irpo.compare.results import Result
from irpo.evaluation.report import Grid, number, p_value, percent
from irpo.measures import headline


def grids(report: Report) -> list[Grid]:
    """A table a family: one model on one task in full, else the main measure of every task."""
    modes = next((table for table in report.more if table.id == "modes"), None)
    made = []
    for table in report.tables:
        if not table.rows:
            continue
        tasks = list(dict.fromkeys(column.task for column in table.columns))
        models = {row.group for row in table.rows if row.kind in ("trained", "untrained")}
        alone = len(tasks) == 1 and len(models) == 1
        made.append(_full(table, modes) if alone else _overview(table, tasks))
    return made


def chosen_by_validation(results: Sequence[Result], strength: str) -> str | None:
    """The method of the highest mean on validation lists over the models, tasks and seeds that all of them have."""
    values: dict[str, dict[tuple[str, str, int], float]] = {}
    for result in results:
        if result.kind == "run" and result.validation:
            curve: Mapping[str, float] = result.validation["curve"]
            at = result.validation["auto"] if strength == "auto" else "1"
            values.setdefault(result.method, {})[result.model, result.task, result.seed] = float(curve[at])
    common = set.intersection(*map(set, values.values())) if values else set()
    if not common:
        return None
    return max(values, key=lambda name: math.fsum(values[name][place] for place in sorted(common)))


def _main(table: Table, task: str) -> int:
    """The column of a task's main measure."""
    own = {column.measure: place for place, column in enumerate(table.columns) if column.task == task}
    return own[headline(list(own))]


def _rows(table: Table) -> list[TableRow]:
    """Each ranker once: what was trained at the strength that validation lists chose, where they did."""
    chosen = any("auto" in row.strength for row in table.rows)
    return [row for row in table.rows if row.kind != "trained" or not chosen or "auto" in row.strength]


def _full(table: Table, modes: Plain | None) -> Grid:
    task = table.columns[0].task
    place, rows = _main(table, task), _rows(table)
    against = _against(rows, [place])
    decoded = _decoded(modes, table.columns[place].measure)
    header = ("ranked by", "score", "95 %", "constrained", "named", *(f"q\n{name}" for name in against))
    cells = tuple(
        (
            *(row.name, _value(row.cells[place]), _interval(row.cells[place]), *decoded.get(row.name, ("", ""))),
            *(_q(row.cells[place], name) for name in against),
        )
        for row in rows
    )
    first = next((i for i, row in enumerate(rows) if row.kind == "trained"), 0)
    notes = (*_told(rows, place, against), *_columns(rows))
    best = frozenset((i, 1) for i, row in enumerate(rows) if row.cells[place].best)
    return Grid(f"{table.columns[place].measure} on {task}", header, cells, notes, best, frozenset({first} - {0}))


def _decoded(modes: Plain | None, measure: str) -> dict[str, tuple[str, str]]:
    """By method the mean of constrained lists, and the share of the candidates that free ones name."""
    found: dict[str, list[str]] = {}
    rows = [dict(zip(modes.header, row, strict=True)) for row in modes.rows] if modes else []
    for told in rows:
        cells = found.setdefault(str(told["method"]), ["", ""])
        mean, coverage = told["mean"], told["coverage"]
        if told["mode"] == "constrain" and told["measure"] == measure and isinstance(mean, float):
            cells[0] = number(mean)  # the last row is of the last strength
        if told["mode"] == "generate strict" and isinstance(coverage, float):
            cells[1] = percent(coverage)
    return {name: (cells[0], cells[1]) for name, cells in found.items()}


def _overview(table: Table, tasks: Sequence[str]) -> Grid:
    places, rows = [_main(table, task) for task in tasks], _rows(table)
    header = ("ranked by", *(f"{table.columns[place].task} {table.columns[place].measure}" for place in places))
    several = len({row.group for row in rows if row.kind in ("trained", "untrained")}) > 1
    cells = tuple(
        (f"{row.group}: {row.name}" if several and row.group else row.name, *(_starred(row.cells[p]) for p in places))
        for row in rows
    )
    ruled = frozenset(i for i in range(1, len(rows)) if rows[i].group != rows[i - 1].group)
    best = frozenset((i, j) for i, row in enumerate(rows) for j, p in enumerate(places, 1) if row.cells[p].best)
    against = _against(rows, places)
    note = f"+ above, - below {', '.join(against)}, in this order, beyond chance (q < .05, 95 % without 0)"
    return Grid(table.title, header, cells, (*([note] if against else []), *_columns(rows)), best, ruled)


def _against(rows: Sequence[TableRow], places: Sequence[int]) -> list[str]:
    return list(dict.fromkeys(test.against for row in rows for place in places for test in row.cells[place].tests))


def _starred(cell: Cell) -> str:
    return _value(cell) + "".join(test.star for test in cell.tests)


def _told(rows: Sequence[TableRow], place: int, against: Sequence[str]) -> Iterator[str]:
    """In a sentence for each: who stands above, who below, of whom nothing is shown."""
    for name in against:
        sides: dict[str, list[str]] = {"above": [], "below": [], "no difference shown to": []}
        for row in rows:
            for test in row.cells[place].tests:
                if test.against == name:
                    side = "above" if test.star == "+" else "below" if test.star == "-" else "no difference shown to"
                    sides[side].append(row.name)
        told = "; ".join(f"{side} {name}: {', '.join(names)}" for side, names in sides.items() if names)
        yield f"{told[:1].upper()}{told[1:]}."


def _columns(rows: Sequence[TableRow]) -> tuple[str, ...]:
    """What the figures of trained methods are; nothing where none was trained."""
    trained = [row for row in rows if row.kind == "trained"]
    if not trained:
        return ()
    auto = any("auto" in row.strength for row in trained)
    seeds = max((cell.seeds for row in trained for cell in row.cells), default=1)
    told = (
        "scores at the strength that validation lists choose" if auto else "scores at strength 1",
        "one seed: another one moves the figures" if seeds == 1 else f"means of {seeds} seeds",
        "95 % and q draw and swap groups of lists that share a query; q is corrected (Benjamini-Hochberg)",
    )
    return ("; ".join(told),)


def _value(cell: Cell) -> str:
    return "" if cell.value is None else number(cell.value)


def _interval(cell: Cell) -> str:
    if cell.low is None or cell.high is None:
        return ""
    return "-".join(number(end).removeprefix("0") for end in (cell.low, cell.high))  # 80 columns are soon full


def _q(cell: Cell, against: str) -> str:
    return p_value(next((test.q for test in cell.tests if test.against == against), None))
