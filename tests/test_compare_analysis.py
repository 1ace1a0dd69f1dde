"""From cells' results to a report: rows, marks, stars, the sentence, figures, the viewer."""

from __future__ import annotations

import json
import math
import random
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from compare_results import DIGEST, frame, lists_of, result, row
from scipy import stats

from irpo.compare.gather import gather
from irpo.compare.page import Source
from irpo.compare.results import Printed, TaskFrame, read_result, write_result
from irpo.compare.statistics.plain import kendall
from irpo.compare.statistics.report import report_of, viewed
from irpo.evaluation.significance import (
    Draws,
    benjamini_hochberg,
    detectable_difference,
    effect_sizes,
    intervals,
    paired_p_value,
    swapped_p_values,
)
from irpo.types import UserError

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

from report_size import Size, simulate

N = 60
LISTS = {DIGEST: lists_of([f"u{i // 2}" for i in range(N)])}


def values(mean, seed=0, spread=0.05):
    return np.clip(mean + np.random.default_rng(seed).normal(0, spread, N), 0, 1)


def suite():
    """Base, SFT and a better IRPO with two seeds each; IRPO has another row at strength auto."""
    runs = [result("SFT", row(values(0.5, s)), seed=s, trials=8) for s in (0, 1)]
    runs += [
        result(
            "IRPO", row(values(0.6, 10 + s), shown=("1",)), row(values(0.7, 20 + s), shown=("auto",)), seed=s, trials=8
        )
        for s in (0, 1)
    ]
    given = result("random", row(values(0.2, 5), "given"), kind="baseline", model="")
    return [*runs, result("base", row(values(0.4, 3)), kind="untrained"), given]


def report(results, told=None, **more):
    return report_of(told or frame(seeds=2), results, LISTS, **more)


def test_rows_are_baselines_then_the_frames_methods_at_each_strength():
    (table,) = report(suite()).tables
    rows = [(r.group, r.name, r.kind, r.strength) for r in table.rows]
    assert rows == [
        ("", "random", "baseline", "1"),
        ("embedded", "base", "untrained", "1"),
        ("embedded", "SFT", "trained", "1 = auto"),
        ("embedded", "IRPO", "trained", "1"),
        ("embedded", "IRPO", "trained", "auto"),
    ]
    assert [(r.cells[0].best, r.cells[0].second) for r in table.rows] == [
        (False, False),
        (False, False),
        (False, False),
        (False, True),
        (True, False),
    ]
    irpo = table.rows[3].cells[0]
    means = [values(0.6, 10).mean(), values(0.6, 11).mean()]
    assert irpo.value == pytest.approx(np.mean(means))
    assert irpo.deviation == pytest.approx(np.std(means, ddof=1))
    assert irpo.keys == ("run-embedded-world-IRPO-0", "run-embedded-world-IRPO-1")
    assert [t.against for t in irpo.tests] == ["base", "SFT"]


def test_a_test_of_the_table_is_that_of_the_groups_means_over_seeds():
    (table,) = report(suite()).tables
    (test,) = (t for t in table.rows[3].cells[0].tests if t.against == "SFT")
    one = np.mean([values(0.6, 10), values(0.6, 11)], axis=0)
    other = np.mean([values(0.5, 0), values(0.5, 1)], axis=0)
    assert test.difference == pytest.approx((one - other).mean())
    groups = (one - other).reshape(-1, 2).mean(1)
    assert test.effect == pytest.approx(groups.mean() / groups.std(ddof=1))
    assert test.p == pytest.approx(stats.ttest_1samp(groups, 0).pvalue, abs=2e-4)
    assert test.low < test.difference < test.high
    assert test.star == ""  # two seeds say too little of others
    assert (
        report([x for x in suite() if not x.seed]).tables[0].rows[3].cells[0].tests[1].star == "+"
    )  # of one run alone


def test_the_order_of_the_results_changes_nothing():
    results = suite()
    first = report(results, missing=[Source("b", "y", "missing"), Source("a", "x", "failed", "no memory")])
    random.Random(0).shuffle(results)
    again = report(results, missing=[Source("a", "x", "failed", "no memory"), Source("b", "y", "missing")])
    assert first == again
    assert json.loads(json.dumps(first.as_dict(), allow_nan=False)) == json.loads(json.dumps(again.as_dict()))


def test_results_read_from_their_folders_give_the_same_report(tmp_path):
    for x in suite():
        write_result(tmp_path / x.key, x)
    read = [read_result(path) for path in tmp_path.iterdir()]
    assert report(read) == report(suite())


def test_rows_that_are_not_like_the_others_are_marked():
    results = [x for x in suite() if (x.method, x.seed) != ("SFT", 1)]
    results[0] = replace(results[0], trials=12, diverged=True)
    results.append(replace(result("IRPO", seed=2), error="out of memory"))
    told = report(results, frame(seeds=2))
    marks = {r.name: r.marks for r in told.tables[0].rows}
    assert marks["SFT"] == ("12 trials, others 8", "1 of 2 seeds", "1 run diverged")
    assert marks["IRPO"] == ("8 trials, others 12", "1 cell failed")
    assert marks["base"] == marks["random"] == ()
    (failures,) = (t for t in told.more if t.id == "failures")
    assert [r[2:] for r in failures.rows] == [
        ("diverged", "a loss or a score was not finite"),
        ("failed", "out of memory"),
    ]
    assert [s.state for s in told.sources].count("failed") == 1
    assert told.notes[0] == "1 cell failed."


def test_a_ranker_measured_on_fewer_lists_is_paired_on_those():
    results = [x for x in suite() if x.method != "IRPO"]
    results.append(result("IRPO", row(values(0.9, 7)[:20], rankings=np.zeros((20, 3)))))
    told = report(results)
    irpo = told.tables[0].rows[-1]
    assert "first 20 of 60 lists" in irpo.marks
    (test,) = (t for t in irpo.cells[0].tests if t.against == "base")
    assert test.difference == pytest.approx((values(0.9, 7)[:20] - values(0.4, 3)[:20]).mean())


def test_what_cannot_be_compared_is_left_out_and_said():
    strange = replace(suite()[0], lists="f" * 16, seed=9, key="strange")
    double = replace(suite()[0], key="zz-double")
    told = report([*suite(), strange, double])
    assert told.tables == report(suite()).tables
    assert "seed 9 (strange): it was measured on other lists" in told.notes[0]
    assert "(zz-double): the cell is there twice; run-embedded-world-SFT-0 is told" in told.notes[0]
    absent = (*frame().tasks, TaskFrame("musique", "passages"))
    without = report([*suite(), result("IRPO", task="musique", error="no lists")], frame(seeds=2, tasks=absent))
    assert without.tables == report(suite()).tables
    assert "Left out: musique: no lists of it could be made here." in without.notes
    with pytest.raises(UserError, match="evaluation lists of world"):
        report_of(frame(), suite(), {})


def test_a_cell_of_several_baselines_is_one_source():
    cell = [
        replace(result(m, row(values(0.2), "given"), kind="baseline", model=""), key="one") for m in ("random", "BM25")
    ]
    assert [(s.key, s.name) for s in report(cell).sources] == [("one", "world, random and BM25, seed 0")]


def test_printed_figures_stand_beside_strength_1():
    told = report(suite(), frame(printed=(Printed("world", "embedded", "IRPO", "NDCG@10", 0.55),), source="a paper"))
    assert [r.cells[0].printed for r in told.tables[0].rows] == [None, None, None, 0.55, None]
    assert "Printed figures: a paper." in told.notes


def test_the_sentence_says_what_tests_show():
    found = report(suite()).found
    one, other = (
        f"{np.mean([values(m, s).mean() for s in seeds]):.3f}" for m, seeds in ((0.7, (20, 21)), (0.5, (0, 1)))
    )
    base = f"{values(0.4, 3).mean():.3f}"
    assert found == (
        f"At strength auto: on world IRPO stands above SFT ({one} against {other}, q < 0.001); "
        "of 2 tests of NDCG@10 against the untrained model 2 show a gain and 0 a loss "
        f"(farthest: IRPO on world, {one} against {base}, q < 0.001)."
    )
    alone = report([x for x in suite() if not x.seed]).found
    assert alone.startswith("With one seed alone, at strength auto: on world IRPO stands above SFT")
    same = [result(m, row(values(0.5, s)), seed=0) for s, m in enumerate(("SFT", "IRPO"))]
    told = report(same, frame(strengths=("1",)))
    assert told.found == "With one seed alone: on world no difference in NDCG@10 shown for IRPO against SFT."
    assert told.tables[0].rows[1].cells[0].tests[0].star == ""
    assert report([]).found == "No two methods were tested against each other."


def test_only_figures_with_data_are_made():
    assert [f.id for f in report(suite()).figures] == ["position"]
    full = replace(
        suite()[0],
        by_strength={"2": 0.7, "0.5": 0.4, "1": 0.5},
        margins=((0, 0.0), (10, 1.5)),
        rounds=({"round": 1, "answers": 100, "NDCG@10": 0.5}, {"round": 2, "answers": 200, "NDCG@10": 0.6}),
        validation={"log": [[0, 0.3], [10, 0.5]]},
        cost={"seconds": 12.0, "tokens": None},
        rows=(*suite()[0].rows, row(values(0.4), "generate", part="strict", coverage=0.75)),
    )
    made = {f.id: f for f in report([full, *suite()[1:]]).figures}
    assert list(made) == ["coverage", "strength", "learning", "policy", "position", "margins", "cost"]
    assert made["strength"].panels[0].series[0].points[0] == (0.5, 0.4, None, None)
    assert made["coverage"].panels[0].series[0].points[0][0] == 0.75
    words = [replace(full, by_strength={"reward": 0.8, "1": 0.5}), replace(suite()[1], by_strength={"1": 0.7})]
    (figure,) = (f for f in report(words).figures if f.id == "strength")
    assert figure.panels[0].series[0].points == (("1", pytest.approx(0.6), 0.5, 0.7), ("reward", 0.8, None, None))
    assert "SFT 0.700 at 2 (lowest 0.400 at 0.5)" in made["strength"].alt
    assert made["policy"].panels[0].series[0].points[-1][:2] == (200.0, 0.6)


def test_position_bias_over_orders():
    forward, back = np.tile([0, 1, 2], (N, 1)), np.tile([2, 1, 0], (N, 1))
    rows = [
        row(np.full(N, v), rankings=r, order=o) for v, r, o in ((0.5, forward, 0), (0.7, back, 1), (0.8, forward, -1))
    ]
    (orders,) = (t for t in report([result("SFT", *rows)]).more if t.id == "orders")
    deviation = math.sqrt(2 * 0.1**2)
    assert orders.rows[0][5:] == (2, "NDCG@10", pytest.approx(0.6), pytest.approx(deviation), -1.0, pytest.approx(0.8))


def test_kendalls_tau_is_scipys():
    chance, n, k = np.random.default_rng(4), 30, 8
    lengths = chance.integers(2, k + 1, n)
    pair = np.full((2, n, k), -1, dtype=np.int16)
    for ranked in pair:
        for i, length in enumerate(lengths):
            named = chance.integers(1, length + 1)
            ranked[i, :named] = chance.permutation(length)[:named]
    expected = []
    for i, length in enumerate(lengths):
        places = [[list(r[i]).index(j) if j in r[i] else length for j in range(length)] for r in pair]
        expected.append(stats.kendalltau(*places).statistic)
    assert kendall(*pair, lengths) == pytest.approx(expected)


def test_the_viewer_shows_lists_that_a_ranker_did_not_rank_as_such():
    few = result(
        "FIRST", row(np.full(20, 0.5), "given", rankings=np.tile([0, 1, 2], (20, 1))), kind="external", model=""
    )
    (seen,) = viewed(frame(seeds=2), [*suite(), few], LISTS)
    first = next(r for r in seen.rankers if r.name == "FIRST")
    assert len(seen.ids) == len(first.orders) == len(first.values) == N
    assert (first.orders[19], first.values[19]) == ((0, 1, 2), 0.5)
    assert (first.orders[20], first.values[20]) == ((), None)


def test_the_viewer_has_every_rankers_order_and_says_what_is_left_out():
    named = np.tile([1, 0, -1], (N, 1))
    results = [
        *suite(),
        result("FIRST", row(values(0.5), "given", rankings=named, problems={3: "cut off"}), kind="external"),
    ]
    (seen,) = viewed(frame(), results, LISTS, most=50)
    assert (len(seen.ids), seen.left_out, seen.measure) == (50, 10, "NDCG@10")
    assert [r.name for r in seen.rankers] == [
        "random",
        "base",
        "SFT",
        "IRPO",
        "IRPO, strength auto",
        "FIRST",
    ]
    assert seen.rankers[-1].orders[0] == (1, 0)
    assert seen.rankers[-1].problems == {3: "cut off"}
    assert seen.rankers[3].values == pytest.approx(values(0.6, 10)[:50])


def test_families_are_tables_and_marks_name_the_task():
    tasks = (TaskFrame("arc", "choices", ("NDCG@10",), DIGEST), TaskFrame("redial", "dialogues", ("NDCG@10",), DIGEST))
    runs = [result("SFT", row(values(0.5, s)), task=t, seed=s) for t in ("arc", "redial") for s in (0, 1)]
    one = tuple(replace(t, family="all") for t in tasks)
    assert [t.title for t in report(runs, frame(tasks=tasks, seeds=2)).tables] == ["choices", "dialogues"]
    (table,) = report(runs[:-1], frame(tasks=one, seeds=2)).tables
    assert [c.task for c in table.columns] == ["arc", "redial"]
    assert table.rows[0].marks == ("redial: 1 of 2 seeds",)


def test_a_whole_simulated_suite(tmp_path):
    simulate(tmp_path, Size(models=2, tasks=3, seeds=2, lists=30))
    found = gather([tmp_path])
    made = report_of(found.frame, found.results, found.lists)
    assert [t.id for t in made.tables] == ["family-dialogues", "family-passages"]
    assert {t.id for t in made.more} == {"tests", "modes", "orders", "search", "cost"}
    # Two models, five methods at two strengths, against base and what comes earlier of SFT and DPO, three cut-offs.
    assert len(next(t for t in made.more if t.id == "tests").rows) == 3 * 3 * 2 * 2 * (5 + 4 + 3)
    assert made.found.startswith("At strength auto: over 6 pairs of model and task ")


def drawn_interval(values, sizes):
    """Seeds and groups of (S, G) values weighted by sizes (G,), drawn anew; written out."""
    chance, (seeds, groups) = np.random.default_rng(0), values.shape
    some = chance.multinomial(seeds, np.full(seeds, 1 / seeds), size=9_999) / seeds
    wider = stats.t.ppf(0.975, seeds - 1) / 1.959963984540054 * math.sqrt(seeds / (seeds - 1))
    some = 1 / seeds + wider * (some - 1 / seeds)
    weights = chance.multinomial(groups, np.full(groups, 1 / groups), size=9_999) * sizes
    return tuple(np.quantile((some @ values * weights).sum(1) / weights.sum(1), [0.025, 0.975]).tolist())


def interval_of(means, sizes):
    """The interval of (S, G) group means weighted by sizes (G,)."""
    return tuple(intervals((means * sizes)[None], Draws(len(means), sizes))[0].tolist())


def test_an_interval_draws_seeds_and_groups():
    chance = np.random.default_rng(0)
    means, sizes = chance.random((5, 40)), chance.integers(1, 5, 40).astype(float)
    assert interval_of(means, sizes) == pytest.approx(drawn_interval(means, sizes), abs=1e-12)
    assert interval_of(means[:, :1], sizes[:1]) == pytest.approx([means[:, 0].mean()] * 2)
    low, high = interval_of(means[:1], np.ones(40))
    half = 1.96 * means[0].std() / math.sqrt(40)
    assert (low, high) == pytest.approx((means[0].mean() - half, means[0].mean() + half), abs=0.1 * half)


def test_p_values_at_once_are_those_one_by_one():
    chance = np.random.default_rng(1)
    for groups, tolerance in ((9, 1e-12), (40, 0.02)):
        differences = chance.normal(0.2, 1, (6, groups))
        names = [f"g{i:02}" for i in range(groups)]
        zero = dict.fromkeys(names, 0.0)
        one_by_one = [paired_p_value(dict(zip(names, d, strict=True)), zero) for d in differences.tolist()]
        assert swapped_p_values(differences) == pytest.approx(one_by_one, abs=tolerance)
    assert swapped_p_values(np.zeros((1, 30))) == pytest.approx([1.0])
    assert swapped_p_values(np.ones((1, 1))) == pytest.approx([1.0])


def test_corrections_effects_and_power_by_hand():
    # 4 * p / rank, none above one after it.
    assert benjamini_hochberg([0.01, 0.04, 0.03, 0.9]) == pytest.approx([0.04, 4 * 0.04 / 3, 4 * 0.04 / 3, 0.9])
    assert benjamini_hochberg([]) == []
    assert effect_sizes(np.array([[1.0, 2.0, 3.0], [1.0, 1.0, 1.0]])) == pytest.approx([2.0, 0.0])
    assert detectable_difference(0.2, 10**6) == pytest.approx((1.959964 + 0.841621) * 0.2 / 1000, rel=1e-4)
    assert detectable_difference(0.2, 5) > (1.96 + 0.84) * 0.2 / math.sqrt(5) * 1.2  # few groups: t, not normal
    assert detectable_difference(0.2, 1) == math.inf
