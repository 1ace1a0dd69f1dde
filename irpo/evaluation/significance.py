"""How far chance reaches: bootstrap intervals of a mean, and paired permutation tests between methods.

A whole table is done at once on sums: a ranker's values as a matrix (S, G) by seed and by group of a measure's sum over
the group's lists. `sizes` (G,) are the groups' numbers of lists. A mean is the sum over groups over the number of
lists, and then the mean over seeds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

# scipy.stats is imported where it is used: it takes as long as torch, and who lists plug-ins tests nothing.
_RESAMPLES = 9_999
_BATCH = 500  # resamples held in memory at once
LEVEL, POWER = 0.05, 0.8
Array = NDArray[np.float64]

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


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """P-values of several tests, so that of what is found a bounded share is false (Benjamini & Hochberg 1995).

    >>> benjamini_hochberg([0.01, 0.04, 0.03])
    [0.03, 0.04, 0.04]
    """
    if not p_values:
        return []
    from scipy import stats

    return [float(q) for q in stats.false_discovery_control(p_values)]


@dataclass(frozen=True)
class Draws:
    """Seeds and groups drawn anew (both stand for more of their kind), the same draws for all rankers of a task."""

    seeds: int  # most that a ranker has
    sizes: Array  # (G,)
    seed: int = 0

    @cached_property
    def _drawn(self) -> tuple[Array, NDArray[np.uint16]]:
        """The share of each seed, (R, S), and how often each group is drawn, (R, G)."""
        chance = np.random.default_rng(self.seed)
        shares = _multinomial(chance, self.seeds, _RESAMPLES) / self.seeds
        groups = np.empty((_RESAMPLES, len(self.sizes)), dtype=np.uint16)
        for part in _batches():
            groups[part] = _multinomial(chance, len(self.sizes), part.stop - part.start)
        return shares, groups

    def _shares(self, number: int) -> Array:
        """Each draw's weights of the seeds, (R, S), spread as few seeds ask (`_stretch`)."""
        drawn = self._drawn[0]
        if number != self.seeds:
            drawn = _multinomial(np.random.default_rng([self.seed, number]), number, _RESAMPLES) / number
        return 1 / number + _stretch(number) * (drawn - 1 / number)

    def means(self, sums: Array) -> Array:
        """The mean in every draw, (T, S, G) -> (T, R)."""
        count, seeds, groups = sums.shape
        flat, shares, found = sums.reshape(count * seeds, groups), self._shares(seeds), np.empty((count, _RESAMPLES))
        for part in _batches():
            drawn = self._drawn[1][part].astype(np.float64)
            by_seed = (flat @ drawn.T).reshape(count, seeds, -1)
            found[:, part] = np.einsum("tsr,rs->tr", by_seed, shares[part]) / (drawn @ self.sizes)
        return found


def _stretch(number: int) -> float:
    """How much wider than its draws a percentile interval over so few units must be (Hesterberg 2015, section 5.2).

    A bootstrap of S units has (S - 1) / S of the variance, and normal tails where Student's are due.

    >>> [round(_stretch(number), 2) for number in (3, 5, 20)]
    [2.69, 1.58, 1.1]
    """
    if number < 2:
        return 1.0
    from scipy import stats

    return float(stats.t.isf(0.025, number - 1) / stats.norm.isf(0.025) * math.sqrt(number / (number - 1)))


def _batches() -> Iterator[slice]:
    return (slice(start, min(start + _BATCH, _RESAMPLES)) for start in range(0, _RESAMPLES, _BATCH))


def _multinomial(chance: np.random.Generator, number: int, rows: int) -> Array:
    return chance.multinomial(number, np.full(number, 1 / number), size=rows).astype(np.float64)


def intervals(sums: Array, draws: Draws, *, level: float = 0.95) -> Array:
    """Percentile intervals of means or of paired differences, (T, S, G) sums -> (T, 2): a hierarchical bootstrap.

    With one seed only groups are drawn. What is alike in all groups and seeds, and what has fewer than two groups, has
    no width: the mean itself.
    """
    middle = sums.mean(1).sum(1) / draws.sizes.sum()
    found = np.stack([middle, middle], axis=1)
    vary = np.ptp((sums / draws.sizes).reshape(len(sums), -1), axis=1) > 0
    if len(draws.sizes) > 1 and vary.any():
        tail = (1 - level) / 2
        found[vary] = np.quantile(draws.means(sums[vary]), [tail, 1 - tail], axis=1).T
    return found


def swapped_p_values(differences: Array, *, seed: int = 0) -> Array:
    """Two-sided p-values of differences by group, (T, G) -> (T,): `paired_p_value` of many pairs at once.

    To swap two methods in a group is to turn its difference's sign, so all tests share one matrix of signs: exact up to
    13 groups, else 9,999 random rows and the row of the data itself. (`scipy.stats.permutation_test` draws anew for
    every pair.)
    """
    tests, groups = differences.shape
    if groups < 2:
        return np.ones(tests)
    observed = np.abs(differences.sum(1))
    # Sums in another order differ in their last digits; what is as far apart must count.
    least = observed - 1e-12 * np.abs(differences).sum(1)
    as_far, rows = np.zeros(tests), 0
    for signs in _signs(groups, seed):
        as_far += (np.abs(signs @ differences.T) >= least).sum(0)
        rows += len(signs)
    if 2**groups > _RESAMPLES:
        as_far, rows = as_far + 1, rows + 1
    return as_far / rows


def _signs(groups: int, seed: int) -> Iterator[Array]:
    """Rows of +1 and -1, (R, G) in batches: all there are where these are few, else random ones."""
    if 2**groups <= _RESAMPLES:
        yield np.where(np.arange(2**groups)[:, None] >> np.arange(groups) & 1, -1.0, 1.0)
        return
    chance = np.random.default_rng(seed)
    for part in _batches():
        yield np.where(chance.integers(0, 2, size=(part.stop - part.start, groups), dtype=np.int8), -1.0, 1.0)


def effect_sizes(differences: Array) -> Array:
    """Cohen's d_z, (T, G) -> (T,): mean over standard deviation of the groups' differences; 0 where none varies."""
    if differences.shape[1] < 2:
        return np.zeros(len(differences))
    spread = differences.std(1, ddof=1)
    vary = np.ptp(differences, axis=1) > 0
    return np.asarray(np.divide(differences.mean(1), spread, out=np.zeros(len(differences)), where=vary))


def detectable_difference(deviation: float, groups: int, *, level: float = LEVEL, power: float = POWER) -> float:
    """The smallest difference that a two-sided paired test finds with this power, from the noncentral t distribution.

    `deviation` is that of the groups' differences in the unit of the mean (each the mean over the seeds at hand); inf
    where so few groups cannot have a p below the level. With many groups it is near the normal (1.96 + 0.84) *
    deviation / sqrt(groups).

    >>> round(detectable_difference(0.2, 100), 4)
    0.0566
    """
    if 2.0 ** (1 - groups) >= level:  # swaps of so few groups have no smaller p
        return math.inf
    from scipy import special, stats

    noncentrality = special.nctdtrinc(groups - 1, 1 - power, stats.t.isf(level / 2, groups - 1))
    return float(noncentrality * deviation / math.sqrt(groups))


def deviation_by_group(differences: Array, sizes: Array) -> Array:
    """Standard deviation of the groups' differences in the unit of the mean over lists, sums (T, G) -> (T,)."""
    if len(sizes) < 2:
        return np.zeros(len(differences))
    return np.asarray(differences.std(1, ddof=1) * len(sizes) / sizes.sum())
