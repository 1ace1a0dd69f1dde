"""The seam between model and maths: a table of log-probabilities, and the masked arithmetic on it.

Absence is a boolean mask, never a number: a list of nothing has loss 0, not NaN.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ScoredLists:
    """B lists of up to K candidates, scored by the policy (with gradient) and by the reference (without).

    A slot of a ranking is a list of its own: its `mask` holds the candidates that are still unplaced, `members` those
    of the whole list (from which ranks and weights are computed), and `here` the one that stands at this slot. The
    `slots` rows of a list stand together. For an ordinary list, of one row, the three are the same mask.

    `noise` is uniform in [0, 1), one number a candidate: the only chance an objective may use. Whoever draws it from
    (seed, list, step) makes the loss independent of how lists are batched. `target` is the policy's log-likelihood of
    the target list's text, where it was asked for; `target_tokens` says how many tokens that is. `teacher` is another
    ranker's table: all of the lists have it, or there is none.
    """

    policy: Tensor  # (B, K) log pi_theta(e_j | x), nats
    reference: Tensor  # (B, K) log pi_ref(e_j | x), nats
    relevance: Tensor  # (B, K) labels >= 0
    mask: Tensor  # (B, K) bool, True = a real candidate, to be compared with the others
    noise: Tensor  # (B, K)
    target: Tensor | None = None  # (B,) nats
    members: Tensor | None = None  # (B, K) bool, None: mask
    here: Tensor | None = None  # (B, K) bool, None: mask; whose terms the loss sums
    slots: int = 1  # rows of each list
    target_tokens: Tensor | None = None  # (B,) 0 in a row that holds no target
    teacher: Tensor | None = None  # (B, K) scores of any scale

    def __post_init__(self) -> None:
        shape = self.policy.shape
        for name in ("reference", "relevance", "mask", "noise", "members", "here", "teacher"):
            table = getattr(self, name)
            if table is not None and table.shape != shape:
                raise ValueError(f"policy is {tuple(shape)}, {name} is {tuple(table.shape)}")
        if self.mask.dtype != torch.bool:
            raise ValueError(f"mask must be bool, not {self.mask.dtype}")

    @property
    def whole(self) -> Tensor:
        """The candidates of the whole list, (B, K) bool."""
        return self.mask if self.members is None else self.members

    @property
    def counted(self) -> Tensor:
        """The candidates whose terms the loss sums, (B, K) bool."""
        return self.mask if self.here is None else self.here

    def per_list(self, losses: Tensor) -> Tensor:
        """Losses of the rows, (B,), summed over the slots of each list, (lists,)."""
        return losses if self.slots == 1 else losses.view(-1, self.slots).sum(-1)

    @property
    def target_per_token(self) -> Tensor | None:
        """The target list's log-likelihood as the mean over its tokens, (B,) nats; None where it was not asked for."""
        if self.target is None or self.target_tokens is None:
            return None
        return self.target / self.target_tokens.clamp(min=1)

    def first_slot(self, rows: Tensor) -> Tensor:
        """What the rows hold, (B, ...), of each list's first slot alone, (lists, ...)."""
        return rows[:: self.slots]


def slot_lists(
    policy: Tensor, reference: Tensor, present: Tensor, relevance: Tensor, mask: Tensor, noise: Tensor
) -> ScoredLists:
    """The slots of B lists as lists of their own: (B, I, K) scores become B * I rows, the slots of a list together.

    `present` (B, I, K) are the candidates unplaced at each slot, `relevance`, `mask` and `noise` are the lists' (B, K).
    The item at a slot is the one that is gone at the next: the walk decides it, whose ties may be drawn. Where a list
    is not walked (no label tells an order), its first slot is the whole list and there is no other.
    """
    lists, slots, size = policy.shape

    def repeated(table: Tensor) -> Tensor:
        return table[:, None].expand(lists, slots, size).reshape(-1, size)

    later = torch.nn.functional.pad(present[:, 1:], (0, 0, 0, 1))
    return ScoredLists(
        policy.reshape(-1, size),
        reference.reshape(-1, size),
        repeated(relevance),
        present.reshape(-1, size),
        repeated(noise),
        members=repeated(mask),
        here=(present & ~later).reshape(-1, size),
        slots=slots,
    )


def implicit_reward(lists: ScoredLists, *, beta: float, reference_weight: float = 1.0) -> Tensor:
    """s = beta (log pi_theta - alpha log pi_ref) of each candidate, (B, K), nats; 0 where there is no candidate.

    alpha is `reference_weight`: 1 is DPO's implicit reward beta log(pi_theta / pi_ref); at 0 the reference is not read.
    """
    policy = lists.policy - reference_weight * lists.reference if reference_weight else lists.policy
    return beta * torch.where(lists.mask, policy, 0.0)


def masked_sum(values: Tensor, mask: Tensor) -> Tensor:
    """Sum over real candidates, (B, K) -> (B,); 0 for a list that has none."""
    return torch.where(mask, values, torch.zeros_like(values)).sum(-1)


def masked_logsumexp(scores: Tensor, mask: Tensor) -> Tensor:
    """log sum_j exp(s_j) over real candidates, (B, K) -> (B,); 0 (with no gradient) for a list that has none."""
    some = mask.any(-1, keepdim=True)
    filled = torch.where(mask, scores, torch.full_like(scores, -torch.inf))
    return torch.where(some, filled, torch.zeros_like(scores)).logsumexp(-1) * some.squeeze(-1)


def masked_log_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """log softmax over real candidates, (B, K) -> (B, K); 0 where there is no candidate."""
    z = scores - masked_logsumexp(scores, mask)[:, None]
    return torch.where(mask, z, torch.zeros_like(z))


def ranks(values: Tensor, mask: Tensor) -> Tensor:
    """1-based rank of each candidate when sorted by value, best first, ties in given order; (B, K) -> (B, K) long.

    >>> ranks(torch.tensor([[0.0, 2.0, 1.0, 2.0]]), torch.ones(1, 4, dtype=torch.bool))
    tensor([[4, 1, 3, 2]])
    """
    order = torch.where(mask, values, torch.full_like(values, -torch.inf)).argsort(dim=-1, descending=True, stable=True)
    places = torch.arange(1, values.shape[-1] + 1, device=values.device).expand_as(order)
    return torch.empty_like(order).scatter_(-1, order, places)


def pick(values: Tensor, index: Tensor) -> Tensor:
    """values[b, index[b]]; (B, K), (B,) -> (B,)."""
    return values.gather(-1, index[:, None]).squeeze(-1)


def choose(allowed: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """One allowed candidate of each list, the one of highest noise: (index (B,), whether there is one (B,))."""
    return torch.where(allowed, noise, -1.0).argmax(-1), allowed.any(-1)


def more_noise(noise: Tensor, mask: Tensor, count: int) -> Tensor:
    """`count` tables of uniform numbers in (0, 1) from each list's own noise, (B, K) -> (count, B, K) float64.

    A hash of a candidate's number, of those of its whole list and of the table's: it depends on the list alone, not on
    its batch, and a candidate keeps its numbers wherever it stands.
    """
    own = torch.where(mask, _hashed((noise.double() * 2**53).long()), 0)
    tables = torch.arange(1, count + 1, device=noise.device)[:, None, None]
    bits = _hashed(_hashed(own + _hashed(own.sum(-1, keepdim=True))) + _GOLDEN * tables)
    return ((bits >> 12 & 2**52 - 1) + 0.5) * 2.0**-52


_GOLDEN = 0x9E3779B97F4A7C15 - 2**64  # 2^64 over the golden ratio, as a signed number


def _hashed(x: Tensor) -> Tensor:
    """The finaliser of SplitMix64 (Steele et al. 2014), on 64 bits whose product wraps around."""
    x = (x ^ (x >> 30 & 2**34 - 1)) * (0xBF58476D1CE4E5B9 - 2**64)
    x = (x ^ (x >> 27 & 2**37 - 1)) * (0x94D049BB133111EB - 2**64)
    return x ^ (x >> 31 & 2**33 - 1)
