"""Objectives: pure functions of one (B, K) table of log-probabilities. A module of this package is a family.

Adding one: a frozen dataclass with `needs` and `__call__`, decorated with `OBJECTIVES.register`, in any module that is
imported (this package imports its own; `plugins:` names yours).

Those with a reference read s = beta (log pi_theta - alpha log pi_ref), alpha = `reference_weight` in [0, 1]: 1 is the
papers', 0 trains what is ranked by, log pi_theta, and takes no reference.

On the slots of a ranking (`irpo.lists`) every objective counts the terms of the item that stands there alone, against
the candidates still unplaced; what depends on the whole list (ranks, weights, targets) is computed from all of it.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from irpo.lists import ScoredLists
from irpo.registry import Registry
from irpo.types import UserError


@dataclass(frozen=True)
class Needs:
    """What an objective reads, so that nothing else is computed."""

    scores: bool = True  # the policy's (B, K) table
    reference: bool = True  # the reference's (B, K) table
    target: bool = False  # the policy's log-likelihood of the target list
    teacher: bool = False  # another ranker's (B, K) table, which then stands in for the labels
    draws_ties: bool = False  # whether candidates of one label stand in random order, drawn anew in every pass
    min_label: float = 0.0  # what the highest label of a list must reach, where it is above 0, for anything to count
    max_label: float = math.inf  # the highest label it can use


class Objective(Protocol):
    """A loss over lists; its fields are its options."""

    @property
    def needs(self) -> Needs:
        """What it reads; a class variable where no option changes it."""
        ...

    def __call__(self, lists: ScoredLists) -> Tensor:
        """Loss of each list, (B,): summed over its items or pairs, never averaged over the batch."""
        ...


OBJECTIVES: Registry[Objective] = Registry("objective")


def at_least(objective: str, low: float, **options: float | None) -> None:
    """Refuse options below `low`; None is no choice and passes."""
    for name, value in options.items():
        if value is not None and not value >= low:
            raise UserError(f"objective {objective!r}: {name} = {value}; allowed is {low:g} and above")


def above_zero(objective: str, **options: float) -> None:
    """Refuse options that are not above 0."""
    for name, value in options.items():
        if not value > 0:
            raise UserError(f"objective {objective!r}: {name} = {value}; allowed is a number above 0")


def within_one(objective: str, **options: float) -> None:
    """Refuse options outside [0, 1]."""
    for name, value in options.items():
        if not 0 <= value <= 1:
            raise UserError(f"objective {objective!r}: {name} = {value}; allowed is a number from 0 to 1")


def require_label(objective: Objective, highest: float, what: str) -> None:
    """`UserError` where the highest label of `what` is above what the objective can use."""
    most, name = objective.needs.max_label, type(objective).__name__
    if highest > most:
        option = " (its option max_label)" if hasattr(objective, "max_label") else ""
        raise UserError(f"{what} has a label of {highest:g}; {name} uses labels from 0 to {most:g}{option}")


def loss(  # noqa: PLR0913 - the tables, then what is optional
    name: str | Mapping[str, Any] | Objective,
    policy: Tensor,
    reference: Tensor | None,
    relevance: Tensor,
    mask: Tensor | None = None,
    *,
    generator: torch.Generator | None = None,
    target: Tensor | None = None,
    teacher: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """Loss of each list, (B,), by the objective of this name; differentiable with respect to `policy`.

    `policy`, `reference`, `relevance` and `mask` are (B, K): log-probabilities of the candidates in nats, labels >= 0,
    True for a real candidate (default: all). Options are the objective's fields, `metric` a name or a mapping such as
    `{"name": "precision", "k": 5}`. A sampling objective draws from `generator` (default: torch's own). `target` (B,)
    is the target list's log-likelihood, for `sft`; `teacher` (B, K) another ranker's scores, for `kl`, `margin_mse` and
    `ranknet`. Unknown names and options raise `UnknownName`, a missing reference or teacher that the objective needs
    `UserError`.

    >>> policy = reference = torch.tensor([[-3.0, -2.0]], dtype=torch.float64)
    >>> irpo_loss = loss("irpo", policy, reference, torch.tensor([[1.0, 0.0]]), metric="ndcg")
    >>> irpo_loss  # at step 0, log(1 + K) times the sum of weights: log(3) * 1
    tensor([1.0986], dtype=torch.float64)
    """
    objective = OBJECTIVES.build(name, **options) if isinstance(name, (str, Mapping)) else name
    mask = torch.ones_like(policy, dtype=torch.bool) if mask is None else mask.bool()
    noise = torch.rand(policy.shape, generator=generator, dtype=policy.dtype).to(policy.device)
    if reference is None and objective.needs.reference:
        raise UserError(f"objective {type(objective).__name__} needs a reference's log-probabilities, not None")
    if teacher is None and objective.needs.teacher:
        raise UserError(f"objective {type(objective).__name__} needs a teacher's scores, not None")
    require_label(objective, torch.where(mask, relevance.to(policy), 0.0).max().item(), "a list")
    reference = torch.zeros_like(policy) if reference is None else reference
    teacher = None if teacher is None else teacher.to(policy).detach()
    lists = ScoredLists(policy, reference.detach(), relevance.to(policy), mask, noise, target, teacher=teacher)
    return objective(lists)


for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
