"""How a report's figures are written: the same in HTML, Markdown and LaTeX. Measures are shares in 0..1.

Three decimals of a share, as `irpo evaluate` prints them; LaTeX has the same digits in percent, as the paper's tables.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import groupby
from string import ascii_lowercase

from irpo.compare.page import Cell, Table, TableRow
from irpo.sameness import tidy
from irpo.types import printable

NONE = "-"  # not measured
STRESS = "bold: best of a column among the rows of one model; underlined: second best"
PRINTED = "paper: the figure that the paper prints for the same cell"


def number(value: float | None, *, percent: bool = False) -> str:
    """A measure.

    >>> number(0.9756), number(0.9756, percent=True), number(-0.0001), number(None)
    ('0.976', '97.6', '0.000', '-')
    """
    if value is None:
        return NONE
    share = f"{value:.3f}"
    # From the rounded share, so that a half is not rounded up in one format and down in the other.
    text = f"{100 * float(share):.1f}" if percent else share
    return text.removeprefix("-") if float(text) == 0 else text


def interval(cell: Cell, *, percent: bool = False) -> str:
    """The cell's 95 % interval; nothing where it has none.

    >>> interval(Cell(0.5, 0.4, 0.6))
    '0.400 to 0.600'
    """
    if cell.low is None or cell.high is None:
        return ""
    return f"{number(cell.low, percent=percent)} to {number(cell.high, percent=percent)}"


def deviation(cell: Cell, *, percent: bool = False) -> str:
    """The standard deviation between seeds; nothing where there is none.

    >>> deviation(Cell(0.5, deviation=0.0123, seeds=5))
    '± 0.012'
    """
    return "" if cell.deviation is None else f"± {number(cell.deviation, percent=percent)}"


def chance(p: float) -> str:
    """A p-value, plain or corrected.

    >>> chance(0.0312), chance(0.0001)
    ('0.031', '< 0.001')
    """
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def plain(value: str | float | None) -> str:
    """A value of a table whose columns have units of their own.

    >>> [plain(value) for value in (3, 0.976, 0.00002, 12.345, 5321.7, None, "CPU")]
    ['3', '0.976', '2.0e-05', '12.3', '5,322', '-', 'CPU']
    """
    if value is None:
        return NONE
    if isinstance(value, str):
        return line(value)
    if isinstance(value, int):  # a bool too: True, False
        return str(value)
    if abs(value) < 10:
        return f"{value:.1e}" if 0 < abs(value) < 0.0005 else f"{value:.3f}"
    return f"{value:.1f}" if abs(value) < 1000 else f"{value:,.0f}"


def line(text: str) -> str:
    r"""Any text on one line, what is invisible or turns the writing made visible.

    >>> line("a\r\nb \u202ec")
    'a b \\u202ec'
    """
    return tidy(printable(re.sub("\r\n?", "\n", text)))


def compared(table: Table) -> tuple[str, ...]:
    """The methods that a table's rows are tested against, in their order."""
    return unique(test.against for row in table.rows for cell in row.cells for test in cell.tests)


def signs(cell: Cell, against: tuple[str, ...]) -> str:
    """`+` or `-` where the cell is above or below a method that it is tested against, corrected p below .05.

    The methods are told apart by letters where they are several: "+a-b".
    """
    stars = {test.against: test.star for test in cell.tests}
    letters = letters_of(against)
    return "".join(f"{stars[name]}{letters[name]}" for name in against if stars.get(name))


def letters_of(against: tuple[str, ...]) -> dict[str, str]:
    """The letter behind a sign by method; no letter where there is one method only, numbers behind 26."""
    if len(against) == 1:
        return {against[0]: ""}
    letters = [*ascii_lowercase, *map(str, range(27, len(against) + 1))]
    return dict(zip(against, letters, strict=False))


def legend(table: Table) -> str:
    """What a table's signs mean; nothing where nothing was tested."""
    against = compared(table)
    if not against:
        return ""
    names = ", ".join(f"{letter}: {line(name)}".removeprefix(": ") for name, letter in letters_of(against).items())
    return (
        f"+ higher, - lower than {names} (paired permutation test by group, q < .05 after Benjamini-Hochberg, and a "
        "95 % interval over seeds and groups without 0)"
    )


def name_of(row: TableRow) -> str:
    """A row's name with its strength, where that is not 1."""
    return line(row.name) if row.strength == "1" else f"{line(row.name)}, strength {line(row.strength)}"


def grouped(table: Table) -> list[tuple[str, list[TableRow]]]:
    """Rows that stand together under one model's name, in the table's order."""
    return [(line(group), list(rows)) for group, rows in groupby(table.rows, key=lambda row: row.group)]


def tasks_of(table: Table) -> list[tuple[str, int]]:
    """The tasks side by side and how many columns each has."""
    return [(line(task), len(list(columns))) for task, columns in groupby(table.columns, key=lambda c: c.task)]


def marks_of(table: Table) -> tuple[str, ...]:
    """Why rows are not like the others: the footnotes of a table, numbered from 1 in this order."""
    return unique(line(mark) for row in table.rows for mark in row.marks)


def numbers_of(row: TableRow, marks: tuple[str, ...]) -> str:
    """The footnotes of a row: "1, 2"."""
    return ", ".join(str(marks.index(line(mark)) + 1) for mark in row.marks)


def notes_of(table: Table) -> list[str]:
    """All that stands under a table but for its footnotes."""
    stressed = any(cell.best or cell.second for row in table.rows for cell in row.cells)
    printed = any(cell.printed is not None for row in table.rows for cell in row.cells)
    told = [STRESS] if stressed else []
    return [*told, *filter(None, [legend(table)]), *([PRINTED] if printed else []), *map(line, table.notes)]


def unique(names: Iterable[str]) -> tuple[str, ...]:
    """Each once, in the order of their first appearance."""
    return tuple(dict.fromkeys(names))
