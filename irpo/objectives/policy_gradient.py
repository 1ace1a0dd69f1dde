"""Policy gradients on answers that the policy itself has just drawn."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from irpo.lists import ScoredLists, masked_sum
from irpo.objectives import OBJECTIVES, Needs, at_least


@OBJECTIVES.register("reinforce")
@dataclass(frozen=True)
class Reinforce:
    """-1/n sum_j A_j log pi(y_j), A_j = R_j - mean of the other answers' R (Williams 1992; Kool et al. 2019).

    The candidates are n answers drawn from the policy at temperature 1, their labels the rewards r_j, of any sign. Then
    the gradient is without bias that of -E[r] + kl_weight KL(pi, pi_ref), since R_j = r_j - kl_weight log(pi / pi_ref)
    is a constant in the loss. One answer alone has no baseline. Needs a reference only where kl_weight > 0. For
    `online.method: reinforce`; on answers of another origin it is no gradient of the expected reward.
    """

    kl_weight: float = 0.0

    def __post_init__(self) -> None:
        at_least("reinforce", 0, kl_weight=self.kl_weight)

    @property
    def needs(self) -> Needs:
        """A reference for the KL alone."""
        return Needs(reference=self.kl_weight > 0)

    def __call__(self, lists: ScoredLists) -> Tensor:
        rewards = lists.relevance
        if self.kl_weight:
            rewards = rewards - self.kl_weight * (lists.policy - lists.reference).detach()
        count = lists.mask.sum(-1, keepdim=True)
        others = masked_sum(rewards, lists.mask)[:, None] - rewards
        advantage = torch.where(count > 1, rewards - others / (count - 1).clamp(min=1), rewards)
        return -masked_sum(advantage * lists.policy, lists.counted) / count.squeeze(-1).clamp(min=1)
