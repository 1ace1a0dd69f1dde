"""On-policy training: rounds of drawing answers from the policy, judging them, and training on them.

A module of this package is a method, but for those that all methods share (`_SHARED`). Adding one: a frozen dataclass
with `course`, `require_sound`, `lists` and `measures`, decorated with `ON_POLICY.register`, in any module that is
imported (this package imports its own; `plugins:` names yours). What all methods share (how many rounds, how answers
are drawn) stands in the section `online` of the configuration, what one alone reads is a field of its class:
`online.method: {name: larpo, memory: all}`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from irpo.registry import Registry

if TYPE_CHECKING:
    from irpo.config.schema import OnlineConfig
    from irpo.online.policy import Policy, Round
    from irpo.scoring.tokens import EncodedList, PromptedList
    from irpo.training.method import Method
    from irpo.types import Style

Account = dict[str, Any]  # what a round drew and left out, as its state.json tells it


@dataclass(frozen=True)
class Course:
    """What the rounds of a method are like, so that nobody asks for its name."""

    compares: bool = True  # the answers to a prompt are its candidates; False: each drawn ranking is a list of its own
    every_update: bool = False  # answers are drawn anew at each update, from the policy as it then is, not once a round
    constrains: bool = False  # it trains on answers that were drawn along walks as well (`online.draw: constrained`)
    earlier: int | None = 0  # rounds whose answers compete again, so that all ask the same prompts; None: all of them


class OnPolicy(Protocol):
    """How what the policy draws becomes the lists that it is trained on; its fields are its options."""

    @property
    def course(self) -> Course:
        """What its rounds are like; a class variable where no option changes it."""
        ...

    def require_sound(self, online: OnlineConfig, style: Style, method: Method) -> None:
        """`UserError` where the run's other settings do not fit, beyond what its course rules out; before any work."""
        ...

    def lists(self, policy: Policy, now: Round) -> tuple[list[EncodedList], Account]:
        """The lists to train on in this round (or at this update, as its course says), and how they came about."""
        ...

    def measures(self, policy: Policy, questions: Sequence[PromptedList]) -> dict[str, float]:
        """Measures of its own on prompts that nothing is trained on, each a mean; {} where it has none."""
        ...


ON_POLICY: Registry[OnPolicy] = Registry("on-policy method")

_SHARED = ("curves", "drawing", "policy", "pools", "questions", "rewards", "rounds")
for _module in pkgutil.iter_modules(__path__):
    if _module.name not in _SHARED:
        importlib.import_module(f"{__name__}.{_module.name}")
