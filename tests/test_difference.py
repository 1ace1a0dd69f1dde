"""Two evaluations side by side: what is counted, what is tested, what is said, and what is refused."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from math import log2

import pytest
from rich.console import Console
from scipy.stats import false_discovery_control

from irpo.evaluation import Evaluation, Setting, write_results
from irpo.evaluation.difference import difference
from irpo.evaluation.results import RankerResult, results_of
from irpo.evaluation.significance import mean_interval, paired_p_value
from irpo.ranking.modes import ParsedAnswer, RankedList
from irpo.types import Candidate, Ranking, RankingExample, UserError

SETTING = Setting("label", "a.jinja", 512, "label", "sum", 0, None)


def example(id, labels=(1, 0, 0), group=None):
    return RankingExample(id, "query", tuple(Candidate(f"c{j}", f"text {j}", y) for j, y in enumerate(labels)), group)


@pytest.fixture
def written(tmp_path):
    """An evaluation's folder, from the place of the relevant candidate c0 by list (1-based), in mode score."""

    def _written(name, places, *, of=example, setting=SETTING, digest="x", more=()):
        examples = tuple(of(id) for id in places)
        rankings = {id: Ranking(((0, 1, 2), (1, 0, 2), (1, 2, 0))[place - 1]) for id, place in places.items()}
        rows = (RankerResult("score", rankings, mode="score"), *more, RankerResult("random", rankings))
        evaluation = Evaluation(examples, rows, ("NDCG@10", "MRR"), setting, {"lists_sha256": digest})
        write_results(tmp_path / name, evaluation)
        return tmp_path / name

    return _written


def test_means_counts_and_the_lists_that_changed_most(written):
    a = written("a", {"q1": 1, "q2": 2, "q3": 3, "q4": 1})
    b = written("b", {"q1": 2, "q2": 1, "q3": 1, "q4": 1})
    found = difference(a, b, measure="MRR", most=2)
    (mode,) = found.modes  # the baseline is no mode
    assert (mode.before, mode.after) == pytest.approx(((1 + 1 / 2 + 1 / 3 + 1) / 4, (1 / 2 + 3) / 4))
    assert (mode.better, mode.worse, mode.equal) == (2, 1, 1)
    assert [change.query for change in mode.most] == ["q3", "q1"]
    assert mode.most[0].difference == pytest.approx(1 - 1 / 3)
    assert (mode.most[0].order_before, mode.most[0].order_after) == (("c1", "c2", "c0"), ("c0", "c1", "c2"))
    assert mode.most[0].relevant == ("c0",)
    assert difference(a, b).measure == "NDCG@10"
    assert difference(a, b).modes[0].before == pytest.approx((1 + 1 / log2(3) + 1 / 2 + 1) / 4)


def test_the_same_evaluation_twice_differs_in_nothing(written):
    a = written("a", {"q1": 1, "q2": 2})
    (mode,) = difference(a, a).modes
    assert (mode.difference, mode.interval, mode.p, mode.q) == (0, (0, 0), 1, 1)
    assert mode.most == ()
    assert len(difference(a, a).grids()) == 1


def test_intervals_and_tests_draw_groups_as_the_paired_test_does(written):
    rng = random.Random(0)
    places = [{f"q{i}": rng.choice((1, 1, 2, 3)) for i in range(40)} for _ in range(2)]
    groups = {f"q{i}": f"g{i // 4}" for i in range(40)}
    folders = [written(n, of, of=lambda id: example(id, group=groups[id])) for n, of in zip("ab", places, strict=True)]
    found = difference(*folders, measure="MRR")
    (mode,) = found.modes
    before, after = ({id: 1 / place for id, place in of.items()} for of in places)
    assert (found.lists, found.units) == (40, 10)
    assert mode.p == pytest.approx(paired_p_value(after, before, groups))
    assert mode.interval == pytest.approx(mean_interval({id: after[id] - before[id] for id in after}, groups))
    assert mode.p != pytest.approx(paired_p_value(after, before))
    assert any("10 groups of 40 lists" in note for note in found.grids()[0].notes)


def test_p_is_corrected_over_the_modes(written):
    def answered(places):
        lists = [
            RankedList(id, Ranking((1, 0, 2)), answer=ParsedAnswer("", Ranking((0,) if place == 1 else (1,))))
            for id, place in places.items()
        ]
        return results_of("generate", lists, 1.0)

    old = {f"q{i}": 2 for i in range(12)}
    new = {id: 1 if i < 6 else 2 for i, id in enumerate(old)}
    found = difference(written("a", old, more=answered(old)), written("b", new, more=answered(new)))
    assert [mode.mode for mode in found.modes] == ["score", "generate strict", "generate repaired"]
    p = [mode.p for mode in found.modes]
    assert len(set(p)) > 1
    assert [mode.q for mode in found.modes] == pytest.approx(list(false_discovery_control(p)))
    assert found.modes[1].most[0].order_before == ("c1",)


def test_a_run_of_evaluation_is_found_in_its_folder(written, tmp_path):
    written("run/evaluation", {"q1": 1})
    assert difference(tmp_path / "run", tmp_path / "run").before.endswith("evaluation")


def test_lists_that_only_one_has_are_said_and_not_compared(written):
    a, b = written("a", {"q1": 3, "q2": 1, "old": 1}), written("b", {"new": 3, "q2": 1, "q1": 3})
    found = difference(a, b)
    assert (found.lists, found.only_before, found.only_after) == (2, ("old",), ("new",))
    assert found.modes[0].difference == 0
    said = "\n".join(found.grids()[0].notes)
    assert f"1 lists are only in {a} and are not compared: old" in said
    assert f"1 lists are only in {b} and are not compared: new" in said


def test_other_settings_other_files_and_groups_that_were_not_written_are_said(written):
    grouped = {"of": lambda id: example(id, group="g")}
    a = written("a", {"q1": 1, "q2": 2}, **grouped)
    b = written("b", {"q1": 1, "q2": 2}, **grouped, setting=replace(SETTING, template="b.jinja"), digest="y")
    for folder in (a, b):  # as it was written before groups were
        lines = [json.loads(line) for line in (folder / "per_query.jsonl").read_text().splitlines()]
        text = "".join(json.dumps({key: of for key, of in line.items() if key != "group"}) + "\n" for line in lines)
        (folder / "per_query.jsonl").write_text(text)
    notes = difference(a, b).notes
    assert notes[0] == "settings differ: template 'a.jinja' and 'b.jinja'"
    assert "texts may differ" in notes[1]
    assert "without their lists' groups" in notes[2]
    assert difference(a, a).notes == notes[2:]


def test_the_tables_and_json_hold_what_was_found(written):
    found = difference(written("a", {"[q]1": 1, "q2": 2}), written("b", {"[q]1": 3, "q2": 2}), most=5)
    overview, changes = found.grids()
    assert overview.rows[0][0] == "score"
    assert changes.rows == (("[q]1", "1.000", "0.500", "*c0 c1 c2", "c1 c2 *c0"),)
    for grid in (overview, changes):
        grid.show(Console(width=80, record=True))
    told = json.loads(json.dumps(found.as_dict()))
    assert told["modes"][0]["most"][0]["difference"] == pytest.approx(-0.5)
    assert told["modes"][0]["difference"] == pytest.approx(-0.25)


def test_what_cannot_be_compared_is_refused(written, tmp_path):
    a = written("a", {"q1": 1})
    with pytest.raises(UserError, match=r"list 'q1' has other candidates or labels"):
        difference(a, written("b", {"q1": 1}, of=lambda id: example(id, labels=(0, 1, 0))))
    with pytest.raises(UserError, match="no list in common"):
        difference(a, written("c", {"q2": 1}))
    with pytest.raises(UserError, match=r"Recall@5 is not measured in both; both have: NDCG@10, MRR"):
        difference(a, a, measure="Recall@5")
    with pytest.raises(UserError, match=r"holds no results\.json"):
        difference(a, tmp_path)
    other = written("d", {"q1": 1})
    text = (other / "results.json").read_text()
    (other / "results.json").write_text(text.replace('"mode": "score"', '"mode": null'))
    with pytest.raises(UserError, match=r"no mode in common: score in .* and none in"):
        difference(a, other)


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("results.json", "{", "results.json: not as"),
        ("results.json", "[]", "results.json: not as"),
        ("per_query.jsonl", '{"id": "q1"}\n', r"per_query.jsonl:1: not a line as"),
        ("per_query.jsonl", '{"id": "q1", "rows": {}}\n', "list 'q1' has no row 'score'"),
        ("qrels.txt", "q1 0 c0\n", r"qrels.txt:1: 3 columns"),
    ],
)
def test_a_broken_folder_is_named(written, file, text, said):
    folder = written("a", {"q1": 1})
    (folder / file).write_text(text)
    with pytest.raises(UserError, match=said):
        difference(folder, folder)
