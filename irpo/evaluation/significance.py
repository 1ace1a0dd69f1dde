"""How far chance reaches: bootstrap intervals of a mean, and paired permutation tests between methods."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

# scipy.stats is imported where it is used: it takes as long as torch, and who lists plug-ins tests nothing.
_RESAMPLES = 9_999
_BATCH = 500  # resamples held in memory at once

Values = Mapping[str, float]  # of one measure, by query
Units = Mapping[str, str]  # query -> the group whose lists depend on each other; what is drawn and swapped is a group


def mean_interval(
    values: Values, units: Units | None = None, *, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean over queries (Efron 1979); for fewer than two units the mean itself.

    Whole units are drawn, with all their queries (each query is one where none are given). The same values give the
    same interval, in whatever order they come.
    """
    sums, counts = _by_unit(values, units)
    middle = float(sums.sum() / counts.sum()) if len(sums) else 0.0
    if len(sums) < 2 or np.ptp(sums / counts) == 0:
        return middle, middle
    from scipy import stats

    found = stats.bootstrap(
        (sums, counts),
        _ratio,
        paired=True,
        vectorized=True,
        n_resamples=_RESAMPLES,
        batch=_BATCH,
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def paired_p_value(first: Values, second: Values, units: Units | None = None, *, seed: int = 0) -> float:
    """Two-sided p-value that two methods have the same mean, by swapping them unit by unit (Fisher's randomization).

    All queries of a unit are swapped together. Exact where the number of swaps is small, else from random ones.
    `ValueError` unless both hold the same queries.
    """
    if first.keys() != second.keys():
        raise ValueError(f"a paired test needs the same queries: {len(first)} and {len(second)} were given")
    # The mean over queries is the sum over units but for a constant factor, whatever was swapped.
    (one, _), (other, _) = _by_unit(first, units), _by_unit(second, units)
    if len(one) < 2 or np.array_equal(one, other):
        return 1.0
    from scipy import stats

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


def _by_unit(values: Values, units: Units | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The sum of the values and the number of queries of every unit, units in the order of their names."""
    found: dict[str, list[float]] = {}
    for query in sorted(values):
        found.setdefault(query if units is None else units[query], []).append(values[query])
    names = sorted(found)
    sums = np.array([math.fsum(found[name]) for name in names], dtype=np.float64)
    return sums, np.array([len(found[name]) for name in names], dtype=np.float64)


def _ratio(sums: NDArray[np.float64], counts: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    return np.asarray(sums.sum(axis=axis) / counts.sum(axis=axis))


def _mean_difference(first: NDArray[np.float64], second: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    return np.asarray((first - second).mean(axis=axis))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values of several tests, so that the chance of any false discovery among them is bounded (Holm 1979).

    The i-th smallest of m, times m - i + 1, never below the one before it and at most 1.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    found, highest = [0.0] * len(p_values), 0.0
    for done, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - done) * p_values[i]))
        found[i] = highest
    return found


def paired_tests(
    pairs: Sequence[tuple[str, str]], methods: Mapping[str, Values], units: Units | None = None, *, seed: int = 0
) -> dict[tuple[str, str], float]:
    """Holm's p-value of each pair of methods, all of them one family; `KeyError` for a name that is not there."""
    raw = [paired_p_value(methods[one], methods[other], units, seed=seed) for one, other in pairs]
    return dict(zip(pairs, holm(raw), strict=True))
