"""What one of several processes holds of a model whose weights FSDP2 has spread over them (`scoring.sharding.shard`).

At rest it has its part of each weight, gradient and state of AdamW; an adapter is whole everywhere. Put together are
the embedding, norms and head, from the forward pass to the end of the backward pass; one layer; and the next one,
fetched ahead. A layer's gradients are whole, twice, when its backward pass ends: as they are, and in the order in which
they are sent.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from irpo.estimate.ledger import LEARNING, Ledger
from irpo.scoring.models import causal_lm
from irpo.scoring.sharding import layers_of


def part(tensor: Tensor, processes: int, whole: int = 0) -> int:
    """Bytes that the first process keeps of a tensor cut along its first axis; `whole` of them are not cut."""
    rows = tensor.shape[0]
    return whole + (tensor.nbytes - whole) * -(-rows // processes) // rows


@dataclass
class Parts:
    """A simulated model's weights, by what is put together at once: the layers, one each, and all the rest."""

    model: Any
    processes: int
    layers: list[list[Tensor]] = field(init=False)
    rest: list[Tensor] = field(init=False)

    def __post_init__(self) -> None:
        lm = causal_lm(self.model)
        named = [(name, p) for name, p in lm.named_parameters() if ".lora_" not in name]
        self._constants = {m.weight: m.constants for m in lm.modules() if hasattr(m, "constants")}
        theirs = [set(layer.parameters()) for layer in layers_of(lm)]
        self.layers = [[p for _, p in named if p in own] for own in theirs]
        inside = set().union(*theirs)
        self.rest = [p for _, p in named if p not in inside]

    def bytes_of(self, unit: Iterable[Tensor]) -> int:
        """Bytes of a unit when it is put together; constants of 4-bit weights are always whole, and counted at rest."""
        return sum(p.nbytes - self._constants.get(p, 0) for p in unit)

    @property
    def together(self) -> int:
        """Bytes of weights that are put together at a time, at most."""
        largest = sorted(map(self.bytes_of, self.layers))[-2:]
        return self.bytes_of(self.rest) + sum(largest)

    def take_apart(self, ledger: Ledger, *, accumulates: bool) -> None:
        """Count the weights that are in the ledger by their parts; their gradients, too, from when they are sent.

        Where gradients of earlier micro-batches are there (`accumulates`), their parts are counted from the beginning.
        """
        for unit in (*self.layers, self.rest):
            for weight in unit:
                ledger.shrink(weight, part(weight, self.processes, self._constants.get(weight, 0)))
            self._send(ledger, [p for p in unit if p.requires_grad], accumulates=accumulates)
        if self.rest and not self.rest[0].requires_grad:
            return
        for state in self.model.adamw:
            ledger.shrink(state, part(state, self.processes))

    def _send(self, ledger: Ledger, unit: list[Tensor], *, accumulates: bool) -> None:
        if accumulates:
            ledger.hold(sum(part(p, self.processes) for p in unit), LEARNING)
        missing = len(unit)

        def have(_: Tensor) -> None:
            nonlocal missing
            missing -= 1
            if missing:
                return
            ledger.pass_by(sum(p.nbytes for p in unit))
            for weight in unit:
                if weight.grad is None:
                    raise RuntimeError("a hook for gradients ran before there was one")
                ledger.shrink(weight.grad, 0 if accumulates else part(weight, self.processes))

        for weight in unit:
            weight.register_post_accumulate_grad_hook(have)  # type: ignore[no-untyped-call]
