"""What `irpo prepare --check` shows beside its findings: what the task left out, counts, and axes that can be read."""

from __future__ import annotations

import json
from collections import Counter
from io import StringIO

import pytest
from handmade import a_list, write_lines
from rich.console import Console

import irpo
from irpo import api
from irpo.checking import Check, show
from irpo.checking.picture import _histogram, _line_at
from irpo.drawing import drawing
from irpo.tasks import preparing
from irpo.tasks._statistics import Statistics, numbers_of
from irpo.tasks.table import AGAIN, UNLABELLED
from irpo.types import Candidate, RankingExample


def printed(check: Check) -> str:
    out = StringIO()
    show(check, Console(file=out, width=200, force_terminal=False))
    return out.getvalue()


def test_what_the_task_leaves_out_stands_below_the_table(tmp_path):
    rows = "query,text,label\nq,a,1\nq,A,1\nq,b,0\nnone,a,0\nnone,b,0\n"
    (tmp_path / "train.csv").write_text(rows)
    check = irpo.check({"name": "table", "data": str(tmp_path / "train.csv"), "eval_fraction": 0})
    text = printed(check)
    left = f"train, left out: 1 x {UNLABELLED}; 1 x {AGAIN}"
    assert left in text.splitlines()
    assert left in preparing.summary(api.prepare(check.task, tmp_path / "out")).splitlines()
    (tmp_path / "train.csv").write_text("query,text,label\nnone,a,0\nnone,b,0\n")
    nothing = irpo.check(check.task)
    assert [finding.kind for finding in nothing.findings] == ["no list"]
    assert f"train, left out: 1 x {UNLABELLED}" in printed(nothing).splitlines()


@pytest.mark.parametrize("sizes", [(100, 3, 100, 4), (100,)])
def test_a_list_that_has_no_prompt_is_named_and_the_others_are_measured(tmp_path, sizes):
    """The embedded tokenizer has single tokens for 78 labels."""
    rows = [a_list(f"q{n}", (1, *[0] * (size - 1))) for n, size in enumerate(sizes)]
    data = write_lines(tmp_path / "train.jsonl", rows)
    spec = {"name": "jsonl", "data": str(data)}
    check = irpo.check(spec, tmp_path / "out", model="embedded", style="label", max_tokens=2000)
    split, short = check.splits["train"], sum(size < 100 for size in sizes)
    assert (split.lists, split.drawn, len(split.tokens)) == (len(sizes), len(sizes), short)
    assert split.fit(2000) == short / len(sizes)
    (finding,) = (f for f in check.findings if f.kind in ("no prompt", "budget"))
    assert (finding.kind, finding.count) == ("no prompt", len(sizes) - short)
    why = "the tokenizer has single tokens for 78 labels; the list has 100 candidates"
    assert finding.first == split.refused == tuple(f"train.jsonl:{n + 1}: {why}" for n in range(0, len(sizes), 2))
    assert f"train.jsonl:1: {why}" in printed(check)
    assert f"{short / len(sizes):.1%}" in printed(check)
    told = json.loads((tmp_path / "out" / "check.json").read_text())
    assert told["splits"]["train"]["tokens"]["refused"] == list(split.refused)
    assert told["budget"]["share_that_fits"] == {"train": short / len(sizes)}


def test_a_text_that_gives_the_models_markup_ends_no_check(tmp_path, monkeypatch):
    """What `irpo.prompting` cannot keep apart is found in one list, whose other numbers stand."""
    monkeypatch.setattr("irpo.prompting.prompts.foreign_specials", lambda _, text, *__: ["<|x|>"] * ("odd" in text))
    rows = [a_list("a"), a_list("b") | {"query": "odd"}]
    data = write_lines(tmp_path / "train.jsonl", rows)
    check = irpo.check({"name": "jsonl", "data": str(data)}, model="embedded")
    assert check.splits["train"].refused == ("train.jsonl:2: its texts give markup of the model's: <|x|>",)
    assert len(check.splits["train"].tokens) == 1


def test_the_pictures_axes(tmp_path):
    """No half of a candidate is marked, and a budget far away does not shrink the bars."""
    with drawing((9.0, 6.0)) as whole:
        sizes, near, far, below = whole.subplots(2, 2).flat
        _histogram(sizes, {"train": Counter({2: 5, 3: 9, 4: 1})})
        assert all(tick.is_integer() for tick in map(float, sizes.get_xticks()))
        for axes, budget in ((near, 130), (far, 100_000), (below, 10)):
            _histogram(axes, {"train": Counter({90: 5, 100: 9, 120: 1})})
            _line_at(axes, budget)
            assert axes.get_xlim()[1] - axes.get_xlim()[0] < 100
        assert [len(axes.lines) for axes in (near, far, below)] == [1, 0, 0]
        assert [axes.texts[-1].get_text() for axes in (far, below)] == ["100,000 \u2192", "\u2190 10"]


def test_labels_that_agree_in_six_digits_are_counted_together():
    labels = (0.12345671, 0.12345672, 0.0)
    example = RankingExample("q", "query", tuple(Candidate(str(n), f"text {n}", y) for n, y in enumerate(labels)))
    statistics = Statistics()
    statistics.add(numbers_of(example))
    assert statistics.card(1, "")["labels"] == {"0": 1, "0.123457": 2}
