"""Figures in the READMEs, read from the results' files, so that none is of a run that is no more.

    python benchmarks/reading.py            # writes every marked figure anew
    python benchmarks/reading.py --check    # says which differ from the results, and which are not marked; exit code 1

A table stands between `<!-- results: SOURCE -->` and `<!-- /results -->`. A figure in a sentence is followed by where
it stands: `.974<!--= SOURCE: ROW, COLUMN -->` is the first number of that cell of the table, `... COLUMN #2 -->` its
second; ROW is the row's first cell, or its first few with " / " between them. `<!--given-->` behind a figure says that
it was not measured here: a setting, or what others report. Sources: the tables of results/study.json as `study NAME`
and of results/online.json as `online NAME`, which say how they were made; `embedded rankings` and `embedded facts`, of
`embedded_measure.py`; `quickstart screen` and `quickstart table`, the table that a quickstart prints, and `quickstart
about`, of results/quickstart.json, which is report.json of its folder; `real ...` and `quick ...` alike; `block table`
and `long_lists table`, of the lines that those benchmarks wrote.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from textwrap import fill
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
ROOT = RESULTS.parents[1]
MISSING = "(not measured yet)"
# The sections, by their headings, in which every figure is marked: up to the next heading of any rank.
COVERED = {
    "README.md": ("irpo",),
    "benchmarks/README.md": (
        *("Does a model read as well in blocks?", "By parts", "The embedded model", "Studies", "On-policy"),
    ),
    "irpo/guides/method.md": ("Choose a method: what the studies say",),
}

NUMBER = r"(?:(?<![\d.])[-+])?(?:\d[\d,]*)?\.?\d+(?: ?%)?"
_BLOCK = re.compile(r"(<!-- results: (?P<source>[^>]+?) -->\n).*?(<!-- /results -->)", re.DOTALL)
_CELL = r"<!--= (?P<source>[^:>]+): (?P<row>[^>]+), (?P<column>[^,>#]+?)(?: #(?P<at>\d+))? -->"
_MARK = re.compile(rf"(?P<number>{NUMBER})\**{_CELL}")
_ANY_MARK = re.compile(r"<!--(?:=|given).*?-->")
_GIVEN = re.compile(rf"{NUMBER}\**<!--given-->")
_FIGURE = re.compile(r"(?<![\w.])(?:[-+]?\d*\.\d+(?: ?%)?|\d+ ?%)(?![\w])")
# What holds no figure of ours: blocks of code, code within a line, the targets of links.
_NO_TEXT = re.compile(r"```.*?```|`[^`\n]*`|\]\([^)]*\)", re.DOTALL)


class Unread(ValueError):
    """A mark that leads nowhere."""


def rewritten(text: str) -> str:
    """The text with every table and every marked figure as the results have them now."""
    text = _BLOCK.sub(lambda m: f"{m[1]}{made(m['source']).strip()}\n{m[3]}", text)
    text = _MARK.sub(_figure, text)
    if lost := [m[0] for m in _ANY_MARK.finditer(_GIVEN.sub("", _MARK.sub("", _NO_TEXT.sub("", text))))]:
        raise Unread(f"{lost[0]}: a mark stands right behind a figure, as `.9<!--= SOURCE: ROW, COLUMN -->`")
    return text


def unmarked(text: str, heading: str) -> list[str]:
    """The figures of a section, with a decimal point or a percent sign, that nothing says the origin of."""
    bare = _GIVEN.sub("", _MARK.sub("", _BLOCK.sub("", section(text, heading))))
    return _FIGURE.findall(_NO_TEXT.sub("", bare))


def section(text: str, heading: str) -> str:
    """What stands below a heading, up to the next one of any rank outside of code."""
    parts = re.split(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), flags=re.MULTILINE)
    found = dict(zip(parts[1::2], parts[2::2], strict=True))
    if heading not in found:
        raise Unread(f"no heading {heading!r}; there are {', '.join(found)}")
    return found[heading]


def _figure(mark: re.Match[str]) -> str:
    """The marked figure as its cell has it; a text's own way of writing the same number stays."""
    table = made(mark["source"].strip())
    if table == MISSING:
        raise Unread(f"{mark[0]}: {mark['source']} is not measured yet")
    numbers = re.findall(NUMBER, cell(table, mark["row"].strip(), mark["column"].strip()))
    at = int(mark["at"] or 1)
    if len(numbers) < at:
        raise Unread(f"{mark[0]}: the cell holds {len(numbers)} number(s)")
    now = numbers[at - 1]
    return mark[0] if _plain(now) == _plain(mark["number"]) else f"{now}{mark[0][len(mark['number']) :]}"


def _plain(number: str) -> str:
    """A number however it is written.

    >>> _plain("0.970"), _plain(".970"), _plain("2,048"), _plain("97 %")
    ('.970', '.970', '2048', '97%')
    """
    return re.sub(r"^([-+]?)0\.", r"\1.", re.sub("[ ,]", "", number))


def cell(table: str, row: str, column: str) -> str:
    """A cell of a table in markdown."""
    lines = [[_bare(part) for part in line.strip().strip("|").split("|")] for line in table.splitlines() if "|" in line]
    header, rows = lines[0], lines[2:]
    if column not in header:
        raise Unread(f"no column {column!r}; there are {', '.join(header)}")
    names = [name.strip() for name in row.split(" / ")]
    found = [cells for cells in rows if cells[: len(names)] == names]
    if len(found) != 1:
        raise Unread(f"{len(found)} rows begin with {row!r}; there are {', '.join(cells[0] for cells in rows)}")
    return found[0][header.index(column)]


def _bare(text: str) -> str:
    return text.replace("**", "").replace("`", "").strip()


@cache
def made(source: str) -> str:
    """A source's text, from the results as they are; `MISSING` where there are none yet."""
    kind, _, name = source.partition(" ")
    if kind not in SOURCES:
        raise Unread(f"no source {source!r}; there are {', '.join(f'{kind} NAME' for kind in SOURCES)}")
    found = SOURCES[kind]()
    if found and name not in found:
        raise Unread(f"no source {source!r}; {kind} has {', '.join(found)}")
    return found.get(name, MISSING)


def kept(name: str) -> Mapping[str, str]:
    """Tables that stand as they were made."""
    path = RESULTS / f"{name}.json"
    tables: Mapping[str, str] = json.loads(path.read_text(encoding="utf-8"))["tables"] if path.is_file() else {}
    return tables


def block() -> Mapping[str, str]:
    """The table of `block_study.py`."""
    from block_study import RESULTS as path
    from block_study import lines_of, table

    return {"table": "\n".join(table(lines_of(path)))} if path.is_file() else {}


def long_lists() -> Mapping[str, str]:
    """What each setting of `long_lists.py` found, a row each."""
    path = RESULTS / "long_lists.jsonl"
    if not path.is_file():
        return {}
    told = ["| lists | ranker | mode | NDCG@10 | 95 % | prompts |", "| --- | --- | --- | --- | --- | --- |"]
    for row in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
        cells = (row["set"], row.get("model", ""), row["mode"], _short(row["ndcg@10"]))
        ends = f"{_short(row['low'])} to {_short(row['high'])}"
        told.append(f"| {' | '.join(map(str, cells))} | {ends} | {row['prompts']:g} |")
    return {"table": "\n".join(told)}


def embedded() -> Mapping[str, str]:
    """What the embedded model is before any fine-tuning."""
    path = RESULTS / "embedded.json"
    if not path.is_file():
        return {}
    told = json.loads(path.read_text(encoding="utf-8"))
    return {
        "rankings": ability(told["ndcg@10"]),
        "facts": _pairs(("of", "share of questions"), told["facts"], "{:.3f}"),
    }


def ability(told: Mapping[str, Any]) -> str:
    """NDCG@10 by what ranks, in markdown: without a model, and by the model in each register and style."""
    rows = ["| NDCG@10 | score | constrained | free, strict | named |", "| --- | --- | --- | --- | --- |"]
    for name, value in told.items():
        if isinstance(value, float):
            rows.append(f"| {name} | {value:.3f} | | | |")
        elif isinstance(value, Mapping):
            low, high = value["interval"]
            measured = [f"{value['score']:.3f} ({low:.3f} to {high:.3f})", f"{value['constrain']:.3f}"]
            rows.append(f"| {name} | {' | '.join(measured)} | {value['free']:.3f} | {value['named']:.1%} |")
    return "\n".join(rows)


def _pairs(header: tuple[str, str], values: Mapping[str, Any], form: str = "{}") -> str:
    """Names and values, a row each, in markdown."""
    rows = [header, ("---", "---"), *((name, form.format(value)) for name, value in values.items())]
    return "\n".join(f"| {name} | {value} |" for name, value in rows)


def suite(name: str) -> Mapping[str, str]:
    """What is said of a suite, by its report."""
    path = RESULTS / f"{name}.json"
    if not path.is_file():
        return {}
    from irpo.compare.terminal import grids
    from irpo.compare.writing.reading import read_report

    told = read_report(json.loads(path.read_text(encoding="utf-8")))
    shown = grids(told)
    cells = [source for source in told.sources if source.state == "done"]
    seconds = sum(source.seconds or 0.0 for source in cells)
    about = {"cells": str(len(cells)), "minutes of one core": f"{seconds / 60:.0f}"}
    alone = len({row.group for table in told.tables for row in table.rows if row.kind == "trained"}) == 1
    one = alone and len({column.task for table in told.tables for column in table.columns}) == 1
    return {
        "screen": "```\n" + "\n".join(map(screen, shown)) + f"\n{fill(told.found, 80)}\n```",
        "table": "\n\n".join(replace(grid, notes=(), header=_one_line(grid.header)).markdown() for grid in shown),
        "about": _pairs(("what", "value"), about),
    } | ({"means": means(told), "modes": modes(told)} if one else {})


def means(report: Any) -> str:
    """Methods by measures, the best first, with the test against the trained one of `against`, in markdown."""
    from irpo.compare.statistics.saying import chance

    (table,) = report.tables
    cuts = [column.measure for column in table.columns]
    tested = [test.against for row in table.rows for test in row.cells[-1].tests]
    other = next(name for name in tested if name not in [row.name for row in table.rows if row.kind == "untrained"])
    header = ["", *cuts, "constrained", "free", "named", "whole", f"against {other}"]
    rows = [row for row in table.rows if row.kind == "untrained" or (row.kind == "trained" and "auto" in row.strength)]
    found = []
    for row in sorted(rows, key=lambda row: -(row.cells[-1].value or 0.0)):
        scored = [f"{_short(cell.value)}" for cell in row.cells[:-1]]
        last = row.cells[-1]
        scored.append(f"{_short(last.value)} [{_short(last.low)}, {_short(last.high)}]")
        test = next((test for test in last.tests if test.against == other), None)
        word = {"+": "better", "-": "worse", "": "no difference shown"}[test.star] if test else ""
        told = f"{test.difference:+.3f}".replace("0.", ".", 1) + f" {chance('q', test.q)} {word}" if test else ""
        found.append((row.name, *scored, *_decoded(report, row.name), told))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *found))


def _decoded(report: Any, method: str) -> list[str]:
    """Constrained and free means at the last strength, the share that is named, and of whole answers."""
    (table,) = [table for table in report.more if table.id == "modes"]
    found = {"constrain": ["", "", ""], "generate strict": ["", "", ""]}
    for row in (dict(zip(table.header, cells, strict=True)) for cells in table.rows):
        if row["method"] == method and row["mode"] in found:
            shares = [_share(row[name]) for name in ("coverage", "exact")]
            found[str(row["mode"])] = [_short(row["mean"]), *shares]
    return [found["constrain"][0], *found["generate strict"]]


def modes(report: Any) -> str:
    """Every mode's mean, what it names and takes, in markdown."""
    tables = {table.id: table for table in report.more}
    rows, took = (
        [dict(zip(tables[id].header, row, strict=True)) for row in tables[id].rows] for id in ("modes", "cost-modes")
    )
    times = {(row["method"], row["mode"], row["strength"]): row["ms"] for row in took}
    header = ("", "mode", "strength", str(rows[0]["measure"]), "named", "whole", "ms a list")
    found = []
    for row in rows:
        free = str(row["mode"]).startswith("generate")
        shares = [_share(row[name]) if free else "" for name in ("coverage", "exact")]
        named = (str(row["method"]), str(row["mode"]), str(row["strength"]))
        found.append((*named, _short(row["mean"]), *shares, f"{times[named]:.1f}"))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *found))


def _share(value: float) -> str:
    return f"{value:.0%}".replace("%", " %")


def _short(value: float) -> str:
    """.976, as tables have it that are wide.

    >>> _short(0.9756), _short(1.0)
    ('.976', '1.000')
    """
    return f"{value:.3f}".removeprefix("0")


def _one_line(header: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name.replace("\n", " ") for name in header)


def screen(grid: Any) -> str:
    """What a terminal of 80 columns shows of a table."""
    from rich.console import Console

    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    grid.show(console)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())  # type: ignore[attr-defined]


SOURCES: dict[str, Callable[[], Mapping[str, str]]] = {
    "study": partial(kept, "study"),
    "online": partial(kept, "online"),
    "block": block,
    "long_lists": long_lists,
    "embedded": embedded,
    "methods": partial(suite, "methods"),
    "quickstart": partial(suite, "quickstart"),
    "real": partial(suite, "real"),
    "quick": partial(suite, "quick"),
}


def wrong(root: Path = ROOT) -> Iterator[str]:
    """What the texts say otherwise than the results, or without saying where from; a line each."""
    for name, headings in COVERED.items():
        text = (root / name).read_text(encoding="utf-8")
        for was, now in zip(text.splitlines(), rewritten(text).splitlines(), strict=False):
            if was != now:
                yield f"{name}: {was!r} is now {now!r}"
                break
        for heading in headings:
            yield from (f"{name}, {heading}: {figure} is not marked" for figure in unmarked(text, heading))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 where something differs")
    if parser.parse_args().check:
        found = list(wrong())
        print("\n".join(found) or "every figure is as the results have it")
        sys.exit(bool(found))
    for name in COVERED:
        path = ROOT / name
        path.write_text(rewritten(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
