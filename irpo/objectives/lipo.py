"""Learning-to-rank losses on implicit rewards: LiPO's family (Liu et al. 2024, arXiv 2402.01878) and InfoNCA.

In all of them s = beta (log pi_theta - alpha log pi_ref), alpha = `reference_weight`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import relu, softplus

from irpo.lists import ScoredLists, implicit_reward, masked_log_softmax, masked_logsumexp, masked_sum, ranks
from irpo.objectives import OBJECTIVES, Needs, above_zero, at_least, within_one
from irpo.objectives.pairs import drawn_ranks, ordered_pairs, score_ranks, sum_over_pairs
from irpo.positional import MOST, discount, gain


@OBJECTIVES.register("point_mse")
@dataclass(frozen=True)
class PointMSE:
    """sum_j (y_j - s_j)^2 (LiPO's pointwise square loss). Graded labels, on the scale of s; ties are fine."""

    beta: float = 1.0
    reference_weight: float = 1.0

    def __post_init__(self) -> None:
        above_zero("point_mse", beta=self.beta)
        within_one("point_mse", reference_weight=self.reference_weight)

    @property
    def needs(self) -> Needs:
        """A reference, where any of it counts."""
        return Needs(reference=self.reference_weight > 0)

    def __call__(self, lists: ScoredLists) -> Tensor:
        scores = implicit_reward(lists, beta=self.beta, reference_weight=self.reference_weight)
        return masked_sum((lists.relevance - scores) ** 2, lists.counted)


@OBJECTIVES.register("point_sigmoid")
@dataclass(frozen=True)
class PointSigmoid:
    """sum_j -y_j log sigmoid(s_j) - (1 - y_j) log(1 - sigmoid(s_j)) (LiPO's pointwise sigmoid loss).

    Labels are probabilities: they are divided by `max_label`, and none may be above it. Binary or graded; ties are
    fine.
    """

    beta: float = 1.0
    reference_weight: float = 1.0
    max_label: float = 1.0

    def __post_init__(self) -> None:
        above_zero("point_sigmoid", beta=self.beta, max_label=self.max_label)
        within_one("point_sigmoid", reference_weight=self.reference_weight)

    @property
    def needs(self) -> Needs:
        """A reference, where any of it counts; the highest label is an option."""
        return Needs(reference=self.reference_weight > 0, max_label=self.max_label)

    def __call__(self, lists: ScoredLists) -> Tensor:
        labels = torch.where(lists.whole, lists.relevance, 0.0)
        scores = implicit_reward(lists, beta=self.beta, reference_weight=self.reference_weight)
        return masked_sum(softplus(scores) - labels / self.max_label * scores, lists.counted)


@OBJECTIVES.register("pair_logistic")
@dataclass(frozen=True)
class PairLogistic:
    """sum_{y_i > y_j} softplus(-(s_i - s_j)) (RankNet; LiPO's DPO_BT). Tied pairs have no term."""

    beta: float = 1.0
    reference_weight: float = 1.0

    def __post_init__(self) -> None:
        above_zero("pair_logistic", beta=self.beta)
        within_one("pair_logistic", reference_weight=self.reference_weight)

    @property
    def needs(self) -> Needs:
        """A reference, where any of it counts."""
        return Needs(reference=self.reference_weight > 0)

    def __call__(self, lists: ScoredLists) -> Tensor:
        scores = implicit_reward(lists, beta=self.beta, reference_weight=self.reference_weight)
        return sum_over_pairs(scores, ordered_pairs(lists), lambda margin: softplus(-margin))


@OBJECTIVES.register("pair_hinge")
@dataclass(frozen=True)
class PairHinge:
    """sum_{y_i > y_j} max(0, 1 - (s_i - s_j)) (LiPO's SLiC_norm). Tied pairs have no term."""

    beta: float = 1.0
    reference_weight: float = 1.0

    def __post_init__(self) -> None:
        above_zero("pair_hinge", beta=self.beta)
        within_one("pair_hinge", reference_weight=self.reference_weight)

    @property
    def needs(self) -> Needs:
        """A reference, where any of it counts."""
        return Needs(reference=self.reference_weight > 0)

    def __call__(self, lists: ScoredLists) -> Tensor:
        scores = implicit_reward(lists, beta=self.beta, reference_weight=self.reference_weight)
        return sum_over_pairs(scores, ordered_pairs(lists), lambda margin: relu(1 - margin))


def plackett_luce(lists: ScoredLists, scores: Tensor, among: Tensor | None = None) -> Tensor:
    """- sum_i log(exp(s_i) / sum_{j not before i} exp(s_j)) in label order, ties drawn; (B,).

    In a slot those not before the item are the unplaced ones, whatever the order. `among` (B, K) leaves others out.
    """
    mask = lists.mask if among is None else lists.mask & among
    counted = lists.counted if among is None else lists.counted & among
    place = drawn_ranks(lists.relevance, lists.whole, lists.noise)
    after = place[:, :, None] <= place[:, None]
    after = after | (lists.counted.sum(-1) == 1)[:, None, None]
    rest = masked_logsumexp(scores[:, None].expand_as(after), mask[:, None] & after)
    return masked_sum(rest - scores, counted)


@OBJECTIVES.register("list_mle")
@dataclass(frozen=True)
class ListMLE:
    """Plackett-Luce of the label order: - sum_i log(exp(s_i) / sum_{j not before i} exp(s_j)) (LiPO's DPO_PL; PRO).

    Assumes an order: labels without ties. Where there are, the tied stand in random order, drawn anew in every pass.
    """

    beta: float = 1.0
    reference_weight: float = 1.0

    def __post_init__(self) -> None:
        above_zero("list_mle", beta=self.beta)
        within_one("list_mle", reference_weight=self.reference_weight)

    @property
    def needs(self) -> Needs:
        """A reference, where any of it counts."""
        return Needs(reference=self.reference_weight > 0, draws_ties=True)

    def __call__(self, lists: ScoredLists) -> Tensor:
        return plackett_luce(lists, implicit_reward(lists, beta=self.beta, reference_weight=self.reference_weight))


@OBJECTIVES.register("softmax")
@dataclass(frozen=True)
class Softmax:
    """- sum_j (y_j / sum y) log softmax(s)_j (ListNet; LiPO's softmax loss).

    Labels are shares: graded or binary, ties fine. A list without a relevant candidate has loss 0.
    """

    beta: float = 1.0
    reference_weight: float = 1.0

    def __post_init__(self) -> None:
        above_zero("softmax", beta=self.beta)
        within_one("softmax", reference_weight=self.reference_weight)

    @property
    def needs(self) -> Needs:
        """A reference, where any of it counts."""
        return Needs(reference=self.reference_weight > 0)

    def __call__(self, lists: ScoredLists) -> Tensor:
        total = masked_sum(lists.relevance, lists.whole)[:, None]
        shares = lists.relevance / torch.where(total > 0, total, 1.0)
        scores = implicit_reward(lists, beta=self.beta, reference_weight=self.reference_weight)
        z = masked_log_softmax(scores, lists.mask)
        return -masked_sum(shares * z, lists.counted)


@OBJECTIVES.register("infonca")
@dataclass(frozen=True)
class InfoNCA:
    """- sum_j softmax(y / alpha)_j log softmax(s)_j (InfoNCA, Chen et al. 2024, arXiv 2402.05369).

    Labels are rewards on any scale, ties fine. A list whose labels are all tied still pulls s to be equal.
    """

    beta: float = 1.0
    reference_weight: float = 1.0
    alpha: float = 1.0  # temperature of the labels

    def __post_init__(self) -> None:
        above_zero("infonca", beta=self.beta, alpha=self.alpha)
        within_one("infonca", reference_weight=self.reference_weight)

    @property
    def needs(self) -> Needs:
        """A reference, where any of it counts."""
        return Needs(reference=self.reference_weight > 0)

    def __call__(self, lists: ScoredLists) -> Tensor:
        shares = masked_log_softmax(lists.relevance / self.alpha, lists.whole).exp()
        scores = implicit_reward(lists, beta=self.beta, reference_weight=self.reference_weight)
        z = masked_log_softmax(scores, lists.mask)
        return -masked_sum(shares * z, lists.counted)


@OBJECTIVES.register("lipo_lambda")
@dataclass(frozen=True)
class LiPOLambda:
    r"""sum_{y_i > y_j} abs(G_i - G_j) abs(1/D_i - 1/D_j) softplus(-(s_i - s_j)) (LiPO-lambda).

    G = 2^y - 1, D = log2(1 + rank), rank by the current scores (ties drawn), no gradient through it. Graded or binary
    labels; tied pairs have no term. Ablations: `gain` linear is G = y, constant drops the factor of gains; `discount`
    constant drops that of discounts; `weight` constant drops both, and is `pair_logistic`. `normalize` divides by the
    ideal DCG of the labels (gain 2^y - 1, or y where `gain` is linear). `k` keeps the pairs whose better member has
    fewer than k candidates labelled above it.
    """

    beta: float = 1.0
    reference_weight: float = 1.0
    weight: Literal["lambda", "constant"] = "lambda"
    gain: Literal["exponential", "linear", "constant"] = "exponential"
    discount: Literal["log", "constant"] = "log"
    normalize: bool = False
    k: int | None = None

    def __post_init__(self) -> None:
        above_zero("lipo_lambda", beta=self.beta)
        within_one("lipo_lambda", reference_weight=self.reference_weight)
        at_least("lipo_lambda", 1, k=self.k)

    @property
    def needs(self) -> Needs:
        """A reference, where any of it counts, and labels whose gain is a number."""
        most = MOST if self.gain == "exponential" else math.inf
        return Needs(reference=self.reference_weight > 0, max_label=most)

    def __call__(self, lists: ScoredLists) -> Tensor:
        scores = implicit_reward(lists, beta=self.beta, reference_weight=self.reference_weight)
        pairs = ordered_pairs(lists)
        if self.k is not None:
            above = lists.whole[:, None] & (lists.relevance[:, None] > lists.relevance[:, :, None])
            pairs = pairs & (above.sum(-1) < self.k)[:, :, None]
        loss = sum_over_pairs(scores, pairs, lambda margin: softplus(-margin), self._lambdas(lists, scores))
        return loss / self._ideal(lists) if self.normalize else loss

    def _gains(self, lists: ScoredLists) -> Tensor:
        labels = torch.where(lists.whole, lists.relevance, 0.0)
        return labels if self.gain == "linear" else gain(labels)

    def _lambdas(self, lists: ScoredLists, scores: Tensor) -> Tensor:
        """Weights of the pairs, (B, K, K), no gradient."""
        factors = torch.ones_like(scores)[:, :, None].expand(-1, -1, scores.shape[-1])
        if self.weight == "lambda" and self.gain != "constant":
            factors = factors * _differences(self._gains(lists))
        if self.weight == "lambda" and self.discount == "log":
            factors = factors * _differences(discount(score_ranks(lists, scores).to(scores)))
        return factors

    def _ideal(self, lists: ScoredLists) -> Tensor:
        """Ideal DCG, (B,); 1 for a list without a relevant candidate."""
        places = discount(ranks(lists.relevance, lists.whole).to(lists.relevance))
        ideal = masked_sum(self._gains(lists) * places, lists.whole)
        return torch.where(ideal > 0, ideal, 1.0)


def _differences(values: Tensor) -> Tensor:
    """abs(v_i - v_j), (B, K) -> (B, K, K), no gradient."""
    return (values[:, :, None] - values[:, None]).abs().detach()
