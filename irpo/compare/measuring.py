"""One protocol for every ranker of a suite: by score at each strength and in several candidate orders, and decoded.

Policy and reference score every list once; all strengths are made of these two tables.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from irpo.chance import random_order
from irpo.compare.results import Row
from irpo.compare.shared import kept, permuted
from irpo.evaluation.results import kind_of
from irpo.measures import MAIN, per_query
from irpo.ranking.modes import RANKING_MODES, RankedList, RankingMode, at_rankers_strength, by_score, key_of
from irpo.ranking.reranker import Reranker
from irpo.runs.key import fingerprint
from irpo.scorers import SCORERS
from irpo.scoring.forward import score_lists
from irpo.scoring.models import adapter_layers, adapter_off
from irpo.scoring.strength import GRID, Strength, at_strength, named
from irpo.scoring.tokens import EncodedList, prompted
from irpo.types import Diverged, Ranking, RankingExample

Tables = list[Tensor]  # scores (K,) by list


@dataclass(frozen=True)
class Protocol:
    """How every ranker of a suite is measured."""

    modes: tuple[Mapping[str, Any], ...]
    measures: tuple[str, ...]
    strengths: tuple[str, ...]
    orders: int = 1
    decoded: int | None = None
    lists_per_batch: int | None = None
    relevant_from: float = 1.0
    seed: int = 0  # of ties and of candidates that an answer does not name


@dataclass(frozen=True)
class Bench:
    """A ranker before a task's evaluation lists; `base` names the model whose scores are the reference."""

    ranker: Reranker
    examples: Sequence[RankingExample]
    protocol: Protocol
    out: Path
    base: str | None  # None: nothing is asked of a reference
    auto: float = 1.0  # the run's own strength

    def rows(self) -> tuple[list[Row], dict[str, float]]:
        """All rows, and the main measure by strength on the evaluation lists."""
        built = [RANKING_MODES.build(mode) for mode in self.protocol.modes]
        modes = {RANKING_MODES.described(mode): mode for mode in built}
        found, curve = self._by_score() if "score" in modes else ([], {})
        for name, mode in modes.items():
            if name != "score":
                for value, shown in self._values(name):
                    found += self._decoded(name, mode, value, shown)
        return found, curve

    def _values(self, mode: str = "score") -> list[tuple[float, tuple[str, ...]]]:
        """The strengths to measure at, and what of the suite's each stands for."""
        wanted = {"1": 1.0, "auto": self.auto}
        if not at_rankers_strength(mode):  # it keeps to the policy
            wanted["auto"] = 1.0
        by_value: dict[float, tuple[str, ...]] = {}
        for name in self.protocol.strengths:
            by_value[wanted[name]] = (*by_value.get(wanted[name], ()), name)
        if "generate_strengthened" in mode:
            by_value = {value: shown for value, shown in by_value.items() if math.isfinite(value)}
        return list(by_value.items())

    # --- by score -----------------------------------------------------------------------------------------------------

    def _by_score(self) -> tuple[list[Row], dict[str, float]]:
        several = [self._tables(order) for order in range(self.protocol.orders)]
        rows = [row for value, shown in self._values() for row in self._scored(several, value, shown)]
        curve = {}
        if self.base is not None and adapter_layers(self.ranker.model):
            for value in GRID:
                row = self._ranked(several[0], value, ("",), 0)
                curve[named(value)] = round(float(row.of(MAIN).mean()), 6)
        return rows, curve

    def _scored(self, several: Sequence[_Scores], value: float, shown: tuple[str, ...]) -> list[Row]:
        rows = [self._ranked(scores, value, shown, order) for order, scores in enumerate(several)]
        if len(several) > 1:
            tables = zip(*(scores.at(value) for scores in several), strict=True)
            mean = replace(several[0], policy=[torch.stack(some).mean(0) for some in tables], reference=None)
            rows.append(self._ranked(mean, 1.0, shown, -1, named(value)))
        return rows

    def _tables(self, order: int) -> _Scores:
        """Scores of all lists with their candidates in one order, given back in the prepared one."""
        orders = [_drawn(example, order) for example in self.examples]
        asked = [permuted(e, o) for e, o in zip(self.examples, orders, strict=True)]
        items = [p.tokens for p in prompted(self.ranker.builder, asked, labels=False)]
        began = time.perf_counter()
        policy = self._score(items)
        seconds = time.perf_counter() - began
        reference = self._reference(items, self.base) if self.base and adapter_layers(self.ranker.model) else None
        keys = [key_of(item) for item in items]

        def back(tables: Tables) -> Tables:
            return [table[list(np.argsort(o))] for table, o in zip(tables, orders, strict=True)]

        return _Scores(back(policy), reference and back(reference), keys, seconds)

    def _score(self, items: Sequence[EncodedList]) -> Tables:
        r = self.ranker
        return [row.detach().cpu() for row in score_lists(r.model, r.tokenizer, items, r.scorer, length=r.length)]

    def _reference(self, items: Sequence[EncodedList], base: str) -> Tables:
        """The reference's scores, shared by all runs that began with this model and ask so."""
        r = self.ranker

        def make() -> list[NDArray[Any]]:
            with adapter_off(r.model):
                return [row.numpy() for row in self._score(items)]

        asked = [key_of(item) for item in items]
        quantized = getattr(getattr(r.model, "config", None), "quantization_config", None) is not None
        key = [fingerprint(base), str(r.model.dtype), quantized, SCORERS.described(r.scorer), r.length, asked]
        return [torch.from_numpy(row) for row in kept(self.out, key, make)]

    def _ranked(
        self, scores: _Scores, value: float, shown: tuple[str, ...], order: int, called: str | None = None
    ) -> Row:
        tables = scores.at(value)
        if not all(bool(table.isfinite().all()) for table in tables):
            raise Diverged("scores are not finite: the last update went too far")
        ranked = [by_score(row.tolist(), key, self.protocol.seed) for row, key in zip(tables, scores.keys, strict=True)]
        passes = 1.0 if value == 1 or scores.reference is None else 2.0
        return self._row(
            Row("score", called or named(value), shown, (), _NONE, _NONE_RANKED, order=order),
            [ranking for ranking, _ in ranked],
            tied=sum(tied for _, tied in ranked),
            seconds=scores.seconds * passes,
            passes=passes,
        )

    # --- decoded ------------------------------------------------------------------------------------------------------

    def _decoded(self, name: str, mode: RankingMode, value: float, shown: tuple[str, ...]) -> list[Row]:
        """Rows of the other modes; of what the model wrote: strict, and repaired where it may leave out a candidate."""
        examples = self.examples[: self.protocol.decoded]
        ranker = replace(self.ranker, strength=Strength(value)).ranker
        ranker = replace(ranker, lists_per_batch=self.protocol.lists_per_batch)
        ranker.require(mode)
        began = time.perf_counter()
        lists = mode(ranker, examples)
        told: dict[str, Any] = {"seconds": time.perf_counter() - began, **_answers(lists)}
        if any(x.prompts != 1 for x in lists):
            each = 1 if value == 1 or not at_rankers_strength(name) else 2
            told["passes"] = each * math.fsum(x.prompts for x in lists) / len(lists)
        row = Row(name, named(value), shown, (), _NONE, _NONE_RANKED)
        if all(x.answer is None for x in lists):
            return [self._row(row, [x.ranking for x in lists], **told)]
        strict = self._row(replace(row, part="strict"), [x.named for x in lists], **told)
        return [strict, self._row(replace(row, part="repaired"), [x.ranking for x in lists], **told)]

    def _row(self, row: Row, rankings: Sequence[Ranking], **told: Any) -> Row:
        return filled(row, self.examples[: len(rankings)], rankings, self.protocol, **told)


_NONE: NDArray[np.float64] = np.zeros((0, 0))
_NONE_RANKED: NDArray[np.int16] = np.zeros((0, 0), dtype=np.int16)


@dataclass(frozen=True)
class _Scores:
    """Scores of all lists, and what equal ones are put in order by."""

    policy: Tables
    reference: Tables | None
    keys: Sequence[str]
    seconds: float

    def at(self, value: float) -> Tables:
        """The scores at a strength; a model without an adapter has only one."""
        if self.reference is None:
            return self.policy
        return [at_strength(p, r, value) for p, r in zip(self.policy, self.reference, strict=True)]


def filled(
    row: Row, examples: Sequence[RankingExample], rankings: Sequence[Ranking], protocol: Protocol, **told: Any
) -> Row:
    """The row with its measures, by list, and its rankings."""
    values = per_query(
        {e.id: ranking for e, ranking in zip(examples, rankings, strict=True)},
        {e.id: e.relevance for e in examples},
        protocol.measures,
        protocol.relevant_from,
        {e.id: e.missed for e in examples},
    )
    table = np.array([[values[name][e.id] for e in examples] for name in protocol.measures], dtype=np.float64)
    widest = max(len(e.candidates) for e in examples)
    orders = np.full((len(examples), widest), -1, dtype=np.int16)
    for i, ranking in enumerate(rankings):
        orders[i, : len(ranking.order)] = ranking.order
    return replace(row, measures=protocol.measures, values=table, rankings=orders, **told)


def _drawn(example: RankingExample, order: int) -> tuple[int, ...]:
    """A candidate order by its number; 0 is the prepared one."""
    count = len(example.candidates)
    return tuple(range(count)) if order == 0 else random_order(count, "candidate order", order, example.id)


def _answers(lists: Sequence[RankedList]) -> dict[str, Any]:
    """What was wrong with answers that were read from text."""
    shares = [len(x.named.order) / len(x.ranking.order) for x in lists]
    if any(x.answer is None for x in lists):
        return {"coverage": math.fsum(shares) / len(shares)}
    problems = {
        i: ", ".join(f"{kind} {what}".strip() for kind, what in map(_told, x.answer.problems))
        for i, x in enumerate(lists)
        if x.answer is not None and x.answer.problems
    }
    exact = sum(1 for x in lists if x.answer is not None and not x.answer.problems)
    return {"coverage": math.fsum(shares) / len(shares), "exact": exact / len(lists), "problems": problems}


def _told(problem: Any) -> tuple[str, str]:
    return kind_of(problem), str(getattr(problem, "index", getattr(problem, "text", "")))[:80]
