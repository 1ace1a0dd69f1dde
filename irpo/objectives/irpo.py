"""In-context Ranking Preference Optimization (arXiv 2504.15477), exact and sampled."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from irpo.lists import ScoredLists, implicit_reward, masked_log_softmax, masked_logsumexp, masked_sum, ranks
from irpo.objectives import OBJECTIVES, Needs, above_zero, at_least, within_one
from irpo.objectives.pairs import score_ranks
from irpo.positional import POSITIONAL_METRICS, PositionalMetric, discount
from irpo.registry import plugin_field
from irpo.types import UserError

TargetOrder = Literal["ideal", "given", "policy"]


@OBJECTIVES.register("irpo")
@dataclass(frozen=True)
class IRPO:
    r"""loss = - sum_i w_i log sigmoid(z_i), z_i = -log sum_j exp(s_j - s_i), the sum over all j (eq. 7-8).

    s = beta (log pi_theta - alpha log pi_ref), alpha = `reference_weight` (1 in the paper), so z is the log-softmax of
    s: O(K), stable at any beta. w is a positional metric of the label and the rank in the target order. Labels may be
    graded, binary or tied (ties in the given order). A list without a relevant item has loss 0, unless `tail_weight`
    is set.

    `self_term: false` sums over j != i, as the published code does: z_i is the log-odds of i, and a candidate that has
    no other has no term. `link: identity` is - sum_i w_i z_i, weighted cross-entropy; over the slots of a ranking, with
    equal weights, Plackett-Luce. `target_order` says where ranks come from: the labels, the order in which the
    candidates are given (that of a sampled list), or the policy's current scores. `normalize` divides by the sum of the
    metric's weights in the ideal order; a list without any has loss 0.
    """

    beta: float = 1.0  # inverse temperature of the implicit reward
    reference_weight: float = 1.0
    metric: PositionalMetric = plugin_field(POSITIONAL_METRICS, "ndcg")
    k: int | None = None  # ranks beyond it weigh nothing
    normalize: bool = False
    self_term: bool = True
    target_order: TargetOrder = "ideal"
    link: Literal["logsigmoid", "identity"] = "logsigmoid"
    tail_weight: float = 0.0  # a candidate of label 0 at rank i weighs tail_weight / log2(1 + i)

    def __post_init__(self) -> None:
        above_zero("irpo", beta=self.beta)
        within_one("irpo", reference_weight=self.reference_weight)
        at_least("irpo", 1, k=self.k)
        at_least("irpo", 0, tail_weight=self.tail_weight)
        if self.link == "identity" and not self.self_term:
            raise UserError("objective 'irpo': link 'identity' has no lower bound without the self term; set self_term")

    @property
    def needs(self) -> Needs:
        """A reference, where any of it counts, and the labels that the metric can use."""
        low, high = getattr(self.metric, "min_label", 0.0), getattr(self.metric, "max_label", math.inf)
        least = 0.0 if self.tail_weight else low
        return Needs(reference=self.reference_weight > 0, min_label=least, max_label=high)

    def __call__(self, lists: ScoredLists) -> Tensor:
        scores = implicit_reward(lists, beta=self.beta, reference_weight=self.reference_weight)
        z = masked_log_softmax(scores, lists.mask) if self.self_term else log_odds(scores, lists.mask)
        terms = self.weights(lists, scores) * (logsigmoid(z) if self.link == "logsigmoid" else z)
        several = lists.mask.sum(-1, keepdim=True) > 1
        return -masked_sum(terms, lists.counted if self.self_term else lists.counted & several)

    def weights(self, lists: ScoredLists, scores: Tensor) -> Tensor:
        """w (B, K) of every candidate of the whole list, no gradient."""
        ideal = ranks(lists.relevance, lists.whole)
        if self.target_order == "given":
            rank = lists.whole.long().cumsum(-1)
        else:
            rank = ideal if self.target_order == "ideal" else score_ranks(lists, scores)
        weights = self._weights_at(lists, rank)
        if not self.normalize:
            return weights
        total = masked_sum(self._weights_at(lists, ideal), lists.whole & (lists.relevance > 0))[:, None]
        return torch.where(total > 0, weights / total.clamp(min=torch.finfo(total.dtype).tiny), 0.0)

    def _weights_at(self, lists: ScoredLists, rank: Tensor) -> Tensor:
        rank = rank.to(lists.relevance)
        labels = torch.where(lists.whole, lists.relevance, 0.0)
        weights = self.metric(labels, rank)
        if self.tail_weight:
            weights = torch.where(labels > 0, weights, self.tail_weight * discount(rank))
        return weights if self.k is None else torch.where(rank <= self.k, weights, 0.0)


@OBJECTIVES.register("irpo_sampled")
@dataclass(frozen=True)
class SampledIRPO:
    r"""IRPO with the sum of eq. 9-10 estimated from `draws` candidates drawn from rho = softmax(s) (Lemma 4.1-4.2).

    grad = - sum_i g_i (grad s_i - 1/m sum_l grad s_{j_l}), g_i = w_i sigmoid(-z_i), j_l ~ rho: unbiased, and only the
    candidates of `select` have a gradient. The value is the exact loss. m is at most the number of candidates. Draws
    go by the inverse of rho's distribution function in target order, one number of `noise` each. Labels, reference and
    the other options as in `irpo`.
    """

    beta: float = 1.0
    reference_weight: float = 1.0
    metric: PositionalMetric = plugin_field(POSITIONAL_METRICS, "ndcg")
    draws: int = 4  # m
    k: int | None = None
    normalize: bool = False
    target_order: TargetOrder = "ideal"
    tail_weight: float = 0.0

    def __post_init__(self) -> None:
        at_least("irpo_sampled", 1, draws=self.draws)
        if self.target_order == "policy":
            raise UserError(
                "objective 'irpo_sampled': target_order 'policy' breaks ties by the draws' own chance; use irpo"
            )
        self._exact()

    @property
    def needs(self) -> Needs:
        """Those of `irpo`."""
        return self._exact().needs

    def __call__(self, lists: ScoredLists) -> Tensor:
        scores = implicit_reward(lists, beta=self.beta, reference_weight=self.reference_weight)
        with torch.no_grad():
            value, shares = self._exact()(lists), self.shares(lists, scores)
            z = masked_log_softmax(scores, lists.mask)
            pull = torch.where(lists.counted, self._exact().weights(lists, scores) * torch.sigmoid(-z), 0.0)
        surrogate = -masked_sum((pull - pull.sum(-1, keepdim=True) * shares) * scores, lists.mask)
        return value + (surrogate - surrogate.detach())

    def select(self, lists: ScoredLists) -> Tensor:
        """The candidates whose scores need a gradient, (B, K) bool: those of non-zero weight, and the drawn ones."""
        scores = implicit_reward(lists, beta=self.beta, reference_weight=self.reference_weight).detach()
        weighty = lists.counted & (self._exact().weights(lists, scores) != 0)
        return weighty | ((self.shares(lists, scores) > 0) & weighty.any(-1, keepdim=True))

    def shares(self, lists: ScoredLists, scores: Tensor) -> Tensor:
        """How often each candidate is drawn, over m, (B, K); a row sums to 1, or to 0 where it has no candidate."""
        order = ranks(lists.relevance, lists.whole).argsort(dim=-1)
        rho = importance_weights(scores.detach(), lists.mask)
        reached = rho.gather(-1, order).cumsum(-1)
        # The last of a row is exactly 1, which no draw reaches: rounding can pick no candidate of probability 0.
        reached = reached / reached[:, -1:].clamp(min=torch.finfo(rho.dtype).tiny)
        draws = lists.noise.gather(-1, order)[:, : self.draws].to(rho).contiguous()
        at = torch.searchsorted(reached, draws, right=True).clamp(max=rho.shape[-1] - 1)
        count = lists.whole.sum(-1, keepdim=True)
        used = (torch.arange(draws.shape[-1], device=rho.device) < count) & lists.mask.any(-1, keepdim=True)
        share = used / count.clamp(min=1, max=self.draws).to(rho)
        return torch.zeros_like(rho).scatter_add_(-1, order.gather(-1, at), share)

    def _exact(self) -> IRPO:
        return IRPO(
            self.beta,
            self.reference_weight,
            self.metric,
            self.k,
            self.normalize,
            target_order=self.target_order,
            tail_weight=self.tail_weight,
        )


def importance_weights(scores: Tensor, mask: Tensor) -> Tensor:
    """rho = softmax(s) of eq. 9-10, (B, K) -> (B, K): the share of each candidate in every item's gradient."""
    return masked_log_softmax(scores, mask).exp() * mask


def log_odds(scores: Tensor, mask: Tensor) -> Tensor:
    """s_i - log sum_{j != i} exp(s_j) over real candidates, (B, K) -> (B, K); 0 where there is no other.

    O(K) and stable: below the largest score nothing cancels, because the sum without i still holds exp(0) = 1; for the
    largest itself the sum is taken anew.
    """
    filled = torch.where(mask, scores.detach(), torch.full_like(scores, -torch.inf))
    best = torch.zeros_like(mask).scatter_(-1, filled.argmax(-1, keepdim=True), True) & mask
    peak = masked_sum(scores.detach(), best)[:, None]
    powers = torch.where(mask, torch.exp(torch.where(mask, scores - peak, 0.0)), 0.0)
    rest = torch.where(mask & ~best, powers.sum(-1, keepdim=True) - powers, 1.0).log() + peak
    without_best = masked_logsumexp(scores, mask & ~best)[:, None]
    odds = scores - torch.where(best, without_best, rest)
    return torch.where(mask & (mask.sum(-1, keepdim=True) > 1), odds, torch.zeros_like(odds))
