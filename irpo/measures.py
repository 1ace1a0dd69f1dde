"""Measures of a ranking, computed by `ir-measures` (trec_eval), spelt the same in configuration, tables and files.

`NDCG@k` has the gain 2^y - 1 (Burges et al. 2005), trec_eval's own is linear: it is fed the gains as labels.
`Recall@k`, `P@k`, `MRR` and `MAP` count a candidate as relevant from label 1. A list without a relevant candidate and a
list without a ranking have 0 in every measure.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from irpo.types import Ranking, UserError, target_order

KS = (1, 3, 5, 10, 20)
MIN_LABEL = 1.0  # from which a candidate is relevant, where relevance is yes or no
_MAX_LABEL = 1000.0
_MAX_WHOLE = 15.0  # trec_eval's memory and time grow with the largest gain, 2^y - 1

PerQuery = dict[str, dict[str, float]]  # measure -> query id -> value


def measure_names(ks: Sequence[int] = KS) -> tuple[str, ...]:
    """All measures at these cut-offs, in the order of the tables.

    >>> measure_names([1, 10])
    ('NDCG@1', 'NDCG@10', 'Recall@1', 'Recall@10', 'P@1', 'P@10', 'MRR', 'MAP')
    """
    cut = tuple(f"{name}@{k}" for name in ("NDCG", "Recall", "P") for k in ks)
    return (*cut, "MRR", "MAP")


def main_measure(ks: Sequence[int]) -> str:
    """The one that stands for all: NDCG@10, else at the nearest cut-off below, else at the first above."""
    below = [k for k in ks if k <= 10]
    return f"NDCG@{max(below) if below else min(ks)}"


def gain(label: float) -> float:
    """2^y - 1; `UserError` for a label whose gain no float holds."""
    if label > _MAX_LABEL:
        raise UserError(f"label {label:g} is too large for the gain 2^y - 1; labels go up to {_MAX_LABEL:g}")
    return math.pow(2.0, label) - 1.0


def ndcg(order: Sequence[int], relevance: Sequence[float], k: int) -> float:
    """NDCG@k of candidate indices, best first: the sum of (2^y - 1) / log2(1 + rank) over the best possible sum.

    0 where no candidate is relevant; labels need not be whole numbers. A strict ranking may name only some.

    >>> round(ndcg([1, 0], [2.0, 0.0], 10), 4)  # 1 / log2(3)
    0.6309
    """

    def dcg(ranked: Sequence[int]) -> float:
        return math.fsum(gain(relevance[j]) / math.log2(1 + rank) for rank, j in enumerate(ranked[:k], start=1))

    best = dcg(target_order(relevance))
    return dcg(order) / best if best > 0 else 0.0


def per_query(
    runs: Mapping[str, Ranking], relevance: Mapping[str, Sequence[float]], ks: Sequence[int] = KS
) -> PerQuery:
    """Every measure of every query in `relevance`; a query that is not in `runs` has 0.

    Labels that are not whole numbers up to 15 are beyond trec_eval: the NDCG of their lists comes from `ndcg`, which
    agrees with it to 1e-6 where both apply. `UserError` for a cut-off below 1, `ValueError` for a ranking of a
    query that has no labels or of a candidate that is not in the list.
    """
    _check(runs, relevance, ks)
    values = _trec_eval(runs, relevance, ks)
    for query, labels in relevance.items():
        if not _is_whole(labels):
            order = runs[query].order if query in runs else ()
            for k in ks:
                values[f"NDCG@{k}"][query] = ndcg(order, labels, k)
    return values


def pass_at(passed: int, samples: int, n: int) -> float:
    """Pass@n: the chance that at least one of n answers, drawn from `samples` of which `passed` suit, suits.

    1 - C(samples - passed, n) / C(samples, n) (Chen et al. 2021, arXiv 2107.03374): without bias from more samples than
    n. Seen as retrieval, with answers for passages, it is Recall@n (LarPO, arXiv 2502.03699, section 2.4).

    >>> pass_at(1, 4, 2)  # one of four suits: half of the pairs hold it
    0.5
    """
    if not 0 <= passed <= samples or not 1 <= n <= samples:
        raise ValueError(f"{passed} of {samples} answers pass, Pass@{n}: n is from 1 to the number of answers")
    return 1 - math.comb(samples - passed, n) / math.comb(samples, n)


def mean(values: Mapping[str, float]) -> float:
    """The mean over queries; 0 where there is none."""
    return math.fsum(values.values()) / len(values) if values else 0.0


def _check(runs: Mapping[str, Ranking], relevance: Mapping[str, Sequence[float]], ks: Sequence[int]) -> None:
    if any(k < 1 for k in ks):
        raise UserError(f"measures at {list(ks)}: a cut-off is at least 1")
    for query, ranking in runs.items():
        if query not in relevance:
            raise ValueError(f"query {query!r} is ranked but has no labels")
        if any(not 0 <= j < len(relevance[query]) for j in ranking.order):
            raise ValueError(
                f"query {query!r}: {ranking.order} ranks a candidate outside 0..{len(relevance[query]) - 1}"
            )


def _is_whole(labels: Sequence[float]) -> bool:
    return all(float(y).is_integer() and y <= _MAX_WHOLE for y in labels)


def _trec_eval(runs: Mapping[str, Ranking], relevance: Mapping[str, Sequence[float]], ks: Sequence[int]) -> PerQuery:
    import ir_measures

    values: PerQuery = {name: dict.fromkeys(relevance, 0.0) for name in measure_names(ks)}
    measures = _measures(ks)
    qrels = {query: {str(j): label for j, label in enumerate(_whole(labels))} for query, labels in relevance.items()}
    # Strictly decreasing scores: trec_eval would order ties by document id.
    run = {q: {str(j): float(-rank) for rank, j in enumerate(r.order)} for q, r in runs.items() if r.order}
    if not run:
        return values
    for metric in ir_measures.pytrec_eval.iter_calc(list(measures), qrels, run):
        values[measures[metric.measure]][metric.query_id] = float(metric.value)
    return values


def _whole(labels: Sequence[float]) -> Iterator[int]:
    """Whole gains, which are at least 1 exactly where the label is; else relevant or not."""
    whole = _is_whole(labels)
    return (int(gain(y)) if whole else int(y >= MIN_LABEL) for y in labels)


def _measures(ks: Sequence[int]) -> dict[Any, str]:
    """The names of ours by the measures of ir-measures."""
    from ir_measures import AP, RR, P, R, nDCG

    named = {f"NDCG@{k}": nDCG @ k for k in ks} | {f"Recall@{k}": R @ k for k in ks} | {f"P@{k}": P @ k for k in ks}
    return {measure: name for name, measure in (named | {"MRR": RR, "MAP": AP}).items()}
