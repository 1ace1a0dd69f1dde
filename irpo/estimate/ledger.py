"""What is in memory at each moment of a simulated run, and the operations of its matrix products."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count
from torch.utils.weak import WeakIdKeyDictionary

WEIGHTS, LEARNING, KEPT, PASSING = "weights", "learning", "kept", "passing"  # what a storage is for

_aten = torch.ops.aten


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

    def settle(self) -> None:
        """Begin here, with what is there: how it came does not count."""
        self.events[:] = self.alive().items()

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
        if func is _aten._to_copy.default and self.number_of(args[0]) in self.taken_as_is:
            self._numbers[out.untyped_storage()] = self._take(0)
        if func is _aten.logsumexp.default:  # its kernel holds exp(x - max) besides what it is given
            self.pass_by(out.element_size() * args[0].numel())
        for tensor in tree_leaves(out):
            if isinstance(tensor, FakeTensor):
                self.note(tensor)
        count = _OPERATIONS.get(func._overloadpacket)
        if count is not None:
            self.operations += count(*args, **(kwargs or {}), out_val=out)
        return out

    def hold(self, size: int, kind: str) -> None:
        """Count bytes that are there throughout, and that no tensor of the simulation has."""
        self.history.kinds[self._take(size)] = kind

    def pass_by(self, size: int) -> None:
        """Count bytes that are there for a moment."""
        self._free(self._take(size))

    def shrink(self, tensor: Tensor, size: int) -> None:
        """From here on a tensor's storage counts for so many bytes only."""
        number = self._numbers[tensor.untyped_storage()]
        self._free(number)
        self._sizes[number] = size
        self.history.events.append((number, size))

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

    def number_of(self, tensor: Any) -> int | None:
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
