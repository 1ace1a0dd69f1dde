"""The tables of the task families, and the tests in them."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from irpo.compare.page import Cell, Column, Table, TableRow, Test
from irpo.compare.results import Result, TaskFrame
from irpo.compare.statistics.rankers import Compared, Ranker
from irpo.compare.statistics.saying import joined, plural
from irpo.compare.statistics.tested import Key, Tested, cells_of, corrected, measured, outcomes_of, pairs
from irpo.compare.writing.wording import number
from irpo.measures import headline

RUNS = ("run", "untrained", "baseline", "external")  # what tables have; trials are a search's


@dataclass(frozen=True)
class FamilyTable:
    """A table with the tests that its stars come from."""

    table: Table
    tests: tuple[Tested, ...]


def family_tables(compared: Compared) -> list[FamilyTable]:
    """One for each family of tasks, in the frame's order."""
    families: dict[str, list[TaskFrame]] = {}
    for task in compared.frame.tasks:
        families.setdefault(task.family or "tasks", []).append(task)
    return [_family(compared, name, tasks) for name, tasks in families.items()]


def _family(compared: Compared, name: str, tasks: Sequence[TaskFrame]) -> FamilyTable:
    cells: dict[str, dict[Key, Cell]] = {}
    tests: list[Tested] = []
    for task in tasks:
        groups, found = compared.groups[task.name], measured(compared, task, compared.rankers)
        cells[task.name] = cells_of(found, groups)
        tests += outcomes_of(task.name, pairs(found, compared.frame.against), groups)
    tests = corrected(tests)
    columns = tuple(Column(task.name, measure) for task in tasks for measure in task.measures)
    by_cell, rows = _by_cell(tests), []
    for ranker in compared.rankers:
        if any(task.name in ranker.by_task for task in tasks):
            figures = {column: cells[column.task].get((id(ranker), column.measure)) for column in columns}
            tested = {column: by_cell.get((column.task, id(ranker), column.measure), ()) for column in columns}
            rows.append(_row(compared, ranker, figures, tested))
    table = Table(_id(name), name, columns, tuple(_ranked(rows)), tuple(_notes(compared, tests, tasks)))
    return FamilyTable(table, tuple(tests))


def _row(
    compared: Compared,
    ranker: Ranker,
    found: Mapping[Column, Cell | None],
    tested: Mapping[Column, tuple[Test, ...]],
) -> TableRow:
    """A ranker's row, with what a paper printed of it at the strength of papers."""
    printed = {(p.task, p.model, p.method, p.measure): p.value for p in compared.frame.printed}
    if ranker.strength != compared.frame.strengths[0]:
        printed = {}
    cells = tuple(
        replace(
            cell or Cell(None, seeds=0),
            printed=printed.get((c.task, ranker.model, ranker.method, c.measure)),
            tests=tested[c],
        )
        for c, cell in found.items()
    )
    marks = _marks(compared, ranker, list(dict.fromkeys(column.task for column in found)))
    return TableRow(ranker.method, ranker.group, cells, ranker.kind, ranker.shown, tuple(marks))


def _id(name: str) -> str:
    return "family-" + "".join(c if c.isalnum() else "-" for c in name.lower())


def _by_cell(tests: Iterable[Tested]) -> dict[tuple[str, int, str], tuple[Test, ...]]:
    found: dict[tuple[str, int, str], tuple[Test, ...]] = {}
    for x in tests:
        key = x.task, id(x.ranker), x.measure
        found[key] = (*found.get(key, ()), x.test)
    return found


def _ranked(rows: Sequence[TableRow]) -> list[TableRow]:
    """With the best and the second of every column marked among a model's rows."""
    ours = ("trained", "untrained")
    values: dict[tuple[str, int], set[str]] = {}  # as they are printed: what reads the same is as good
    for row in rows:
        for at, cell in enumerate(row.cells):
            if row.kind in ours and cell.value is not None:
                values.setdefault((row.group, at), set()).add(number(cell.value))
    tops = {key: sorted(found, reverse=True)[:2] for key, found in values.items()}

    def marked(row: TableRow, at: int, cell: Cell) -> Cell:
        top = tops.get((row.group, at), [])
        if row.kind not in ours or number(cell.value) not in top or len(top) < 2:
            return cell
        return replace(cell, best=number(cell.value) == top[0], second=number(cell.value) == top[1])

    return [replace(row, cells=tuple(marked(row, at, c) for at, c in enumerate(row.cells))) for row in rows]


def _marks(compared: Compared, ranker: Ranker, tasks: Sequence[str]) -> list[str]:
    """Why a row is not like the others."""
    kinds = ("run", "trial") if ranker.kind == "trained" else (ranker.kind,)
    named = [r for r in compared.results if (r.model, r.method) == (ranker.model, ranker.method)]
    own = [r for r in named if r.kind in kinds]
    by_task = {task: [r for r in own if r.task == task and r.kind in RUNS] for task in tasks}
    by_task = {task: results for task, results in by_task.items() if results}
    said = [_trials(compared, ranker, tasks)]
    for why in (_seeds, _failed, _searched, _diverged, _unranked, _fewer, _mode, _noted):
        told = {task: why(compared, ranker, task, results) for task, results in by_task.items()}
        if len(set(told.values())) == 1:
            said.append(next(iter(told.values())))
        else:
            said += [f"{task}: {text}" for task, text in told.items() if text]
    return [text for text in said if text]


def _trials(compared: Compared, ranker: Ranker, tasks: Sequence[str]) -> str:
    """Whether a method's search had more or fewer trials than those of the others."""
    found: dict[str, int] = {}
    for r in compared.results:
        if r.kind == "run" and r.task in tasks:
            found[r.method] = compared.frame.trials.get(r.method) or max(found.get(r.method, 0), r.trials)
    if ranker.kind != "trained" or len(set(found.values())) < 2:
        return ""
    counts = Counter(found.values())
    usual = min(counts, key=lambda number: (-counts[number], number))
    own, others = found[ranker.method], usual
    if own == usual and list(counts.values()).count(counts[usual]) == 1:
        return ""
    if own == usual:  # as many methods have another number
        others = next(number for number in sorted(counts) if number != own and counts[number] == counts[own])
    return f"{plural(own, 'trial')}, others {others}"


def _seeds(compared: Compared, ranker: Ranker, task: str, results: Sequence[Result]) -> str:
    there, wanted = len(ranker.by_task.get(task, ())), compared.frame.seeds
    return f"{there} of {wanted} seeds" if ranker.kind == "trained" and there != wanted else ""


def _failed(compared: Compared, ranker: Ranker, task: str, results: Sequence[Result]) -> str:
    failed = sum(r.error is not None for r in results)
    return f"{plural(failed, 'cell')} failed" if failed else ""


def _searched(compared: Compared, ranker: Ranker, task: str, results: Sequence[Result]) -> str:
    """Trials that came to nothing, and so count 0."""
    own = (ranker.model, ranker.method, task)
    tried = [r for r in compared.results if r.kind == "trial" and (r.model, r.method, r.task) == own]
    failed = sum(r.error is not None for r in tried)
    return f"{failed} of {plural(len(tried), 'trial')} failed" if failed else ""


def _noted(compared: Compared, ranker: Ranker, task: str, results: Sequence[Result]) -> str:
    return "; ".join(sorted({r.note for r in results if r.note and not r.diverged}))


def _diverged(compared: Compared, ranker: Ranker, task: str, results: Sequence[Result]) -> str:
    diverged = sum(r.diverged for r in results)
    return f"{plural(diverged, 'run')} diverged" if diverged else ""


def _unranked(compared: Compared, ranker: Ranker, task: str, results: Sequence[Result]) -> str:
    missing = max((x.row.missing for x in ranker.by_task.get(task, ())), default=0)
    return f"{plural(missing, 'list')} missing: they count 0" if missing else ""


def _fewer(compared: Compared, ranker: Ranker, task: str, results: Sequence[Result]) -> str:
    whole = len(compared.lists[task])
    n = min((x.row.values.shape[1] for x in ranker.by_task.get(task, ())), default=whole)
    return f"first {n:,} of {plural(whole, 'list')}" if n < whole else ""


def _mode(compared: Compared, ranker: Ranker, task: str, results: Sequence[Result]) -> str:
    modes = sorted({x.row.mode for x in ranker.by_task.get(task, ())} - {compared.frame.mode, "given"})
    return f"mode {joined(modes)}" if modes else ""


def _notes(compared: Compared, tests: Sequence[Tested], tasks: Sequence[TaskFrame]) -> list[str]:
    """What was tested, and the difference that each task could have shown."""
    notes = []
    if tests:
        told = "corrected together; + and - say where q < .05 and the interval of the difference leaves 0 out"
        notes.append(f"{plural(len(tests), 'test')}, {told}.")
    for task in tasks:
        notes += [f"{task.name}: {note}." for note in task.card.get("notes", ())]
        main = [x for x in tests if x.task == task.name and x.measure == main_of(compared, task)]
        if main:
            notes.append(power_line(main))
    return notes


def main_of(compared: Compared, task: TaskFrame) -> str:
    """The measure that stands for all on a task."""
    return compared.frame.main if compared.frame.main in task.measures else headline(task.measures)


def main_on(compared: Compared, task: str) -> str:
    """The same, by the task's name."""
    return main_of(compared, next(t for t in compared.frame.tasks if t.name == task))


def power_line(tests: Sequence[Tested]) -> str:
    """The difference in a task's main measure that a test by group could have found with 80 %."""
    groups, seeds = max(x.groups for x in tests), max(x.seeds for x in tests)
    least = [x.detectable for x in tests if x.detectable > 0]  # 0: the two are alike in every group
    if not least:
        return f"{tests[0].task}: all that was tested is alike in every group of lists."
    if not all(map(math.isfinite, least)):
        return f"{tests[0].task}: {plural(groups, 'group')} of lists are too few for any test to show a difference."
    span = f" ({number(min(least))} to {number(max(least))})" if number(min(least)) != number(max(least)) else ""
    return (
        f"{tests[0].task}: {plural(groups, 'group')} of lists and {plural(seeds, 'seed')} show a difference of "
        f"{number(statistics.median(least))}{span} in {tests[0].measure} with 80 % "
        "(paired t test by group, two-sided at .05 before correction, noncentral t)."
    )
