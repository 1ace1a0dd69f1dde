"""How far chance reaches: bootstrap intervals of a mean, and paired permutation tests between methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

_RESAMPLES = 9_999
_BATCH = 500  # resamples held in memory at once

Values = Mapping[str, float]  # of one measure, by query


def mean_interval(values: Values, *, seed: int = 0, level: float = 0.95) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean over queries (Efron 1979); for fewer than two the value itself.

    The same values give the same interval, in whatever order they come.
    """
    sample = np.array([values[query] for query in sorted(values)], dtype=np.float64)
    if len(sample) < 2 or np.ptp(sample) == 0:
        middle = float(sample.mean()) if len(sample) else 0.0
        return middle, middle
    found = stats.bootstrap(
        (sample,),
        np.mean,
        n_resamples=_RESAMPLES,
        batch=_BATCH,
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def paired_p_value(first: Values, second: Values, *, seed: int = 0) -> float:
    """Two-sided p-value that two methods have the same mean, by swapping them query by query (Fisher's randomization).

    Exact where the number of swaps is small, else from random ones. `ValueError` unless both hold the same queries.
    """
    if first.keys() != second.keys():
        raise ValueError(f"a paired test needs the same queries: {len(first)} and {len(second)} were given")
    queries = sorted(first)
    one, other = (np.array([values[query] for query in queries], dtype=np.float64) for values in (first, second))
    if len(queries) < 2 or np.array_equal(one, other):
        return 1.0
    found = stats.permutation_test(
        (one, other),
        _mean_difference,
        permutation_type="samples",
        vectorized=True,
        n_resamples=_RESAMPLES,
        batch=_BATCH,
        alternative="two-sided",
        rng=np.random.default_rng(seed),
    )
    return min(1.0, float(found.pvalue))


def _mean_difference(first: NDArray[np.float64], second: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    return np.asarray((first - second).mean(axis=axis))


def adjusted(p_values: Sequence[float]) -> list[float]:
    """P-values of several comparisons, adjusted for the false discovery rate (Benjamini & Hochberg 1995)."""
    return [float(p) for p in stats.false_discovery_control(p_values)] if p_values else []


def against(baseline: str, methods: Mapping[str, Values], *, seed: int = 0) -> dict[str, float]:
    """Adjusted p-value of every other method against the baseline; `KeyError` where it is not among them."""
    others = [name for name in methods if name != baseline]
    raw = [paired_p_value(methods[name], methods[baseline], seed=seed) for name in others]
    return dict(zip(others, adjusted(raw), strict=True))
