"""What training one micro-batch takes, found by running it on tensors that have shapes but no memory.

The real model class, adapter and `score_batch` run under torch's FakeTensorMode; a ledger notes every storage that is
made and freed and every matrix product, so that a change of the code changes the estimate with it.
"""

from __future__ import annotations

import contextlib
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count
from torch.utils.weak import WeakIdKeyDictionary

from irpo.scoring.attention import use_split_attention
from irpo.scoring.batching import ListBatch
from irpo.scoring.forward import score_batch
from irpo.scoring.models import LoraOptions, add_lora, use_checkpointing
from irpo.types import UserError

WEIGHTS, LEARNING, KEPT, PASSING = "weights", "learning", "kept", "passing"  # what a storage is for

_aten = torch.ops.aten
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


@dataclass
class History:
    """Storages as they came and went: (number, bytes), bytes negative where one was freed."""

    events: list[tuple[int, int]] = field(default_factory=list)
    kinds: dict[int, str] = field(default_factory=dict)

    def alive(self, until: int | None = None) -> dict[int, int]:
        """Bytes of each storage that is there after so many events."""
        there: dict[int, int] = {}
        for number, size in self.events[:until]:
            if size < 0:
                there.pop(number, None)
            else:
                there[number] = size
        return there

    def at_peak(self) -> dict[str, int]:
        """Bytes of each kind at the highest moment."""
        total = highest = moment = 0
        for index, (_, size) in enumerate(self.events, start=1):
            total += size
            if total > highest:
                highest, moment = total, index
        found = dict.fromkeys((WEIGHTS, LEARNING, KEPT, PASSING), 0)
        for number, size in self.alive(moment).items():
            found[self.kinds.get(number, PASSING)] += size
        return found


class Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes every storage that an operation makes, its end, and the operations of matrix products and attention."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.history = History()
        self.operations = 0.0
        self.taken_as_is: set[int] = set()  # storages whose conversion to another dtype costs nothing
        self._numbers: Any = WeakIdKeyDictionary(ref_type=weakref.ref)
        self._sizes: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is _aten._to_copy.default and self._known(args[0]) in self.taken_as_is:
            self._numbers[out.untyped_storage()] = self._take(0)
        if func is _aten.logsumexp.default:  # its kernel holds exp(x - max) besides what it is given
            self._free(self._take(out.element_size() * args[0].numel()))
        for tensor in tree_leaves(out):
            if isinstance(tensor, FakeTensor):
                self.note(tensor)
        count = _OPERATIONS.get(func._overloadpacket)
        if count is not None:
            self.operations += count(*args, **(kwargs or {}), out_val=out)
        return out

    def note(self, tensor: Tensor, kind: str | None = None) -> None:
        """Count a tensor's storage if it is new, and say what it is for."""
        storage = tensor.untyped_storage()
        number = self._numbers.get(storage)
        if number is None:
            self._numbers[storage] = number = self._take(storage.nbytes())
            weakref.finalize(storage, self._free, number)
        if kind is not None:
            self.history.kinds[number] = kind

    def keep(self) -> None:
        """What was made and is still there is kept for the backward pass."""
        for number in self.history.alive():
            self.history.kinds.setdefault(number, KEPT)

    def _known(self, tensor: Any) -> int | None:
        number: int | None = self._numbers.get(tensor.untyped_storage()) if isinstance(tensor, FakeTensor) else None
        return number

    def _take(self, size: int) -> int:
        self._sizes.append(size)
        number = len(self._sizes) - 1
        self.history.events.append((number, size))
        return number

    def _free(self, number: int) -> None:
        self.history.events.append((number, -self._sizes[number]))


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> float:
    return float(sdpa_flop_count(query.shape, key.shape, value.shape))  # type: ignore[no-untyped-call]


def _attention_backward(grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> float:
    shapes = (grad.shape, query.shape, key.shape, value.shape)
    return float(sdpa_backward_flop_count(*shapes))  # type: ignore[no-untyped-call]


_OPERATIONS: dict[Any, Callable[..., float]] = {
    **flop_registry,
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


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
            _hold(model, ledger, build, passes)
            at_rest = sum(ledger.history.alive()[n] for n, kind in ledger.history.kinds.items() if kind == WEIGHTS)
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


def _hold(model: Any, ledger: Ledger, build: Build, passes: Passes) -> None:
    """Put the model in the ledger: weights, adapter, AdamW's two states, and gradients of earlier micro-batches."""
    _materialize(model)
    for tensor in (*model.parameters(), *model.buffers()):
        ledger.note(tensor, LEARNING if build.lora is not None and tensor.requires_grad else WEIGHTS)
    model.adamw = [torch.empty_like(p) for p in _learning(model) for _ in range(2)]
    for state in model.adamw:
        ledger.note(state, LEARNING)
    if passes.accumulates:
        for parameter in _learning(model):
            parameter.grad = torch.empty_like(parameter)
    weight = model.get_output_embeddings().weight if hasattr(model, "get_output_embeddings") else None
    if build.gpu and weight is not None and build.lora is not None:
        ledger.taken_as_is.update(n for n in [ledger._known(weight)] if n is not None)


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
