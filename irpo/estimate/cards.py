"""Where a run is to fit: known cards, what this machine has, and how fast it multiplies."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

import torch

from irpo.processes import memory
from irpo.types import UserError

GIB = 2**30


@dataclass(frozen=True)
class Card:
    """Where the run is to fit; `tflops` is its peak rate where it is known."""

    name: str
    gib: float
    tflops: float | None = None
    gpu: bool = True


# GiB as the driver reports them, TFLOP/s of dense bfloat16 (of float32 on a T4, which has none)
CARDS = {
    "T4": (14.6, 8.1),
    "L4": (22.5, 121),
    "A10G": (22.5, 70),
    "RTX 3090": (24, 71),
    "RTX 4090": (24, 165),
    "RTX 5090": (31.8, 209),
    "RTX A6000": (47.5, 155),
    "L40S": (44.5, 362),
    "A100-40GB": (39.5, 312),
    "A100-80GB": (79.2, 312),
    "H100": (79.2, 989),
    "H200": (139.7, 989),
}


def card_of(given: str | None) -> Card:
    """A known card by its name, a GPU of so many GiB, or what this machine has."""
    if given is None:
        return _own_card()
    number = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:gi?b)?\s*", given, re.IGNORECASE)
    if number and float(number[1]) > 0:
        return Card(f"a GPU of {float(number[1]):g} GiB", float(number[1]))
    name = next((name for name in CARDS if _plain(name) == _plain(given)), None)
    if name is None:
        raise UserError(f"unknown card {given!r}; choose from {', '.join(CARDS)}, or give a number of GiB")
    return Card(name, *CARDS[name])


def _plain(name: str) -> str:
    return re.sub(r"nvidia|geforce|[^a-z0-9]", "", name.lower())


def _own_card() -> Card:
    if torch.cuda.is_available():
        about = torch.cuda.get_device_properties(0)
        return Card(about.name, about.total_memory / GIB)
    return Card("this machine's RAM", memory() / GIB, gpu=False)


def matmul_rate(device: torch.device, dtype: torch.dtype, width: int) -> float:
    """Operations a second of (2048, width) @ (width, width), the best of five."""
    left = torch.randn(2048, width, device=device).to(dtype)
    right = torch.randn(width, width, device=device).to(dtype)

    def seconds() -> float:
        start = time.perf_counter()
        (left @ right).flatten()[0].item()  # waits for the device
        return time.perf_counter() - start

    return 2 * 2048 * width**2 / min(seconds() for _ in range(5))
