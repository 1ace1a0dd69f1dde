"""What `irpo doctor` finds: versions, device, whether 4-bit really works here, and which attention can run.

Each check tries the thing itself and reports why it does not work, instead of trusting that a package is installed.
"""

from __future__ import annotations

import math
import platform
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Literal

import torch
from torch import Tensor, nn

from irpo.resources import configs_dir, embedded_dir, prompts_dir

# What the extras bring.
OPTIONAL = ("openai", "sentence-transformers", "vllm", "tensorboard", "wandb", "trackio", "nvidia-ml-py")


@dataclass(frozen=True)
class Check:
    """One line of the report; `optional` is something that this machine can do without."""

    topic: str
    state: Literal["ok", "optional", "broken"]
    detail: str


def examine() -> list[Check]:
    """Every check, in the order in which a reader wants them."""
    return [_python(), *_packages(), *_shipped(), _device(), four_bit(), *_attention()]


def device() -> torch.device:
    """The device that training would take: a CUDA GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _python() -> Check:
    return Check("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def _packages() -> list[Check]:
    try:
        wanted = metadata.requires("irpo") or []
    except metadata.PackageNotFoundError:
        return [Check("packages", "broken", "irpo itself is not installed; run `pip install -e .`")]
    core = [re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0] for line in wanted if "extra ==" not in line]
    return [_package(name, optional=False) for name in core] + [_package(name, optional=True) for name in OPTIONAL]


def _package(name: str, *, optional: bool) -> Check:
    try:
        return Check(name, "ok", metadata.version(name))
    except metadata.PackageNotFoundError:
        return Check(name, "optional" if optional else "broken", "not installed")


def _shipped() -> list[Check]:
    folders = {"prompts": prompts_dir(), "configs": configs_dir(), "embedded model": embedded_dir()}
    return [
        Check(topic, "ok", "shipped") if folder.is_dir() else Check(topic, "broken", f"no folder {folder}")
        for topic, folder in folders.items()
    ]


def _device() -> Check:
    if not torch.cuda.is_available():
        built = f"torch built for CUDA {torch.version.cuda}, no usable GPU" if torch.version.cuda else "a CPU build"
        return Check("device", "ok", f"cpu, {torch.get_num_threads()} threads ({built})")
    props = torch.cuda.get_device_properties(0)
    bf16 = "bfloat16" if torch.cuda.is_bf16_supported() else "no bfloat16"
    detail = (
        f"{torch.cuda.device_count()} x {props.name}, {props.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"
    )
    return Check("device", "ok", f"{detail}, {bf16}")


def four_bit() -> Check:
    """Quantize a small layer to NF4 and run it forward and backward, here and now."""
    return _try("4-bit (nf4)", _four_bit)


def _four_bit() -> str:
    import bitsandbytes as bnb

    torch.manual_seed(0)
    place = device()
    dense = nn.Linear(128, 128, bias=False)
    layer = bnb.nn.Linear4bit(128, 128, bias=False, quant_type="nf4", compute_dtype=torch.float32)
    layer.load_state_dict(dense.state_dict())
    layer, dense = layer.to(place), dense.to(place)
    if layer.weight.dtype != torch.uint8:
        raise RuntimeError(f"the weight is still {layer.weight.dtype}")
    inputs = torch.randn(8, 128, device=place, requires_grad=True)
    out, truth = layer(inputs), dense(inputs)
    error = ((out - truth).norm() / truth.norm()).item()
    (gradient,) = torch.autograd.grad(out.square().sum(), inputs)
    if not (error < 0.3 and bool(gradient.isfinite().all()) and bool(gradient.any())):
        raise RuntimeError(f"wrong numbers: relative error {error:.2f}")
    return f"quantized, forward and backward on {place.type}; relative error {error:.3f}"


def _attention() -> list[Check]:
    return [
        _try("attention sdpa", lambda: _attend(nn.functional.scaled_dot_product_attention)),
        _try("attention bf16, masked", _masked),
        _try("attention eager", lambda: _attend(_eager)),
        _try("attention flex", _flex),
    ]


def _attend(attention: Callable[[Tensor, Tensor, Tensor], Tensor]) -> str:
    query = torch.randn(1, 2, 16, 16, device=device(), requires_grad=True)
    torch.autograd.grad(attention(query, query, query).sum(), query)
    return "forward and backward"


def _masked() -> str:
    """As training runs it on a card: bfloat16, a dense mask, a length that is no multiple of 8; no cuDNN."""
    torch.backends.cuda.enable_cudnn_sdp(False)
    query = torch.randn(1, 2, 301, 64, device=device(), dtype=torch.bfloat16, requires_grad=True)
    hidden = torch.ones(301, 301, dtype=torch.bool, device=device()).triu(1)
    mask = torch.zeros(1, 1, 301, 301, dtype=torch.bfloat16, device=device())
    mask.masked_fill_(hidden, torch.finfo(torch.bfloat16).min)
    out = nn.functional.scaled_dot_product_attention(query, query, query, attn_mask=mask)
    (gradient,) = torch.autograd.grad(out.float().sum(), query)
    if not bool(gradient.isfinite().all()):
        raise RuntimeError("its gradients are not finite")
    return "forward and backward, finite gradients"


def _eager(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    weights = (query @ key.mT / math.sqrt(query.shape[-1])).softmax(-1)
    return weights @ value


def _flex() -> str:
    if not torch.cuda.is_available():
        raise RuntimeError("its backward pass needs a GPU")
    from torch.nn.attention.flex_attention import flex_attention

    query = torch.randn(1, 2, 128, 64, device=device(), requires_grad=True)
    out = torch.compile(flex_attention)(query, query, query)
    torch.autograd.grad(out.sum(), query)
    return "compiled, forward and backward"


def _try(topic: str, work: Callable[[], str]) -> Check:
    start = time.perf_counter()
    try:
        detail = work()
    except Exception as error:  # noqa: BLE001 - whatever goes wrong is the answer
        reason = str(error).strip().splitlines() or [type(error).__name__]
        return Check(topic, "optional", f"does not work: {reason[0]}")
    return Check(topic, "ok", f"works: {detail} ({time.perf_counter() - start:.1f} s)")
