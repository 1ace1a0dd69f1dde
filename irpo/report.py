"""Tables for people: one evaluation, or several side by side, as Markdown and for a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from irpo.types import printable

Summary = Mapping[str, Any]  # what results.json holds

STRICT = (
    "strict: a candidate that the answer does not name earns nothing; "
    "repaired: such candidates follow in a fixed random order"
)
NAMED = "named: share of a list's candidates that the answer names (coverage)"
GAIN = (
    "NDCG has the gain 2^y - 1 (trec_eval's own, on qrels.txt, is linear); "
    "Recall, P, MRR and MAP count labels from 1 as relevant"
)
_SHORT = {"generate strict": "generate (named)", "generate repaired": "repaired"}  # headers that leave room for methods


@dataclass(frozen=True)
class Grid:
    """A table: the first column names the rows. `best` are the (row, column) cells to stress."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    best: frozenset[tuple[int, int]] = frozenset()
    ruled: frozenset[int] = frozenset()  # rows that begin a section

    def markdown(self) -> str:
        """A GitHub table, numbers to the right, notes below."""
        lines = [self.header, ("---", *("---:" for _ in self.header[1:]))]
        lines += [
            tuple(f"**{cell}**" if (i, j) in self.best else _escaped(cell) for j, cell in enumerate(row))
            for i, row in enumerate(self.rows)
        ]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return "\n".join([table, *([""] if self.notes else []), *(f"- {note}" for note in self.notes)])

    def table(self) -> Table:
        """The same for a terminal; the notes are its caption."""
        table = Table(title=self.title, title_justify="left", title_style="bold", caption_justify="left")
        table.caption = "\n".join(self.notes) or None
        for j, name in enumerate(self.header):
            table.add_column(name, justify="right" if j else "left", no_wrap=j > 0)
        for i, row in enumerate(self.rows):
            if i in self.ruled:
                table.add_section()
            cells = (Text(printable(cell), style="bold" if (i, j) in self.best else "") for j, cell in enumerate(row))
            table.add_row(*cells)
        return table


def _escaped(cell: str) -> str:
    return printable(cell).replace("|", "\\|")


def overview(summary: Summary) -> Grid:
    """A row for every way of ranking; the best are stressed, a baseline where it is."""
    columns = _columns(summary["measures"])
    rows = summary["rows"]
    cells = tuple((row["name"], *(_number(row["measures"][c]) for c in columns), _named(row)) for row in rows)
    best = frozenset(cell for j, c in enumerate(columns, 1) for cell in _best(rows, range(len(rows)), c, j))
    first = next((i for i, row in enumerate(rows) if row["baseline"]), 0)
    mean_size = summary["candidates"] / max(1, summary["lists"])
    title = f"{summary['lists']} lists of {mean_size:.3g} candidates on average"
    notes = (STRICT, NAMED, GAIN)
    return Grid(title, ("ranking", *columns, "named"), cells, notes, best, frozenset({first} - {0}))


def comparison(
    results: Mapping[str, Summary],
    measure: str | None = None,
    p_values: Mapping[str, float] | None = None,
    p_note: str = "",
) -> Grid:
    """Methods by modes on one measure (the main one by default), the coverage of free generation in brackets.

    All evaluations must be of the same lists and modes. `p_values`, where given, are shown for the methods that have
    one; `p_note` says which test they are of.
    """
    first = next(iter(results.values()))
    measure = measure or str(first["main_measure"])
    modes = [row["name"] for row in first["rows"] if not row["baseline"]]
    found = {method: {row["name"]: row for row in summary["rows"]} for method, summary in results.items()}
    cells = []
    for method, rows in found.items():
        shown = [_number(rows[mode]["measures"][measure]) + _coverage(rows[mode]) for mode in modes]
        cells.append((method, *shown, *([_p_value(p_values.get(method))] if p_values else [])))
    best = frozenset(
        cell
        for j, mode in enumerate(modes, start=1)
        for cell in _best([rows[mode] for rows in found.values()], range(len(found)), measure, j)
    )
    baselines = [f"{row['name']} {_number(row['measures'][measure])}" for row in first["rows"] if row["baseline"]]
    answered = [STRICT, NAMED] if "generate strict" in modes else []
    notes = (f"without a model: {', '.join(baselines)}", *answered, *([p_note] if p_values and p_note else []))
    header = ("method", *(_SHORT.get(mode, mode) for mode in modes), *(["p"] if p_values else []))
    return Grid(f"{measure} on {first['lists']} lists", header, tuple(cells), notes, best)


def markdown(summary: Summary) -> str:
    """The whole report of an evaluation."""
    about = {**summary["about"], **summary["setting"]}.items()
    table = overview(summary)
    parts = [
        "# Evaluation",
        "\n".join(f"- {key.replace('_', ' ')}: {value}" for key, value in about),
        "## Overview",
        table.title + ".",
        table.markdown(),
        "## Every measure",
        _every_measure(summary).markdown(),
        f"## {summary['main_measure']} with 95 % bootstrap intervals, and the time taken",
        _intervals(summary).markdown(),
    ]
    answered = [row for row in summary["rows"] if row["problems"] is not None]
    if answered:
        parts += ["## What was wrong with the free answers", _problems(answered[0]).markdown()]
    return "\n\n".join(parts)


def _every_measure(summary: Summary) -> Grid:
    rows = summary["rows"]
    cells = tuple((m, *(_number(row["measures"][m]) for row in rows)) for m in summary["measures"])
    return Grid("Every measure", ("measure", *(row["name"] for row in rows)), cells)


def _intervals(summary: Summary) -> Grid:
    main = summary["main_measure"]
    cells = tuple(
        (
            row["name"],
            _number(row["measures"][main]),
            f"{_number(row['interval'][0])} to {_number(row['interval'][1])}",
            str(row["tied_lists"]),
            "-" if row["seconds"] is None else f"{row['seconds']:.1f}",
            "-" if row["lists_per_second"] is None else f"{row['lists_per_second']:.3g}",
        )
        for row in summary["rows"]
    )
    header = ("ranking", main, "95 % interval", "lists with ties", "seconds", "lists/s")
    return Grid("Intervals", header, cells, ("equal scores are put in a fixed random order, never in the input's",))


def _problems(row: Mapping[str, Any]) -> Grid:
    shares = (("candidates named", row["coverage"]), ("answers that are exact permutations", row["exact_permutations"]))
    counts = row["problems"].items()
    cells = (*((name, _percent(value)) for name, value in shares), *((name, str(count)) for name, count in counts))
    notes = (
        "missing: candidates not named; repeated: named again; unknown: names that no candidate has; "
        "unparseable: answers in which nothing could be read",
    )
    return Grid("Answers", ("what", "share or count"), cells, notes)


def _columns(measures: Sequence[str]) -> list[str]:
    """What has room in 80 columns: NDCG@1, 5, 10, Recall@5 and MRR, as far as they were measured."""
    wanted = [m for m in ("NDCG@1", "NDCG@5", "NDCG@10", "Recall@5", "MRR") if m in measures]
    return wanted if len(wanted) > 2 else list(measures[:4])


def _best(rows: Sequence[Mapping[str, Any]], own: Sequence[int], measure: str, column: int) -> list[tuple[int, int]]:
    """The cells of the model's rows that are highest as printed, where not all are."""
    shown = {i: _number(rows[i]["measures"][measure]) for i in own}
    return [(i, column) for i, text in shown.items() if text == max(shown.values()) != min(shown.values())]


def _number(value: float) -> str:
    return f"{value:.3f}"


def _percent(value: float) -> str:
    """Whole percent, but never 100 % where something is missing, nor 0 % where something is there."""
    whole = f"{100 * value:.0f}"
    if whole == "0" and value > 0:
        return "< 1 %"
    if whole == "100" and value < 1:
        return "> 99 %"
    return f"{whole} %"


def _named(row: Mapping[str, Any]) -> str:
    return "" if row["baseline"] else _percent(row["coverage"])


def _coverage(row: Mapping[str, Any]) -> str:
    return f" ({_percent(row['coverage'])})" if row["problems"] is not None and "strict" in row["name"] else ""


def _p_value(p: float | None) -> str:
    if p is None:
        return ""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
