"""What the studies' lines say of one method, with its interval, and of two, with a test. Pure arithmetic.

An interval is a hierarchical bootstrap: seeds and wishes are both drawn anew (95 %, percentiles), for both stand for
more of their kind. A test pairs two methods wish by wish, each the mean over its seeds, and swaps them (Fisher's
randomization); the p-values of a table are corrected together (Holm 1979). "Better" is said where p < .05 alone.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from irpo.evaluation.significance import holm, paired_p_value

RESAMPLES = 9_999
LEVEL = 0.05
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Found:
    """A method at one setting: a row a seed, all of one mode and strength."""

    name: str
    rows: tuple[Mapping[str, Any], ...]
    wishes: Mapping[str, int]  # lists of each wish, in the order of a row's `by_wish`

    @property
    def values(self) -> Values:
        """NDCG@10 by seed and wish, (S, W)."""
        return np.array([row["by_wish"] for row in self.rows], dtype=np.float64) / 1e4

    @property
    def sizes(self) -> Values:
        """Lists of each wish, (W,)."""
        return np.array(list(self.wishes.values()), dtype=np.float64)

    @property
    def mean(self) -> float:
        """NDCG@10 over lists and seeds."""
        return float(np.average(self.values.mean(0), weights=self.sizes))

    @property
    def by_wish(self) -> dict[str, float]:
        """What a test swaps: the sum over a wish's lists of the mean over seeds."""
        return dict(zip(self.wishes, (self.values.mean(0) * self.sizes).tolist(), strict=True))

    def of(self, name: str) -> float:
        """The mean of another figure over seeds."""
        return statistics.fmean(row[name] for row in self.rows)

    def cut(self, k: str) -> str:
        """NDCG@k."""
        return short(statistics.fmean(row["ndcg"][k] for row in self.rows))

    def cell(self) -> str:
        """NDCG@10 with its interval."""
        low, high = interval(self.values, self.sizes)
        return f"{short(self.mean)} [{short(low)}, {short(high)}]"


def interval(values: Values, sizes: Values, *, seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of the mean of (S, W) values weighted by sizes (W,), seeds and wishes drawn anew."""
    chance = np.random.default_rng(seed)
    seeds, wishes = values.shape
    some = chance.multinomial(seeds, np.full(seeds, 1 / seeds), size=RESAMPLES) / seeds
    weights = chance.multinomial(wishes, np.full(wishes, 1 / wishes), size=RESAMPLES) * sizes
    low, high = np.quantile((some @ values * weights).sum(1) / weights.sum(1), [0.025, 0.975])
    return float(low), float(high)


def verdicts(pairs: Sequence[tuple[Found, Found]]) -> list[tuple[float, float, str]]:
    """Of each pair the difference of the means (first - second), its corrected p, and the word for it."""
    corrected = holm([paired_p_value(first.by_wish, second.by_wish) for first, second in pairs])
    found = []
    for (first, second), p in zip(pairs, corrected, strict=True):
        apart = first.mean - second.mean
        found.append((apart, p, "no difference shown" if p >= LEVEL else "better" if apart > 0 else "worse"))
    return found


def as_cells(test: tuple[float, float, str]) -> list[str]:
    """One of the `verdicts` as cells of a table.

    >>> as_cells((0.0061, 0.0004, "better"))
    ['+.006', 'p < .001', 'better']
    """
    apart, p, word = test
    return [f"{'+' if apart >= 0 else ''}{short(apart)}", "p < .001" if p < 0.001 else f"p = {short(p)}", word]


def short(value: float) -> str:
    """Three decimals, without a zero before them.

    >>> short(0.9764), short(1.0), short(-0.02)
    ('.976', '1.000', '-.020')
    """
    return f"{value:.3f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.3f}"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; nothing where it has no row."""
    if not rows:
        return ""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
