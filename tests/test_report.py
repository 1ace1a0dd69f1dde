"""Reports: what is printed, at the width of a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from irpo.measures import measure_names
from irpo.report import Grid, comparison, markdown, overview

PROBLEMS = {"missing": 12, "repeated": 3, "unknown": 1, "unparseable": 0}


def row(name, value, *, baseline=False, coverage=1.0, problems=None):
    return {
        "name": name,
        "baseline": baseline,
        "measures": dict.fromkeys(measure_names(), value),
        "interval": [value - 0.01, value + 0.01],
        "coverage": coverage,
        "exact_permutations": 0.25,
        "problems": problems,
        "tied_lists": 0,
        "seconds": None if baseline else 2.0,
        "lists_per_second": None if baseline else 20.0,
    }


def summary(score=0.95):
    return {
        "about": {"model": "embedded"},
        "lists": 40,
        "candidates": 400,
        "setting": {"style": "text", "prompts_cut": 2},
        "measures": list(measure_names()),
        "main_measure": "NDCG@10",
        "rows": [
            row("score", score),
            row("generate strict", 0.8, coverage=0.997, problems=PROBLEMS),
            row("generate repaired", 0.85, coverage=0.997, problems=PROBLEMS),
            row("constrain", 0.9),
            row("random", 0.45, baseline=True),
            row("BM25", 0.5, baseline=True),
        ],
    }


def printed(grid: Grid, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(grid.table())
    return console.file.getvalue().splitlines()


def test_the_overview_fits_80_columns():
    lines = printed(overview(summary()), 80)
    assert max(map(len, lines)) <= 80
    assert not any("\u2026" in line for line in lines)  # nothing is cut
    generated = next(line for line in lines if "generate strict" in line)
    assert "0.800" in generated
    assert "> 99 %" in generated  # not 100 %: something is missing
    assert any("earns nothing" in line for line in lines)


def test_the_comparison_fits_100_columns():
    results = {"base": summary(0.5), "IRPO + 1.0 x NLL": summary(0.96)}
    note = "p: of score against base"
    grid = comparison(results, p_values={"IRPO + 1.0 x NLL": 0.0001}, p_note=note)
    lines = printed(grid, 100)
    assert not any("\u2026" in line for line in lines)
    assert grid.header == ("method", "score", "generate (named)", "repaired", "constrain", "p")
    assert grid.rows[1] == ("IRPO + 1.0 x NLL", "0.960", "0.800 (> 99 %)", "0.850", "0.900", "< 0.001")
    assert grid.best == {(1, 1)}  # where all are equal, none is best
    assert grid.notes[0] == "without a model: random 0.450, BM25 0.500"
    assert grid.notes[-1] == note


def test_the_comparison_of_another_measure():
    assert comparison({"base": summary()}, "MRR").title == "MRR on 40 lists"


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
    told = summary()
    told["rows"] = [r for r in told["rows"] if r["problems"] is None]
    assert "free answers" not in markdown(told)


@pytest.mark.parametrize("measures", [["NDCG@2", "Recall@2", "P@2", "MRR", "MAP"], ["NDCG@5", "Recall@5"]])
def test_other_cut_offs(measures):
    told = summary() | {"measures": measures}
    for r in told["rows"]:
        r["measures"] = dict.fromkeys(measures, 0.5)
    assert overview(told).header[1] == measures[0]


def test_names_are_not_markup():
    grid = Grid("t", ("a", "b"), (("[bold]x", "1|2"),))
    assert any("[bold]x" in line for line in printed(grid, 80))
    assert "1\\|2" in grid.markdown()
