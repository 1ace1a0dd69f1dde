"""A weighted sum of objectives."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from irpo.lists import ScoredLists
from irpo.objectives import Needs, Objective, at_least
from irpo.types import UserError


@dataclass(frozen=True)
class Mixture:
    """sum of weight * loss over the parts; it needs what any of them needs. Not registered: built of built ones."""

    parts: tuple[tuple[float, Objective], ...]  # (weight, objective)

    def __post_init__(self) -> None:
        if not self.parts:
            raise UserError("objectives: an empty list; name at least one")
        for weight, part in self.parts:
            if isinstance(weight, bool) or not isinstance(weight, (int, float)):
                raise UserError(f"objectives: weight = {weight!r}; a weight is a number")
            at_least(type(part).__name__, 0, weight=weight)
            if hasattr(part, "select"):
                raise UserError("objectives: irpo_sampled saves nothing in a mixture; name irpo there")

    @property
    def needs(self) -> Needs:
        """The union."""
        all_needs = [part.needs for _, part in self.parts]
        return Needs(
            scores=any(needs.scores for needs in all_needs),
            reference=any(needs.reference for needs in all_needs),
            target=any(needs.target for needs in all_needs),
            teacher=any(needs.teacher for needs in all_needs),
            draws_ties=any(needs.draws_ties for needs in all_needs),
            min_label=max(needs.min_label for needs in all_needs),
            max_label=min(needs.max_label for needs in all_needs),
        )

    def __call__(self, lists: ScoredLists) -> Tensor:
        return torch.stack([weight * part(lists) for weight, part in self.parts]).sum(0)
