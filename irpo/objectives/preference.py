"""Preference optimization on pairs and on one positive against many: DPO and S-DPO.

In both s = beta (log pi_theta - alpha log pi_ref), alpha = `reference_weight`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from irpo.lists import ScoredLists, implicit_reward, masked_logsumexp, masked_sum, ranks
from irpo.objectives import OBJECTIVES, Needs, above_zero, at_least, within_one
from irpo.objectives.pairs import Pairs, choose_positive, ordered_pairs, pair_loss, redrawn, sides


@OBJECTIVES.register("dpo")
@dataclass(frozen=True)
class DPO:
    """-log sigmoid(s_w - s_l) on a pair of a list (Rafailov et al. 2023, arXiv 2305.18290, eq. 7).

    w is a candidate above the list's lowest label, l one of a lower label than w; labels may be graded or binary, and a
    list whose labels are all tied has loss 0. `pairs: random` draws both; `hardest` draws w and
    takes the l of highest current s (ties drawn); `all` sums over all pairs of different labels; `first` takes the
    first candidate with the top label and the first with the lowest.
    """

    beta: float = 1.0
    reference_weight: float = 1.0
    pairs: Pairs = "random"

    def __post_init__(self) -> None:
        above_zero("dpo", beta=self.beta)
        within_one("dpo", reference_weight=self.reference_weight)

    @property
    def needs(self) -> Needs:
        """A reference, where any of it counts."""
        return Needs(reference=self.reference_weight > 0)

    def __call__(self, lists: ScoredLists) -> Tensor:
        scores = implicit_reward(lists, beta=self.beta, reference_weight=self.reference_weight)
        return pair_loss(lists, scores, self.pairs, lambda margin: softplus(-margin))


@OBJECTIVES.register("sdpo")
@dataclass(frozen=True)
class SDPO:
    """-log sigmoid(-log sum_l exp(s_l - s_w)) over the negatives (S-DPO, Chen et al. 2024, arXiv 2406.09215, eq. 10).

    The same as softmax cross-entropy of one positive against the negatives. Sides as in `dpo`: labels may be graded or
    binary, and a list whose labels are all tied has loss 0. `positives: one` takes a random one,
    `all` sums over them, each against the candidates of a lower label than its own: all of these, or as many as
    `negatives` says, drawn. `pairs: first` takes the first with the top label, against those of the lowest.
    """

    beta: float = 1.0
    reference_weight: float = 1.0
    pairs: Literal["random", "first"] = "random"
    positives: Literal["one", "all"] = "one"
    negatives: int | None = None  # how many are drawn; None: all

    def __post_init__(self) -> None:
        above_zero("sdpo", beta=self.beta)
        within_one("sdpo", reference_weight=self.reference_weight)
        at_least("sdpo", 1, negatives=self.negatives)

    @property
    def needs(self) -> Needs:
        """A reference, where any of it counts."""
        return Needs(reference=self.reference_weight > 0)

    def __call__(self, lists: ScoredLists) -> Tensor:
        scores = implicit_reward(lists, beta=self.beta, reference_weight=self.reference_weight)
        positives, lowest = sides(lists)
        first = self.pairs == "first"
        lower = positives[:, :, None] & lowest[:, None] if first else ordered_pairs(lists)  # (B, K, K): j is below i
        noise = lists.noise
        if self.positives == "one":
            winner, _ = choose_positive(lists, positives, self.pairs)
            lower = lower & torch.zeros_like(positives).scatter_(-1, winner[:, None], True)[:, :, None]
            noise = noise if first else redrawn(lists, positives, winner)
        if self.negatives is not None:
            lower = lower & (ranks_of(noise, lower) <= self.negatives)
        rest = masked_logsumexp(scores[:, None].expand_as(lower), lower)
        return masked_sum(softplus(rest - scores), lower.any(-1))


def ranks_of(values: Tensor, among: Tensor) -> Tensor:
    """1-based ranks by value (B, K) of the candidates `among` (B, K, K) those of each, best first; (B, K, K) long."""
    size = values.shape[-1]
    return ranks(values[:, None].expand_as(among).reshape(-1, size), among.reshape(-1, size)).view_as(among)
