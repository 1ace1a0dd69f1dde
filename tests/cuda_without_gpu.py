"""A CUDA device that computes nothing: tensors have shape, dtype and `cuda` as their place, on a machine without a GPU.

Operations run under torch's FakeTensorMode, which refuses operands on two devices and of dtypes that no kernel takes.
What a real program would read back from the card (`.item()`, `nonzero`) has a made-up answer and is counted, for a card
would stop there. torch's own libraries ask the driver before a backward pass: two of their tables get stand-ins here.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

CUDA = torch.device("cuda", 0)
_FUNCTION = ctypes.CFUNCTYPE(ctypes.c_int8, ctypes.c_void_p)
_NO, _YES = _FUNCTION(lambda _: 0), _FUNCTION(lambda _: 1)
_SLOTS = 128  # of a C++ object's table of functions; more than any of those touched here has
_REGISTRY, _HOOKS = "_ZN3c104impl26device_guard_impl_registryE", "_ZN2at6detail12getCUDAHooksEv"
_aten = torch.ops.aten
_PRODUCTS = {_aten.mm, _aten.bmm, _aten.addmm, _aten.baddbmm}


def _table(function: Any) -> Any:
    return (ctypes.c_void_p * _SLOTS)(*[ctypes.cast(function, ctypes.c_void_p).value] * _SLOTS)


def _library(name: str) -> Any:
    return ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / name))


@contextlib.contextmanager
def _guard() -> Iterator[None]:
    """torch's own do-nothing device guard for CUDA, which it has for builds with CUDA and machines without a card."""
    guards = (ctypes.c_void_p * 2).in_dll(_library("libc10.so"), _REGISTRY)  # of the CPU, of CUDA, ...
    before, counts_no_card = guards[1], _table(_NO)
    stand_in = ctypes.c_void_p(ctypes.addressof(counts_no_card))
    guards[1] = ctypes.addressof(stand_in)
    torch._C._ensureCUDADeviceGuardSet()  # replaces a guard that counts no card
    try:
        yield
    finally:
        guards[1] = before


@contextlib.contextmanager
def _accelerator() -> Iterator[None]:
    """CUDA as the accelerator: the one function that says so, found by trying, says yes, and all others no."""
    get = getattr(_library("libtorch_cpu.so"), _HOOKS)
    get.restype = ctypes.c_void_p
    hooks = ctypes.c_void_p.from_address(get())
    before = hooks.value
    own = (ctypes.c_void_p * _SLOTS).from_address(before)
    yes = ctypes.cast(_YES, ctypes.c_void_p).value
    try:
        for slot in range(_SLOTS):
            tried = (ctypes.c_void_p * _SLOTS)(*own)
            tried[slot] = yes
            hooks.value = ctypes.addressof(tried)
            if str(torch._C._accelerator_getAccelerator()) == "cuda":
                break
        else:
            raise RuntimeError("this torch does not say where it asks for CUDA")
        final = _table(_NO)
        final[slot] = yes
        hooks.value = ctypes.addressof(final)
        yield
    finally:
        hooks.value = before


class _Fake(FakeTensorMode):
    avoid_device_init = True  # whatever `torch.cuda.is_available` says


class Answers(TorchDispatchMode):
    """Made-up answers where the program reads a value back; `stops` is where it did."""

    def __init__(self) -> None:
        super().__init__()
        self.stops: list[str] = []
        self.asked = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        _one_dtype(func, args)
        if kwargs.get("generator") is not None:
            kwargs["generator"] = None  # nothing is drawn
        if func is _aten._local_scalar_dense.default:
            self._note(args[0])
            dtype = args[0].dtype
            self.asked += 1
            # Not the same for ever: loops wait for an answer.
            return self.asked % 4 == 0 if dtype == torch.bool else 1.0 if dtype.is_floating_point else 1
        if func is _aten.nonzero.default:
            self._note(args[0])
            return args[0].new_empty((args[0].numel(), args[0].dim()), dtype=torch.long)
        if func is _aten.index.Tensor and any(i is not None and i.dtype == torch.bool for i in args[1]):
            self._note(args[0])
            (mask,) = [i for i in args[1] if i is not None]
            return args[0].new_empty((mask.numel(), *args[0].shape[mask.dim() :]))
        if func is _aten.masked_select.default:
            self._note(args[0])
            return args[0].new_empty(math.prod(torch.broadcast_shapes(args[0].shape, args[1].shape)))
        if func is _aten._to_copy.default and args[0].is_cuda and str(kwargs.get("device", "cuda")) == "cpu":
            self._note(args[0])
        return func(*args, **kwargs)

    def _note(self, tensor: Any) -> None:
        if tensor.is_cuda:
            frame = sys._getframe()
            while frame.f_back is not None and "/irpo/" not in frame.f_code.co_filename:
                frame = frame.f_back
            self.stops.append(f"{Path(frame.f_code.co_filename).stem}.{frame.f_code.co_name}")


def _one_dtype(func: Any, args: Any) -> None:
    """`RuntimeError` for a product of two dtypes, which a card's libraries refuse and a fake tensor lets pass."""
    dtypes = {a.dtype for a in args if isinstance(a, torch.Tensor)}
    if func._overloadpacket in _PRODUCTS and len(dtypes) > 1:
        raise RuntimeError(f"expected operands of one dtype in {func}, got {sorted(map(str, dtypes))}")


@contextlib.contextmanager
def pretended_cuda(monkeypatch: Any) -> Iterator[Answers]:
    """Everything made inside is fake, on the device it names; `torch.cuda` says that there is one card."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    generator = torch.Generator
    monkeypatch.setattr(torch, "Generator", lambda *_: generator())  # a card's own is made by its library
    answers = Answers()
    with contextlib.ExitStack() as stack:
        if not torch.backends.cuda.is_built():
            stack.enter_context(_guard())
        stack.enter_context(_accelerator())
        # In one thread: the engine has made its threads for the devices that there were when it began.
        stack.enter_context(torch.autograd.set_multithreading_enabled(False))
        stack.enter_context(_Fake(allow_non_fake_inputs=False))
        stack.enter_context(answers)
        yield answers


def moved(model: Any) -> Any:
    """The model with every tensor on the pretended card; what is tied stays tied. Inside `pretended_cuda` only."""
    made: dict[int, Any] = {}
    for module in model.modules():
        for group in (module._parameters, module._buffers):
            for name, old in group.items():
                if old is None:
                    continue
                if id(old) not in made:
                    new = torch.empty(old.shape, dtype=old.dtype, device=CUDA)
                    learns = old.requires_grad
                    made[id(old)] = torch.nn.Parameter(new, learns) if isinstance(old, torch.nn.Parameter) else new
                group[name] = made[id(old)]
    return model
