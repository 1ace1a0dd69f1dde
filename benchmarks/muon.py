"""Muon (Jordan 2024) for matrices on a CPU: momentum, made orthogonal by five Newton-Schulz steps in float32.

`torch.optim.Muon` runs them in bfloat16, one matrix at a time, which a CPU without bfloat16 units does 20 times slower.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

_A, _B, _C = 3.4445, -4.7750, 2.0315  # the quintic's coefficients


def orthogonal(matrices: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrices, roughly; (N, rows, columns), rows <= columns."""
    x = matrices / (matrices.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        a = x @ x.mT
        x = _A * x + (_B * a + _C * a @ a) @ x
    return x


class Muon(torch.optim.Optimizer):
    """Matrices of equal shape are stacked and orthogonalised together."""

    def __init__(self, matrices: Iterable[Tensor], lr: float, momentum: float = 0.95) -> None:
        by_shape: dict[tuple[int, ...], list[Tensor]] = {}
        for matrix in matrices:
            by_shape.setdefault(tuple(matrix.shape), []).append(matrix)
        super().__init__([{"params": same} for same in by_shape.values()], {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """One update of every matrix."""
        for group in self.param_groups:
            gradients = torch.stack([p.grad for p in group["params"]])
            state = self.state[group["params"][0]]
            average = state.setdefault("average", torch.zeros_like(gradients))
            average.lerp_(gradients, 1 - group["momentum"])
            update = gradients.lerp(average, group["momentum"])  # Nesterov
            rows, columns = update.shape[1:]
            update = orthogonal(update.mT).mT if rows > columns else orthogonal(update)
            size = group["lr"] * math.sqrt(max(1.0, rows / columns))
            for parameter, change in zip(group["params"], update, strict=True):
                parameter.sub_(change, alpha=size)
