"""A check as a table for a terminal, as a picture of four panels and as JSON."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from irpo.checking.findings import BAD_ROWS, Finding
from irpo.checking.looking import Check, Split
from irpo.checking.picture import picture
from irpo.files import atomic_file, atomic_folder
from irpo.tasks._statistics import spread
from irpo.tasks.preparing import left_out
from irpo.types import one_line, printable

CHECK, PICTURE = "check.json", "check.png"
_SHOWN = 20  # bad rows on a screen
_MOST_LABELS = 6  # on a screen
_STYLES = {"error": "bold red", "warning": "bold yellow", "note": "bold"}


def write(check: Check, out: Path) -> None:
    """Write `check.json` and `check.png` into a folder, both or neither; other files there stay."""
    with atomic_folder(out, (PICTURE, CHECK), CHECK) as folder:
        with atomic_file(folder / CHECK) as file:
            file.write(json.dumps(check.as_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n")
        (folder / PICTURE).write_bytes(picture(check))


def show(check: Check, console: Console | None = None) -> None:
    """Print the table, what the task left out and the findings."""
    console = console or Console()
    console.print(_table(check))
    for line in left_out(check.dropped):
        console.print(Text(printable(line)))
    for finding in check.findings:
        for line in _lines(finding):
            console.print(line)
    if not check.findings:
        console.print("nothing found wrong")


def _table(check: Check) -> Table:
    title = f"Lists of {printable(str(check.task.get('name', 'the task')))}"
    caption = "a - b - c: least, median, most"
    if check.budget is None:
        caption += "; --model says how many tokens lists take"
    grid = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    grid.add_column("", ratio=2)
    for name in check.splits:
        grid.add_column(name, overflow="fold", ratio=3)
    columns = [_column(split, check) for split in check.splits.values()]
    for row in dict.fromkeys(key for column in columns for key in column):
        grid.add_row(row, *(Text(printable(column.get(row, ""))) for column in columns))
    return grid


def _column(split: Split, check: Check) -> dict[str, str]:
    counts, statistics = split.counts, split.counts.statistics
    grouped = f" in {split.groups:,} groups" if split.groups < split.lists else ""
    column = {"lists": f"{split.lists:,}{grouped}"}
    if not split.lists:
        return column
    column["candidates a list"] = _spread(statistics.counts["candidates_per_list"])
    column["labels"] = _labels(statistics.counts["labels"])
    share = counts.relevant / statistics.candidates
    column[f"relevant ({check.relevant_from:g} or more)"] = f"{share:.1%} of candidates"
    column["lists with none"] = _share(counts.without_relevant, split.lists)
    column["lists with all"] = _share(counts.all_relevant, split.lists)
    column["labels with a fraction"] = _share(counts.fractional, statistics.candidates)
    column["lists with a text twice"] = _share(counts.repeated, split.lists)
    if 0 in counts.places:
        found, expected, _ = counts.places[0]
        column["best candidate first"] = f"{found / counts.decided:.1%} (mixed: {expected / counts.decided:.1%})"
    column["words of a query"] = _spread(statistics.counts["query_words"])
    column["words of a candidate"] = _spread(statistics.counts["candidate_words"])
    if check.budget and split.drawn:
        if split.tokens:
            column["tokens, prompt + answer"] = _spread(Counter(split.tokens))
        drawn = f" of {split.drawn:,} drawn" if split.drawn < split.lists else ""
        fits = f"fit {check.budget.max_tokens:,} ({check.budget.style})"
        column[fits] = f"{split.fit(check.budget.max_tokens):.1%}{drawn}"
    if check.label_table and split is check.splits.get("eval"):
        table = check.label_table
        column["NDCG@10 by label table"] = f"{table.ndcg:.3f} (random: {table.random:.3f})"
        column["texts seen in training"] = f"{table.known:.1%}"
    return column


def _lines(finding: Finding) -> list[Any]:
    head = Text.assemble((f"{finding.level}: ", _STYLES[finding.level]), printable(one_line(finding.text)))
    shown = _SHOWN if finding.kind == BAD_ROWS else 3
    first = [Padding(Text(printable(one_line(name, 300))), (0, 0, 0, 4)) for name in finding.first[:shown]]
    rest = finding.count - len(first)
    more = [Padding(Text(f"... and {rest:,} more"), (0, 0, 0, 4))] if first and rest > 0 else []
    return [head, *first, *more, Padding(Text(f"-> {printable(finding.advice)}", style="dim"), (0, 0, 0, 2))]


def _spread(counts: Counter[int]) -> str:
    """Least, median and greatest."""
    least, middle, most = (spread(counts)[name] for name in ("min", "median", "max"))
    return f"{least:,}" if least == most else f"{least:,} - {middle:,} - {most:,}"


def _labels(counts: Counter[float]) -> str:
    total = counts.total()
    often = sorted(counts, key=lambda label: -counts[label])[:_MOST_LABELS]
    shown = ", ".join(f"{label:g}: {counts[label] / total:.1%}" for label in sorted(often))
    return shown if len(counts) <= _MOST_LABELS else f"{shown}, and {len(counts) - _MOST_LABELS} more"


def _share(count: int, of: int) -> str:
    return f"{count:,} ({count / of:.1%})" if count else "0"
