"""What the statistics say of simulated results whose truth is known."""

from __future__ import annotations

from math import log2, sqrt

import ir_measures
import numpy as np
import pytest
from compare_results import DIGEST, frame, lists_of, result, row
from scipy import stats

from irpo.compare.statistics.rankers import Groups, Ranker
from irpo.compare.statistics.report import report_of
from irpo.compare.statistics.tested import Measured, cells_of, corrected, outcomes_of
from irpo.evaluation.significance import detectable_difference
from irpo.measures import per_query
from irpo.types import Ranking

GROUPS, SIZE = 40, 5
UNITS = [f"group {g}" for g in range(GROUPS) for _ in range(SIZE)]
BY_GROUP = Groups.of(lists_of(UNITS))
BY_LIST = Groups.of(lists_of([f"list {i}" for i in range(len(UNITS))]))


def measured(ranker, values):
    """NDCG@10 of a ranker, (S, n)."""
    return Measured(ranker, "NDCG@10", values, (), tuple(range(len(values))))


def simulated(chance, tables, correlation, *, apart=0.0, seeds=1):
    """Pairs of methods whose values of the lists of a group are correlated; means differ by `apart`."""

    def values():
        shared = np.repeat(chance.normal(size=(tables, 1, GROUPS)), SIZE, axis=2)
        own = chance.normal(size=(tables, seeds, GROUPS * SIZE))
        return 0.5 + 0.1 * (sqrt(correlation) * shared + sqrt(1 - correlation) * own)

    def ranker(name):
        return Ranker(name, "embedded", "trained", "1", "1", {"world": ()})

    one, other = ranker("IRPO"), ranker("SFT")
    return [(measured(one, a + apart), measured(other, b)) for a, b in zip(values(), values(), strict=True)]


def p_values(pairs, groups):
    return np.array([x.test.p for x in outcomes_of("world", pairs, groups)])


@pytest.mark.parametrize("correlation", [0.0, 0.8])
def test_of_two_equal_methods_p_is_uniform_by_group(correlation):
    pairs = simulated(np.random.default_rng(1), 500, correlation)
    assert stats.kstest(p_values(pairs, BY_GROUP), "uniform").pvalue > 0.05


def test_by_list_the_p_of_correlated_lists_is_not_uniform():
    # What the test above would find if lists were swapped one by one.
    pairs = simulated(np.random.default_rng(1), 500, 0.8)
    by_list = p_values(pairs, BY_LIST)
    assert stats.kstest(by_list, "uniform").pvalue < 1e-9
    assert (by_list < 0.05).mean() > 0.2
    pairs = simulated(np.random.default_rng(1), 500, 0.0)
    assert stats.kstest(p_values(pairs, BY_LIST), "uniform").pvalue > 0.05


@pytest.mark.parametrize("correlation", [0.0, 0.8])
def test_a_planted_difference_is_found_as_often_as_the_power_line_says(correlation):
    # The difference of two group means has the variance 2 * .01 * (c + (1 - c) / 5).
    deviation = sqrt(2 * 0.01 * (correlation + (1 - correlation) / SIZE))
    apart = detectable_difference(deviation, GROUPS)
    chance = np.random.default_rng(2)
    tests = outcomes_of("world", simulated(chance, 1000, correlation, apart=apart), BY_GROUP)
    # Three standard errors of a share of .8 among 1,000 are .038.
    assert np.mean([x.test.p < 0.05 for x in tests]) == pytest.approx(0.8, abs=0.038)
    assert np.median([x.detectable for x in tests]) == pytest.approx(apart, rel=0.03)
    assert np.mean([x.test.low <= apart <= x.test.high for x in tests]) == pytest.approx(0.95, abs=0.03)
    half = outcomes_of("world", simulated(chance, 1000, correlation, apart=apart / 2), BY_GROUP)
    assert np.mean([x.test.p < 0.05 for x in half]) < 0.4


@pytest.mark.parametrize("seeds", [3, 5, 20])
def test_intervals_cover_where_seeds_differ(seeds):
    """The truth is the mean over all seeds there could be; an interval over groups alone misses it too often."""
    chance, tables = np.random.default_rng(3), 200
    luck = chance.normal(0, 0.05, size=(tables, seeds, 1))
    values = 0.5 + luck + chance.normal(0, 0.1, size=(tables, seeds, GROUPS * SIZE))

    def covered(values):
        rankers = [Ranker("IRPO", "embedded", "trained", "1", "1", {"world": ()}) for _ in values]
        found = [measured(ranker, v) for ranker, v in zip(rankers, values, strict=True)]
        return np.mean([cell.low <= 0.5 <= cell.high for cell in cells_of(found, BY_GROUP).values()])

    assert covered(values) == pytest.approx(0.95, abs=0.04)
    assert covered(values.mean(1, keepdims=True)) < 0.75


def test_seeds_of_unequal_number_are_drawn_apart(monkeypatch):
    monkeypatch.setattr("irpo.evaluation.significance._stretch", lambda number: 1.0)
    one, other = (
        measured(Ranker(name, "embedded", "trained", "1", "1", {}), np.tile(np.array(v)[:, None], 200))
        for name, v in (("IRPO", [0.5, 0.6, 0.7]), ("SFT", [0.2, 0.4]))
    )
    (found,) = outcomes_of("world", [(one, other)], BY_GROUP)
    assert found.test.difference == pytest.approx(0.3)
    # Least apart: .5 - .4, a chance of 1/27 * 1/4 < .025; then (.5 + .5 + .6) / 3 - .4, of 3/27 * 1/4 > .025.
    assert (found.test.low, found.test.high) == pytest.approx((1.6 / 3 - 0.4, 2.0 / 3 - 0.2))


def test_a_constant_method_has_an_interval_without_width():
    lists = lists_of(UNITS)
    results = [result(m, row(np.full(len(lists), v)), seed=s) for m, v in (("SFT", 0.3), ("IRPO", 0.7)) for s in (0, 1)]
    table = report_of(frame(seeds=2), results, {DIGEST: lists}).tables[0]
    cells = [r.cells[0] for r in table.rows]
    assert [(c.low, c.value, c.high) for c in cells] == [pytest.approx((v, v, v), abs=1e-12) for v in (0.3, 0.7)]
    assert all(c.low == c.high for c in cells)
    (test,) = cells[1].tests
    assert (test.low, test.difference) == pytest.approx((test.high, 0.4))


def test_queries_without_a_ranking_count_0_and_are_said():
    lists = lists_of(UNITS)
    values = np.ones(len(lists))
    values[:12] = 0.0
    rankings = np.tile(np.arange(3), (len(lists), 1))
    rankings[:12] = -1
    results = [result("BM25s", row(values, "given", rankings=rankings, missing=12), kind="external", model="")]
    report = report_of(frame(), results, {DIGEST: lists})
    (told,) = report.tables[0].rows
    assert told.cells[0].value == pytest.approx(188 / 200)
    assert told.marks == ("12 lists missing: they count 0",)


def test_of_twenty_tests_of_nothing_hardly_one_gets_a_star():
    chance = np.random.default_rng(5)
    tables = [corrected(outcomes_of("world", simulated(chance, 20, 0.8), BY_GROUP)) for _ in range(20)]
    stars = [sum(x.test.star != "" for x in table) for table in tables]
    assert sum(stars) <= 1
    uncorrected = sum(x.test.p < 0.05 for table in tables for x in table)
    assert uncorrected >= 10  # of 400; a table that starred them would have one of these in most


def test_among_real_differences_few_stars_are_false():
    """Of what is starred at most .05 is false on average, and more is found than by correcting for any false one."""
    chance, false, stars, holm = np.random.default_rng(6), 0, 0, 0
    for _ in range(20):
        pairs = simulated(chance, 10, 0.0) + simulated(chance, 10, 0.0, apart=0.03)
        tests = corrected(outcomes_of("world", pairs, BY_GROUP))
        false += sum(x.test.star != "" for x in tests[:10])
        stars += sum(x.test.star != "" for x in tests)
        holm += sum(x.test.p * 20 < 0.05 for x in tests)
    assert false / stars < 0.06
    assert stars > holm


def test_the_luck_of_seeds_earns_no_star():
    """Methods are equal over all seeds there could be; groups alone would call half of five lucky seeds better."""
    chance, seeds = np.random.default_rng(7), 5

    def values():
        return 0.5 + chance.normal(0, 0.03, size=(seeds, 1)) + chance.normal(0, 0.1, size=(seeds, GROUPS * SIZE))

    rankers = [Ranker(name, "embedded", "trained", "1", "1", {"world": ()}) for name in ("IRPO", "SFT")]
    pairs = [tuple(measured(ranker, values()) for ranker in rankers) for _ in range(400)]
    tests = outcomes_of("world", pairs, BY_GROUP)  # q is still p: each is a table of its own
    assert np.mean([x.test.p < 0.05 for x in tests]) > 0.4
    assert np.mean([x.test.star != "" for x in tests]) < 0.08


# Three queries of four passages: labels, and the order that a ranker gave. The last has no ranking.
LABELS = {"a": [1.0, 0.0, 2.0, 0.0], "b": [0.0, 1.0, 0.0, 1.0], "c": [1.0, 0.0, 0.0, 0.0]}
ORDERS = {"a": (0, 2, 1, 3), "b": (0, 1, 2, 3)}
BEST = {"a": 3 + 1 / log2(3), "b": 1 + 1 / log2(3), "c": 1.0}  # sums of (2^y - 1) / log2(1 + rank) in the best order
BY_HAND = {
    "NDCG@1": (1 / 3, 0.0, 0.0),  # the best gain of a is 3
    "NDCG@10": ((1 + 3 / log2(3)) / BEST["a"], (1 / log2(3) + 1 / log2(5)) / BEST["b"], 0.0),
    "Recall@3": (1.0, 1 / 2, 0.0),
    "MRR": (1.0, 1 / 2, 0.0),
    "MAP": (1.0, (1 / 2 + 2 / 4) / 2, 0.0),
}


def test_a_table_worked_by_hand():
    found = per_query({q: Ranking(order) for q, order in ORDERS.items()}, LABELS, list(BY_HAND))
    for measure, values in BY_HAND.items():
        assert [found[measure][q] for q in LABELS] == pytest.approx(values, abs=1e-6)


def test_measures_agree_with_ir_measures_on_files(tmp_path):
    """Two TREC files as trec_eval reads them; gains 2^y - 1 stand in the qrels for NDCG, labels for the others."""
    run = [f"{q} Q0 d{j} {rank} {10 - rank} t" for q, order in ORDERS.items() for rank, j in enumerate(order, start=1)]
    (tmp_path / "run").write_text("\n".join(run) + "\n")
    for name, of in (("labels", int), ("gains", lambda y: int(2**y - 1))):
        lines = [f"{q} 0 d{j} {of(y)}" for q, labels in LABELS.items() for j, y in enumerate(labels)]
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    ranked = {q: Ranking(order) for q, order in ORDERS.items()}
    names = {"NDCG@1": "nDCG@1", "NDCG@10": "nDCG@10", "Recall@3": "R@3", "P@2": "P@2", "MRR": "RR", "MAP": "AP"}
    ours = per_query(ranked, LABELS, list(names))
    for measure, theirs in names.items():
        qrels = ir_measures.read_trec_qrels(str(tmp_path / ("gains" if "NDCG" in measure else "labels")))
        value = ir_measures.parse_measure(theirs)
        found = ir_measures.calc_aggregate([value], qrels, ir_measures.read_trec_run(str(tmp_path / "run")))[value]
        assert np.mean(list(ours[measure].values())) == pytest.approx(found, abs=1e-6)
