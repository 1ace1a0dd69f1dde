"""Reports made up for tests of what writes them: small, but every field of every part is used."""

from __future__ import annotations

import random
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from irpo.compare.page import (
    Cell,
    Column,
    Figure,
    Panel,
    Plain,
    Ranked,
    Report,
    Series,
    Source,
    Table,
    TableRow,
    Test,
    Viewed,
)

T = TypeVar("T")

MODELS = ("Llama-3.2-3B-Instruct", "Gemma-2-2B-it")
METHODS = ("base", "SFT", "DPO", "IRPO")
TASKS = ("redial", "inspired")
MEASURES = ("NDCG@1", "NDCG@5", "NDCG@10")

# Texts that break out of what quotes them badly, or that turn what stands around them.
HOSTILE = (
    "<script>alert(1)</script>",
    "</script><script>alert(2)</script>",
    "<!--<script>",
    "<img src=x onerror=alert(3)>",
    "\"><svg onload=alert(4)> ' onfocus='alert(5)' autofocus='",
    "a | b & c % d _ e # f $ g ^ h ~ i \\ j { k }",
    "two\nlines\r\nand a\ttab",
    "before \u202e turned \u202c after",
    "عربي and עברית",
    "nul \x00 bell \x07 surrogate \ud800 end \u2028 line \u2029",
    "{{ 7 * 7 }} {% raw %} ${7 * 7}",
    "&lt;b&gt; &amp;amp; =1+1 @x",
    "$a_1$ and $\\unknown$",
    " leading and trailing ",
)


def report() -> Report:
    """A suite of two models, four methods and two tasks, with a failed and a missing cell."""
    chance = random.Random(0)
    return Report(
        title="Four methods on two tasks",
        about="Conversational recommendation; 3 seeds, 8 trials a method.",
        found="IRPO ranks best in 11 of 12 columns; over SFT it gains .041 NDCG@10 on redial (95 % .02 to .06).",
        tables=(_recommendation(chance), _small()),
        more=(_cost(), _orders()),
        figures=(_curves(chance), _coverage(chance), _by_place()),
        sources=_sources(),
        cards={
            "redial": {"name": "ReDial", "lists": 1000, "files": ["test.jsonl:1"]},
            "inspired": {"name": "INSPIRED"},
        },
        notes=(
            "Intervals: 95 %, 2000 bootstrap draws of seeds and groups.",
            "Power: 500 groups and 3 seeds could have shown a difference of .025 in 80 of 100 suites.",
        ),
    )


def _key(*parts: object) -> str:
    return f"{random.Random('/'.join(map(str, parts))).getrandbits(64):016x}"


def _columns() -> tuple[Column, ...]:
    return tuple(Column(task, measure) for task in TASKS for measure in MEASURES)


def _recommendation(chance: random.Random) -> Table:
    rows = [_baseline(name, chance) for name in ("random", "BM25", "popularity")]
    for model in MODELS:
        for place, method in enumerate(METHODS):
            for strength in ("1",) if method == "base" else ("1", "auto"):
                cells = tuple(_cell(chance, place, (model, method, c.task)) for c in _columns())
                row = TableRow(method, model, cells, "untrained" if method == "base" else "trained", strength)
                rows.append(replace(row, marks=("12 trials, others 8",) if method == "DPO" else ()))
    rows[-1] = _with_best(rows[-1], best=True)
    rows[-3] = _with_best(rows[-3], best=False)
    gap = (Cell(None), *rows[4].cells[1:])
    rows[4] = replace(rows[4], cells=gap, marks=("2 of 3 seeds", "failed on redial: CUDA out of memory"))
    rows.append(TableRow("RankZephyr", "", tuple(Cell(0.5 + i / 100) for i in range(6)), "external"))
    notes = ("Both tasks rank 20 films; chance is .21 at NDCG@10.",)
    return Table("recommendation", "Conversational recommendation", _columns(), tuple(rows), notes)


def _baseline(name: str, chance: random.Random) -> TableRow:
    cells = tuple(Cell(chance.uniform(0.1, 0.3), keys=(_key(name, c.task),)) for c in _columns())
    return TableRow(name, "", cells, "baseline")


def _cell(chance: random.Random, place: int, of: tuple[str, ...]) -> Cell:
    value = 0.25 + 0.08 * place + chance.uniform(0, 0.04)
    test = Test("SFT", value - 0.35, value - 0.37, value - 0.33, 0.004, (0.01, 0.2)[place % 2], 0.35)
    worse = Test("IRPO", value - 0.6, value - 0.63, value - 0.55, 0.0002, 0.001, -0.8)
    tests = (test, worse) if place in (2, 3) else ()
    printed = round(value - 0.013, 3) if of[2] == "redial" else None
    keys = tuple(_key(*of, seed) for seed in range(3))
    return Cell(value, value - 0.02, value + 0.03, 0.008, 3, printed=printed, tests=tests, keys=keys)


def _with_best(row: TableRow, *, best: bool) -> TableRow:
    return replace(row, cells=tuple(replace(cell, best=best, second=not best) for cell in row.cells))


def _small() -> Table:
    """A table without groups, intervals or tests, and with a value of 0 and one of 1."""
    cells = ((Cell(0.0), Cell(1.0, best=True)), (Cell(0.125, second=True), Cell(None)))
    rows = tuple(TableRow(name, "", row) for name, row in zip(("lowest", "half known"), cells, strict=True))
    return Table("corners", "Corners", (Column("arc", "NDCG@1"), Column("arc", "MRR")), rows)


def _cost() -> Plain:
    header = ("method", "seconds", "tokens", "peak memory (GiB)", "energy (kJ)")
    rows = (("IRPO", 1234.5, 2_000_000.0, 12.25, None), ("DPO", 2345.0, 4_000_000.0, 15.5, 310.0))
    return Plain("cost", "What it cost", header, rows, ("Energy where the device tells it.",))


def _orders() -> Plain:
    header = ("method", "task", "Kendall's tau")
    return Plain("orders", "Between candidate orders", header, (("IRPO", "redial", 0.81), ("SFT", "redial", None)))


def _curves(chance: random.Random) -> Figure:
    panels = []
    for task in TASKS:
        series = []
        for place, method in enumerate(METHODS[1:]):
            heights = [0.2 + 0.05 * place + 0.03 * t**0.5 + chance.uniform(0, 0.01) for t in range(8)]
            points = tuple((50.0 * t, y, y - 0.02, y + 0.02) for t, y in enumerate(heights))
            series.append(Series(method, points))
        panels.append(Panel(task, tuple(series)))
    alt = "Two panels, redial and inspired: all methods rise over 350 updates, IRPO stays above DPO and DPO above SFT."
    return Figure("learning", "Learning curves", alt, "line", "update", "NDCG@10", tuple(panels), ("3 seeds.",))


def _coverage(chance: random.Random) -> Figure:
    series = tuple(
        Series(f"{method}", tuple((chance.uniform(0.5, 1), chance.uniform(0.2, 0.6), None, None) for _ in range(3)))
        for method in METHODS
    )
    alt = "NDCG@10 against coverage: base covers least and ranks worst."
    return Figure("coverage", "NDCG against coverage", alt, "scatter", "coverage", "NDCG@10", (Panel("", series),))


def _by_place() -> Figure:
    series = tuple(
        Series(method, tuple((position, 0.6 - 0.1 * i - 0.03 * j, 0.5 - 0.1 * i, None) for i, position in _positions()))
        for j, method in enumerate(METHODS)
    )
    alt = "NDCG@10 falls with the position of the relevant item in the prompt, for every method."
    return Figure(
        "position", "By position", alt, "line", "position of the relevant item", "NDCG@10", (Panel("redial", series),)
    )


def _positions() -> tuple[tuple[int, str], ...]:
    return tuple(enumerate(("1-5", "6-10", "11-15", "16-20")))


def _sources() -> tuple[Source, ...]:
    made = {
        "commit": "0123456789abcdef",
        "torch": "2.13.0",
        "seed": 0,
        "config": {"objective": {"name": "irpo", "beta": 0.1}},
    }
    found = []
    for model in MODELS:
        for method in METHODS:
            for task in TASKS:
                for seed in range(3):
                    name = f"{method} on {task}, {model}: seed {seed}"
                    found.append(
                        Source(_key(model, method, task, seed), name, "done", made=made | {"seed": seed}, seconds=61.5)
                    )
    found.extend(
        Source(_key(name, task), f"{name} on {task}", "done")
        for name in ("random", "BM25", "popularity")
        for task in TASKS
    )
    found[3] = replace(found[3], state="failed", error="CUDA out of memory. Tried to allocate 2.00 GiB", made={})
    found[4] = replace(found[4], state="missing", made={}, seconds=None)
    return tuple(found)


def viewed(lists: int = 12, candidates: int = 6) -> tuple[Viewed, ...]:
    """The same suite's lists for the viewer: graded labels, some answers cut short, some parsed with problems."""
    return tuple(_viewed(task, lists, candidates) for task in TASKS)


def _viewed(task: str, lists: int, candidates: int) -> Viewed:
    chance = random.Random(task)
    numbers = range(candidates)
    relevance = tuple(tuple(float(i == n % candidates) + float(i == 0) for i in numbers) for n in range(lists))
    return Viewed(
        task,
        "NDCG@10",
        tuple(f"{task}-{n}" for n in range(lists)),
        tuple(f"USER: I liked film {n}. What else?\nSYSTEM: More like it?\nUSER: yes" for n in range(lists)),
        tuple(tuple(f"Film {chance.randrange(1000)} ({1950 + i})" for i in numbers) for _ in range(lists)),
        relevance,
        tuple(_ranked(model, method, relevance, chance) for model in MODELS for method in METHODS),
        left_out=5 if task == "redial" else 0,
    )


def _ranked(model: str, method: str, relevance: tuple[tuple[float, ...], ...], chance: random.Random) -> Ranked:
    orders, values, problems = [], [], {}
    for n, labels in enumerate(relevance):
        order = chance.sample(range(len(labels)), len(labels))
        if method == "base" and n % 4 == 1:
            order, problems[n] = order[:2], "unknown label 9; missing: 4 candidates"
        if method == "DPO" and n == len(relevance) - 1:  # it ranked all but the last list
            orders.append(())
            values.append(None)
            continue
        orders.append(tuple(order))
        values.append(round(labels[order[0]] / max(labels), 4) if order else 0.0)
    return Ranked(method, model, tuple(orders), tuple(values), problems)


def hostile(text: str) -> tuple[Report, tuple[Viewed, ...]]:
    """The report and its lists, a text put behind every text that comes from outside: names, queries, errors, ..."""
    return _tainted(report(), text), _tainted(viewed(), text)


_OURS = frozenset({"id", "kind", "state", "keys", "key"})  # never from outside


def _tainted(value: T, text: str) -> T:
    found: Any = value
    if is_dataclass(value) and not isinstance(value, type):
        parts = {f.name: getattr(value, f.name) for f in fields(value) if f.name not in _OURS}
        found = replace(value, **{name: _tainted(part, text) for name, part in parts.items()})  # type: ignore[type-var]
    elif isinstance(value, str):
        found = value + text
    elif isinstance(value, tuple):
        found = tuple(_tainted(part, text) for part in value)
    elif isinstance(value, list):
        found = [_tainted(part, text) for part in value]
    elif isinstance(value, dict):
        found = {_tainted(name, text): _tainted(part, text) for name, part in value.items()}
    return found
