"""A report as GitHub Markdown."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from irpo.compare.page import Cell, Figure, Panel, Plain, Report, Source, Table, TableRow
from irpo.compare.writing import wording

MOST_POINTS = 12  # x values of a figure whose points are told as a table


def markdown(report: Report) -> str:
    """The whole report; figures as their text alternatives, with their points where these are few."""
    parts = [
        f"# {inline(report.title)}",
        f"**{inline(report.found)}**" if report.found.strip() else "",
        escaped(report.about),
        *(_table(table) for table in report.tables),
        *(_plain(table) for table in report.more),
        *(_figure(figure) for figure in report.figures),
        _section("Notes", _listed(report.notes)),
        _section("Data", _cards(report.cards)),
        _section("Provenance", _provenance(report.sources)),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def escaped(text: str) -> str:
    r"""Any text as a paragraph of one line, without a meaning in Markdown or HTML.

    >>> escaped("- a|b <i> *c*")
    '\\- a\\|b &lt;i&gt; \\*c\\*'
    """
    return re.sub(r"^(\d{0,9})(=|[-+.)](?=[\s-]|$))", r"\1\\\2", inline(text))  # lists, rules, lines under a heading


def inline(text: str) -> str:
    r"""Any text on one line, within a cell or behind other text; URLs stay text.

    >>> inline("https://a.b/_c_")
    'https:\\//a.b/\\_c\\_'
    """
    found = re.sub(r"[\\`*_\[\]#|~$]", r"\\\g<0>", wording.line(text))
    found = re.sub(r"(?<=:)/(?=/)|(?<=www)\.", r"\\\g<0>", found, flags=re.IGNORECASE)
    return found.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _section(title: str, content: str) -> str:
    return f"## {title}\n\n{content}" if content else ""


def _listed(texts: Sequence[str]) -> str:
    return "\n".join(f"- {escaped(text)}" for text in texts)


def grid(header: Sequence[str], rows: Sequence[Sequence[str]], named: int = 1) -> str:
    """A table of cells that are Markdown already; all columns behind the first `named` ones stand to the right."""
    rule = ["---"] * named + ["---:"] * (len(header) - named)
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, rule, *rows))


def _table(table: Table) -> str:
    against, marks = wording.compared(table), wording.marks_of(table)
    models = any(row.group for row in table.rows)
    header = [*(["model"] if models else []), "ranker"]
    header += [f"{inline(column.task)} {inline(column.measure)}".strip() for column in table.columns]
    rows = [
        [*([inline(row.group)] if models else []), _name(row, marks), *(_cell(cell, against) for cell in row.cells)]
        for row in table.rows
    ]
    footnotes = [f"<sup>{i}</sup> {inline(mark)}" for i, mark in enumerate(marks, start=1)]
    notes = [f"- {note}" for note in (*footnotes, *map(inline, wording.notes_of(table)))]
    parts = [f"## {inline(table.title)}", grid(header, rows, named=1 + models), "\n".join(notes)]
    return "\n\n".join(filter(None, parts))


def _name(row: TableRow, marks: tuple[str, ...]) -> str:
    numbers = wording.numbers_of(row, marks)
    return inline(wording.name_of(row)) + (f" <sup>{numbers}</sup>" if numbers else "")


def _cell(cell: Cell, against: tuple[str, ...]) -> str:
    """`**0.812** <sup>+a</sup><br><sub>0.790 to 0.830 ± 0.004</sub><br><sub>[paper: 0.799]</sub>`."""
    text = wording.number(cell.value)
    text = f"**{text}**" if cell.best else f"<u>{text}</u>" if cell.second else text
    found = wording.signs(cell, against)
    spread = " ".join(filter(None, [wording.interval(cell), wording.deviation(cell)]))
    below = [spread, "" if cell.printed is None else f"[paper: {wording.number(cell.printed)}]"]
    return text + (f" <sup>{found}</sup>" if found else "") + "".join(f"<br><sub>{one}</sub>" for one in below if one)


def _plain(table: Plain) -> str:
    rows = [[inline(wording.plain(value)) for value in row] for row in table.rows]
    content = grid([*map(inline, table.header)], rows) if table.header else ""
    return "\n\n".join(filter(None, [f"## {inline(table.title)}", content, _listed(table.notes)]))


def _figure(figure: Figure) -> str:
    tables = [_points(figure, panel) for panel in figure.panels]
    parts = [
        f"## {inline(figure.title)}",
        f"Figure (drawn in report.html): {escaped(figure.alt)}",
        *tables,
        "" if all(tables) else "All its points are in report.json.",
        _listed(figure.notes),
    ]
    return "\n\n".join(filter(None, parts))


def _points(figure: Figure, panel: Panel) -> str:
    """A line by series, a column by x; nothing where there are too many x, or several points of a series at one."""
    found = [{_place(point[0]): point[1] for point in series.points} for series in panel.series]
    places = wording.unique(place for ys in found for place in ys)
    lost = any(len(ys) < len(series.points) for ys, series in zip(found, panel.series, strict=True))
    if lost or not 0 < len(places) <= MOST_POINTS or figure.kind == "scatter":
        return ""
    title = ", ".join(filter(None, [panel.title, f"{figure.y} by {figure.x}"]))
    rows = [
        [inline(series.name), *(wording.number(ys.get(place)) for place in places)]
        for series, ys in zip(panel.series, found, strict=True)
    ]
    return f"{inline(title)}:\n\n{grid(['', *map(inline, places)], rows)}"


def _place(x: float | str) -> str:
    return x if isinstance(x, str) else f"{x:g}"


def _cards(cards: Mapping[str, Mapping[str, Any]]) -> str:
    return _listed([f"{task}: {'; '.join(_told(card))}" for task, card in cards.items()])


def _told(values: Mapping[str, Any]) -> list[str]:
    """`name: value`; what is longer than a line stays in report.json."""
    texts = {name: _short(value) for name, value in values.items()}
    return [f"{name.replace('_', ' ')}: {text}" for name, text in texts.items() if text]


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 200 else ""


def _provenance(sources: Sequence[Source]) -> str:
    if not sources:
        return ""
    states = Counter(source.state for source in sources)
    counted = ", ".join(f"{count} {state}" for state, count in states.items())
    rows = [
        [
            inline(source.name),
            source.state + (f": {inline(source.error)}" if source.error else ""),
            wording.plain(source.seconds),
            inline(source.key),
            inline(str(source.made.get("commit", ""))[:12]),
        ]
        for source in sources
    ]
    table = grid(["cell", "state", "seconds", "key", "commit"], rows, named=2)
    return "\n\n".join(
        [
            f"Cells: {counted}.",
            _listed(_shared(sources)),
            f"<details><summary>Every cell</summary>\n\n{table}\n\n</details>",
        ]
    )


def _shared(sources: Sequence[Source]) -> list[str]:
    """What all cells that tell it were made with: one value, or the few different ones with their counts."""
    values: dict[str, Counter[str]] = {}
    for source in sources:
        for name, value in source.made.items():
            if isinstance(value, str | int | float) and name != "seed":
                values.setdefault(name, Counter())[str(value)] += 1
    found = []
    for name, counts in values.items():
        few = [value if len(counts) == 1 else f"{value} ({count} cells)" for value, count in counts.most_common(4)]
        more = [f"{len(counts) - 4} others"] if len(counts) > 4 else []
        found.append(f"{name.replace('_', ' ')}: {', '.join([*few, *more])}")
    return found
