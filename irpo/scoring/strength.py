r"""How much of the reference a ranking keeps: log pi_ref + lambda (log pi - log pi_ref), the model's *strength* lambda.

A loss with a reference trains log pi - log pi_ref; log pi itself still carries the base model's prior over texts. At 1
the score is the policy's, in the limit it is the implicit reward alone; in between it emulates a model that was trained
with beta / lambda (decoding-time realignment, Liu et al. 2024, arXiv 2402.02992; proxy tuning, arXiv 2401.08565). `by`
adapter is the cheap likeness: one pass of a model whose low-rank update is lambda times as large. The reference is the
model without its adapter, whatever the objective was trained against.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from irpo.types import UserError

# What is heavy is imported where it is used: a configuration's strength is checked before that is loaded.
if TYPE_CHECKING:
    from torch import Tensor

    from irpo.scoring.kept import Kept
    from irpo.scoring.layout import Length, Scorer
    from irpo.scoring.tokens import EncodedList

StrengthBy = Literal["logits", "adapter"]
Way = Callable[[], AbstractContextManager[None]]  # the model is run within it

GRID: tuple[float, ...] = (0.5, 1, 1.5, 2, 3, 5, 10, math.inf)  # what `auto` chooses from


@dataclass(frozen=True)
class Strength:
    """How far a ranker goes from the reference through the policy, and by what."""

    value: float = 1.0  # > 0; math.inf: the implicit reward alone
    by: StrengthBy = "logits"

    def __post_init__(self) -> None:
        if not self.value > 0:
            raise UserError(f"strength {self.value}: give a number above 0, or 'reward'")
        if math.isinf(self.value) and self.by == "adapter":
            raise UserError("strength 'reward' has no likeness in an adapter: give a number, or take it by 'logits'")

    @property
    def plain(self) -> bool:
        """Whether it is the policy itself, which costs one pass and asks for no adapter."""
        return self.value == 1

    def require(self, model: Any) -> None:
        """`UserError` where the model has no adapter to take off or to scale, and this needs one."""
        from irpo.scoring.models import adapter_layers

        self.require_adapter(self.plain or bool(adapter_layers(model)))

    def require_adapter(self, there: bool) -> None:
        """`UserError` where there is none, and this needs one."""
        if not self.plain and not there:
            raise UserError(
                f"strength {named(self.value)} needs a LoRA adapter, without which policy and reference are one; this "
                "model has none: leave the strength at 1"
            )

    def require_writing(self) -> None:
        """`UserError` at `reward`: of all continuations it knows which to prefer, and not which are language."""
        if math.isinf(self.value):
            raise UserError("strength 'reward' ranks and cannot write freely: give a number, or take mode constrain")

    def ways(self, model: Any) -> list[Way]:
        """How the model is run, once a way: as the policy, and by logits once more as the reference."""
        from irpo.scoring.models import adapter_off

        self.require(model)
        if self.plain or self.by == "adapter":
            return [lambda: adapter_scaled(model, self.value)]
        return [nullcontext, lambda: adapter_off(model)]

    def of(self, found: Sequence[Tensor]) -> Tensor:
        """One table from those that the `ways` gave."""
        return found[0] if len(found) == 1 else at_strength(found[0], found[1], self.value)


PLAIN = Strength()


def named(value: float) -> str:
    """A strength's value as users write it.

    >>> named(1.5), named(3.0), named(math.inf)
    ('1.5', '3', 'reward')
    """
    return "reward" if math.isinf(value) else f"{value:g}"


def at_strength(policy: Tensor, reference: Tensor, value: float) -> Tensor:
    """reference + value * (policy - reference), policy - reference at infinity; log-probabilities of any one shape.

    At 1 it is `policy` itself, bit for bit.
    """
    if value == 1:
        return policy
    reward = policy - reference
    return reward if math.isinf(value) else reference + value * reward


@contextmanager
def adapter_scaled(model: Any, value: float) -> Iterator[None]:
    """The model with its LoRA update, (alpha / r) B A, `value` times as large for as long as this lasts."""
    if value == 1:
        yield
        return
    from irpo.scoring.models import adapter_layers

    layers = [layer for layer in adapter_layers(model) if "scaling" in layer]
    scalings = [layer["scaling"] for layer in layers]
    for layer, scaling in zip(layers, scalings, strict=True):
        layer["scaling"] = {name: value * factor for name, factor in scaling.items()}
    try:
        yield
    finally:
        for layer, scaling in zip(layers, scalings, strict=True):
            layer["scaling"] = scaling


def score_at(  # noqa: PLR0913 - as `score_lists`, the strength, and what is kept
    model: Any,
    tokenizer: Any,
    items: Sequence[EncodedList],
    scorer: Scorer,
    strength: Strength,
    *,
    length: Length = "sum",
    kept: Kept | None = None,
) -> list[Tensor]:
    """`score_lists` at a strength, (K,) each: one pass, or by logits one with the adapter and one without.

    With `kept` prompts of blocks take from there what it holds of their candidates (`irpo.scoring.kept`).
    """
    from irpo.scoring.forward import score_lists
    from irpo.scoring.kept import score_kept

    found = []
    for way in strength.ways(model):
        with way():
            if kept is not None:
                found.append(score_kept(model, items, scorer, kept, length=length))
            else:
                found.append(score_lists(model, tokenizer, items, scorer, length=length))
    return [strength.of(tables) for tables in zip(*found, strict=True)]
