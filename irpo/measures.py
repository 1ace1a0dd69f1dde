"""Measures of a ranking, computed by `ir-measures` (trec_eval), spelt the same in configuration, training and tables.

`NDCG@k` has the gain 2^y - 1 (Burges et al. 2005), trec_eval's own is linear: it is fed the gains as labels.
`LNDCG@k` has trec_eval's linear gain y: it is the nDCG@k of ir-measures, trec_eval, BEIR and MTEB.
`Recall@k`, `P@k`, `MRR` and `MAP` count a candidate as relevant from the label that the task says. A list without a
relevant candidate and a list without a ranking have 0 in every measure. What is relevant and no candidate, for the
first stage missed it, is part of the best possible ranking, and of all that Recall and MAP ask for.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from irpo.types import Ranking, UnknownName, UserError, target_order

RELEVANT_FROM = 1.0  # the label from which a candidate is relevant, where the task says no other
# Our name -> that of ir-measures; one line more is one measure more.
_CUT = {"NDCG": "nDCG", "LNDCG": "nDCG", "Recall": "R", "P": "P"}  # with a cut-off
_WHOLE = {"MRR": "RR", "MAP": "AP"}  # of the whole ranking
MEASURES = (*(f"{name}@{k}" for name in ("NDCG", "Recall", "P") for k in (1, 3, 5, 10, 20)), *_WHOLE)
MAIN = "NDCG@10"  # stands for all, wherever it is measured
_MAX_LABEL = 1000.0
_MAX_WHOLE = 15.0  # trec_eval's memory and time grow with the largest gain, 2^y - 1

PerQuery = dict[str, dict[str, float]]  # measure -> query id -> value


@dataclass(frozen=True)
class Measure:
    """A measure and its cut-off; `str` spells it as it is written everywhere."""

    name: str
    k: int | None = None

    def __str__(self) -> str:
        return self.name if self.k is None else f"{self.name}@{self.k}"


def measure_of(text: str) -> Measure:
    """The measure that is spelt so; `UnknownName` says how measures are spelt.

    >>> measure_of("NDCG@10")
    Measure(name='NDCG', k=10)
    """
    found = re.fullmatch(r"(\w+?)(?:@([1-9]\d{0,5}))?", text, re.ASCII)
    name, k = found.groups() if found else ("", None)
    if name not in (_WHOLE if k is None else _CUT):
        spelt = ", ".join([*(f"{cut}@k" for cut in _CUT), *_WHOLE])
        raise UnknownName(f"unknown measure {text!r}; choose from {spelt}, k a whole number from 1")
    return Measure(name, None if k is None else int(k))


def main_measure(measures: Sequence[str]) -> str:
    """The one that stands for all: NDCG@10 where it is measured, else the first of the list."""
    return MAIN if MAIN in measures else measures[0]


def headline(measures: Sequence[str]) -> str:
    """Of a table's measures the one that tells most: NDCG@10, else the NDCG of the longest cut-off, else the first.

    >>> headline(["Recall@5", "NDCG@1", "NDCG@5"])
    'NDCG@5'
    """
    cuts = {measure_of(text).k or 0: text for text in measures if measure_of(text).name == "NDCG"}
    return MAIN if MAIN in measures else cuts[max(cuts)] if cuts else measures[0]


def gain(label: float) -> float:
    """2^y - 1; `UserError` for a label whose gain no float holds."""
    if label > _MAX_LABEL:
        raise UserError(f"label {label:g} is too large for the gain 2^y - 1; labels go up to {_MAX_LABEL:g}")
    return math.pow(2.0, label) - 1.0


def linear_gain(label: float) -> float:
    """The label itself, as trec_eval has it."""
    return label


GAINS: Mapping[str, Callable[[float], float]] = {"NDCG": gain, "LNDCG": linear_gain}  # of the measures that have one


def ndcg(
    order: Sequence[int],
    relevance: Sequence[float],
    k: int,
    *,
    missed: Sequence[float] = (),
    gain: Callable[[float], float] = gain,
) -> float:
    """NDCG@k of candidate indices, best first: the sum of (2^y - 1) / log2(1 + rank) over the best possible sum.

    0 where no candidate is relevant; labels need not be whole numbers. A strict ranking may name only some. `missed`
    are labels of what is no candidate, and stands in the best possible ranking; `gain` is of a label.

    >>> round(ndcg([1, 0], [2.0, 0.0], 10), 4)  # 1 / log2(3)
    0.6309
    """

    labels = [*relevance, *missed]

    def dcg(ranked: Sequence[int]) -> float:
        return math.fsum(gain(labels[j]) / math.log2(1 + rank) for rank, j in enumerate(ranked[:k], start=1))

    best = dcg(target_order(labels))
    return dcg(order) / best if best > 0 else 0.0


def per_query(
    runs: Mapping[str, Ranking],
    relevance: Mapping[str, Sequence[float]],
    measures: Sequence[str] = MEASURES,
    relevant_from: float = RELEVANT_FROM,
    missed: Mapping[str, Sequence[float]] | None = None,
) -> PerQuery:
    """Every measure of every query in `relevance`; a query that is not in `runs` has 0.

    `missed` are a query's labels of what is no candidate of it. Labels that are not whole numbers up to 15 are beyond
    trec_eval: the NDCG of their lists comes from `ndcg`, which agrees with it to 1e-6 where both apply. `UnknownName`
    for a measure that there is not, `ValueError` for a ranking of a query that has no labels or of a candidate that is
    not in the list.
    """
    wanted = [measure_of(text) for text in measures]
    _check(runs, relevance)
    values: PerQuery = {str(measure): dict.fromkeys(relevance, 0.0) for measure in wanted}
    lost = missed or {}
    judged = {query: [*labels, *lost.get(query, ())] for query, labels in relevance.items()}
    # Gains for NDCG; for the others yes or no, so that one run serves lists of whole labels and of others.
    for name, of in GAINS.items():
        _trec_eval(values, [m for m in wanted if m.name == name], runs, judged, partial(_gains, of))
    binary = [m for m in wanted if m.name not in GAINS]
    _trec_eval(values, binary, runs, judged, lambda labels: [int(y >= relevant_from) for y in labels])
    for query, labels in judged.items():
        if not _is_whole(labels):
            order = runs[query].order if query in runs else ()
            for measure in wanted:
                if measure.name in GAINS and measure.k is not None:
                    values[str(measure)][query] = ndcg(order, labels, measure.k, gain=GAINS[measure.name])
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


def _check(runs: Mapping[str, Ranking], relevance: Mapping[str, Sequence[float]]) -> None:
    for query, ranking in runs.items():
        if query not in relevance:
            raise ValueError(f"query {query!r} is ranked but has no labels")
        if any(not 0 <= j < len(relevance[query]) for j in ranking.order):
            raise ValueError(
                f"query {query!r}: {ranking.order} ranks a candidate outside 0..{len(relevance[query]) - 1}"
            )


def _is_whole(labels: Sequence[float]) -> bool:
    return all(float(y).is_integer() and y <= _MAX_WHOLE for y in labels)


def _gains(gain: Callable[[float], float], labels: Sequence[float]) -> list[int]:
    """Whole gains; where labels are not whole, `ndcg` takes trec_eval's place and these are not looked at."""
    return [int(gain(y)) for y in labels] if _is_whole(labels) else [int(y > 0) for y in labels]


def _trec_eval(
    values: PerQuery,
    wanted: Sequence[Measure],
    runs: Mapping[str, Ranking],
    relevance: Mapping[str, Sequence[float]],
    judge: Callable[[Sequence[float]], Sequence[int]],
) -> None:
    """Fill in the wanted measures of the queries that are ranked."""
    import ir_measures

    # Strictly decreasing scores: trec_eval would order ties by document id.
    run = {q: {str(j): float(-rank) for rank, j in enumerate(r.order)} for q, r in runs.items() if r.order}
    if not run or not wanted:
        return
    named = {_as_known(measure): str(measure) for measure in wanted}
    qrels = {q: {str(j): label for j, label in enumerate(judge(labels))} for q, labels in relevance.items()}
    for metric in ir_measures.pytrec_eval.iter_calc(list(named), qrels, run):
        values[named[metric.measure]][metric.query_id] = float(metric.value)


def _as_known(measure: Measure) -> Any:
    """The measure as ir-measures has it."""
    import ir_measures

    found = getattr(ir_measures, (_CUT | _WHOLE)[measure.name])
    return found if measure.k is None else found @ measure.k
