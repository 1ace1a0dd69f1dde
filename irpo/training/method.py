"""A method: what is optimised, on which log-probabilities, and the seam from the model's scores to the maths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from irpo.chance import number_of
from irpo.lists import ScoredLists, slot_lists
from irpo.objectives import Objective, require_label
from irpo.objectives.mixture import Mixture
from irpo.scoring.batching import ListBatch, collate, make_batch
from irpo.scoring.forward import Scores, score_batch
from irpo.scoring.layout import Layout, Length, Scorer, add_target, in_budget, lay_out
from irpo.scoring.models import adapter_off
from irpo.scoring.tokens import EncodedList
from irpo.training.shares import ANCHOR, Terms
from irpo.types import UserError

Reference = Literal["adapters_off", "precomputed", "none"]


class Labelled(Protocol):
    """A list as far as it says what is to be learned: an example, or its tokens."""

    @property
    def id(self) -> str:
        """Its name."""
        ...

    @property
    def relevance(self) -> tuple[float, ...]:
        """The candidates' labels."""
        ...

    @property
    def teacher(self) -> tuple[float, ...] | None:
        """Another ranker's scores of them; None or empty where there are none."""
        ...


@runtime_checkable
class SampledObjective(Protocol):
    """An objective of which only some candidates need a gradient; the others' scores are taken without."""

    def select(self, lists: ScoredLists) -> Tensor:
        """Those candidates, (B, K) bool."""
        ...


@dataclass(frozen=True)
class Noise:
    """The chance of a step: uniform numbers that depend on seed, pass and list alone, however lists are batched."""

    seed: int = 0
    epoch: int = 0

    def of(self, item: EncodedList) -> Tensor:
        """One number a candidate, (K,)."""
        generator = torch.Generator().manual_seed(number_of(f"{self.seed}:{self.epoch}:{item.id}") >> 1)
        return torch.rand(len(item.bodies), generator=generator)

    def table(self, batch: ListBatch) -> Tensor:
        """Those of a batch's lists, (B, K), 0 on padding, on its device."""
        table = torch.zeros(batch.mask.shape)
        for row, item in zip(table, batch.items, strict=True):
            row[: len(item.bodies)] = self.of(item)
        return table.to(batch.mask.device, non_blocking=True)


@dataclass(frozen=True)
class Method:
    """What is optimised, and on which log-probabilities."""

    objective: Objective
    scorer: Scorer
    length: Length = "sum"
    reference: Reference = "adapters_off"
    nll_weight: float = 0.0  # of the anchor, added to any objective: the target list's NLL, the mean over its tokens

    def __post_init__(self) -> None:
        if self.objective.needs.reference and self.reference == "none":
            name = type(self.objective).__name__
            raise UserError(f"method.reference is 'none', but {name} needs one: adapters_off or precomputed")

        if isinstance(self.objective, SampledObjective) and not self.scorer.separable:
            name = type(self.scorer).__name__
            raise UserError(f"a sampled objective scores some candidates apart from the others, which {name} cannot")

        if self.draws_walks and self.objective.needs.reference and self.reference == "precomputed":
            name = type(self.objective).__name__
            raise UserError(
                f"{name} with the scorer {type(self.scorer).__name__} draws the order of ties anew in every pass, and "
                "a precomputed reference knows one; set method.reference=adapters_off"
            )

    @property
    def sampled(self) -> bool:
        """Whether only some candidates get a gradient, which the policy's own scores decide."""
        return isinstance(self.objective, SampledObjective)

    @property
    def draws_walks(self) -> bool:
        """Whether the scorer walks the target list, and the objective wants its ties drawn."""
        return self.objective.needs.draws_ties and bool(getattr(self.scorer, "walks", False))

    @property
    def reads_target(self) -> bool:
        """Whether the target list's log-likelihood is needed."""
        return self.objective.needs.target or self.nll_weight > 0

    def require_labels(self, items: Sequence[Labelled], places: Mapping[str, str] | None = None) -> None:
        """`UserError` where a list has not what the objective learns from; `places` are the ids' `file:line`."""
        name, needs = type(self.objective).__name__, self.objective.needs
        for item in items:
            high = max(item.relevance)
            place = (places or {}).get(item.id)
            where = f"{place}: " if place else ""
            self._require_taught(item, where)
            require_label(self.objective, high, f"{where}list {item.id!r}")
            if 0 < high < needs.min_label:
                counted = f"{name} with these options counts {needs.min_label:g} and above"
                raise UserError(f"{where}list {item.id!r} has no label above {high:g}; {counted}")

    def _require_taught(self, item: Labelled, where: str) -> None:
        """`UserError` where a list has no teacher for an objective that needs one, or nothing but a teacher."""
        parts = [part for _, part in _parts(self.objective).values()]
        taught = [type(part).__name__ for part in parts if part.needs.teacher]
        others = [type(part).__name__ for part in parts if not part.needs.teacher]
        if taught and not item.teacher:
            what = f"list {item.id!r} has no teacher scores (key 'teacher' of its candidates)"
            raise UserError(f"{where}{what}; {taught[0]} learns from them")
        if item.teacher and not any(item.relevance) and (self.reads_target or others):
            reader = others[0] if others else "method.nll_weight above 0"
            raise UserError(f"{where}list {item.id!r} has teacher scores alone; {reader} learns from labels")

    def lay_out(self, items: Sequence[EncodedList], noise: Noise | None = None) -> list[Layout]:
        """Lists laid out with just what the objective reads; without noise, ties stand in the given order."""
        layouts = lay_out(self._walked(items, noise), self.scorer if self.objective.needs.scores else None)
        if self.reads_target:
            for item, layout in zip(items, layouts, strict=True):
                add_target(layout, item)
        return layouts

    def batch(self, items: Sequence[EncodedList], pad_id: int, noise: Noise | None = None) -> ListBatch:
        """All the lists in one batch."""
        return collate(items, self.lay_out(items, noise), pad_id=pad_id)

    def batches(
        self, items: Sequence[EncodedList], pad_id: int, tokens: int, noise: Noise | None = None
    ) -> Iterator[ListBatch]:
        """The lists in batches of at most `tokens` tokens, a longer list alone."""
        layouts = self.lay_out(items, noise)
        for group in in_budget(layouts, tokens):
            yield collate([items[i] for i in group], [layouts[i] for i in group], pad_id=pad_id)

    def _walked(self, items: Sequence[EncodedList], noise: Noise | None) -> Sequence[EncodedList]:
        """The lists as the scorer lays them out: their ties drawn, where that is wanted."""
        return [untied(item, noise.of(item)) for item in items] if noise and self.draws_walks else items

    def reference_scores(self, model: Any, batch: ListBatch, noise: Noise, known: Mapping[str, Tensor]) -> Tensor:
        """log pi_ref(e_j | x), (B, I, K), nats: from `known` tables (I, K) by the list's id, else the adapter off."""
        device = batch.mask.device
        found = torch.zeros(len(batch), batch.ranks, batch.mask.shape[1])
        if not self.objective.needs.reference:
            return found.to(device, non_blocking=True)
        if self.reference == "precomputed":
            for row, name in zip(found, batch.names, strict=True):
                row[: known[name].shape[0], : known[name].shape[1]] = known[name]
            return found.to(device, non_blocking=True)
        alone = self.scored(batch.items, noise).to(device) if batch.target else batch
        with torch.no_grad(), adapter_off(model):
            return score_batch(model, alone, length=self.length).table

    def policy_scores(self, model: Any, batch: ListBatch, noise: Noise, reference: Tensor) -> Scores:
        """log pi_theta(e_j | x), (B, I, K), nats; of a sampled objective, a gradient where it selects alone."""
        if not isinstance(self.objective, SampledObjective):
            return score_batch(model, batch, length=self.length)
        with torch.no_grad():
            scores = score_batch(model, self.scored(batch.items).to(batch.mask.device), length=self.length)
        chosen = self.objective.select(table_of(batch, scores, reference, noise)).cpu()
        if not chosen.any():  # no list has a relevant candidate: all losses are 0, and so is what one teaches
            chosen[0, 0] = True
        drawn, *target = (part.to(batch.mask.device) for part in self.live(batch.items, chosen))
        live = score_batch(model, drawn, length=self.length)
        lists, columns = chosen.nonzero(as_tuple=True)
        values = live.first[lists, chosen.cumsum(-1)[lists, columns] - 1]
        places = tuple(index.to(values.device) for index in (lists, torch.zeros_like(lists), columns))
        table = scores.table.index_put(places, values)
        if not target:
            return replace(scores, table=table)
        text = score_batch(model, target[0])
        return Scores(table, scores.present, text.target, text.target_tokens)

    def scored(self, items: Sequence[EncodedList], noise: Noise | None = None) -> ListBatch:
        """The lists' candidates alone, without the target list's branch."""
        return make_batch(self._walked(items, noise), self.scorer)

    def live(self, items: Sequence[EncodedList], chosen: Tensor) -> tuple[ListBatch, ...]:
        """What a sampled objective computes a gradient through: the chosen candidates, (B, K) bool; the target list."""
        drawn = [item.only(row.nonzero()[:, 0].tolist()) for item, row in zip(items, chosen, strict=True)]
        target = (make_batch(items, None, target=True),) if self.reads_target else ()
        return (self.scored(drawn), *target)

    def loss(self, lists: ScoredLists) -> Tensor:
        """Loss of each list, (B,)."""
        return summed(self.terms(lists))

    @property
    def term_names(self) -> tuple[str, ...]:
        """The names of the terms: `objective`, or the parts of a mixture; `anchor`, where it has a weight."""
        return (*_parts(self.objective), *([ANCHOR] if self.nll_weight else []))

    def terms(self, lists: ScoredLists) -> dict[str, Tensor]:
        """The terms whose sum is the loss, by their names; of each list, (B,).

        The anchor is -nll_weight log pi_theta(target | x) / tokens (Pang et al. 2024, arXiv 2404.19733; TRL's
        `rpo_alpha`, now its loss type `sft`). The mean is over the list's own tokens, where TRL's is over the batch's:
        a weight means the same for short lists and long, and no loss depends on how lists are batched.
        """
        parts = _parts(self.objective)
        terms = {name: weight * lists.per_list(_losses(part, lists)) for name, (weight, part) in parts.items()}
        if self.nll_weight and (nll := lists.target_per_token) is not None:
            terms[ANCHOR] = -self.nll_weight * lists.per_list(nll)
        return terms


def summed(terms: Terms) -> Tensor:
    """The sum of a loss's terms, (B,)."""
    return torch.stack([*terms.values()]).sum(0)


def _parts(objective: Objective) -> dict[str, tuple[float, Objective]]:
    """What an objective is a weighted sum of, by name; equal names are numbered."""
    if not isinstance(objective, Mixture):
        return {"objective": (1.0, objective)}
    named: dict[str, tuple[float, Objective]] = {}
    for weight, part in objective.parts:
        name = type(part).__name__
        twins = sum(isinstance(other, type(part)) for _, other in named.values())
        named[f"{name} {twins + 1}" if twins else name] = (weight, part)
    return named


def _losses(objective: Objective, lists: ScoredLists) -> Tensor:
    """The objective's loss of each row, (B,)."""
    losses = objective(lists)
    if losses.shape != lists.policy.shape[:1]:
        name, rows = type(objective).__name__, len(lists.policy)
        raise UserError(f"{name} gave losses of shape {tuple(losses.shape)} for {rows} lists; a list has one loss")
    return losses


def untied(item: EncodedList, noise: Tensor) -> EncodedList:
    """The list with labels that say its target order alone, its ties by their numbers, highest first."""
    if not any(item.relevance):
        return item
    numbers, size = noise.tolist(), len(item.bodies)
    order = sorted(range(size), key=lambda j: (-item.relevance[j], -numbers[j]))
    return replace(item, relevance=tuple(float(size - order.index(j)) for j in range(size)))


def table_of(batch: ListBatch, policy: Scores, reference: Tensor, noise: Noise) -> ScoredLists:
    """The seam: what the model gave, (B, I, K), as the lists that an objective sees."""
    drawn = noise.table(batch)
    if batch.ranks == 1:
        tables = (policy.first, reference[:, 0], batch.relevance, batch.mask, drawn)
        return ScoredLists(*tables, policy.target, target_tokens=policy.target_tokens, teacher=batch.teacher)
    rows = slot_lists(policy.table, reference, policy.present, batch.relevance, batch.mask, drawn)
    if batch.teacher is not None:
        rows = replace(rows, teacher=batch.teacher.repeat_interleave(batch.ranks, 0))
    if policy.target is None or policy.target_tokens is None:
        return rows
    # The target list's likelihood stands at a list's first slot, so that it is counted once.
    others = policy.target.new_zeros(len(batch), batch.ranks - 1)
    target, tokens = (torch.cat([at[:, None], others], 1).flatten() for at in (policy.target, policy.target_tokens))
    return replace(rows, target=target, target_tokens=tokens)
