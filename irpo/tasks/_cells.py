"""What a table's cells hold: numbers, texts, and lists of texts as Python or JSON write them."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from typing import Any

from irpo.rows import shown
from irpo.types import MAX_LABEL, UserError, require_text

MAX_CELL = 1_000_000  # characters of a cell that holds a list
_DEPTH = 1
_NOTHING = ("None", "null", "nan", "NaN")  # as Python, JSON and pandas write nothing
_NO_LIST = re.compile(r"""\s*[({]\s*('[^']*'|"[^"]*")\s*(,.*)?[)}]\s*""", re.DOTALL)  # Python's tuple or set of texts
# What a list of texts is written with; nothing else is ever given to a parser.
_TOKEN = re.compile(
    r"""(?P<blank>\s+)|(?P<mark>[\[\],])|(?P<item>'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*"|"""
    r"""[-+]?\d[\d.eE+-]*|(?:None|null|nan|NaN)\b)""",
    re.DOTALL,
)


def list_cell(cell: str) -> list[Any]:
    """The list that a cell spells, as `str(list)` or as JSON; `UserError` says where it is none.

    It is looked over character by character before a parser sees it: one list, of texts and numbers, none within
    another, each but the last followed by a comma (without one, as numpy prints arrays, Python would join two texts).

    >>> list_cell("['Heat (1995)', \\"Ocean's Eleven\\"]")
    ['Heat (1995)', "Ocean's Eleven"]
    """
    if len(cell) > MAX_CELL:
        raise UserError(f"a list of {len(cell)} characters; at most {MAX_CELL} are read")
    at, depth, before, python = 0, 0, "", ""
    while at < len(cell):
        token = _TOKEN.match(cell, at)
        if token is None:
            raise UserError(f"{shown(cell[at : at + 20])} at character {at + 1} is nothing that a list of texts holds")
        kind, text = str(token.lastgroup), token[0]
        if kind != "blank":
            depth += (text == "[") - (text == "]")
            _require_place(kind, text, before, depth, at)
            before = "item" if kind == "item" else text
            python += "None" if text in _NOTHING else text
        at = token.end()
    if depth or before != "]":
        raise UserError("the list has no end")
    return _read(cell, python)


def _require_place(kind: str, text: str, before: str, depth: int, at: int) -> None:
    if depth > _DEPTH:
        raise UserError(f"a list within a list at character {at + 1}; a cell holds one list of texts")
    if depth < 0 or before == "]" or (depth == 0 and text != "]"):
        raise UserError(f"{text!r} at character {at + 1} stands behind the end of the list")
    if kind == "item" and before == "item":
        raise UserError(f"no comma before {shown(text)} at character {at + 1}; texts of a list are parted by commas")
    if text == "," and before != "item":
        raise UserError(f"a comma at character {at + 1} with nothing before it")


def _read(cell: str, python: str) -> list[Any]:
    try:
        found = json.loads(cell)
    except ValueError:
        try:
            found = ast.literal_eval(python)
        except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
            raise UserError(f"a list that cannot be read: {str(error).splitlines()[0]}") from None
    return list(found)


def texts_in(value: Mapping[str, Any], column: str) -> list[str]:
    """The texts of a column that holds lists: a list, a cell that spells one, or one text; empty ones are left out."""
    cell = _cell(value, column)
    if isinstance(cell, str) and cell.strip() in _NOTHING:
        return []
    if isinstance(cell, str) and _NO_LIST.fullmatch(cell):
        raise UserError(f"{column!r} is {shown(cell)}; a list stands in square brackets")
    if isinstance(cell, str) and cell.lstrip().startswith("["):
        try:
            cell = list_cell(cell)
        except UserError as error:
            raise UserError(f"{column!r}: {error}") from None
    items = cell if isinstance(cell, list) else [] if cell is None else [cell]
    found = []
    for number, item in enumerate(items, start=1):
        if isinstance(item, bool) or not isinstance(item, (str, int, float, type(None))):
            raise UserError(f"{column!r}: item {number} is {shown(item)}; it must be a text")
        if item is not None and item == item and str(item).strip():
            require_text(f"{column!r}: item {number}", str(item))  # a cell can spell half of a surrogate pair
            found.append(str(item))
    return found


def text_in(value: Mapping[str, Any], column: str) -> str:
    """A cell's text, which is not empty; numbers are texts too."""
    cell = _cell(value, column)
    if isinstance(cell, (bool, bytes, list, dict)):
        raise UserError(f"{column!r} is {shown(cell)}; it must be a text")
    if cell is None or cell != cell or not str(cell).strip():
        raise UserError(f"{column!r} is empty")
    return str(cell)


def label_in(value: Mapping[str, Any], column: str) -> float:
    """A cell's label."""
    cell = _cell(value, column)
    allowed = f"a label is a number from 0 to {MAX_LABEL:g}"
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        raise UserError(f"{column!r} is empty; {allowed}")
    try:
        # 1_0 is 10, and b"1" is 1, to Python alone.
        label = float("nan" if isinstance(cell, bytes) or (isinstance(cell, str) and "_" in cell) else cell)
    except (TypeError, ValueError, OverflowError):
        label = float("nan")
    if not 0 <= label <= MAX_LABEL:
        raise UserError(f"{column!r} is {shown(cell)}; {allowed}")
    return label


def _cell(value: Mapping[str, Any], column: str) -> Any:
    if column not in value:
        raise UserError(f"there is no column {column!r}; the columns are {named(value)}")
    return value[column]


def named(columns: Mapping[str, Any] | list[str]) -> str:
    """The names of columns, each in quotes, for a message of at most 300 characters."""
    names = ", ".join(shown(str(column)) for column in columns) or "none"
    return names if len(names) <= 300 else names[:297] + "..."
