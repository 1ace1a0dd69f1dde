"""Whether an update may be taken: losses, gradient and weights are finite, or the run ends before the step.

One flag an update is read from the device; which lists are to blame is looked up only where it says no. Every process
of a job sees the same flag, so all of them stop at the same update.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from irpo.processes import count, gather
from irpo.scoring.tokens import EncodedList
from irpo.types import Diverged

SHOWN = 3  # ids in the line; the file has all

Norm = Callable[[EncodedList], float]  # of the gradient of one list's loss alone


@dataclass
class Watch:
    """The update that is being made, list by list, and which lists the one before was made of."""

    names: list[str] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)  # of each micro-batch, (lists,), left on the device
    items: tuple[EncodedList, ...] = ()  # the update's lists of this process
    before: tuple[str, ...] = ()  # ids of the lists of the last step that was taken

    def begin(self, items: Sequence[EncodedList]) -> None:
        """An update begins, or begins anew where memory ran out."""
        self.names, self.losses, self.items = [], [], tuple(items)

    def add(self, names: Sequence[str], losses: Tensor) -> None:
        """A micro-batch's losses, (lists,)."""
        self.names += names
        self.losses.append(losses.detach())

    def require(self, norm: Tensor | float, model: Any, update: int, alone: Norm | None = None) -> None:
        """`Diverged` where a loss or the gradient's norm of the update is not finite; called before the step.

        `alone` looks for the lists to blame for a gradient; with several processes, each of which would have to look at
        as many, nobody does.
        """
        device = next(model.parameters()).device
        held, losses = (
            _local(torch.as_tensor(norm)).to(device),
            torch.cat([torch.zeros(0, device=device), *self.losses]),
        )
        if _everywhere(losses.isfinite().all() & held.isfinite().all()):
            self.before = tuple(item.id for item in self.items)
            return
        if not finite_weights(model):
            raise self._diverged("weights", update - 1, self.before)
        wrong = [name for name, loss in zip(self.names, losses.tolist(), strict=True) if not _finite(loss)]
        if any(gather([bool(wrong)])):
            raise self._diverged("loss", update, wrong, wrong)
        if alone is not None and count() == 1:
            model.zero_grad()  # room for the gradients of a list
            wrong = [item.id for item in self.items if not _finite(alone(item))]
        raise self._diverged("gradient", update, wrong or [item.id for item in self.items], wrong)

    def require_weights(self, model: Any, update: int) -> None:
        """`Diverged` where a weight that learns is not finite after an update: nothing of it is saved or measured."""
        if not finite_weights(model):
            raise self._diverged("weights", update, self.before)

    def _diverged(self, what: str, update: int, lists: Iterable[str], to_blame: Iterable[str] = ()) -> Diverged:
        """The error, with the lists of all processes: `to_blame`, or, where there are none, all of the update."""
        everyone = [name for part in gather([list(lists)]) for name in part]
        known = any(gather([bool(list(to_blame))]))
        shown = ", ".join(everyone[:SHOWN]) + (", ..." if len(everyone) > SHOWN else "")
        whose = f"{len(everyone)} list(s): {shown}" if everyone else "lists that are not known"
        verb = "are" if what == "weights" else "is"
        text = f"update {update}: the {what} {verb} not finite, {'in' if known else 'after an update of'} {whose}"
        found = {"update": update, "what": what, "lists": everyone, "known": known}
        return Diverged(f"{text}; lower the learning rate", found)


@torch.no_grad()
def finite_weights(model: Any) -> bool:
    """Whether every weight that learns is a number, in all processes."""
    flags = [_local(p).isfinite().all() for p in model.parameters() if p.requires_grad]
    return not flags or _everywhere(torch.stack([flag.to(flags[0].device) for flag in flags]).all())


def _everywhere(flag: Tensor) -> bool:
    """Whether the flag is up in every process: one number from the device, the same answer for all."""
    if count() > 1:
        flag = flag.to(torch.float32)
        torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MIN)
    return bool(flag)


def _local(tensor: Any) -> Tensor:
    """What of a sharded tensor lies here."""
    whole: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return whole


def _finite(value: float) -> bool:
    return value - value == 0
