"""Every figure in the READMEs' sections on results is what the results' files say."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from compare_reports import report

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import reading
from reading import MISSING, Unread, cell, rewritten, section, unmarked, wrong

from irpo.compare.terminal import grids
from irpo.files import sha256_of
from irpo.resources import embedded_dir
from irpo.runs.key import fingerprint

TABLE = """| method | strength | NDCG@10 | named |
| --- | --- | --- | --- |
| SFT | 1 | .948 [.941, .952] | 96 % |
| **IRPO** | 1 | **.838** [.81, .86] | 99 % |
| **IRPO** | `auto` | **.942** [.92, .97] | 1,234 |
"""
TEXT = f"""# Title

<!-- results: study methods -->
{TABLE}<!-- /results -->

## Reading

SFT has .948<!--= study methods: SFT, NDCG@10 --> (from .941<!--= study methods: SFT, NDCG@10 #2 -->) and names
96 %<!--= study methods: SFT, named -->; IRPO **0.942**<!--= study methods: IRPO / auto, NDCG@10 -->,
1234<!--= study methods: IRPO / auto, named --> of them, against .5<!--given--> elsewhere, [here](https://x.org/2402.1)
with `beta 0.1` in 5 seeds.

## Another
.77 and 12 %
"""


@pytest.fixture
def own(monkeypatch):
    """A table of our own in place of the repository's."""
    monkeypatch.setitem(reading.SOURCES, "study", lambda: {"methods": TABLE})
    reading.made.cache_clear()
    yield
    reading.made.cache_clear()


def test_every_figure_in_the_repository_is_as_the_results_have_it():
    assert list(wrong()) == []


def test_the_quickstart_in_the_readme_is_of_the_model_that_ships():
    told = json.loads((reading.RESULTS / "quickstart.json").read_text(encoding="utf-8"))
    embedded = json.loads((reading.RESULTS / "embedded.json").read_text(encoding="utf-8"))
    assert embedded["sha256"] == sha256_of(embedded_dir() / "model.safetensors")
    trained = [source["made"] for source in told["sources"] if "model" in source["made"]]
    assert trained
    assert {made["model"] for made in trained} == {fingerprint("embedded")}


def test_what_agrees_stays_as_it_is_written(own):
    assert rewritten(TEXT) == TEXT


@pytest.mark.parametrize(
    ("right", "changed"),
    [
        ("has .948<", "has .947<"),
        ("from .941<", "from .942<"),
        ("96 %<", "97 %<"),
        ("**0.942**<", "**0.943**<"),
        ("\n1234<", "\n1235<"),
        ("| SFT | 1 | .948", "| SFT | 1 | .949"),
        ("| 96 % |", "| 95 % |"),
    ],
)
def test_a_changed_digit_is_found_and_mended(right, changed, own):
    assert right in TEXT
    altered = TEXT.replace(right, changed, 1)
    mended = rewritten(altered)
    assert mended != altered
    numbers = [[reading._plain(n) for n in re.findall(reading.NUMBER, text)] for text in (TEXT, mended)]
    assert numbers[0] == numbers[1]


def test_figures_without_a_mark_are_found(own):
    assert unmarked(TEXT, "Reading") == []
    assert unmarked(TEXT, "Another") == [".77", "12 %"]
    for mark in ("<!--= study methods: SFT, NDCG@10 -->", "<!--given-->", "<!--= study methods: SFT, named -->"):
        assert len(unmarked(TEXT.replace(mark, "", 1), "Reading")) == 1
    assert section(TEXT, "Title").count("IRPO") == 2


@pytest.mark.parametrize(
    ("mark", "problem"),
    [
        ("<!--= study methods: KTO, NDCG@10 -->", "0 rows begin with 'KTO'"),
        ("<!--= study methods: IRPO, NDCG@10 -->", "2 rows begin with 'IRPO'"),
        ("<!--= study methods: SFT, MRR -->", "no column 'MRR'"),
        ("<!--= study methods: SFT, named #2 -->", "holds 1 number"),
        ("<!--= study others: SFT, named -->", "no source 'study others'"),
        ("<!--= weather: SFT, named -->", "no source 'weather'"),
        (" <!--= study methods: SFT, named -->", "right behind a figure"),
    ],
)
def test_a_mark_that_leads_nowhere_is_refused(mark, problem, own):
    with pytest.raises(Unread, match=problem):
        rewritten(f"It has .948{mark} of it.")


def test_what_is_not_measured_yet_is_told_and_cannot_be_quoted(monkeypatch, own):
    monkeypatch.setitem(reading.SOURCES, "study", dict)
    block = "<!-- results: study methods -->\nold\n<!-- /results -->\n"
    assert MISSING in rewritten(block)
    with pytest.raises(Unread, match="not measured yet"):
        rewritten(".9<!--= study methods: SFT, named -->")


def test_a_cell_is_found_by_its_names():
    assert cell(TABLE, "IRPO / auto", "NDCG@10") == ".942 [.92, .97]"


def test_a_suites_block_is_what_it_prints(tmp_path, monkeypatch, own):
    told = report()
    monkeypatch.setattr(reading, "RESULTS", tmp_path)
    (tmp_path / "quickstart.json").write_text(json.dumps(told.as_dict(), default=dict))
    block = rewritten("<!-- results: quickstart screen -->\n<!-- /results -->\n")
    assert told.found in block.replace("\n", " ")
    for grid in grids(told):
        assert grid.title in block
    table = reading.suite("quickstart")["table"]
    name = grids(told)[0].rows[0][0]
    figure = re.search(r"\d\.\d+", cell(table, name, grids(told)[0].header[1]))[0]
    marked = f"{figure}<!--= quickstart table: {name}, {grids(told)[0].header[1]} -->"
    assert rewritten(marked) == marked
