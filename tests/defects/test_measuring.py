"""Measuring: a test for every point of the list of defects, by its name there."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import numpy as np
import pytest
from ranked_lists import BUILDER, FILMS, LONG, example, row, tight
from tiny import tiny_model

from irpo.config.checks import checked_config
from irpo.evaluation import Evaluation, EvaluationOptions, RankerResult, evaluate, write_results
from irpo.evaluation.report import markdown, overview
from irpo.evaluation.significance import mean_interval, paired_p_value
from irpo.measures import MEASURES, per_query
from irpo.progress import BEST
from irpo.scorers import Independent
from irpo.tasks.mining import popularity
from irpo.types import Ranking

# ---- W3 --------------------------------------------------------------------------------------------------------------


def grouped(groups=6, each=40, seed=1):
    """Differences that belong to groups: lists of one say the same again and again."""
    chance = np.random.default_rng(seed)
    shift = chance.normal(0.3, 1, groups)
    values = {f"g{g} l{i}": float(shift[g] + chance.normal(0, 0.1)) for g in range(groups) for i in range(each)}
    return values, {name: name.split()[0] for name in values}


def test_w3_intervals_draw_groups():
    values, units = grouped()
    low, high = mean_interval(values, units)
    alone = mean_interval(values)
    assert high - low > 3 * (alone[1] - alone[0])
    means = [np.mean([v for name, v in values.items() if units[name] == f"g{g}"]) for g in range(6)]
    assert (low, high) == pytest.approx(mean_interval({str(g): float(m) for g, m in enumerate(means)}), abs=1e-9)


def test_w3_groups_of_other_sizes_keep_their_lists():
    values = {"a1": 1.0, "a2": 1.0, "a3": 1.0, "b1": 0.0}
    low, high = mean_interval(values, {name: name[0] for name in values})
    assert (low, high) == (0.0, 1.0)  # both drawn twice; the middle is the mean of lists, 0.75, not that of groups


def test_w3_permutations_swap_groups():
    values, units = grouped()
    nothing = dict.fromkeys(values, 0.0)
    means = [sum(v for name, v in values.items() if units[name] == f"g{g}") for g in range(6)]
    exact = sum(  # all 2^6 ways of swapping groups
        abs(sum(m if way >> g & 1 else -m for g, m in enumerate(means))) >= abs(sum(means)) - 1e-9 for way in range(64)
    )
    assert paired_p_value(values, nothing, units) == pytest.approx(exact / 64)
    assert paired_p_value(values, nothing) < 0.001


def test_w3_an_evaluation_says_how_many_groups_it_drew():
    examples = [example(f"q{i}", group=f"wish {i % 2}") for i in range(6)]
    given = {e.id: Ranking(tuple(range(6))) for e in examples}
    found = Evaluation(tuple(examples), (RankerResult("input order", given),))
    assert (found.summary.lists, found.summary.groups) == (6, 2)
    alone = Evaluation(tuple(replace(e, group=None) for e in examples), (RankerResult("input order", given),))
    assert alone.summary.groups == 6


# ---- W4, and the row `popularity` ------------------------------------------------------------------------------------


def test_w4_the_task_says_from_which_label_a_candidate_is_relevant():
    labels = [2.0] * 3 + [1.0] * 5 + [0.0] * 12  # ReDial: right, suggested, drawn
    perfect = {"q": Ranking(tuple(range(20)))}
    measures = ("Recall@1", "Recall@3", "P@3", "MRR", "MAP", "NDCG@10")
    by_two = {name: of["q"] for name, of in per_query(perfect, {"q": labels}, measures, relevant_from=2).items()}
    assert by_two == pytest.approx(dict.fromkeys(measures, 1.0) | {"Recall@1": 1 / 3})
    assert per_query(perfect, {"q": labels}, measures)["Recall@1"]["q"] == 1 / 8


def test_w4_every_table_says_it():
    options = EvaluationOptions(("score",), relevant_from=2.0)
    found = evaluate([example()], BUILDER, tiny_model(), Independent(), options)
    assert any("count labels from 2 as relevant" in note for note in overview(found.summary).notes)
    # The label 3 is relevant then, the label 1 is not.
    place = row(found, "score").rankings["q"].order.index(1)
    assert found.values["score"]["MRR"]["q"] == 1 / (1 + place)


def test_a4_popularity_is_a_row_where_it_knows_a_candidate():
    train = [example("t1"), example("t2", ("ALIENS", "Heat", "Up"), (1, 0, 2)), example("t3", FILMS, (0,) * 5 + (1,))]
    counts = popularity(train)
    assert counts == {"aliens": 2, "the matrix": 1, "up": 1, "movies": 1}
    options = EvaluationOptions(("score",))
    found = evaluate([example()], BUILDER, tiny_model(), Independent(), options, counts)
    assert row(found, "popularity").rankings["q"].order[0] == 1
    assert set(row(found, "popularity").rankings["q"].order[1:3]) == {3, 5}
    without = evaluate([example()], BUILDER, tiny_model(), Independent(), options, {"another": 3})
    assert "popularity" not in [r.name for r in without.rows]


# ---- L4 --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("replaced", [0, 1, 3])
def test_l4_a_killed_evaluation_is_not_half_old_half_new(tmp_path, monkeypatch, replaced):
    def measured(order):
        return Evaluation((example(),), (RankerResult("score", {"q": Ranking(order)}, mode="score"),))

    write_results(tmp_path / "out", measured((0, 1, 2, 3, 4, 5)))
    (tmp_path / "out" / "mine.txt").write_text("kept")
    move, done = os.replace, []

    def dies(source, target):
        if len(done) == replaced:
            raise KeyboardInterrupt
        done.append(target)
        move(source, target)

    monkeypatch.setattr(os, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        write_results(tmp_path / "out", measured((5, 4, 3, 2, 1, 0)))
    monkeypatch.undo()
    assert not (tmp_path / "out" / "results.json").exists()  # what lies there is no evaluation, and one sees it
    write_results(tmp_path / "out", measured((5, 4, 3, 2, 1, 0)))
    told = json.loads((tmp_path / "out" / "results.json").read_text())
    assert told["rows"][0]["name"] == "score"
    assert (tmp_path / "out" / "mine.txt").read_text() == "kept"


# ---- U3, U14, B6: what a user is told --------------------------------------------------------------------------------


def test_u3_evaluate_says_what_was_cut_and_of_which_lists(tmp_path):
    labels = (1, *[0] * 7)
    lists = [example("whole"), example("cut", LONG, labels)]
    found = evaluate(lists, tight(200).builder, tiny_model(), Independent(), EvaluationOptions(("score",)))
    assert any(note.startswith("1 of 2 prompts were cut to 200 tokens") for note in overview(found.summary).notes)
    write_results(tmp_path, found)
    lines = [json.loads(line) for line in (tmp_path / "per_query.jsonl").read_text().splitlines()]
    assert "cut" not in lines[0]
    assert min(lines[1]["cut"]["candidates"]) > 0


def test_u14_reports_hold_what_there_is():
    options = EvaluationOptions(("score",))
    found = evaluate([example("q1"), example("q2")], BUILDER, tiny_model(), Independent(), options)
    text = markdown(found.summary)
    table = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")]
    assert {"NDCG@1", "NDCG@3", "NDCG@5", "NDCG@10", "P@10", "MAP"} <= set(table)  # 6 candidates: 10 says it all
    assert not [name for name in table if name.endswith("@20")]
    for absent in ("strict", "repaired", "named", "free answers", "groups of lists", "cut to"):
        assert absent not in text
    assert "NDCG@20" in found.summary.measures  # results.json holds what was asked for


def test_b6_a_measure_is_spelt_once():
    layers = ["models/embedded.yaml", "tasks/world.yaml", "methods/irpo.yaml"]
    config = checked_config(layers, ["evaluation.measures=[MRR, NDCG@7]"])
    options = EvaluationOptions(("score",), config.evaluation.measures)
    summary = evaluate([example()], BUILDER, tiny_model(), Independent(), options).summary
    assert list(summary.row("score").measures) == ["MRR", "NDCG@7"]
    assert summary.main_measure == "MRR"
    assert overview(summary).header[:3] == ("ranking", "MRR", "NDCG@7")
    assert BEST in MEASURES
