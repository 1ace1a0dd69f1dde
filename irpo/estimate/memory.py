"""What training one micro-batch takes, found by running it on tensors that have shapes but no memory.

The real model class, adapter and `score_batch` run under torch's FakeTensorMode; a ledger notes every storage that is
made and freed and every matrix product, so that a change of the code changes the estimate with it.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from irpo.estimate.ledger import LEARNING, WEIGHTS, Ledger
from irpo.estimate.sharded import Parts
from irpo.scoring.attention import use_split_attention
from irpo.scoring.batching import ListBatch
from irpo.scoring.forward import score_batch
from irpo.scoring.models import LoraOptions, add_lora, use_checkpointing
from irpo.types import UserError

_BLOCK, _NESTED = 64, 256  # weights to a constant, and constants to one of theirs, in NF4 with double quantization


def nf4_bytes(weights: int) -> int:
    """A layer in NF4: half a byte a weight, a byte a block, a float32 256 blocks, two code books and an offset."""
    blocks = -(-weights // _BLOCK)
    return -(-weights // 2) + blocks + 4 * -(-blocks // _NESTED) + 4 * (16 + 256) + 4


@dataclass(frozen=True)
class Build:
    """How the model is held and trained."""

    dtype: torch.dtype = torch.float32
    attention: str = "auto"
    nf4: bool = False
    lora: LoraOptions | None = None  # None: all weights learn
    checkpointing: bool = False
    mixed: bool = False  # float32 weights computed in bfloat16
    gpu: bool = False  # a GPU's head takes half-precision weights as they are
    processes: int = 1
    sharded: bool = False  # the processes have a part of the weights each (FSDP2)


@dataclass(frozen=True)
class Passes:
    """The forward passes over one micro-batch. Where an objective is sampled, `live` holds the drawn candidates."""

    live: tuple[ListBatch, ...]  # with a gradient
    before: tuple[ListBatch, ...] = ()  # without one, ahead of them
    adapters_off: ListBatch | None = None  # the reference's
    validation: ListBatch | None = None  # a batch of the validation
    accumulates: bool = False  # other micro-batches' gradients are there already


@dataclass(frozen=True)
class Usage:
    """What the passes take; bytes are those alive at the moment of the highest total."""

    parameters: int
    trainable: int
    at_rest: int  # bytes of the base weights
    bytes: dict[str, int]
    operations: float  # of the micro-batch, validation aside

    @property
    def peak(self) -> int:
        """Bytes at the highest moment."""
        return sum(self.bytes.values())


class _Unpacked(torch.autograd.Function):
    """x @ W.T with W written out for the moment, as bitsandbytes does it in both directions."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, packed: Tensor, bias: Tensor | None, shape: torch.Size) -> Tensor:
        ctx.packed, ctx.shape = packed, shape
        return nn.functional.linear(inputs, _unpacked(inputs, packed, shape), bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return grad @ _unpacked(grad, ctx.packed, ctx.shape), None, None, None


def _unpacked(like: Tensor, packed: Tensor, shape: torch.Size) -> Tensor:
    constants = packed.new_empty(shape.numel() // _BLOCK, dtype=torch.float32)
    whole = like.new_empty(shape)
    del constants
    return whole


class FourBit(nn.Linear):
    """Stands for a linear layer in NF4: its weight has the bytes of one, constants included."""

    def __init__(self, dense: nn.Linear) -> None:
        super().__init__(dense.in_features, dense.out_features, bias=False, device="meta")
        self.shape = dense.weight.shape
        self.constants = nf4_bytes(dense.weight.numel()) - -(-dense.weight.numel() // 2)  # bytes that are never cut
        packed = torch.empty(nf4_bytes(dense.weight.numel()), dtype=torch.uint8, device="meta")
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.bias = dense.bias

    def forward(self, input: Tensor) -> Tensor:
        """What the layer gives, its weight written out on the way."""
        # peft clones what a 4-bit layer gives.
        given: Tensor = _Unpacked.apply(input, self.weight, self.bias, self.shape)  # type: ignore[no-untyped-call]
        return given.clone()


def build_model(config: Any, build: Build) -> tuple[Any, int, int]:
    """The model on torch's `meta` device, with its numbers of all and of trainable parameters."""
    from transformers import AutoModelForCausalLM

    text = config.get_text_config()
    _without_length_rules(text)
    attention = {} if build.attention in ("auto", "flex_attention") else {"attn_implementation": build.attention}
    with torch.device("meta"):
        model = use_split_attention(AutoModelForCausalLM.from_config(config, dtype=build.dtype, **attention))
        base = sum(p.numel() for p in model.parameters())
        if build.nf4:
            _quantize(model)
        if build.lora is None:
            return _checkpointed(model, build), base, base
        model = add_lora(model, build.lora, seed=0)
    learn = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return _checkpointed(model, build), base + learn, learn


def _without_length_rules(text: Any) -> None:
    """Rotary frequencies that depend on the positions' values cannot be computed here; their size is the same."""
    rope = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None)
    if isinstance(rope, dict) and rope.get("rope_type") in ("dynamic", "longrope"):
        rope["rope_type"] = "default"


def _quantize(model: Any) -> None:
    """4-bit stand-ins for all linear layers but the head."""
    head = model.get_output_embeddings()
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Linear and child is not head:
                setattr(module, name, FourBit(child))


def _checkpointed(model: Any, build: Build) -> Any:
    if build.checkpointing:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*gradient_checkpointing.*", category=FutureWarning)
            use_checkpointing(model)
    return model.train()


def simulate(config: Any, build: Build, passes: Passes) -> Usage:
    """One micro-batch of training a model of this configuration; `UserError` for a family that cannot be simulated."""
    try:
        model, whole, learn = build_model(config, build)
        with FakeTensorMode(allow_non_fake_inputs=True), Ledger() as ledger:
            parts = _hold(model, ledger, build, passes)
            ledger.history.settle()
            alive = ledger.history.alive()
            at_rest = sum(alive[n] for n, kind in ledger.history.kinds.items() if kind == WEIGHTS)
            if parts is not None:
                ledger.hold(parts.together, WEIGHTS)
            _run(model, ledger, build, passes)
            operations = ledger.operations
            if passes.validation is not None:
                with _autocast(build), torch.no_grad():
                    score_batch(model, passes.validation)
    except UserError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise UserError(f"model family {config.model_type!r} cannot be estimated: {reason}") from error
    return Usage(whole, learn, at_rest, ledger.history.at_peak(), operations)


def _hold(model: Any, ledger: Ledger, build: Build, passes: Passes) -> Parts | None:
    """Put the model in the ledger: weights, adapter, AdamW's two states, and gradients of earlier micro-batches.

    Returns how the weights are cut, where they are.
    """
    _materialize(model)
    learning = list(_learning(model))
    for tensor in (*model.parameters(), *model.buffers()):
        ledger.note(tensor, LEARNING if build.lora is not None and tensor.requires_grad else WEIGHTS)
    model.adamw = [torch.empty_like(p) for p in learning for _ in range(2)]
    for state in model.adamw:
        ledger.note(state, LEARNING)
    weight = model.get_output_embeddings().weight if hasattr(model, "get_output_embeddings") else None
    if build.gpu and weight is not None and build.lora is not None:
        ledger.taken_as_is.update(n for n in [ledger.number_of(weight)] if n is not None)
    parts = Parts(model, build.processes) if build.sharded and build.processes > 1 else None
    if parts is not None:
        parts.take_apart(ledger, accumulates=passes.accumulates)
    if parts is not None and build.lora is None:
        return parts
    if build.processes > 1:
        ledger.hold(sum(p.nbytes for p in learning), LEARNING)  # DDP's buckets hold the gradients once more
    if passes.accumulates:
        for parameter in learning:
            parameter.grad = torch.empty_like(parameter)
    return parts


def _learning(model: Any) -> Iterable[Tensor]:
    return (p for p in model.parameters() if p.requires_grad)


def _materialize(model: Any) -> None:
    """Fake CPU tensors for those on the `meta` device; what is tied stays tied."""
    made: dict[Tensor, Tensor] = {}

    def fake(old: Tensor) -> Tensor:
        if old not in made:
            new = torch.empty(old.shape, dtype=old.dtype)
            made[old] = nn.Parameter(new, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else new
        return made[old]

    for module in model.modules():
        for group in (module._parameters, module._buffers):
            for name, old in group.items():
                if old is not None:
                    group[name] = fake(old)


def _run(model: Any, ledger: Ledger, build: Build, passes: Passes) -> None:
    with _autocast(build):
        with torch.no_grad():
            for batch in passes.before:
                score_batch(model, batch)
            if passes.adapters_off is not None:
                with model.disable_adapter():
                    score_batch(model, passes.adapters_off)
        loss = sum(_sum(model, batch) for batch in passes.live)
    ledger.keep()
    loss.backward()
    for parameter in _learning(model):
        if parameter.grad is not None:
            ledger.note(parameter.grad, LEARNING)


def _sum(model: Any, batch: ListBatch) -> Any:
    scores = score_batch(model, batch)
    total = scores.table.sum()
    return total if scores.target is None else total + scores.target.sum()


@contextlib.contextmanager
def _autocast(build: Build) -> Iterator[None]:
    if not build.mixed:
        yield
        return
    with torch.autocast("cpu", torch.bfloat16):
        yield
