"""The measure itself as the objective: of rankings drawn from the policy, or of ranks made smooth.

s = beta (log pi_theta - alpha log pi_ref), alpha = `reference_weight`, which is 0: these train what is ranked by, and
take no reference. Both are regrets: what the ideal order earns less what the policy earns, so that a list without a
relevant candidate has loss 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from irpo.lists import ScoredLists, implicit_reward, masked_log_softmax, masked_sum, more_noise, ranks
from irpo.objectives import OBJECTIVES, Needs, above_zero, at_least, within_one
from irpo.positional import MOST, POSITIONAL_METRICS, PositionalMetric, discount, gain
from irpo.registry import plugin_field


@OBJECTIVES.register("pl_rank")
@dataclass(frozen=True)
class PLRank:
    r"""ideal - E[sum_i w(y_i, rank_i)] over rankings drawn from Plackett-Luce of logits s (Oosterhuis 2021, 2022).

    The gradient, without bias from N rankings drawn by Gumbel noise from the one table, is
    -1/N sum_n sum_i (G_in - b_in) grad log p(e_in | what is not placed), G_in what ranking n earns from place i on
    (PL-Rank's rewards of placements, arXiv 2105.00855 and 2204.10872) and b_in the mean of the other rankings' G
    (Kool et al. 2019). The value is the mean over the draws. w is any positional metric; `k` cuts it off, `normalize`
    divides by what the ideal order earns: as it comes, 1 - E[NDCG@10]. Labels may be graded, binary or tied.

    Over the slots of a ranking each is one decision, whose expected regret, with the rest in ideal order, is exact.
    """

    beta: float = 1.0
    reference_weight: float = 0.0
    metric: PositionalMetric = plugin_field(POSITIONAL_METRICS, "ndcg")
    k: int | None = 10  # ranks beyond it weigh nothing
    normalize: bool = True
    samples: int = 32  # N

    def __post_init__(self) -> None:
        above_zero("pl_rank", beta=self.beta)
        within_one("pl_rank", reference_weight=self.reference_weight)
        at_least("pl_rank", 1, k=self.k)
        at_least("pl_rank", 2, samples=self.samples)

    @property
    def needs(self) -> Needs:
        """The labels that the metric can use, and a reference, where any of it counts."""
        low, high = getattr(self.metric, "min_label", 0.0), getattr(self.metric, "max_label", math.inf)
        return Needs(reference=self.reference_weight > 0, min_label=low, max_label=high)

    def __call__(self, lists: ScoredLists) -> Tensor:
        scores = implicit_reward(lists, beta=self.beta, reference_weight=self.reference_weight)
        if lists.slots > 1:
            return masked_sum(masked_log_softmax(scores, lists.mask).exp() * self.regrets(lists), lists.mask)
        order = drawn_orders(scores, lists.mask, more_noise(lists.noise, lists.mask, self.samples))
        earned = self.earned(lists, order)
        surrogate = policy_gradient(scores, lists.mask, order, earned)
        value = self._ideal(lists) - earned.sum(-1).mean(0)
        return value + (surrogate - surrogate.detach())

    def earned(self, lists: ScoredLists, order: Tensor) -> Tensor:
        """What each place of the rankings (N, B, K) earns, (N, B, K), over the ideal where `normalize`."""
        padding = (~lists.mask).sum(-1, keepdim=True)
        places = torch.arange(1, order.shape[-1] + 1, device=order.device) - padding
        rank = torch.empty_like(order).scatter_(-1, order, places.clamp(min=1).expand_as(order))
        return self._weights(lists, rank).gather(-1, order)

    def regrets(self, lists: ScoredLists) -> Tensor:
        """What choosing each unplaced candidate now costs, the rest in ideal order behind it, (B, K), no gradient.

        The candidates that would have stood before it move down a rank, and it moves up to the first that is free.
        """
        placed = (lists.whole & ~lists.mask).sum(-1, keepdim=True)
        rank = ranks(lists.relevance, lists.mask) + placed
        here, behind = self._weights(lists, rank), self._weights(lists, rank + 1)
        lost = torch.where(lists.mask, here - behind, 0.0)
        order = rank.argsort(-1)
        sums = lost.gather(-1, order).cumsum(-1)
        before = torch.empty_like(lost).scatter_(-1, order, sums) - lost
        return before + here - self._weights(lists, (placed + 1).expand_as(rank))

    def _weights(self, lists: ScoredLists, rank: Tensor) -> Tensor:
        """w (..., B, K) of every candidate at this rank; 0 where there is no candidate."""
        ideal = self._weights_at(lists, ranks(lists.relevance, lists.whole))
        weights = self._weights_at(lists, rank)
        if not self.normalize:
            return weights
        total = ideal.sum(-1, keepdim=True)
        return torch.where(total > 0, weights / total.clamp(min=torch.finfo(total.dtype).tiny), 0.0)

    def _weights_at(self, lists: ScoredLists, rank: Tensor) -> Tensor:
        labels = torch.where(lists.whole, lists.relevance, 0.0).expand(rank.shape)
        weights = self.metric(labels, rank.to(labels))
        return torch.where(lists.whole & ((rank <= self.k) if self.k is not None else True), weights, 0.0)

    def _ideal(self, lists: ScoredLists) -> Tensor:
        return self._weights(lists, ranks(lists.relevance, lists.whole)).sum(-1)


def drawn_orders(scores: Tensor, mask: Tensor, uniform: Tensor) -> Tensor:
    """Rankings drawn from Plackett-Luce of logits `scores` (B, K): candidates by place, (N, B, K) long.

    By the order of s + Gumbel noise, made of `uniform` numbers (N, B, K) (Yellott 1977). Padding stands first, where no
    sum from the end over those not yet placed comes by it.
    """
    noisy = scores.detach().double() - (-uniform.log()).log()
    return torch.where(mask, noisy, torch.inf).argsort(-1, descending=True)


def policy_gradient(scores: Tensor, mask: Tensor, order: Tensor, earned: Tensor) -> Tensor:
    """The surrogate (B,) whose gradient is that of what drawn rankings fail to earn; its value means nothing.

    `order` and `earned` are (N, B, K), by place. The baseline of a place is the mean of what the other rankings earn
    from there on.
    """
    to_go = _from_the_end(earned, torch.cumsum)
    baseline = (to_go.sum(0, keepdim=True) - to_go) / (len(order) - 1)
    placed = scores.expand(order.shape).gather(-1, order)
    chosen = placed - _from_the_end(placed, torch.logcumsumexp)  # log p of each place's candidate
    advantage = torch.where(mask.expand(order.shape).gather(-1, order), to_go - baseline, 0.0)
    return -(advantage * chosen).sum(-1).mean(0)


def _from_the_end(values: Tensor, running: Callable[[Tensor, int], Tensor]) -> Tensor:
    return running(values.flip(-1), -1).flip(-1)


@OBJECTIVES.register("approx_ndcg")
@dataclass(frozen=True)
class ApproxNDCG:
    """1 - sum_i G_i / log2(1 + r_i) / ideal DCG, r_i = 1 + sum_{j != i} sigmoid(s_j - s_i) (Qin et al. 2010).

    G = 2^y - 1; labels may be graded, binary or tied. The larger `beta`, the nearer r is to the ranks, and the flatter.
    Over the slots of a ranking r_i counts the candidates already placed as above i.
    """

    beta: float = 1.0
    reference_weight: float = 0.0

    def __post_init__(self) -> None:
        above_zero("approx_ndcg", beta=self.beta)
        within_one("approx_ndcg", reference_weight=self.reference_weight)

    @property
    def needs(self) -> Needs:
        """Labels whose gain is a number, and a reference, where any of it counts."""
        return Needs(reference=self.reference_weight > 0, max_label=MOST)

    def __call__(self, lists: ScoredLists) -> Tensor:
        scores = implicit_reward(lists, beta=self.beta, reference_weight=self.reference_weight)
        others = lists.mask[:, None] & ~torch.eye(scores.shape[-1], dtype=torch.bool, device=scores.device)
        above = torch.sigmoid(scores[:, None] - scores[:, :, None])  # [b, i, j]: how far j stands above i
        placed = (lists.whole & ~lists.mask).sum(-1, keepdim=True)
        rank = 1 + placed + torch.where(others, above, 0.0).sum(-1)
        gains = gain(torch.where(lists.whole, lists.relevance, 0.0))
        best = gains * discount(ranks(lists.relevance, lists.whole).to(gains))
        ideal = masked_sum(best, lists.whole)
        return masked_sum(best - gains * discount(rank), lists.counted) / torch.where(ideal > 0, ideal, 1.0)
