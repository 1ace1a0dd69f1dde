"""A suite's tables for a terminal: what a user sees when it ends. The report has the rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from irpo.compare.page import Cell, Report, Table, TableRow
from irpo.compare.results import Frame, Result
from irpo.compare.wording import chance
from irpo.evaluation.report import Grid, number, percent

_LEVEL = 0.05


def grids(report: Report, frame: Frame, results: Sequence[Result]) -> list[Grid]:
    """A table a family: one model on one task in full, else the main measure of every task."""
    made = []
    for table in report.tables:
        tasks = list(dict.fromkeys(column.task for column in table.columns))
        models = {row.group for row in table.rows if row.kind in ("trained", "untrained")}
        alone = len(tasks) == 1 and len(models) == 1
        made.append(_full(table, frame, results) if alone else _overview(table, frame, tasks))
    return made


def chosen_by_validation(results: Sequence[Result], strength: str) -> str | None:
    """The method of the highest mean on validation lists over models, tasks and seeds; the first of equals."""
    values: dict[str, list[float]] = {}
    for result in results:
        if result.kind == "run" and result.validation:
            curve: Mapping[str, float] = result.validation["curve"]
            at = result.validation["auto"] if strength == "auto" else "1"
            values.setdefault(result.method, []).append(float(curve[at]))
    return max(values, key=lambda name: sum(values[name]) / len(values[name])) if values else None


def _main(table: Table, frame: Frame, task: str) -> int:
    """The column of a task's main measure: the suite's, else the task's last."""
    own = [place for place, column in enumerate(table.columns) if column.task == task]
    return next((place for place in own if table.columns[place].measure == frame.main), own[-1])


def _rows(table: Table, frame: Frame) -> list[TableRow]:
    """Each ranker once: what was trained at the last of the suite's strengths."""
    last = frame.strengths[-1]
    return [row for row in table.rows if row.kind != "trained" or last in row.strength.split(" = ")]


def _full(table: Table, frame: Frame, results: Sequence[Result]) -> Grid:
    task = table.columns[0].task
    place, rows = _main(table, frame, task), _rows(table, frame)
    against = list(dict.fromkeys(test.against for row in rows for test in row.cells[place].tests))
    decoded = {row.name: _decoded(results, row.name, frame) for row in rows if row.kind in ("trained", "untrained")}
    header = ("ranked by", "score", "95 %", "constrained", "named", *(f"q {name}" for name in against))
    cells = tuple(
        (
            *(row.name, _value(row.cells[place]), _interval(row.cells[place]), *decoded.get(row.name, ("", ""))),
            *(_q(row.cells[place], name) for name in against),
        )
        for row in rows
    )
    first = next((i for i, row in enumerate(rows) if row.kind == "trained"), 0)
    title = f"{table.columns[place].measure} on {task}"
    notes = (*_told(rows, place, against), _columns(frame))
    best = frozenset((i, 1) for i, row in enumerate(rows) if row.cells[place].best)
    return Grid(title, header, cells, notes, best, frozenset({first} - {0}))


def _decoded(results: Sequence[Result], method: str, frame: Frame) -> tuple[str, str]:
    """The mean of constrained lists, and the share of the candidates that free ones name."""
    own = [r for r in results if r.method == method and r.kind in ("run", "untrained")]
    constrained = [r.row("constrain", frame.strengths[-1]) or r.row("constrain") for r in own]
    free = [r.row("generate", part="strict") for r in own]
    values = [float(row.of(frame.main).mean()) for row in constrained if row and frame.main in row.measures]
    named = [row.coverage for row in free if row]
    return (number(_mean(values)) if values else "", percent(_mean(named)) if named else "")


def _overview(table: Table, frame: Frame, tasks: Sequence[str]) -> Grid:
    places, rows = [_main(table, frame, task) for task in tasks], _rows(table, frame)
    header = (
        "ranked by",
        *(f"{task} {table.columns[place].measure}" for task, place in zip(tasks, places, strict=True)),
    )
    several = len({row.group for row in rows if row.kind in ("trained", "untrained")}) > 1
    cells = tuple(
        (f"{row.group}: {row.name}" if several and row.group else row.name, *(_starred(row.cells[p]) for p in places))
        for row in rows
    )
    ruled = frozenset(i for i in range(1, len(rows)) if rows[i].group != rows[i - 1].group)
    best = frozenset((i, j) for i, row in enumerate(rows) for j, p in enumerate(places, 1) if row.cells[p].best)
    note = f"* beyond chance (q < {_LEVEL:g}) against {', '.join(frame.against)}: + above, - below"
    return Grid(table.title, header, cells, (note, _columns(frame)), best, ruled)


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


def _columns(frame: Frame) -> str:
    strength = "at the strength that validation lists choose" if frame.strengths[-1] == "auto" else "at strength 1"
    seeds = "one seed: another one moves the figures" if frame.seeds == 1 else f"means of {frame.seeds} seeds"
    return f"{strength}; {seeds}; q: paired permutation tests by group, corrected (Benjamini-Hochberg)"


def _value(cell: Cell) -> str:
    return "" if cell.value is None else number(cell.value)


def _interval(cell: Cell) -> str:
    return "" if cell.low is None or cell.high is None else f"{number(cell.low)}-{number(cell.high)}"


def _q(cell: Cell, against: str) -> str:
    return next((chance(test.q) for test in cell.tests if test.against == against), "")


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
