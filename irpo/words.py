"""A command's words as values, and rows as a table of a terminal: what the `irpo` command is written with."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from irpo.types import UserError, printable

if TYPE_CHECKING:
    from irpo.ranking.documents import Document

_NAMED = {"--run": "bm25=runs/bm25.trec", "--adapter": "films=runs/films"}  # an example of each flag's


def load_modules(modules: list[str] | None) -> None:
    """Import the user's plug-ins."""
    from irpo.registry import load_plugins

    load_plugins(modules or ())


def task_of(name: str | None, options: list[str] | None, data: str | None, seed: int | None) -> dict[str, Any]:
    """The task's mapping; the flags win over options of the same name."""
    first = {} if name is None else {"name": name}
    flags = {"data": data, "seed": seed}
    return first | pairs(options) | first | {key: value for key, value in flags.items() if value is not None}


def engine_of(name: str, url: str | None, tensor_parallel: int | None) -> str | dict[str, Any]:
    """The engine's name, or in YAML a mapping of it and its options; with the flags' that were given."""
    options = {"url": url, "tensor_parallel": tensor_parallel}
    given = {key: value for key, value in options.items() if value is not None}
    if ":" not in name:
        return {"name": name} | given if given else name
    named = _named(name, "--engine", "an engine's name, or with options '{name: transformers, kept: 1}'")
    return {**({"name": named} if isinstance(named, str) else named), **given}


def mode_of(text: str) -> str | dict[str, Any]:
    """A ranking mode as `--mode` names it: its name, or in YAML a mapping of name and options."""
    return _named(text, "--mode", "a mode's name, or with options '{name: window, size: 20}'")


def _named(text: str, flag: str, allowed: str) -> str | dict[str, Any]:
    """A plug-in of a flag: its name, or in YAML a mapping."""
    from irpo.config.layers import parse_value

    value = parse_value(text, flag)
    if isinstance(value, (str, dict)):
        return value
    raise UserError(f"{flag} {text[:80]!r}: give {allowed}")


def pairs(texts: Iterable[str] | None) -> dict[str, Any]:
    """`option=value` arguments as a mapping; values are read as YAML."""
    from irpo.config.layers import parse_value

    pairs: dict[str, Any] = {}
    for text in texts or ():
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise UserError(f"argument {text[:80]!r}: write option=value, for example candidates=10")
        pairs[key.strip()] = parse_value(value, f"option {key.strip()[:80]!r}")
    return pairs


def named_paths(texts: Iterable[str], flag: str = "--run") -> Iterable[tuple[str, Path]]:
    """`name=path` arguments."""
    seen: set[str] = set()
    for text in texts:
        name, equals, path = text.partition("=")
        if name.strip() in seen:
            raise UserError(f"{flag} {text!r}: {name.strip()} is given twice")
        seen.add(name.strip())
        if not equals or not name.strip() or not path:
            raise UserError(f"{flag} {text!r}: write NAME=PATH, for example {_NAMED[flag]}")
        yield name.strip(), Path(path)


def lines(file: Path) -> list[str]:
    """A file's documents, one a line, without empty ones."""
    from irpo.files import read_text

    # Not splitlines(): a document may hold U+2028 and other line ends of Unicode.
    return [line.strip() for line in read_text(file).split("\n") if line.strip()]


def documents(texts: list[str] | None, file: Path | None) -> tuple[Document, ...]:
    """The documents of a command: its arguments, then the file's lines, or the rows of a .jsonl with text and id."""
    from irpo.ranking.documents import documents_of

    given: list[tuple[str, Any]] = [(f"document {place}", text) for place, text in enumerate(texts or (), start=1)]
    if file is not None and file.suffix == ".jsonl":
        given += _rows(file)
    elif file is not None:
        given += [(str(file), text) for text in lines(file)]
    return documents_of(given)


def _rows(file: Path) -> Iterable[tuple[str, Any]]:
    from irpo.rows import read_rows

    for row in read_rows(file):
        if row.problem:
            raise UserError(f"{row.where}: {row.problem}")
        yield row.where, row.value


def number(text: str, what: str, allowed: str) -> float:
    """A number that may also be a word, which the caller knows."""
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{what} {text[:80]!r}: give {allowed}") from None


def row_of(row: Any) -> dict[str, Any]:
    """A dataclass or a mapping as a mapping."""
    return dataclasses.asdict(row) if dataclasses.is_dataclass(row) and not isinstance(row, type) else dict(row)


def telling(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows without the columns in which none says anything."""
    kept = [key for key in rows[0] if any(row[key] not in (None, "") for row in rows)] if rows else []
    return [{key: row[key] for key in kept} for row in rows]


def show_table(title: str | None, rows: list[dict[str, Any]]) -> None:
    """A table whose columns are the rows' keys; numbers to four digits."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left")
    for key in rows[0] if rows else ():
        table.add_column(key, overflow="fold")
    for row in rows:
        cells = (
            f"{cell:.4f}" if isinstance(cell, float) else "" if cell is None else str(cell) for cell in row.values()
        )
        table.add_row(*(Text(printable(cell)) for cell in cells))  # Text: a document may hold [brackets]
    Console().print(table)


def as_processes(processes: int | None, launch: str | None) -> NoReturn:
    """Do this process's command as several processes, and leave with their exit code."""
    if processes is None:
        raise UserError("--launch says how processes share the work; --processes says how many")
    from irpo import launching

    sys.exit(launching.launch(sys.argv[1:], processes, launch or launching.DEFAULT))
