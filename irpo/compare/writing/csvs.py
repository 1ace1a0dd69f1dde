"""A report's tables as CSV: a line a figure, numbers as they were measured (shares in 0..1, nothing rounded)."""

from __future__ import annotations

import csv as table_file
import io
import re
from collections.abc import Iterable, Mapping, Sequence

from irpo.compare.page import Cell, Column, Plain, Report, Table, TableRow
from irpo.compare.writing import wording

OF_TESTS = ("difference", "difference_low", "difference_high", "p", "q", "effect", "star")
_RESERVED = re.compile(
    r"(con|prn|aux|nul|com\d|lpt\d|report)(\..*)?", re.IGNORECASE
)  # Windows; the whole report's name
_FORMULA = frozenset("=+-@\uff1d\uff0b\uff0d\uff20")  # the wide ones too
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)?(e[-+]?\d+)?", re.IGNORECASE)  # "-" too: not measured

Value = str | float | None


def csv(report: Report) -> Mapping[str, str]:
    """File name -> content, for every table of a report."""
    tables: tuple[Table | Plain, ...] = (*report.tables, *report.more)
    return {
        f"{stem}.csv": _text(_long(table) if isinstance(table, Table) else (table.header, *table.rows))
        for stem, table in zip(stems([table.id for table in tables]), tables, strict=True)
    }


def stems(ids: Sequence[str]) -> list[str]:
    """File names for tables' ids, in their order: safe on every system, none twice, whatever the ids are.

    >>> stems(["recommendation", "../../etc/passwd", "Recommendation", "", "CON"])
    ['recommendation', 'etc-passwd', 'Recommendation-2', 'table', 'table-CON']
    """
    found: list[str] = []
    taken: set[str] = set()
    for text in ids:
        stem = re.sub(r"[^A-Za-z0-9_]+", "-", text).strip("-")[:80] or "table"
        stem = f"table-{stem}" if _RESERVED.fullmatch(stem) else stem
        tries = (stem if i == 1 else f"{stem}-{i}" for i in range(1, len(ids) + 2))
        # Two names that differ in case only are one file on some systems.
        stem = next(name for name in tries if name.lower() not in taken)
        taken.add(stem.lower())
        found.append(stem)
    return found


def neutral(text: str) -> str:
    """Any text on one line that no spreadsheet takes for a formula: behind an apostrophe where it could be one.

    >>> neutral("=1+1"), neutral("S-DPO")
    ("'=1+1", 'S-DPO')
    """
    found = wording.line(text)
    return f"'{found}" if found[:1] in _FORMULA and not _NUMBER.fullmatch(found) else found


def _text(lines: Iterable[Sequence[Value]]) -> str:
    file = io.StringIO()
    writer = table_file.writer(file, lineterminator="\n")
    writer.writerows([neutral(value) if isinstance(value, str) else value for value in line] for line in lines)
    return file.getvalue()


def _long(table: Table) -> list[list[Value]]:
    against = wording.compared(table)
    header: list[Value] = ["model", "method", "kind", "strength", "task", "measure"]
    header += ["value", "low", "high", "deviation", "seeds", "rank", "printed"]
    header += [f"{name}_against_{other}" for other in against for name in OF_TESTS]
    cells = ((row, column, cell) for row in table.rows for column, cell in zip(table.columns, row.cells, strict=True))
    return [[*header, "keys", "marks"], *(_figure(row, column, cell, against) for row, column, cell in cells)]


def _figure(row: TableRow, column: Column, cell: Cell, against: Sequence[str]) -> list[Value]:
    rank = "best" if cell.best else "second" if cell.second else ""
    tests = {test.against: test for test in cell.tests}
    found: list[Value] = [row.group, row.name, row.kind, row.strength, column.task, column.measure]
    found += [cell.value, cell.low, cell.high, cell.deviation, cell.seeds, rank, cell.printed]
    for other in against:
        test = tests.get(other)
        if test is None:
            found += [None] * len(OF_TESTS)
        else:
            star = {"+": "higher", "-": "lower"}.get(test.star, "")
            found += [test.difference, test.low, test.high, test.p, test.q, test.effect, star]
    return [*found, " ".join(cell.keys), "; ".join(row.marks)]
