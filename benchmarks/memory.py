"""Peak memory of a training step above the loaded model: ours against K whole sequences with full logits.

    python benchmarks/memory.py             # the base case, 1 and 4 lists; --shape and --tuning as in throughput.py
    python benchmarks/memory.py --quick     # 1 list

A fresh process a case, on a CPU both at a time. There the peak of resident memory during two steps (--quick: one) less
resident memory before them, with malloc giving freed blocks back (MALLOC_MMAP_THRESHOLD_), on a GPU the peak of
allocated memory less what was allocated. Both sides take the reference with the adapters off; theirs takes a list at a
time, ours as many as its batch of 8,192 tokens holds. Ratio above 1: we need less.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from peers import expanded
from setting import Case, our_step, show, step_of
from shapes import case_of, command_line, kind_of


def resident(field: str) -> int:
    """Bytes of resident memory: VmRSS now, VmHWM at most."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


def measure(case: Case, side: str, steps: int) -> int:
    """Bytes that these steps need above what is there before them."""
    model, items = case.model(), case.items()
    step = our_step(model, items, "adapters_off") if side == "ours" else step_of(model, expanded(model, items))
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        for _ in range(steps):
            step()
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
    before = resident("VmRSS")
    for _ in range(steps):
        step()
    return resident("VmHWM") - before


def apart(case: Case, side: str, steps: int = 2) -> float:
    """`measure` in a process of its own, in MB."""
    told = json.dumps(vars(case))
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, __file__, "--measure", side, "--steps", str(steps), "--case", told]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(found.stdout.splitlines()[-1]) / 2**20


def main() -> None:
    parser = command_line(__doc__, repetitions=1)
    parser.add_argument("--measure", choices=["ours", "theirs"], help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(measure(Case(**json.loads(options.case)), options.measure, options.steps))
        return
    for lists in (1,) if options.quick else (1, 4):
        case = case_of(options, lists=lists)
        with ThreadPoolExecutor(1 if torch.cuda.is_available() else 2) as both:  # one after the other on a card
            ours, theirs = both.map(lambda side: apart(case, side, 1 if options.quick else 2), ("ours", "theirs"))  # noqa: B023
        figures = (ours, theirs)
        show("memory", f"{kind_of(case)} P={case.prompt} K={case.candidates} lists={lists}", "expanded", figures, "MB")


if __name__ == "__main__":
    main()
