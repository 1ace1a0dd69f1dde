"""Measures: values worked by hand, and NDCG against a literal transcription of its formula."""

from __future__ import annotations

from math import log2

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from irpo.measures import MEASURES, main_measure, mean, ndcg, per_query
from irpo.types import Ranking, UnknownName, UserError

KS = (1, 3, 5, 10, 20)


def at(*ks: int) -> list[str]:
    """All measures at these cut-offs."""
    return [*(f"{name}@{k}" for name in ("NDCG", "Recall", "P") for k in ks), "MRR", "MAP"]


def measured(order: tuple[int, ...], labels: list[float], ks: tuple[int, ...] = KS) -> dict[str, float]:
    values = per_query({"q": Ranking(order)}, {"q": labels}, at(*ks))
    return {name: value["q"] for name, value in values.items()}


def test_values_worked_by_hand():
    # labels 2, 0, 1, 0 ranked as 1 (y=0), 0 (y=2), 3 (y=0), 2 (y=1)
    values = measured((1, 0, 3, 2), [2, 0, 1, 0], (1, 3, 10))
    best = 3 / log2(2) + 1 / log2(3)
    assert values["NDCG@1"] == 0
    assert values["NDCG@3"] == pytest.approx((3 / log2(3)) / best)
    assert values["NDCG@10"] == pytest.approx((3 / log2(3) + 1 / log2(5)) / best)
    assert values["Recall@1"] == 0
    assert values["Recall@3"] == 1 / 2
    assert values["Recall@10"] == 1
    assert values["P@3"] == pytest.approx(1 / 3)
    assert values["P@10"] == pytest.approx(2 / 10)
    assert values["MRR"] == 1 / 2
    assert values["MAP"] == pytest.approx((1 / 2 + 2 / 4) / 2)


def test_what_was_not_named_earns_nothing():
    values = measured((2,), [2, 0, 1, 0], (1, 10))
    best = 3 / log2(2) + 1 / log2(3)
    assert values["NDCG@10"] == pytest.approx(1 / best)
    assert values["Recall@10"] == 1 / 2
    assert values["MRR"] == 1
    assert values["MAP"] == pytest.approx(1 / 2)


def test_queries_that_are_not_ranked_count_zero():
    labels = {"a": [1.0, 0.0], "b": [0.0, 1.0], "c": [1.0, 0.0]}
    values = per_query({"a": Ranking((0, 1)), "c": Ranking(())}, labels, at(1))
    assert values["NDCG@1"] == {"a": 1, "b": 0, "c": 0}
    assert mean(values["NDCG@1"]) == pytest.approx(1 / 3)
    assert per_query({}, labels, at(1))["MAP"] == {"a": 0, "b": 0, "c": 0}


def test_lists_without_a_relevant_candidate_count_zero():
    assert set(measured((0, 1), [0, 0]).values()) == {0}


def test_order_of_document_ids_never_matters():
    labels = [0.0] * 12 + [1.0]  # trec_eval sorts "9" behind "12"
    first = measured((12, *range(12)), labels)
    assert first["MRR"] == 1
    last = measured((*range(12), 12), labels)
    assert last["MRR"] == pytest.approx(1 / 13)


def test_labels_between_whole_numbers():
    values = measured((0, 1, 2), [0.5, 1.5, 1.0], (3,))
    gains = [2**0.5 - 1, 2**1.5 - 1, 1]
    best = gains[1] / log2(2) + gains[2] / log2(3) + gains[0] / log2(4)
    assert values["NDCG@3"] == pytest.approx((gains[0] / log2(2) + gains[1] / log2(3) + gains[2] / log2(4)) / best)
    assert values["MRR"] == 1 / 2  # 0.5 is below 1
    assert values["P@3"] == pytest.approx(2 / 3)
    assert measured((0, 1), [0, 40])["NDCG@10"] == pytest.approx(1 / log2(3))  # no memory of 2^40 cells


def literal_ndcg(order: list[int], labels: list[float], k: int) -> float:
    """sum (2^y - 1) / log2(1 + i) in float64, over the same of the sorted labels."""
    gains = 2.0 ** np.array([labels[j] for j in order], dtype=np.float64) - 1
    ideal = 2.0 ** np.sort(np.array(labels, dtype=np.float64))[::-1] - 1
    discount = 1 / np.log2(1 + np.arange(1, len(labels) + 1, dtype=np.float64))
    best = (ideal * discount)[:k].sum()
    return float((gains * discount[: len(gains)])[:k].sum() / best) if best else 0.0


@st.composite
def ranked_lists(draw):
    labels = draw(st.lists(st.integers(0, 5), min_size=2, max_size=25))
    order = draw(st.permutations(range(len(labels))))
    return order[: draw(st.integers(0, len(order)))], [float(y) for y in labels]


@settings(max_examples=150)
@given(ranked_lists())
def test_ndcg_is_the_formula(ranked):
    order, labels = ranked
    values = measured(tuple(order), labels)
    for k in KS:
        expected = literal_ndcg(order, labels, k)
        assert values[f"NDCG@{k}"] == pytest.approx(expected, abs=1e-6)
        assert ndcg(order, labels, k) == pytest.approx(expected, abs=1e-12)


@settings(max_examples=100)
@given(ranked_lists())
def test_binary_measures_are_their_formulas(ranked):
    order, labels = ranked
    hits = [labels[j] >= 1 for j in order]
    relevant = sum(y >= 1 for y in labels)
    values = measured(tuple(order), labels)
    for k in KS:
        assert values[f"P@{k}"] == pytest.approx(sum(hits[:k]) / k)
        assert values[f"Recall@{k}"] == pytest.approx(sum(hits[:k]) / relevant if relevant else 0)
    assert values["MRR"] == pytest.approx(1 / (1 + hits.index(True)) if any(hits) else 0)
    precisions = [sum(hits[: i + 1]) / (i + 1) for i, hit in enumerate(hits) if hit]
    assert values["MAP"] == pytest.approx(sum(precisions) / relevant if relevant else 0)


def test_names_and_the_main_measure():
    assert list(MEASURES) == at(*KS)
    assert main_measure(MEASURES) == "NDCG@10"
    assert main_measure(["MRR", "NDCG@5"]) == "MRR"  # the first that was asked for


@pytest.mark.parametrize("text", ["NDCG", "ndcg@10", "NDCG@0", "NDCG@", "MRR@3", "@5", "", "NDCG@1.5", "P@-1"])
def test_measures_that_there_are_not(text):
    with pytest.raises(UnknownName, match="choose from NDCG@k, LNDCG@k, Recall@k, P@k, MRR, MAP"):
        per_query({}, {"q": [1.0, 0.0]}, [text])


def test_mistakes_are_named():
    with pytest.raises(UserError, match="too large for the gain"):
        per_query({"q": Ranking((0, 1))}, {"q": [1e5, 0.0]})
    with pytest.raises(ValueError, match="has no labels"):
        per_query({"x": Ranking((0,))}, {"q": [1.0, 0.0]})
    with pytest.raises(ValueError, match="outside"):
        per_query({"q": Ranking((2,))}, {"q": [1.0, 0.0]})
