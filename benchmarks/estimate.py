"""How far `irpo estimate` is from what training really takes, on a CPU.

    python benchmarks/estimate.py                # every case
    python benchmarks/estimate.py --case wide    # one of them

One JSON line a case. Estimated: the peak of `irpo.estimate.memory.simulate`. Measured: a fresh process trains two
updates through `ListTrainer` (IRPO, `independent`, reference by adapters off; where all weights learn, `simpo`, which
needs no reference): its peak resident memory (VmHWM, set back just before) less its resident memory just before the
model is made. What any training loads once (modules, the Trainer's own) is loaded before, by two updates of a tiny
model. `measured_mb` has glibc's malloc give every block above 64 KiB back when it is freed (MALLOC_MMAP_THRESHOLD_);
`measured_default_mb` (`--default`) is without that setting, where freed blocks of up to 32 MiB stay with the process.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from setting import random_list
from transformers import AutoModelForCausalLM, LlamaConfig

from irpo.config.schema import TrainingConfig
from irpo.estimate.cards import matmul_rate
from irpo.estimate.memory import Build, Passes, simulate
from irpo.estimate.plan import MATMUL_SHARE
from irpo.objectives import OBJECTIVES
from irpo.scorers import SCORERS
from irpo.scoring.attention import use_split_attention
from irpo.scoring.models import LoraOptions, add_lora, load_tokenizer, use_checkpointing
from irpo.scoring.tokens import EncodedList
from irpo.training.arguments import Loop, training_arguments
from irpo.training.method import Method
from irpo.training.trainer import ListTrainer

VOCABULARY = 32000
FIXED = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


@dataclass(frozen=True)
class Case:
    """A model's shape, its lists and how it is trained."""

    hidden: int = 256
    layers: int = 6
    prompt: int = 256
    tokens_per_batch: int = 8192
    checkpointing: bool = False
    full: bool = False
    lists: int = 22  # in an update: more than one micro-batch


CASES = {
    "small": Case(),
    "small_checkpointing": Case(checkpointing=True),
    "wide": Case(hidden=512, layers=8),
    "long_prompts": Case(prompt=900, tokens_per_batch=4096, lists=6),
    "small_full": Case(full=True),
    "long_full_checkpointing": Case(prompt=900, tokens_per_batch=4096, lists=6, full=True, checkpointing=True),
}


def configuration(hidden: int, layers: int) -> LlamaConfig:
    """A Llama of that width and depth with tied embeddings."""
    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=8,
        tie_word_embeddings=True,
    )


def lists_of(case: Case) -> list[EncodedList]:
    """Two updates' lists."""
    return [random_list(str(i), VOCABULARY, case.prompt, 20, 8) for i in range(2 * case.lists)]


def method_of(case: Case) -> Method:
    """IRPO; where all weights learn there is no adapter to put off, and so no reference."""
    name, reference = ("simpo", "none") if case.full else ("irpo", "adapters_off")
    return Method(OBJECTIVES.build(name), SCORERS.build("independent"), reference=reference)


def estimated(case: Case) -> tuple[int, float]:
    """Peak bytes, and seconds of an update, by simulation and the rate that a matrix product has here."""
    batches = list(method_of(case).batches(lists_of(case)[: case.lists], 0, case.tokens_per_batch))
    largest = max(batches, key=lambda batch: batch.ids.numel())
    build = Build(lora=None if case.full else LoraOptions(), checkpointing=case.checkpointing)
    passes = Passes((largest,), adapters_off=None if case.full else largest, accumulates=len(batches) > 1)
    usage = simulate(configuration(case.hidden, case.layers), build, passes)
    work = usage.operations * sum(batch.tokens for batch in batches) / largest.tokens
    rate = MATMUL_SHARE * matmul_rate(torch.device("cpu"), torch.float32, case.hidden)
    return usage.peak, work / rate


def measured(case: Case) -> dict[str, float]:
    """Bytes that two updates take in this process, and seconds of the second one."""
    run(Case(hidden=64, layers=1, prompt=16, lists=2, full=case.full, checkpointing=case.checkpointing))
    items = lists_of(case)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak from now on
    before = resident("VmRSS")
    seconds = run(case, items)
    return {"bytes": resident("VmHWM") - before, "seconds_per_update": seconds}


def resident(what: str) -> int:
    """Resident memory of this process, in bytes: VmRSS now, VmHWM at its peak."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))


def run(case: Case, items: list[EncodedList] | None = None) -> float:
    """Two updates; seconds of the last."""
    made = AutoModelForCausalLM.from_config(configuration(case.hidden, case.layers), dtype=torch.float32)
    model = use_split_attention(made)
    if not case.full:
        model = add_lora(model, LoraOptions(), seed=0)
    if case.checkpointing:
        use_checkpointing(model)
    items = items or lists_of(case)
    config = TrainingConfig(updates=2, lists_per_update=case.lists, logging_every=1)
    with tempfile.TemporaryDirectory() as folder:
        arguments = training_arguments(config, Path(folder), lists=len(items), validates=False, seed=0)
        arguments.disable_tqdm, arguments.save_strategy = True, "no"
        trainer = ListTrainer(
            model=model,
            tokenizer=load_tokenizer("embedded"),  # for its padding alone: the tokens are random
            method=method_of(case),
            lists=(items, []),
            args=arguments,
            loop=Loop(case.tokens_per_batch),
        )
        start = time.perf_counter()
        trainer.go(None)
    return (time.perf_counter() - start) / 2


def in_process(name: str, environment: dict[str, str]) -> dict[str, float]:
    """`measured` in a process of its own."""
    command = [sys.executable, __file__, "--case", name, "--measure"]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def row(name: str, *, default: bool) -> dict[str, Any]:
    """A case's line."""
    guess, seconds = estimated(CASES[name])
    tight = in_process(name, FIXED)
    line = {
        "benchmark": "estimate",
        "case": name,
        "estimated_mb": round(guess / 2**20, 1),
        "measured_mb": round(tight["bytes"] / 2**20, 1),
        "ratio": round(guess / tight["bytes"], 3),
        "estimated_seconds_per_update": round(seconds, 2),
        "seconds_per_update": round(tight["seconds_per_update"], 2),
    }
    if default:
        loose = in_process(name, {})
        line["measured_default_mb"] = round(loose["bytes"] / 2**20, 1)
        line["default_seconds_per_update"] = round(loose["seconds_per_update"], 2)
    return line


def main() -> None:
    """One line a case, or one case's measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, help="default: all")
    parser.add_argument("--measure", action="store_true", help="only measure, in this process")
    parser.add_argument("--default", action="store_true", help="measure with malloc as it comes, too")
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measured(CASES[options.case])))
        return
    for name in [options.case] if options.case else CASES:
        print(json.dumps(row(name, default=options.default)), flush=True)


if __name__ == "__main__":
    main()
