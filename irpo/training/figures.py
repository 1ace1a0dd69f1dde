"""What the log shows of a batch: numbers of its lists, left on the device, so that no step waits for them."""

from __future__ import annotations

import torch
from torch import Tensor

from irpo.lists import ScoredLists, implicit_reward, masked_sum, ranks
from irpo.objectives.irpo import importance_weights
from irpo.positional import discount, gain
from irpo.progress import BEST
from irpo.training.method import Method


@torch.no_grad()
def figures(method: Method, lists: ScoredLists) -> dict[str, Tensor]:
    """The figures of each list, (lists,); of a list in slots, its first.

    Where the objective learns from a teacher, how far the policy agrees with it, and nothing of labels.
    """
    shown = {}
    if lists.target is not None and lists.target_tokens is not None:
        shown["target_nll"] = -lists.per_list(lists.target)
        shown["target_tokens"] = lists.per_list(lists.target_tokens)
    if not method.objective.needs.scores:
        return shown
    scale = {name: getattr(method.objective, name, 1.0) for name in ("beta", "reference_weight")}
    rewards = implicit_reward(lists, **scale)
    tables = (rewards, lists.policy, lists.relevance, lists.mask)
    rewards, policy, relevance, mask = (lists.first_slot(table) for table in tables)
    teacher = lists.teacher if method.objective.needs.teacher else None
    if teacher is not None:
        shown["teacher_pairs"] = pairs_in_order(policy, lists.first_slot(teacher), mask)
    else:
        relevant, other = mask & (relevance > 0), mask & ~(relevance > 0)
        means = [masked_sum(rewards, side) / side.sum(-1).clamp(min=1) for side in (relevant, other)]
        shown["reward_margin"] = means[0] - means[1]
    rho = importance_weights(rewards, mask)
    shown["rho_entropy"] = -(rho * rho.clamp(min=1e-30).log()).sum(-1)
    if teacher is None and (method.scorer.separable or lists.slots > 1):  # else the scores were taken in the gold order
        shown[f"train_{BEST}"] = ndcg_of_table(policy, relevance, mask, 10)
    return shown


def pairs_in_order(scores: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """The share of the pairs that a teacher orders which scores order alike, (B, K) -> (B,); 0 where it orders none.

    >>> table = torch.tensor([[3.0, 1.0, 2.0]])
    >>> pairs_in_order(table, torch.tensor([[3.0, 2.0, 1.0]]), table > 0)
    tensor([0.6667])
    """
    ordered = mask[:, :, None] & mask[:, None] & (teacher[:, :, None] > teacher[:, None])
    alike = ordered & (scores[:, :, None] > scores[:, None])
    return alike.sum((-2, -1)) / ordered.sum((-2, -1)).clamp(min=1)


def ndcg_of_table(scores: Tensor, relevance: Tensor, mask: Tensor, k: int) -> Tensor:
    """NDCG@k of lists ranked by score, (B, K) -> (B,); ties count against us (the less relevant first).

    >>> table = torch.tensor([[0.0, 0.0]])
    >>> ndcg_of_table(table, torch.tensor([[1.0, 0.0]]), table == 0, 10)  # second of two: 1 / log2(3)
    tensor([0.6309])
    """
    worst = relevance.argsort(dim=-1, stable=True)
    rank = torch.empty_like(worst).scatter_(-1, worst, ranks(scores.gather(-1, worst), mask.gather(-1, worst)))
    gains = torch.where(mask, gain(relevance), 0.0)

    def dcg(rank: Tensor) -> Tensor:
        return masked_sum(gains * discount(rank.to(gains)), mask & (rank <= k))

    best = dcg(ranks(relevance, mask))
    return torch.where(best > 0, dcg(rank) / torch.where(best > 0, best, 1.0), 0.0)
