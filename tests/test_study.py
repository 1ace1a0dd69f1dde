"""The studies: an equal search, pieces in order, and tables that say no more than the lines."""

import json
import math
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import study
import study_trial
from study_cases import (
    ANCHORS,
    BETAS,
    GROUPS,
    PUBLISHED,
    QUICK,
    RATES,
    Piece,
    Setting,
    cases,
    chosen,
    early_pieces,
    pieces,
    points,
    trials,
)
from study_found import Found, interval, short, verdicts
from study_tables import tables
from study_trial import relabelled

from irpo.objectives import OBJECTIVES
from irpo.scoring.tokens import EncodedList
from irpo.training.job import method_of

EIGHT = replace(QUICK, trials=8, seeds=2)


def answered(piece, value=0.5, by_wish=(5000, 5000), auto="2"):
    """A line as a finished piece has it."""
    rows = [
        {
            "mode": mode,
            "strength": strength,
            "by": "logits",
            "ndcg": dict.fromkeys(("1", "5", "10"), value),
            "by_wish": list(by_wish),
            "ms_per_list": 1.0,
            "passes": 1,
            "coverage": 1.0,
            "exact": 1.0,
        }
        for mode in ("score", "constrain", "generate")
        for strength in dict.fromkeys(("1", auto))
    ]
    line = {"key": piece.key, "curve": {"1": value, "2": value}, "auto": auto, "rows": rows}
    return line | ({"curve_adapter": {"1": value}, "auto_adapter": "1"} if piece.kind == "adapter" else {})


def base_lines():
    rows = answered(Piece("base", "irpo", Setting(1.0), 0, 0), 0.25, (2500, 2500), auto="1")["rows"]
    wishes = {"a": 2, "b": 1}
    return {"base/text": {"key": "base/text", "rows": rows, "wishes": wishes, "wishes_read": wishes}}


def all_done(protocol, value=lambda piece: (0.5, (5000, 5000))):
    """Every piece of every group, each answered as soon as it is ready."""
    done = base_lines()
    while new := [p for group in GROUPS for p in pieces(group, protocol, done) if p.key not in done]:
        done |= {piece.key: answered(piece, *value(piece)) for piece in new}
    return done


def test_every_offline_objective_is_searched():
    found = {type(method_of(case.config(case.at(points(1)[0]), QUICK, 0, 1)).objective) for case in cases().values()}
    built = [OBJECTIVES.build(name) for name in OBJECTIVES if name != "reinforce"]
    assert found == {type(objective) for objective in built if not objective.needs.teacher}


def test_a_setting_arrives_in_the_configuration():
    setting = Setting(rate=0.003, beta=0.3, alpha=0.5, anchor=0.1)
    config = cases()["irpo"].config(setting, QUICK, 7, 5)
    objective = method_of(config).objective
    assert (objective.beta, objective.reference_weight, config.method.nll_weight) == (0.3, 0.5, 0.1)
    assert (config.training.learning_rate, config.training.updates, config.seed) == (0.003, 5, 7)
    assert config.method.reference == "precomputed"


@pytest.mark.parametrize("block", [0, 1])
def test_a_block_of_points_is_balanced(block):
    some = points(16)[8 * block :][:8]
    assert Counter(point.rate for point in some) == dict.fromkeys(RATES, 2)
    assert Counter(point.beta for point in some) == dict.fromkeys(BETAS, 2)
    assert Counter(point.alpha for point in some) == {0.0: 4, 1.0: 4}
    assert sorted(Counter(point.anchor for point in some).values()) == [2, 3, 3]
    assert {point.anchor for point in some} == set(ANCHORS)


def test_a_longer_search_begins_as_the_shorter():
    assert points(16)[:8] == points(8)
    assert len(set(points(16))) == 16


@pytest.mark.parametrize("name", ["sft", "irpo", "rrhf", "irpo, stepwise"])
def test_every_case_has_as_many_trials_and_none_twice(name):
    found = trials(cases()[name], EIGHT)
    assert len({piece.key for piece in found}) == 8
    has = cases()[name].has()
    assert all((getattr(p.setting, part) is None) == (getattr(has, part) is None) for p in found for part in vars(has))


def test_where_little_is_to_choose_a_setting_is_tried_with_two_seeds():
    """SFT has a learning rate alone: four settings, eight trials."""
    assert Counter(piece.setting.rate for piece in trials(cases()["sft"], EIGHT)) == dict.fromkeys(RATES, 2)


def test_the_best_mean_is_chosen_and_a_loss_that_was_not_finite_counts_nothing():
    case = cases()["sft"]
    done = {piece.key: answered(piece, 0.5 if piece.setting.rate != 0.003 else 0.6) for piece in trials(case, EIGHT)}
    assert chosen(case, EIGHT, done) == Setting(0.003)
    lost = next(piece for piece in trials(case, EIGHT) if piece.setting.rate == 0.003)
    done[lost.key] = {"key": lost.key, "diverged": "the loss is nan"}  # (0 + .6) / 2 is below .5
    assert chosen(case, EIGHT, done) != Setting(0.003)
    del done[lost.key]
    assert chosen(case, EIGHT, done) is None


def test_each_strength_has_a_choice_of_its_own():
    case = cases()["irpo"]
    done = {}
    for number, piece in enumerate(trials(case, EIGHT)):
        curve = {"1": [0.9, 0.5][number % 2], "2": [0.1, 0.8][number % 2]}
        done[piece.key] = {"key": piece.key, "curve": curve, "auto": "2"}
    first, second = trials(case, EIGHT)[:2]
    assert chosen(case, EIGHT, done, "1") == first.setting
    assert chosen(case, EIGHT, done, "auto") == second.setting


def test_nothing_is_measured_before_its_setting_is_chosen():
    assert {piece.kind for group in GROUPS for piece in pieces(group, EIGHT, {})} == {"trial"}
    done = all_done(EIGHT)
    kinds = Counter(key.split("/")[0] for key in done)
    assert kinds["trial"] == 8 * len(cases())
    assert kinds["final"] == 2 * len(cases())  # both strengths chose the same setting
    assert kinds["adapter"] == EIGHT.curve_seeds * len(PUBLISHED)


def test_shards_share_the_pieces_out():
    def keys(part, parts):
        work = study.Work(GROUPS, EIGHT, (part, parts), base_lines() | {"base/label": {}})
        return [key for key, _ in work.waiting()]

    first, second = keys(0, 2), keys(1, 2)
    assert sorted(first + second) == sorted(keys(0, 1))
    assert first
    assert second


def test_lines_of_another_model_or_protocol_are_not_taken(tmp_path):
    own = study.about(QUICK)
    lines = [{"key": "a"} | own, {"key": "b"} | own | {"base": "0"}, {"key": "c"} | study.about(EIGHT)]
    other = {"key": "d"} | study.about(replace(QUICK, updates=3))
    text = "".join(json.dumps(line) + "\n" for line in [*lines, other])
    (tmp_path / "study.0.jsonl").write_text(text)
    assert set(study.finished(tmp_path, QUICK)) == {"a", "c"}  # more trials or seeds make no other figures


def test_an_interval_knows_seeds_and_wishes():
    sizes = np.array([1.0, 3.0])
    assert interval(np.full((2, 2), 0.5), sizes) == pytest.approx((0.5, 0.5))
    by_wish = interval(np.array([[0.0, 1.0]] * 3), sizes)
    by_seed = interval(np.array([[0.0, 0.0], [1.0, 1.0]]), sizes)
    assert by_wish == pytest.approx((0.0, 1.0))  # both draws may be the same wish
    assert by_seed == pytest.approx((0.0, 1.0))


def test_better_is_said_where_every_wish_says_so():
    wishes = {f"wish {i}": 1 for i in range(12)}

    def of(name, value, alternating=0):
        by_wish = [value + alternating * (-1) ** i for i in range(12)]
        return Found(name, ({"by_wish": by_wish},), wishes)

    low, high, mixed = of("low", 5000), of("high", 6000), of("mixed", 5000, 1000)
    told = verdicts([(high, low), (low, high), (mixed, low)])
    assert [word for _, _, word in told] == ["better", "worse", "no difference shown"]
    assert told[0][0] == pytest.approx(0.1)
    assert told[0][1] == pytest.approx(3 * 2 / 2**12)  # of all swaps two are as far apart; the first of three tests


def test_the_mean_is_over_lists_not_over_wishes():
    found = Found("x", ({"by_wish": [10000, 0]}, {"by_wish": [10000, 0]}), {"a": 3, "b": 1})
    assert found.mean == pytest.approx(3 / 4)


@pytest.mark.parametrize(("value", "text"), [(0.9764, ".976"), (1.0, "1.000"), (-0.02, "-.020"), (0.99996, "1.000")])
def test_figures_are_short(value, text):
    assert short(value) == text


def test_tables_tell_every_case_that_is_there():
    made = tables(all_done(EIGHT), EIGHT)
    names = {"search", "methods", "methods-1", "modes", "tests", "tests-1", "lists", "early", "labels", "adapter"}
    assert set(made) == names
    assert made["early"].count("\n| 4 | 0.001 | strength `auto` |") == 1
    for name in cases():
        assert made["methods"].count(f"| {name} |") == 1
    assert "better" not in made["tests"].replace("| base model |", "")
    assert not tables({}, EIGHT)


def test_tables_rank_by_what_was_measured():
    better = all_done(EIGHT, lambda p: (0.75, (7500, 7500)) if p.case == "dpo" else (0.5, (5000, 5000)))
    rows = [line.split(" | ")[0].strip("| ") for line in tables(better, EIGHT)["methods"].splitlines()[2:]]
    assert rows[0] == "dpo"
    assert rows[-1] == "base model"


def test_nothing_is_called_better_before_every_seed_is_there():
    done = all_done(EIGHT)
    last = next(key for key in done if key.startswith("final/dpo/") and key.endswith("/1"))
    row = next(line for line in tables(done, EIGHT)["methods"].splitlines() if line.startswith("| dpo |"))
    assert "p = " in row
    made = tables({key: line for key, line in done.items() if key != last}, EIGHT)
    (row,) = (line for line in made["methods"].splitlines() if line.startswith("| dpo |"))
    assert "p = " not in row
    assert row.endswith("| 1 |")
    assert "| dpo |" not in made["tests"]


def test_few_updates_are_tried_at_every_rate_and_else_as_chosen():
    found = list(early_pieces([("irpo", Setting(1e-2, 0.1, 0.0, 1.0))], EIGHT))
    assert {piece.setting for piece in found} == {Setting(rate, 0.1, 0.0, 1.0) for rate in (1e-3, 3e-3, 1e-2)}
    assert Counter(piece.updates for piece in found) == dict.fromkeys((4, 8, 16), 3 * EIGHT.curve_seeds)
    assert {piece.lists for piece in found} == {EIGHT.train_lists}


def test_fewer_lists_are_drawn_by_the_seed():
    lists = study_trial.shared(QUICK, "text")
    drawn = [
        study_trial._given(lists, Piece("lists", "irpo", Setting(1.0), seed, 2, lists=16))[0] for seed in (0, 0, 1)
    ]
    ids = [{p.example.id for p in train} for train in drawn]
    assert [len(some) for some in ids] == [16] * 3
    assert ids[0] == ids[1] != ids[2]


GRADED = EncodedList("a", (1, 2), ((3,),) * 4, ((4,), (5,), (6,), (7,)), (8,), (0.0, 3.0, 1.0, 2.0))


def test_a_pair_is_one_better_and_one_worse_candidate():
    for number in range(20):
        item = replace(GRADED, id=str(number))
        pair = relabelled(item, "pair")
        assert sorted(pair.relevance) == [0.0, 1.0]
        known = dict(zip(item.bodies, item.relevance, strict=True))
        worse, better = (known[body] for _, body in sorted(zip(pair.relevance, pair.bodies, strict=True)))
        assert better > worse


def test_binary_labels_are_the_upper_half():
    assert relabelled(GRADED, "binary").relevance == (0.0, 1.0, 0.0, 1.0)


@pytest.mark.parametrize("percent", [10, 30])
def test_as_many_labels_are_flipped_as_asked(percent):
    items = [replace(GRADED, id=str(number)) for number in range(500)]
    changed = [relabelled(item, f"flip{percent}").relevance for item in items]
    share = sum(a != b for labels in changed for a, b in zip(labels, GRADED.relevance, strict=True)) / 2000
    deviation = math.sqrt(percent / 100 * (1 - percent / 100) / 2000)
    assert abs(share - percent / 100) < 4 * deviation
    assert changed == [relabelled(item, f"flip{percent}").relevance for item in items]


@pytest.mark.slow
def test_a_rate_that_is_too_high_is_told_and_no_error():
    piece = replace(trials(cases()["irpo"], QUICK)[0], setting=Setting(1e9, 1.0, 1.0, 0.0))
    assert set(study_trial.work(piece, QUICK)) == {"diverged"}


@pytest.mark.slow
def test_a_trial_and_a_final_piece_end_in_lines():
    trial = trials(cases()["irpo"], QUICK)[0]
    line = study_trial.work(trial, QUICK)
    assert set(line) == {"seconds", "curve", "auto"}
    assert line["curve"][line["auto"]] == max(line["curve"].values())
    final = json.loads(json.dumps(study_trial.work(replace(trial, kind="final", seed=0), QUICK)))
    plain = [row for row in final["rows"] if row["strength"] == "1"]
    assert [row["mode"] for row in plain] == ["score", "generate", "constrain"]
    assert {row["strength"] for row in final["rows"]} == {"1", final["auto"]}
    assert all(0 <= value <= 1 for row in final["rows"] for value in row["ndcg"].values())
