"""Validation lists scored as the user will rank: at the strength that is configured, or at the best of the grid."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from irpo.config.schema import RankingConfig
from irpo.processes import gather, share
from irpo.progress import say
from irpo.ranking.choosing import Choice, best_of, fitted_temperature, ndcg_of, strength_value
from irpo.ranking.modes import key_of
from irpo.scoring.forward import TOKENS_PER_BATCH, score_lists
from irpo.scoring.layout import Length, Scorer, lay_out
from irpo.scoring.models import adapter_off
from irpo.scoring.sharding import within_each
from irpo.scoring.strength import GRID, Strength, adapter_scaled, at_strength
from irpo.scoring.tokens import EncodedList
from irpo.training.room import as_it_fits
from irpo.types import RankingExample, UserError

At = Callable[[float], list[Tensor]]  # the lists' scores at a strength


@dataclass(frozen=True)
class Look:
    """What the lists say of the model as it is, by the NDCG@10 of their ranking."""

    strength: Strength
    values: Mapping[str, float]  # of each list at that strength, by its id
    curve: Mapping[float, float]  # the mean over lists, by strength
    scores: tuple[Tensor, ...]  # (K,) of each list at that strength

    @property
    def mean(self) -> float:
        """Over the lists, at that strength."""
        return self.curve[self.strength.value]


@dataclass
class Validation:
    """Lists that nothing is trained on, and how they are ranked; no label of theirs reaches model or scorer."""

    items: Sequence[EncodedList]
    scorer: Scorer
    length: Length = "sum"
    ranking: RankingConfig = field(default_factory=RankingConfig)
    tokens: int = TOKENS_PER_BATCH  # of a forward pass; fewer where memory runs out
    _reference: list[Tensor] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.items)

    def plain(self, model: Any, tokenizer: Any) -> Look:
        """By the policy's own scores: what a model that has learnt nothing is measured by, for its reward is 0."""
        return self._best({1.0: self._scored(model, tokenizer)})

    def look(self, model: Any, tokenizer: Any) -> Look:
        """By the scores that the user will get; with `auto` at the best strength of the grid."""
        return self._best(self._tables(model, tokenizer))

    def _tables(self, model: Any, tokenizer: Any) -> dict[float, list[Tensor]]:
        """The lists' scores at each strength that comes into question."""
        by, asked = self.ranking.strength_by, self.ranking.strength
        grid = GRID if asked == "auto" else (strength_value(asked),)
        if by == "adapter":
            return {value: self._scaled(model, tokenizer, value) for value in grid if value < math.inf}
        policy = self._scored(model, tokenizer)
        if asked == 1:
            return {1.0: policy}
        if self._reference is None:  # it is the same all along: the base's weights do not learn
            with adapter_off(model):
                self._reference = self._scored(model, tokenizer)
        pairs = list(zip(policy, self._reference, strict=True))
        if asked == "auto" and all(torch.equal(*pair) for pair in pairs):
            grid = GRID[:-1]  # a reward of 0 everywhere ranks nothing
        return {value: [at_strength(*pair, value) for pair in pairs] for value in grid}

    def _scaled(self, model: Any, tokenizer: Any, value: float) -> list[Tensor]:
        with adapter_scaled(model, value):
            return self._scored(model, tokenizer)

    def _scored(self, model: Any, tokenizer: Any) -> list[Tensor]:
        """Scores of every list by the model as its adapter now stands."""
        model.eval()
        mine = [item.without_labels() for item in share(self.items)]

        def scored(tokens: int) -> list[Tensor]:
            return score_lists(model, tokenizer, mine, self.scorer, tokens_per_batch=tokens, length=self.length)

        layouts = partial(lay_out, mine, self.scorer)
        found, self.tokens = within_each(model, lambda: as_it_fits(scored, self.tokens, layouts))
        return gather(found)

    def _best(self, tables: Mapping[float, list[Tensor]]) -> Look:
        values = {value: self._measured(scores) for value, scores in tables.items()}
        curve = {value: math.fsum(each.values()) / len(each) for value, each in values.items()}
        best = best_of(curve)
        return Look(Strength(best, self.ranking.strength_by), values[best], curve, tuple(tables[best]))

    def _measured(self, scores: Sequence[Tensor]) -> dict[str, float]:
        pairs = zip(scores, self.items, strict=True)
        return {item.id: ndcg_of(row, item.relevance, 10, key_of(item), item.missed) for row, item in pairs}


def require_lists(ranking: RankingConfig, validation: Sequence[Any]) -> None:
    """`UserError` where a temperature is to be fitted and there is no list to fit it to."""
    if ranking.temperature == "auto" and not validation:
        raise UserError(
            "ranking.temperature 'auto' is fitted to validation lists, and there is none: raise "
            "training.validation_fraction, or give a number"
        )


def choice_of(
    look: Look | None, ranking: RankingConfig, examples: Sequence[RankingExample], relevant_from: float
) -> Choice:
    """How a run ranks, from what its validation lists, in their order, say of what it kept; None: there are none."""
    given = None if ranking.temperature == "auto" else ranking.temperature
    if look is None:  # `auto` is the policy then, as `training.job.describe` has said
        value = 1.0 if ranking.strength == "auto" else strength_value(ranking.strength)
        return Choice(Strength(value, ranking.strength_by), given)
    relevant = [[label >= relevant_from for label in example.relevance] for example in examples]
    fitted = fitted_temperature(look.scores, relevant) if ranking.temperature == "auto" else given
    if ranking.temperature == "auto" and fitted is None:
        say(
            "note: no temperature fits the validation lists: scores part the relevant candidates wholly from the "
            "others, or not at all"
        )
    groups = len({example.unit for example in examples})
    return Choice(look.strength, fitted, look.curve, lists=len(examples), groups=groups)
