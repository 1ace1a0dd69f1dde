"""Preference optimization on pairs and on one positive against many: DPO and S-DPO."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from irpo.lists import ScoredLists, choose, implicit_reward, masked_logsumexp, pick
from irpo.objectives import OBJECTIVES, Needs

Pairs = Literal["random", "first"]


def sides(lists: ScoredLists) -> tuple[Tensor, Tensor]:
    """(positives, negatives) as masks (B, K): above the list's lowest label, and at it. A tied list has no positive."""
    labels = lists.relevance
    lowest = torch.where(lists.mask, labels, torch.inf).amin(-1, keepdim=True)
    return lists.mask & (labels > lowest), lists.mask & (labels == lowest)


def first(allowed: Tensor) -> tuple[Tensor, Tensor]:
    """The first allowed candidate of each list: (index (B,), whether there is one (B,))."""
    return allowed.long().argmax(-1), allowed.any(-1)


def choose_positive(lists: ScoredLists, positives: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
    """A random positive, or the first of those that have the top label."""
    if pairs == "random":
        return choose(positives, lists.noise)
    top = torch.where(positives, lists.relevance, -torch.inf).amax(-1, keepdim=True)
    return first(positives & (lists.relevance == top))


@OBJECTIVES.register("dpo")
@dataclass(frozen=True)
class DPO:
    """-log sigmoid(s_w - s_l) on one pair of a list (Rafailov et al. 2023, arXiv 2305.18290, eq. 7).

    w is a candidate above the list's lowest label, l one at it. `pairs: random` draws both; `first` takes the first
    candidate with the top label and the first with the lowest. A list whose labels are all tied has loss 0.
    """

    needs: ClassVar[Needs] = Needs()

    beta: float = 1.0
    pairs: Pairs = "random"

    def __call__(self, lists: ScoredLists) -> Tensor:
        scores = implicit_reward(lists, beta=self.beta)
        positives, negatives = sides(lists)
        winner, some = choose_positive(lists, positives, self.pairs)
        loser, _ = choose(negatives, lists.noise) if self.pairs == "random" else first(negatives)
        return -logsigmoid(pick(scores, winner) - pick(scores, loser)) * some


@OBJECTIVES.register("sdpo")
@dataclass(frozen=True)
class SDPO:
    """-log sigmoid(-log sum_l exp(s_l - s_w)) over all negatives (S-DPO, Chen et al. 2024, arXiv 2406.09215, eq. 10).

    The same as softmax cross-entropy of one positive against the negatives. Positive and negatives as in `dpo`;
    `pairs: first` takes the first candidate with the top label. A list whose labels are all tied has loss 0.
    """

    needs: ClassVar[Needs] = Needs()

    beta: float = 1.0
    pairs: Pairs = "random"

    def __call__(self, lists: ScoredLists) -> Tensor:
        scores = implicit_reward(lists, beta=self.beta)
        positives, negatives = sides(lists)
        winner, some = choose_positive(lists, positives, self.pairs)
        return softplus(masked_logsumexp(scores, negatives) - pick(scores, winner)) * some
