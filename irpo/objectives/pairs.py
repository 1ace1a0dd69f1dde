"""How a list of labelled candidates becomes pairs and orders: what the families share. Registers nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from irpo.lists import ScoredLists, choose, pick, ranks

Pairs = Literal["random", "first", "hardest", "all"]


def log_probs(lists: ScoredLists) -> Tensor:
    """The policy's scores, for objectives without a reference, (B, K) nats; 0 where there is no candidate."""
    return torch.where(lists.mask, lists.policy, 0.0)


def sides(lists: ScoredLists) -> tuple[Tensor, Tensor]:
    """(positives, negatives) as masks (B, K): above the list's lowest label, and at it. A tied list has no positive."""
    labels = lists.relevance
    lowest = torch.where(lists.whole, labels, torch.inf).amin(-1, keepdim=True)
    return lists.counted & (labels > lowest), lists.mask & (labels == lowest)


def first(allowed: Tensor) -> tuple[Tensor, Tensor]:
    """The first allowed candidate of each list: (index (B,), whether there is one (B,))."""
    return allowed.long().argmax(-1), allowed.any(-1)


def top(allowed: Tensor, values: Tensor) -> Tensor:
    """The allowed candidates of the highest value, (B, K) bool; more than one where they tie."""
    highest = torch.where(allowed, values, -torch.inf).amax(-1, keepdim=True)
    return allowed & (values == highest)


def choose_positive(lists: ScoredLists, positives: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
    """A random positive; for `first` the first of those that have the top label."""
    return first(top(positives, lists.relevance)) if pairs == "first" else choose(positives, lists.noise)


def below(lists: ScoredLists, winner: Tensor) -> Tensor:
    """The candidates of a lower label than each list's winner (B,), (B, K) bool."""
    return lists.mask & (lists.relevance < pick(lists.relevance, winner)[:, None])


def redrawn(lists: ScoredLists, among: Tensor, winner: Tensor) -> Tensor:
    """Noise (B, K) to draw once more with, after `winner` (B,) was drawn `among` some (B, K).

    The other numbers there are uniform below the highest: divided by it they are as good as new, so that a candidate
    that could have won is as likely a loser as any.
    """
    highest = pick(lists.noise, winner)[:, None].clamp(min=torch.finfo(lists.noise.dtype).tiny)
    return torch.where(among, lists.noise / highest, lists.noise)


def choose_pair(lists: ScoredLists, scores: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor, Tensor]:
    """One pair of each list: (winner (B,), loser (B,), whether there is one (B,)).

    `random` draws a winner, and a loser among all of a lower label; `hardest` takes the one of these that the policy
    now scores highest (ties drawn); `first` takes the first candidate of the top label and the first of the lowest.
    """
    positives, lowest = sides(lists)
    winner, some = choose_positive(lists, positives, pairs)
    if pairs == "first":
        loser, others = first(lowest)
    else:
        lower = below(lists, winner)
        hard = top(lower, scores.detach()) if pairs == "hardest" else lower
        loser, others = choose(hard, redrawn(lists, positives, winner))
    return winner, loser, some & others


def pair_loss(lists: ScoredLists, scores: Tensor, pairs: Pairs, of: Callable[[Tensor], Tensor]) -> Tensor:
    """of(s_w - s_l) on the chosen pair of each list, or summed over all pairs of different labels (`all`); (B,)."""
    if pairs == "all":
        return sum_over_pairs(scores, ordered_pairs(lists), of)
    winner, loser, some = choose_pair(lists, scores, pairs)
    values = of(pick(scores, winner) - pick(scores, loser))
    return torch.where(some, values, torch.zeros_like(values))


def sum_over_pairs(
    scores: Tensor, wanted: Tensor, of: Callable[[Tensor], Tensor], weights: Tensor | None = None
) -> Tensor:
    """sum of weights_ij of(s_i - s_j) over the wanted pairs; (B, K), (B, K, K) -> (B,)."""
    values = of(scores[:, :, None] - scores[:, None])
    values = values if weights is None else weights * values
    return torch.where(wanted, values, torch.zeros_like(values)).sum((-2, -1))


def ordered_pairs(lists: ScoredLists, among: Tensor | None = None) -> Tensor:
    """Pairs (i, j) with y_i > y_j, (B, K, K) bool; `among` (B, K) restricts both."""
    left, right = lists.counted, lists.mask
    if among is not None:
        left, right = left & among, right & among
    return left[:, :, None] & right[:, None] & (lists.relevance[:, :, None] > lists.relevance[:, None])


def drawn_ranks(values: Tensor, mask: Tensor, noise: Tensor) -> Tensor:
    """1-based ranks by value, best first, ties in random order; (B, K) -> (B, K) long."""
    order = noise.argsort(dim=-1, descending=True)
    shuffled = ranks(values.gather(-1, order), mask.gather(-1, order))
    return torch.empty_like(shuffled).scatter_(-1, order, shuffled)


def score_ranks(lists: ScoredLists, scores: Tensor) -> Tensor:
    """1-based ranks by the current scores, no gradient, (B, K) long; in a slot, behind the candidates already placed.

    Ties are drawn: before the first step all scores tie, and the given order must not decide.
    """
    placed = (lists.whole & ~lists.mask).sum(-1, keepdim=True)
    return drawn_ranks(scores.detach(), lists.mask, lists.noise) + placed
