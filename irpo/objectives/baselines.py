"""The baselines of LarPO's and SimPO's tables, on the same (B, K) table: IPO, SimPO, CPO, KTO, RRHF, SLiC-HF.

A list becomes their pairs as in `dpo`: of two candidates of different labels the higher wins, and `pairs` (random,
first, hardest, all) says which two; a list whose labels are all tied has loss 0. Labels may be graded
or binary. Those without a reference read the policy's log-probabilities: a sum over tokens or, with `length: mean` in
the method's configuration, their mean.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import relu, softplus

from irpo.lists import ScoredLists, choose, implicit_reward, masked_sum, pick
from irpo.objectives import OBJECTIVES, Needs, above_zero, at_least, within_one
from irpo.objectives.pairs import Pairs, choose_pair, log_probs, ordered_pairs, pair_loss, sides, sum_over_pairs, top


def anchored(lists: ScoredLists, pairs: Pairs, of: Callable[[Tensor], Tensor], weight: float) -> Tensor:
    """of(log pi_w - log pi_l) - weight * log pi_w, the last once for every winner; (B,)."""
    scores = log_probs(lists)
    loss = pair_loss(lists, scores, pairs, of)
    if pairs == "all":
        return loss - weight * masked_sum(scores, ordered_pairs(lists).any(-1))
    winner, _, some = choose_pair(lists, scores, pairs)
    return loss - weight * pick(scores, winner) * some


@OBJECTIVES.register("ipo")
@dataclass(frozen=True)
class IPO:
    """((r_w - r_l) - 1 / (2 tau))^2, r = log(pi_theta / pi_ref) (Azar et al. 2023, arXiv 2310.12036, eq. 17).

    With `reference_weight` alpha, r = log pi_theta - alpha log pi_ref. With `length: mean` it is the form that TRL
    trains.
    """

    tau: float = 0.1  # of the KL term: the margin aimed at is 1 / (2 tau) nats
    reference_weight: float = 1.0
    pairs: Pairs = "random"

    def __post_init__(self) -> None:
        above_zero("ipo", tau=self.tau)
        within_one("ipo", reference_weight=self.reference_weight)

    @property
    def needs(self) -> Needs:
        """A reference, where any of it counts."""
        return Needs(reference=self.reference_weight > 0)

    def __call__(self, lists: ScoredLists) -> Tensor:
        rewards = implicit_reward(lists, beta=1.0, reference_weight=self.reference_weight)
        return pair_loss(lists, rewards, self.pairs, lambda margin: (margin - 1 / (2 * self.tau)) ** 2)


@OBJECTIVES.register("simpo")
@dataclass(frozen=True)
class SimPO:
    """-log sigmoid(beta (p_w - p_l) - gamma), p the mean log-probability of a token (SimPO, arXiv 2405.14734).

    No reference. It expects length-normalised log-probabilities: set `length: mean`, as its configuration does.
    """

    needs: ClassVar[Needs] = Needs(reference=False)

    beta: float = 2.0
    gamma: float = 1.0  # target margin of the reward beta * p
    pairs: Pairs = "random"

    def __post_init__(self) -> None:
        above_zero("simpo", beta=self.beta)

    def __call__(self, lists: ScoredLists) -> Tensor:
        return pair_loss(lists, log_probs(lists), self.pairs, lambda margin: softplus(self.gamma - self.beta * margin))


@OBJECTIVES.register("cpo")
@dataclass(frozen=True)
class CPO:
    """-log sigmoid(beta (log pi_w - log pi_l)) - nll * log pi_w (CPO, Xu et al. 2024, arXiv 2401.08417).

    The second term is behaviour cloning of the winner, once for every winner. No reference.
    """

    needs: ClassVar[Needs] = Needs(reference=False)

    beta: float = 0.1
    nll: float = 1.0  # weight of the winner's negative log-likelihood
    pairs: Pairs = "random"

    def __post_init__(self) -> None:
        above_zero("cpo", beta=self.beta)
        at_least("cpo", 0, nll=self.nll)

    def __call__(self, lists: ScoredLists) -> Tensor:
        return anchored(lists, self.pairs, lambda margin: softplus(-self.beta * margin), self.nll)


@OBJECTIVES.register("slic")
@dataclass(frozen=True)
class SLiC:
    """max(0, delta - log pi_w + log pi_l) - nll * log pi_w (SLiC-HF, Zhao et al. 2023, arXiv 2305.10425).

    The paper's regularizer is the likelihood of a supervised target; here that target is the winner. No reference.
    """

    needs: ClassVar[Needs] = Needs(reference=False)

    delta: float = 1.0  # margin, nats
    nll: float = 0.5  # weight of the winner's negative log-likelihood
    pairs: Pairs = "random"

    def __post_init__(self) -> None:
        at_least("slic", 0, delta=self.delta, nll=self.nll)

    def __call__(self, lists: ScoredLists) -> Tensor:
        return anchored(lists, self.pairs, lambda margin: relu(self.delta - margin), self.nll)


@OBJECTIVES.register("kto")
@dataclass(frozen=True)
class KTO:
    """sum_j lambda_j - v_j, v = lambda_D sigmoid(s - z0) or lambda_U sigmoid(z0 - s) (KTO, arXiv 2402.01306).

    Pointwise: a candidate is desirable where its label is at least `min_label`, else undesirable; ties and lists of one
    kind are fine. z0 = max(0, mean of s over the list's candidates), without gradient: the paper
    estimates this KL from mismatched answers of the batch, which would make a loss depend on how lists are batched.
    """

    beta: float = 0.1
    reference_weight: float = 1.0
    desirable: float = 1.0  # lambda_D
    undesirable: float = 1.0  # lambda_U
    min_label: float = 1.0

    def __post_init__(self) -> None:
        above_zero("kto", beta=self.beta)
        within_one("kto", reference_weight=self.reference_weight)
        at_least("kto", 0, desirable=self.desirable, undesirable=self.undesirable)

    @property
    def needs(self) -> Needs:
        """A reference, where any of it counts, and something desirable."""
        return Needs(reference=self.reference_weight > 0, min_label=self.min_label)

    def __call__(self, lists: ScoredLists) -> Tensor:
        scores = implicit_reward(lists, beta=self.beta, reference_weight=self.reference_weight)
        mean = masked_sum(scores.detach(), lists.mask) / lists.mask.sum(-1).clamp(min=1)
        margin = scores - mean.clamp(min=0)[:, None]
        # lambda - lambda sigmoid(x) = lambda sigmoid(-x)
        good, bad = self.desirable * torch.sigmoid(-margin), self.undesirable * torch.sigmoid(margin)
        return masked_sum(torch.where(lists.relevance >= self.min_label, good, bad), lists.counted)


@OBJECTIVES.register("rrhf")
@dataclass(frozen=True)
class RRHF:
    """sum_{y_i > y_j} max(0, p_j - p_i) - nll * p_best (Yuan et al. 2023, arXiv 2304.05302, eq. 2-4).

    Over all pairs of different labels, no margin; p is the mean log-probability of a token (eq. 1): set `length: mean`,
    as its configuration does, and the second term, the best candidate's likelihood, is a mean too. The best is one of
    top label, drawn; a list whose labels are all tied has loss 0. No reference.
    """

    needs: ClassVar[Needs] = Needs(reference=False)

    nll: float = 1.0  # weight of the best candidate's negative log-likelihood

    def __post_init__(self) -> None:
        at_least("rrhf", 0, nll=self.nll)

    def __call__(self, lists: ScoredLists) -> Tensor:
        scores = log_probs(lists)
        hinge = sum_over_pairs(scores, ordered_pairs(lists), lambda margin: relu(-margin))
        positives, _ = sides(lists)
        best, some = choose(top(lists.whole, lists.relevance) & positives, lists.noise)
        return hinge - self.nll * pick(scores, best) * some
