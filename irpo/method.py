"""A method: what is optimised, on which log-probabilities, and the seam from the model's scores to the maths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from irpo.chance import number_of
from irpo.encoding import EncodedList, Layout, ListBatch, collate
from irpo.lists import ScoredLists, slot_lists
from irpo.objectives import Objective
from irpo.scorers import Length, Scorer, Scores, in_budget, lay_out
from irpo.types import UserError

Reference = Literal["adapters_off", "precomputed", "none"]


@runtime_checkable
class Sampled(Protocol):
    """An objective of which only some candidates need a gradient; the others' scores are taken without."""

    def select(self, lists: ScoredLists) -> Tensor:
        """Those candidates, (B, K) bool."""
        ...


@dataclass(frozen=True)
class Method:
    """What is optimised, and on which log-probabilities."""

    objective: Objective
    scorer: Scorer
    length: Length = "sum"
    reference: Reference = "adapters_off"
    nll_weight: float = 0.0  # of the target list's negative log-likelihood, added to any objective

    def __post_init__(self) -> None:
        if self.objective.needs.reference and self.reference == "none":
            name = type(self.objective).__name__
            raise UserError(f"method.reference is 'none', but {name} needs one: adapters_off or precomputed")

        if isinstance(self.objective, Sampled) and not self.scorer.separable:
            name = type(self.scorer).__name__
            raise UserError(f"a sampled objective scores some candidates apart from the others, which {name} cannot")

    @property
    def reads_target(self) -> bool:
        """Whether the target list's log-likelihood is needed."""
        return self.objective.needs.target or self.nll_weight > 0

    def require_labels(self, items: Sequence[EncodedList], places: Mapping[str, str] | None = None) -> None:
        """`UserError` where a list has a label that the objective cannot use; `places` are the ids' `file:line`."""
        name, needs = type(self.objective).__name__, self.objective.needs
        option = " (its option max_label)" if hasattr(self.objective, "max_label") else ""
        for item in items:
            high = max(item.relevance)
            place = (places or {}).get(item.id)
            where = f"{place}: " if place else ""
            if high > needs.max_label:
                allowed = f"{name} uses labels from 0 to {needs.max_label:g}{option}"
                raise UserError(f"{where}list {item.id!r} has a label of {high:g}; {allowed}")
            if 0 < high < needs.min_label:
                counted = f"{name} with these options counts {needs.min_label:g} and above"
                raise UserError(f"{where}list {item.id!r} has no label above {high:g}; {counted}")

    def lay_out(self, items: Sequence[EncodedList]) -> list[Layout]:
        """Lists laid out with just what the objective reads."""
        return lay_out(items, self.scorer if self.objective.needs.scores else None, target=self.reads_target)

    def batch(self, items: Sequence[EncodedList], pad_id: int) -> ListBatch:
        """All the lists in one batch."""
        return collate(items, self.lay_out(items), pad_id=pad_id)

    def batches(self, items: Sequence[EncodedList], pad_id: int, tokens: int) -> Iterator[ListBatch]:
        """The lists in batches of at most `tokens` tokens, a longer list alone."""
        layouts = self.lay_out(items)
        for group in in_budget(layouts, tokens):
            yield collate([items[i] for i in group], [layouts[i] for i in group], pad_id=pad_id)

    def loss(self, lists: ScoredLists) -> Tensor:
        """Loss of each list, (B,)."""
        losses = self.objective(lists)
        if lists.target is not None and self.nll_weight:
            losses = losses - self.nll_weight * lists.target
        return lists.per_list(losses)


def list_noise(batch: ListBatch, *, seed: int, epoch: int) -> Tensor:
    """Uniform numbers (B, K) that depend on seed, pass and list alone, however lists are batched."""
    noise = torch.zeros(batch.mask.shape)
    for row, name, size in zip(noise, batch.names, batch.mask.sum(-1).tolist(), strict=True):
        generator = torch.Generator().manual_seed(number_of(f"{seed}:{epoch}:{name}") >> 1)
        row[:size] = torch.rand(size, generator=generator)
    return noise.to(batch.mask.device)


def table_of(batch: ListBatch, policy: Scores, reference: Tensor, noise: Tensor) -> ScoredLists:
    """The seam: what the model gave, (B, I, K), as the lists that an objective sees."""
    if batch.ranks > 1:
        slots = slot_lists(policy.table, reference, policy.present, batch.relevance, batch.mask, noise)
        if policy.target is None:
            return slots
        # The target list's likelihood stands at a list's first slot, so that it is counted once.
        return replace(slots, target=policy.target.new_zeros(len(slots.mask)).index_put((slots.starts,), policy.target))
    return ScoredLists(policy.first, reference[:, 0], batch.relevance, batch.mask, noise, policy.target)
