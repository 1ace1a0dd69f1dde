"""Intervals and p-values against counts and textbook formulas."""

from __future__ import annotations

from math import comb, sqrt

import numpy as np
import pytest

from irpo.evaluation.significance import mean_interval, paired_p_value


def by_query(values):
    return {f"q{i}": float(v) for i, v in enumerate(values)}


def test_the_interval_is_near_the_normal_one():
    values = np.random.default_rng(0).random(400)
    low, high = mean_interval(by_query(values))
    half = 1.96 * values.std() / sqrt(400)
    assert low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_the_interval_ignores_the_order_and_obeys_the_seed():
    values = by_query(np.random.default_rng(1).random(30))
    assert mean_interval(values) == mean_interval(dict(reversed(values.items())))
    assert mean_interval(values, seed=1) != mean_interval(values, seed=2)


@pytest.mark.parametrize("values", [[], [0.25], [0.5, 0.5, 0.5]])
def test_the_interval_where_nothing_varies(values):
    middle = values[0] if values else 0.0
    assert mean_interval(by_query(values)) == (middle, middle)


def test_the_exact_p_value_of_few_queries():
    # Eight differences of +1: of the 2^8 swaps only the two that swap all or none are as far apart.
    assert paired_p_value(by_query([1] * 8), by_query([0] * 8)) == pytest.approx(2 / 2**8)
    # Seven of eight: 2 * (1 + 8) of 2^8.
    first, second = by_query([1] * 7 + [0]), by_query([0] * 7 + [1])
    assert paired_p_value(first, second) == pytest.approx(2 * (comb(8, 0) + comb(8, 1)) / 2**8)


def test_p_values_of_many_queries():
    draw = np.random.default_rng(2)
    first = draw.random(500)
    assert paired_p_value(by_query(first), by_query(first)) == 1.0
    assert paired_p_value(by_query(first + draw.normal(0, 0.1, 500)), by_query(first)) > 0.01
    assert paired_p_value(by_query(first + draw.normal(0.1, 0.1, 500)), by_query(first)) < 0.001


def test_unpaired_values_are_refused():
    with pytest.raises(ValueError, match="same queries"):
        paired_p_value({"a": 1.0}, {"b": 1.0})
