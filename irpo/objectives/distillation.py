"""Distillation: learning from another ranker's scores t instead of labels, on the same (B, K) table.

In all of them s = beta (log pi_theta - alpha log pi_ref), alpha = `reference_weight`, which is 0: the student's own
scores are what is to be like the teacher's, and no reference is taken. A list has a teacher's score for every candidate
(`needs.teacher`); its labels are not read, so that a list may have none.

On the slots of a ranking each is a decision among the candidates still unplaced, for the teacher as for the student.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from irpo.lists import ScoredLists, implicit_reward, masked_log_softmax, masked_sum
from irpo.objectives import OBJECTIVES, Needs, above_zero, within_one
from irpo.objectives.pairs import sum_over_pairs


def teacher_of(lists: ScoredLists) -> Tensor:
    """The teacher's scores, (B, K), 0 where there is no candidate."""
    if lists.teacher is None:
        raise ValueError("these lists have no teacher")
    return torch.where(lists.whole, lists.teacher, 0.0)


def met(lists: ScoredLists) -> Tensor:
    """Pairs (i, j) that the loss sums, both ways round, (B, K, K) bool; in a slot those of its item with the others."""
    own, others = lists.counted, lists.mask
    return own[:, :, None] & others[:, None] | others[:, :, None] & own[:, None]


@OBJECTIVES.register("kl")
@dataclass(frozen=True)
class KL:
    """sum_j p_j (log p_j - log softmax(s)_j), p = softmax(t / temperature): KL(teacher || student) over the list.

    ListNet's top-one distribution with a teacher for the labels (Cao et al. 2007); 0 where the student is the teacher.
    The gradient in s is softmax(s) - p. `temperature` is of the teacher alone: a high one flattens it.
    """

    beta: float = 1.0
    reference_weight: float = 0.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        above_zero("kl", beta=self.beta, temperature=self.temperature)
        within_one("kl", reference_weight=self.reference_weight)

    @property
    def needs(self) -> Needs:
        """A teacher, and a reference, where any of it counts."""
        return Needs(reference=self.reference_weight > 0, teacher=True)

    def __call__(self, lists: ScoredLists) -> Tensor:
        scores = implicit_reward(lists, beta=self.beta, reference_weight=self.reference_weight)
        aim = masked_log_softmax(teacher_of(lists) / self.temperature, lists.mask)
        return masked_sum(aim.exp() * (aim - masked_log_softmax(scores, lists.mask)), lists.mask)


@OBJECTIVES.register("margin_mse")
@dataclass(frozen=True)
class MarginMSE:
    """sum_{i < j} ((s_i - s_j) - (t_i - t_j))^2 (Hofstaetter et al. 2020, arXiv 2010.02666).

    Over all pairs of a list, where the paper takes a relevant and another passage. s and t are on one scale: `beta` is
    what a nat of the student counts in the teacher's unit. The teacher's level does not matter.
    """

    beta: float = 1.0
    reference_weight: float = 0.0

    def __post_init__(self) -> None:
        above_zero("margin_mse", beta=self.beta)
        within_one("margin_mse", reference_weight=self.reference_weight)

    @property
    def needs(self) -> Needs:
        """A teacher, and a reference, where any of it counts."""
        return Needs(reference=self.reference_weight > 0, teacher=True)

    def __call__(self, lists: ScoredLists) -> Tensor:
        scores = implicit_reward(lists, beta=self.beta, reference_weight=self.reference_weight)
        return sum_over_pairs(scores - teacher_of(lists), met(lists).triu(1), torch.square)


@OBJECTIVES.register("ranknet")
@dataclass(frozen=True)
class RankNet:
    """sum_{t_i > t_j} w_ij softplus(-(s_i - s_j)): RankNet (Burges et al. 2005) on the order of a teacher.

    So are permutations distilled in RankGPT (Sun et al. 2023, arXiv 2304.09542). `weights: first` are those of FIRST
    (Reddy et al. 2024, arXiv 2406.15657), w_ij = 1 / (r_i + r_j), r the 1-based ranks by the teacher; `none` is w = 1.
    What the teacher ties has no term, and shares the best of its ranks. FIRST's own code takes the mean over pairs.
    """

    beta: float = 1.0
    reference_weight: float = 0.0
    weights: Literal["none", "first"] = "none"

    def __post_init__(self) -> None:
        above_zero("ranknet", beta=self.beta)
        within_one("ranknet", reference_weight=self.reference_weight)

    @property
    def needs(self) -> Needs:
        """A teacher, and a reference, where any of it counts."""
        return Needs(reference=self.reference_weight > 0, teacher=True)

    def __call__(self, lists: ScoredLists) -> Tensor:
        scores = implicit_reward(lists, beta=self.beta, reference_weight=self.reference_weight)
        teacher = teacher_of(lists)
        above = teacher[:, :, None] > teacher[:, None]  # i is above j
        weights = None
        if self.weights == "first":
            rank = 1 + (above & lists.whole[:, :, None]).sum(-2).to(scores)
            weights = 1 / (rank[:, :, None] + rank[:, None])
        return sum_over_pairs(scores, met(lists) & above, lambda margin: softplus(-margin), weights)
