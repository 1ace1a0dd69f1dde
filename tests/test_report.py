"""Reports: what is printed, at the width of a terminal."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from irpo.evaluation.report import Grid, markdown, overview
from irpo.evaluation.results import Answers, Measured, Setting, Summary
from irpo.measures import MEASURES

PROBLEMS = {"missing": 12, "repeated": 3, "unknown": 1, "unparseable": 0}
SETTING = Setting("text", "world.text", 512, "independent", "sum", 0, None, 1.0, 2, 7, 0)


def row(name, value, *, part=None, baseline=False, answers=None):
    return Measured(
        name=name,
        mode=None if baseline else name.split()[0],
        part=part,
        measures=dict.fromkeys(MEASURES, value),
        interval=(value - 0.01, value + 0.01),
        answers=answers or Answers(),
        seconds=None if baseline else 2.0,
        lists_per_second=None if baseline else 20.0,
    )


def summary(score=0.95):
    answers = Answers(0.997, 0.25, PROBLEMS)
    rows = (
        row("score", score),
        row("generate strict", 0.8, part="strict", answers=answers),
        row("generate repaired", 0.85, part="repaired", answers=answers),
        row("constrain", 0.9),
        row("random", 0.45, baseline=True),
        row("BM25", 0.5, baseline=True),
    )
    return Summary({"model": "embedded"}, 40, 40, 1000, 25, MEASURES, rows, SETTING)


def printed(grid: Grid, width: int) -> list[str]:
    """What stands on a terminal of that width."""
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    grid.show(console)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_the_overview_fits_80_columns():
    lines = printed(overview(summary()), 80)
    assert max(map(len, lines)) <= 80
    assert not any("\u2026" in line for line in lines)  # nothing is cut
    generated = next(line for line in lines if "generate strict" in line)
    assert "0.800" in generated
    assert "> 99 %" in generated  # not 100 %: something is missing
    assert any("earns nothing" in line for line in lines)


def test_a_log_file_has_no_broken_lines_and_a_terminal_none_too_long():
    long = "a sentence that goes on and on " * 10
    grid = Grid("t", ("a", "b"), (("x", "1"),), (long.strip(),))
    assert max(map(len, printed(grid, 60))) <= 60
    assert long.strip() in " ".join(printed(grid, 60))
    file = Console(file=io.StringIO(), width=60)
    grid.show(file)
    assert long.strip() in file.file.getvalue().splitlines()


def test_the_report_tells_everything():
    text = markdown(summary())
    for part in (
        "- model: embedded",
        "- prompts cut: 2",
        "| Recall@20 |",
        "0.940 to 0.960",
        "| missing | 12 |",
        "25 %",
    ):
        assert part in text
    assert "| score | **0.950** |" in text
    assert "| random | 0.450 |" in text


def test_a_report_without_free_generation():
    told = replace(summary(), rows=tuple(r for r in summary().rows if r.part is None))
    assert "free answers" not in markdown(told)


@pytest.mark.parametrize("measures", [["NDCG@2", "Recall@2", "P@2", "MRR", "MAP"], ["NDCG@5", "Recall@5"]])
def test_other_cut_offs(measures):
    rows = tuple(replace(r, measures=dict.fromkeys(measures, 0.5)) for r in summary().rows)
    told = replace(summary(), measures=tuple(measures), rows=rows)
    assert overview(told).header[1] == measures[0]


def test_names_are_not_markup():
    grid = Grid("t", ("a", "b"), (("[bold]x", "1|2"),))
    assert any("[bold]x" in line for line in printed(grid, 80))
    assert "1\\|2" in grid.markdown()
