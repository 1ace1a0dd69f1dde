"""Running a ranker over examples in its modes, and the baselines beside it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch.nn import Module

from irpo.evaluation.baselines import baselines
from irpo.evaluation.going import Going
from irpo.evaluation.results import Evaluation, RankerResult, Setting, most_cut, results_of
from irpo.measures import MEASURES, RELEVANT_FROM, measure_of
from irpo.processes import count, gather, share
from irpo.progress import watched
from irpo.prompting.prompts import PromptBuilder
from irpo.ranking.choosing import spelt
from irpo.ranking.modes import RANKING_MODES, RankedList, Ranker, RankingMode
from irpo.registry import Spec
from irpo.scorers import SCORERS
from irpo.scoring.kept import Kept
from irpo.scoring.layout import Length, Scorer
from irpo.scoring.sharding import within_each
from irpo.scoring.strength import PLAIN, Strength
from irpo.types import RankingExample, UserError


@dataclass(frozen=True)
class EvaluationOptions:
    """How a ranker is run and measured."""

    modes: tuple[Spec | RankingMode, ...] = ("score", "generate", "constrain")
    measures: tuple[str, ...] = MEASURES
    lists_per_batch: int | None = None  # None: as many as the device holds
    seed: int = 0  # of the order of ties, of candidates not named, of the random baseline and of the intervals
    length: Length = "sum"
    relevant_from: float = RELEVANT_FROM  # the label from which Recall, P, MRR and MAP count a candidate
    strength: Strength = PLAIN
    kept: Kept | None = None  # candidates of prompts of blocks that the model has read
    going: Path | None = None  # the folder that keeps what is ranked until all is (`irpo.evaluation.going`)

    def __post_init__(self) -> None:
        for name in self.measures:
            measure_of(name)
        _ = self.built

    @property
    def built(self) -> tuple[RankingMode, ...]:
        """The modes, each once however it is written; `UnknownName` for one that there is not."""
        found = [RANKING_MODES.build(mode) for mode in self.modes]
        return tuple(mode for i, mode in enumerate(found) if mode not in found[:i])


def evaluate(
    examples: Sequence[RankingExample],
    builder: PromptBuilder,
    model: Any,
    scorer: Scorer,
    options: EvaluationOptions | None = None,
    popularity: Mapping[str, float] | None = None,
) -> Evaluation:
    """Rank every example in every mode and by the baselines (random, input order, BM25, popularity in training).

    No label reaches the prompt, the model or the scorer. `UserError` where there is no example or an id comes twice.
    """
    options = options or EvaluationOptions()
    _require_apart(examples)
    common = (options.length, options.seed, options.lists_per_batch, watched, options.strength, options.kept)
    ranker = Ranker(model, builder, scorer, *common)
    for mode in options.built:
        ranker.require(mode)
    # An engine elsewhere shows no weights, so nothing would say that what it ranked before is what it would rank now.
    here = options.going if isinstance(ranker.model, Module) else None
    whole = not all(getattr(mode, "in_parts", False) for mode in options.built)
    going = None if here is None else Going.of(here, ranker, examples, whole=whole)
    rows: list[RankerResult] = []
    for mode in options.built:
        lists, seconds = ranked(mode, ranker, examples, going)
        rows += results_of(RANKING_MODES.described(mode), lists, seconds)
    setting = _setting(ranker, options, rows)
    rows += baselines(examples, options.seed, popularity)
    return Evaluation(tuple(examples), tuple(rows), options.measures, setting)


def ranked(
    mode: RankingMode, ranker: Ranker, examples: Sequence[RankingExample], going: Going | None = None
) -> tuple[list[RankedList], float]:
    """The examples in a mode, in their order, and the seconds that it took; what is kept of it is not ranked again.

    Seconds of an earlier process, for what it kept, count as if they had been this one's.
    """
    began = time.perf_counter()
    if going is None:
        return _shared_out(partial(mode, ranker), ranker, examples), time.perf_counter() - began
    kept = going.kept(mode)
    before = kept.seconds
    lists = _shared_out(partial(going.ranked, mode, kept), ranker, examples)
    return lists, before + time.perf_counter() - began


def _shared_out(
    work: Callable[[Sequence[RankingExample]], list[RankedList]], ranker: Ranker, examples: Sequence[RankingExample]
) -> list[RankedList]:
    """The examples' rankings, each by one of the processes; a process ranks every so many of them, long and short."""
    if count() == 1:
        return work(examples)
    by_length = sorted(range(len(examples)), key=lambda i: -sum(len(c.text) for c in examples[i].candidates))
    mine = share([examples[i] for i in by_length])
    found = gather(within_each(ranker.model, lambda: work(mine) if mine else []))
    place = {i: n for n, i in enumerate(by_length)}
    return [found[place[i]] for i in range(len(examples))]


def _require_apart(examples: Sequence[RankingExample]) -> None:
    if not examples:
        raise UserError("there is no list to evaluate")
    seen: set[str] = set()
    for example in examples:
        if example.id in seen:
            raise UserError(f"two lists have the id {example.id!r}; results are kept by id")
        seen.add(example.id)


def _style(builder: PromptBuilder) -> str:
    """The prompt style, and what about it is not as usual."""
    by_numbers = " by numbers" if builder.labels == "numbers" else ""
    return f"{builder.style}{by_numbers}" + (" in blocks" if builder.attention == "block" else "")


def _setting(ranker: Ranker, options: EvaluationOptions, rows: Sequence[RankerResult]) -> Setting:
    """How the rows came about; what was cut is of the mode that cut most: one that asks about parts cuts less."""
    lists = most_cut(rows)
    return Setting(
        style=_style(ranker.builder),
        template=ranker.builder.template.name,
        max_tokens=ranker.builder.max_tokens,
        scorer=SCORERS.described(ranker.scorer),
        length=options.length,
        strength=spelt(options.strength),
        seed=options.seed,
        lists_per_batch=options.lists_per_batch,
        relevant_from=options.relevant_from,
        prompts_cut=sum(x.query_cut > 0 or any(x.cut) for x in lists),
        candidate_tokens_cut=sum(sum(x.cut) for x in lists),
        query_tokens_cut=sum(x.query_cut for x in lists),
        special_texts=sum(x.special_texts for x in lists),
        engine=ranker.engine.about,
    )
