"""LLM alignment as retriever optimization: LarPO's losses (Jin et al. 2025, arXiv 2502.03699) on chosen candidates.

The positives are the top candidates by label, and never at the list's lowest label; the negatives come from a pool
below every positive. Labels may be graded (a reward model's) or binary; a list whose labels are all tied has loss 0.
In all of them s = beta (log pi_theta - alpha log pi_ref), alpha = `reference_weight`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from irpo.lists import ScoredLists, implicit_reward, masked_logsumexp, masked_sum, ranks
from irpo.objectives import OBJECTIVES, Needs, above_zero, at_least, within_one
from irpo.objectives.lipo import plackett_luce
from irpo.objectives.pairs import drawn_ranks, ordered_pairs, sum_over_pairs

Choice = Literal["bottom", "hardest", "random"]  # lowest labels, highest current scores, drawn; ties drawn
Pool = Literal["below", "lowest"]  # all candidates below the positives, or those at the list's lowest label
Ties = Literal["random", "first"]  # which of equal labels stand at the top: drawn, or the first given


@dataclass(frozen=True)
class Chosen:
    """Candidates of each list, (B, K) bool."""

    positives: Tensor
    negatives: Tensor

    @property
    def both(self) -> Tensor:
        """Positives and negatives."""
        return self.positives | self.negatives


def choose_sides(
    lists: ScoredLists,
    scores: Tensor,
    counts: tuple[int | None, int | None],
    *,
    choice: Choice = "bottom",
    pool: Pool = "below",
    ties: Ties = "random",
) -> Chosen:
    """The first of `counts` top candidates, and the second of them from the pool by `choice`; None: all."""
    labels, whole = lists.relevance, lists.whole
    lowest = torch.where(whole, labels, torch.inf).amin(-1, keepdim=True)
    place = ranks(labels, whole) if ties == "first" else drawn_ranks(labels, whole, lists.noise)
    positives = whole & (labels > lowest) & (place <= (counts[0] or labels.shape[-1]))
    floor = torch.where(positives, labels, torch.inf).amin(-1, keepdim=True)
    below = whole & positives.any(-1, keepdim=True) & ((labels < floor) if pool == "below" else (labels == lowest))
    negatives = below & lists.mask
    if counts[1] is not None:
        key = {"bottom": -labels, "hardest": scores.detach(), "random": lists.noise}[choice]
        negatives = negatives & (drawn_ranks(key, negatives, lists.noise) <= counts[1])
    return Chosen(positives, negatives)


@OBJECTIVES.register("contrastive")
@dataclass(frozen=True)
class Contrastive:
    """sum_w -log(exp(s_w) / (exp(s_w) + sum_l exp(s_l))) over positives w, against the negatives l (LarPO eq. 7)."""

    beta: float = 1.0
    reference_weight: float = 1.0
    positives: int | None = 1  # how many from the top; None: all above the lowest label
    negatives: int | None = None  # how many from the pool; None: all
    choice: Choice = "bottom"
    pool: Pool = "below"
    ties: Ties = "random"

    def __post_init__(self) -> None:
        above_zero("contrastive", beta=self.beta)
        within_one("contrastive", reference_weight=self.reference_weight)
        at_least("contrastive", 1, positives=self.positives, negatives=self.negatives)

    @property
    def needs(self) -> Needs:
        """A reference, where any of it counts."""
        return Needs(reference=self.reference_weight > 0)

    def __call__(self, lists: ScoredLists) -> Tensor:
        scores = implicit_reward(lists, beta=self.beta, reference_weight=self.reference_weight)
        counts = (self.positives, self.negatives)
        chosen = choose_sides(lists, scores, counts, choice=self.choice, pool=self.pool, ties=self.ties)
        terms = softplus(masked_logsumexp(scores, chosen.negatives)[:, None] - scores)
        return masked_sum(terms, lists.counted & chosen.positives & chosen.negatives.any(-1, keepdim=True))


@OBJECTIVES.register("lambdarank")
@dataclass(frozen=True)
class LambdaRank:
    """sum_{y_i > y_j} -log sigmoid(s_i - s_j) among the chosen candidates (LarPO's LambdaRank: unweighted pairs).

    With all candidates, the default, it is `pair_logistic`.
    """

    beta: float = 1.0
    reference_weight: float = 1.0
    positives: int | None = None
    negatives: int | None = None
    choice: Choice = "bottom"
    pool: Pool = "below"

    def __post_init__(self) -> None:
        above_zero("lambdarank", beta=self.beta)
        within_one("lambdarank", reference_weight=self.reference_weight)
        at_least("lambdarank", 1, positives=self.positives, negatives=self.negatives)

    @property
    def needs(self) -> Needs:
        """A reference, where any of it counts."""
        return Needs(reference=self.reference_weight > 0)

    def __call__(self, lists: ScoredLists) -> Tensor:
        scores = implicit_reward(lists, beta=self.beta, reference_weight=self.reference_weight)
        counts = (self.positives, self.negatives)
        chosen = choose_sides(lists, scores, counts, choice=self.choice, pool=self.pool)
        return sum_over_pairs(scores, ordered_pairs(lists, chosen.both), lambda margin: softplus(-margin))


@OBJECTIVES.register("larpo_list_mle")
@dataclass(frozen=True)
class LarPOListMLE:
    """Plackett-Luce of the label order of the chosen candidates (LarPO's ListMLE); ties in random order.

    With all candidates, the default, it is `list_mle`, but for lists whose labels are all tied.
    """

    beta: float = 1.0
    reference_weight: float = 1.0
    positives: int | None = None
    negatives: int | None = None
    choice: Choice = "bottom"
    pool: Pool = "below"

    def __post_init__(self) -> None:
        above_zero("larpo_list_mle", beta=self.beta)
        within_one("larpo_list_mle", reference_weight=self.reference_weight)
        at_least("larpo_list_mle", 1, positives=self.positives, negatives=self.negatives)

    @property
    def needs(self) -> Needs:
        """A reference, where any of it counts."""
        return Needs(reference=self.reference_weight > 0, draws_ties=True)

    def __call__(self, lists: ScoredLists) -> Tensor:
        scores = implicit_reward(lists, beta=self.beta, reference_weight=self.reference_weight)
        counts = (self.positives, self.negatives)
        chosen = choose_sides(lists, scores, counts, choice=self.choice, pool=self.pool)
        return plackett_luce(lists, scores, chosen.both)
