"""The output head, only where a log-probability is asked for, in chunks of a fixed size, in float32."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

HEAD_BYTES = 256 * 2**20  # the largest float32 tensor with a vocabulary dimension, in bytes

Chunk = tuple[slice, slice]  # some cells, and the reads that they answer


def chunks(read_ends: Sequence[int], vocabulary: int, budget: int | None = None) -> Iterator[Chunk]:
    """Runs of cells whose float32 logits fit the budget (`HEAD_BYTES`), each with its reads.

    `read_ends[n]` is the number of reads of the cells up to the n-th.
    """
    size = max(1, (HEAD_BYTES if budget is None else budget) // (4 * vocabulary))
    count = -(-len(read_ends) // size)
    ends = [len(read_ends) * part // max(count, 1) for part in range(count + 1)]  # of like size
    for start, end in pairwise(ends):
        yield slice(start, end), slice(read_ends[start - 1] if start else 0, read_ends[end - 1])


def read_logprobs(
    head: Any, config: Any, states: Tensor, reads: tuple[Tensor, Tensor], read_ends: Sequence[int]
) -> Tensor:
    """log p of `token[m]` at the hidden state `states[cell[m]]`; (N, H), ((M,), (M,)) -> (M,) float32.

    Reads are sorted by cell. A frozen linear head gets no gradient of its own, and what the states need of it is made
    in the forward pass: d log p / d state = W[token] - softmax(logits) @ W. Any other head is run anew, chunk by chunk,
    in the backward pass.
    """
    cell, token = reads
    if not len(states):
        return states.float().sum(-1)  # of no values, and a part of the graph
    parts = list(chunks(read_ends, config.vocab_size))
    if _is_frozen_linear(head):
        gradient = torch.is_grad_enabled() and states.requires_grad
        found: Tensor = _FrozenHead.apply(states, head.weight, head.bias, (cell, token, parts, config, gradient))  # type: ignore[no-untyped-call]
        return found
    run = float_head(head)
    logps = []
    for cells, own in parts:
        arguments = (run, config, states[cells], cell[own] - cells.start, token[own])
        if torch.is_grad_enabled() and len(parts) > 1:
            logps.append(checkpoint(_chunk_logprobs, *arguments, use_reentrant=False))
        else:
            logps.append(_chunk_logprobs(*arguments))
    return torch.cat(logps)


def _is_frozen_linear(head: Any) -> bool:
    return type(head) is torch.nn.Linear and not any(p.requires_grad for p in head.parameters())


class _FrozenHead(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, rest: tuple[Any, ...]) -> Tensor:
        cell, token, parts, config, gradient = rest
        wide = _wide(weight)
        logp = torch.empty(len(token), dtype=torch.float32, device=states.device)
        pull = torch.empty(states.shape, dtype=torch.float32, device=states.device) if gradient else None
        slopes = torch.ones_like(logp)
        for cells, own in parts:
            logits = _matmul(states[cells], wide.T)
            if bias is not None:
                logits += bias
            slope = cap_(logits, config)
            at = (cell[own] - cells.start, token[own])
            asked, peak = logits[at], logits.amax(-1, keepdim=True)
            powers = logits.sub_(peak).exp_()  # softmax times `mass`, in the logits' own memory
            mass = powers.sum(-1, keepdim=True)
            logp[own] = asked - (peak + mass.log())[at[0], 0]
            if pull is None:
                continue
            if slope is not None:
                slopes[own] = slope[at]
                powers *= slope
            pull[cells] = _matmul(powers.to(wide.dtype), wide) / mass
        ctx.save_for_backward(pull, slopes, cell, token, weight)
        ctx.dtype = states.dtype
        return logp

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        pull, slopes, cell, token, weight = ctx.saved_tensors
        of_cell = grad.new_zeros(len(pull)).index_add_(0, cell, grad)
        found = pull * -of_cell[:, None]
        found.index_add_(0, cell, weight[token].float() * (grad * slopes)[:, None])
        return found.to(ctx.dtype), None, None, None


def _wide(weight: Tensor) -> Tensor:
    """The weight as `_matmul` takes it: as it is on a GPU, whose half-precision products are summed in float32."""
    return weight if weight.is_cuda else weight.float()


def _matmul(a: Tensor, b: Tensor) -> Tensor:
    """a @ b summed and returned in float32; in bfloat16 a logit of 20 has steps of 0.125, and labels would tie."""
    if b.is_cuda and b.dtype != torch.float32:
        return torch.mm(a.to(b.dtype), b, out_dtype=torch.float32)
    with torch.autocast(a.device.type, enabled=False):
        return a.float() @ b


def cap_(logits: Tensor, config: Any) -> Tensor | None:
    """`soft_cap` in place; returns the slope of the capped logit in the raw one, None where it is 1 everywhere."""
    cap = getattr(config, "final_logit_softcapping", None)
    factor = _factor(config)
    slope = None
    if cap is not None:
        logits.div_(cap).tanh_()
        slope = (1 - logits.square()).mul_(factor)
        logits.mul_(cap)
    if factor != 1:
        logits.mul_(factor)
        slope = logits.new_full((1, 1), factor).expand_as(logits) if slope is None else slope
    return slope


def soft_cap(logits: Tensor, config: Any) -> Tensor:
    """The family's last step on logits: Gemma-2's tanh cap, Granite's divisor, Cohere's factor."""
    cap = getattr(config, "final_logit_softcapping", None)
    if cap is not None:
        logits = torch.tanh(logits / cap) * cap
    factor = _factor(config)
    return logits if factor == 1 else logits * factor


def _factor(config: Any) -> float:
    divisor = getattr(config, "logits_scaling", None)
    factors = [getattr(config, name, None) for name in ("logit_scale", "lm_head_multiplier")]  # Cohere's, Falcon-H1's
    factor = math.prod(1.0 if factor is None else float(factor) for factor in factors)
    return factor / float(1.0 if divisor is None else divisor)


def float_head(head: Any) -> Callable[[Tensor], Tensor]:
    """A head that learns, computed in float32; one that is quantized or carries an adapter computes as it does."""
    if type(head) is not torch.nn.Linear:
        return lambda states: head(states).float()
    weight, bias = head.weight.float(), getattr(head, "bias", None)

    def linear(states: Tensor) -> Tensor:
        with torch.autocast(states.device.type, enabled=False):
            logits = torch.nn.functional.linear(states.float(), weight)
            return logits if bias is None else logits + bias.float()

    return linear


def _chunk_logprobs(head: Any, config: Any, states: Tensor, cell: Tensor, token: Tensor) -> Tensor:
    logits = soft_cap(head(states), config)
    return logits[cell, token] - logits.logsumexp(-1)[cell]
