"""The options by which every benchmark of a step is told its model: shape, tuning, checkpointing, sizes of a list."""

from __future__ import annotations

import argparse
from typing import Any

import torch
from setting import SHAPES, Case

SIZES = {"prompt": 256, "candidates": 20, "tokens": 8}  # the base case


def command_line(about: str | None, repetitions: int) -> argparse.ArgumentParser:
    """A parser of what all benchmarks take."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="within 50 s on two idle cores")
    parser.add_argument("--shape", choices=SHAPES, default="24m")
    tunings = "LoRA on weights as the device likes them (bfloat16 on a GPU), or in 4 bits; bf16 insists on a GPU"
    parser.add_argument("--tuning", choices=["lora", "nf4", "bf16"], default="lora", help=tunings)
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--repetitions", type=int, default=repetitions)
    for name, size in SIZES.items():
        parser.add_argument(f"--{name}", type=int, default=size)
    return parser


def case_of(options: argparse.Namespace, **other: Any) -> Case:
    """The case that the command line asks for, with some things otherwise."""
    if options.tuning == "bf16" and not torch.cuda.is_available():
        raise SystemExit("--tuning bf16 needs a GPU; on a CPU weights are float32 (--tuning lora)")
    told = {name: getattr(options, name) for name in ("shape", "tuning", "checkpointing", *SIZES)}
    return Case(**{**told, **other})


def kind_of(case: Case) -> str:
    """The model in words."""
    return f"{case.shape} {case.tuning}{' checkpointing' if case.checkpointing else ''}"
