"""Which term of a loss weighs how much: in the loss itself, and in the norm of its gradient."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from irpo.progress import say

ANCHOR = "anchor"
EVERY = 10  # log lines from one that shows the gradient's shares to the next; the first is one
HEAVY = 10.0  # how many times the other terms' gradient the anchor's may be before the user is told

Terms = Mapping[str, Tensor]  # of each list, (B,), by name


def shares(sizes: Mapping[str, float], of: str = "share") -> dict[str, float]:
    """Each term's part of the sum of absolute sizes; {} where all are 0.

    >>> shares({"objective": 3.0, "anchor": 1.0})
    {'objective_share': 0.75, 'anchor_share': 0.25}
    """
    total = sum(abs(size) for size in sizes.values())
    return {f"{name}_{of}": abs(size) / total for name, size in sizes.items()} if total else {}


def gradient_shares(terms: Callable[[], Terms], parameters: Iterable[Tensor], *, warn: bool) -> dict[str, float]:
    """Each term's part of the sum of their gradients' norms; {} where memory runs out. `warn` of a heavy anchor.

    `terms` makes a forward pass; a backward pass for each term follows. What it finds it leaves: no parameter's `.grad`
    is touched, and the random numbers that come next are those that would have come.
    """
    learning = [p for p in parameters if p.requires_grad]
    cards = {p.device for p in learning if p.device.type == "cuda"}
    norms: dict[str, float] = {}
    with contextlib.suppress(torch.OutOfMemoryError), torch.random.fork_rng(list(cards)):
        norms = {name: gradient_norm(term.sum(), learning) for name, term in terms().items()}
    if warn and (note := heavy_anchor(norms)):
        say(note)
    return shares(norms, "gradient_share")


def gradient_norm(value: Tensor, parameters: list[Tensor]) -> float:
    """The norm of a number's gradient; no parameter's `.grad` is touched, and the number's graph stays."""
    if not value.requires_grad:
        return 0.0
    gradients = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True, materialize_grads=True)
    return float(torch.stack([gradient.float().norm() for gradient in gradients]).norm())


def heavy_anchor(norms: Mapping[str, float]) -> str | None:
    """What to tell of an anchor whose gradient is ten times the other terms' or more; None where it is not."""
    others = sum(norm for name, norm in norms.items() if name != ANCHOR)
    anchor = norms.get(ANCHOR, 0.0)
    if not anchor or anchor < HEAVY * others:
        return None
    times = f"{anchor / others:.0f} times the objective's" if others else "all there is"
    return (
        f"note: the anchor's gradient is {times}: the run learns the target list's text, as sft does; lower "
        "method.nll_weight to train the objective"
    )
