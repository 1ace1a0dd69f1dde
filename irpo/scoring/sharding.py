"""Weights spread over processes by FSDP2: each layer is put together where it is used, and taken apart again.

The base's weights are sharded, an adapter stays whole on every process. Whatever uses the weights does so `within` the
model; processes that use them different numbers of times go in lockstep, because a layer is put together by all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MethodType
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from torch import Tensor

from irpo.processes import count, is_first, no_second_try, shards_weights
from irpo.scoring.models import causal_lm, default_device

T = TypeVar("T")

_AT_WORK = "irpo_at_work"  # the name under which the root knows `_do`


def wanted() -> bool:
    """Whether there are several processes, and their launcher asks for FSDP2."""
    return shards_weights() and count() > 1


def shard(model: Any) -> Any:
    """The model with its weights spread over all processes, layer by layer; those of an adapter stay whole.

    In float32 or bfloat16 as they are; gradients are summed in the weights' own type.
    """
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    lm = causal_lm(model)
    whole = {p for name, p in lm.named_parameters() if ".lora_" in name}
    for layer in layers_of(lm):
        fully_shard(layer, ignored_params=whole & set(layer.parameters()))
    setattr(lm, _AT_WORK, MethodType(_do, lm))
    fully_shard(lm, ignored_params=whole)
    register_fsdp_forward_method(lm, _AT_WORK)
    for weight in whole:
        weight.data = weight.data.to(default_device())  # what is sharded has been moved there
    return model


def layers_of(lm: Any) -> list[Any]:
    """The decoder's layers, each of which is put together on its own."""
    return list(lm.get_decoder().layers)


def is_sharded(model: Any) -> bool:
    """Whether the model's weights are spread over processes."""
    return hasattr(causal_lm(model), _AT_WORK)


def _do(self: Any, work: Callable[[], T]) -> T:
    return work()


def within(model: Any, work: Callable[[], T]) -> T:
    """What the work gives, done where a sharded model's weights can be read; a tensor in it may be differentiated.

    Every process does it, with the same number of passes through the model.
    """
    return getattr(causal_lm(model), _AT_WORK)(work) if is_sharded(model) else work()


def within_each(model: Any, work: Callable[[], T]) -> T:
    """`within`, without gradients, where each process passes through the model as often as its own work needs."""

    def kept() -> T:
        with _lockstep(model):
            return work()

    if not is_sharded(model):
        return work()
    with torch.no_grad(), no_second_try():
        found = within(model, kept)
    causal_lm(model).reshard()  # as after a backward pass: to save weights takes them apart on one process alone
    return found


@contextmanager
def _lockstep(model: Any) -> Iterator[None]:
    """Until all processes have left, each that has keeps the others' passes company with one over a single token."""
    decoder, device = causal_lm(model).get_decoder(), causal_lm(model).device
    idle = False

    def working(*_: Any) -> None:
        if not idle:
            _any(True, device)

    hook = decoder.register_forward_pre_hook(working)
    try:
        yield
        idle = True
        token = torch.zeros(1, 1, dtype=torch.long, device=device)
        while _any(False, device):
            decoder(input_ids=token, use_cache=False)
    finally:
        hook.remove()


def _any(here: bool, device: torch.device) -> bool:
    """Whether it is so on any process."""
    told = torch.tensor(int(here), device=device)
    torch.distributed.all_reduce(told)
    return bool(told)


# --- weights and what goes with them, whole and in parts --------------------------------------------------------------


def whole(state: Any) -> Any:
    """A tree of tensors with each that is sharded put together; all processes call it with the same tree."""
    if isinstance(state, Mapping):
        return {key: whole(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(whole(value) for value in state)
    return state.full_tensor() if hasattr(state, "full_tensor") else state


def whole_state(model: Any) -> dict[str, Tensor] | None:
    """All weights, in the first process's memory; None where what learns is whole on each process anyway."""
    if not _learns_sharded(model):
        return None
    lm = causal_lm(model)
    tied = getattr(lm, "all_tied_weights_keys", None) or {}  # each is another name of a weight that is there
    found = {}
    for name, value in lm.state_dict().items():
        if name in tied:
            continue
        tensor = whole(value)  # by all processes, one weight at a time
        if is_first():
            found[name] = tensor.cpu()
    return found


def _learns_sharded(model: Any) -> bool:
    """Whether the weights that learn are themselves sharded: all learn, not an adapter."""
    return is_sharded(model) and not hasattr(model, "peft_config")


def spread_like(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, which every process holds, in the parts that `like` is in."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(like, DTensor) or isinstance(value, DTensor):
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def load_whole(model: Any, folder: str | Path) -> bool:
    """Read saved weights into a sharded model whose weights all learn; False where the model is no such one."""
    if not _learns_sharded(model):
        return False
    weights = dict(causal_lm(model).named_parameters(remove_duplicate=False))
    for path in sorted(Path(folder).glob("*.safetensors")):
        with safe_open(str(path), framework="pt") as file, torch.no_grad():
            for name in file.keys():  # noqa: SIM118 - not a mapping
                weights[name].copy_(spread_like(file.get_tensor(name), weights[name]))
    return True
