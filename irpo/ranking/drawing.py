"""Whole answers drawn from the policy: along the walks of constrained decoding, by chance where those have a choice.

An answer's log-probability is then the sum over its choices of log p(token) - log sum p(tokens allowed there): that of
a distribution over the list's permutations, which a free answer's is not. What is drawn here is scored so in training,
by the choices that `path_of` finds in it again (`EncodedList.choices`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from irpo.ranking.decoding import Drawn, Sampling, as_drawn, whole_orders
from irpo.ranking.guided import Pick
from irpo.ranking.walk import Walk
from irpo.scoring.tokens import Choices, EncodedList, Tokens


@dataclass(frozen=True)
class Path:
    """A complete answer as a walk takes it."""

    order: tuple[int, ...]
    choices: tuple[tuple[int, int, Tokens], ...]  # place in the answer, rank (from 0) that it decides, tokens allowed

    @property
    def of_answer(self) -> Choices:
        """The choices of the answer as one whole, counted from its first token."""
        return tuple((at, allowed) for at, _, allowed in self.choices)

    def of_candidates(self, item: EncodedList) -> tuple[Choices, ...]:
        """The choices of each rank, counted from the first token of its candidate's body, in the answer's order."""
        found, begin = [], 0
        for rank, j in enumerate(self.order):
            begin += len(item.heads[rank])
            found.append(tuple((at - begin, allowed) for at, of, allowed in self.choices if of == rank))
            begin += len(item.bodies[j])
        return tuple(found)


def path_of(item: EncodedList, answer: Sequence[int]) -> Path:
    """The walk that a complete answer of the list took; `ValueError` for another answer.

    Candidates with the same tokens stand in the given order, whichever of them was meant.
    """
    walk, choices = Walk(item), []
    for at, token in enumerate(answer):
        if walk.done:
            break
        allowed = walk.allowed()
        if len(allowed) > 1:
            choices.append((at, walk.rank, tuple(allowed)))
        walk.step(token)
    if item.answer(walk.order) != tuple(answer):
        raise ValueError(f"list {item.id!r}: the answer is no complete one")
    return Path(walk.order, tuple(choices))


def draw_whole(
    model: Any,
    tokenizer: Any,
    items: Sequence[EncodedList],
    sampling: Sampling,
    *,
    answers_per_batch: int | None = None,
) -> list[list[Drawn]]:
    """`sampling.samples` complete answers to each prompt, in the given order of lists.

    At every choice of a walk a token is drawn from softmax(logits / temperature) over those allowed, at the sampling's
    strength. Every answer has its own random state, as in `sample_answers`, on the CPU.
    """
    repeated = [item for item in items for _ in range(sampling.samples)]
    seeds = sampling.seeds(items)

    def by_chance(chosen: Sequence[int]) -> Pick:
        generators = [torch.Generator().manual_seed(seeds[i]) for i in chosen]
        return lambda rows, logits: _drawn(logits / sampling.temperature, [generators[row] for row in rows])

    orders = whole_orders(model, repeated, answers_per_batch, sampling.strength, by_chance)
    answers = [item.answer(order) for item, order in zip(repeated, orders, strict=True)]
    found = [as_drawn(tokenizer, tokens, [item.end]) for item, tokens in zip(repeated, answers, strict=True)]
    return [found[i : i + sampling.samples] for i in range(0, len(found), sampling.samples)]


def _drawn(logits: Tensor, generators: Sequence[torch.Generator]) -> list[int]:
    """A draw from each row's softmax, (R, A), by Gumbel noise (Gumbel 1954) of the row's own; -inf is never drawn."""
    logits, noise = logits.masked_fill(logits.isnan(), -torch.inf).cpu(), torch.ones(logits.shape)
    for row, count, generator in zip(noise, logits.isfinite().sum(-1).tolist(), generators, strict=True):
        row[:count].exponential_(generator=generator)
    best: list[int] = (logits - noise.log()).argmax(-1).tolist()
    return best
