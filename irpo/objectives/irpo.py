"""In-context Ranking Preference Optimization (arXiv 2504.15477)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from irpo.lists import ScoredLists, implicit_reward, masked_log_softmax, masked_sum, ranks
from irpo.objectives import OBJECTIVES, Needs
from irpo.positional import POSITIONAL_METRICS, PositionalMetric
from irpo.registry import plugin_field


@OBJECTIVES.register("irpo")
@dataclass(frozen=True)
class IRPO:
    r"""loss = - sum_i w_i log sigmoid(z_i), z_i = -log sum_j exp(s_j - s_i), the sum over all j (eq. 7-8).

    s = beta (log pi_theta - log pi_ref), so z is the log-softmax of s: O(K), stable at any beta. w is a positional
    metric of the label and the rank in the target order (labels sorted, ties in the given order). Labels may be graded,
    binary or tied. A list without a relevant item has loss 0.
    """

    needs: ClassVar[Needs] = Needs()

    beta: float = 1.0  # inverse temperature of the implicit reward
    metric: PositionalMetric = plugin_field(POSITIONAL_METRICS, "ndcg")

    def __call__(self, lists: ScoredLists) -> Tensor:
        z = masked_log_softmax(implicit_reward(lists, beta=self.beta), lists.mask)
        rank = ranks(lists.relevance, lists.whole).to(lists.relevance)
        weights = self.metric(torch.where(lists.whole, lists.relevance, 0.0), rank)
        return -masked_sum(weights * logsigmoid(z), lists.counted)


def importance_weights(scores: Tensor, mask: Tensor) -> Tensor:
    """rho = softmax(s) of eq. 9-10, (B, K) -> (B, K): the share of each candidate in every item's gradient."""
    return masked_log_softmax(scores, mask).exp() * mask
