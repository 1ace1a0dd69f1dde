"""The guide `sizing` says what its script makes."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import sizing

from irpo.estimate.cards import Card

GUIDE = sizing.GUIDE.read_text(encoding="utf-8")


def cells(row):
    return [part.strip() for part in row.strip("| ").split("|")]


def table():
    return GUIDE.partition(sizing.BEGIN)[2].partition(sizing.END)[0].splitlines()


def test_every_shipped_model_has_its_rows_and_every_figure_is_marked():
    rows = [cells(row) for row in table()[2:]]
    for model in sizing.models():
        ways = [row[1] for row in rows if row[0] == model]
        assert ways == (list(sizing.TUNINGS) if sizing.known(model) else ["any"])
    figures = [cell for row in rows for cell in row[2:] if "GiB" in cell]
    assert len(figures) == 3 * sum(row[1] != "any" for row in rows)
    assert all(cell.endswith("(est.)") for cell in figures)


def test_a_row_of_the_guide_is_what_the_script_makes():
    assert sizing.row("llama3.2-1b", "LoRA on NF4") in table()


def test_rewriting_changes_the_table_alone():
    again = sizing.rewritten(GUIDE, "| new |\n")
    assert again.replace("| new |\n", "") == sizing.rewritten(GUIDE, "")
    assert sizing.rewritten(again, "\n".join(table()) + "\n") == GUIDE


def test_figures_have_two_digits():
    assert [sizing._round(number) for number in (123_456.0, 999_999.0, 87.2)] == [120_000, 1_000_000, 87]


@pytest.mark.parametrize(("gib", "said"), [(12, "no: 14.0 GiB of 12"), (15, "14.0 GiB, ")])
def test_a_card_that_is_too_small_says_what_it_would_take(gib, said):
    one = sizing.on_one("llama3.2-1b", "LoRA on NF4", 8192)
    sizes = dict.fromkeys(one.usage.bytes, 0) | {"weights": 13 * 2**30}
    large = replace(one, usage=replace(one.usage, bytes=sizes), overhead=2**30)
    assert sizing.cell(lambda _: sizing.elsewhere(large, Card("some", gib, 100))).startswith(said)
