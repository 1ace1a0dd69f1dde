"""What sampled IRPO saves on long lists: a whole training step with all candidates' gradients against the drawn ones'.

    python benchmarks/sampled.py            # K = 50 and 100, medians of interleaved repetitions

One JSON line a case; ratio above 1: the sampled step is faster. Losses are equal by construction (a test holds it).
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from setting import random_list
from transformers import AutoModelForCausalLM, LlamaConfig

from irpo.config.schema import TrainingConfig
from irpo.objectives import OBJECTIVES
from irpo.scorers import SCORERS
from irpo.scoring.attention import use_split_attention
from irpo.scoring.models import LoraOptions, add_lora, load_tokenizer
from irpo.training.arguments import training_arguments
from irpo.training.method import Method
from irpo.training.trainer import ListTrainer

SHAPE = {
    "vocab_size": 32000,
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "tie_word_embeddings": True,
}


def stepper(name: str, lists: int, candidates: int) -> Any:
    """A function that takes one step of an objective and returns its seconds."""
    items = [random_list(str(i), SHAPE["vocab_size"], 256, candidates, 8) for i in range(lists)]
    torch.manual_seed(0)
    base = use_split_attention(AutoModelForCausalLM.from_config(LlamaConfig(**SHAPE)))
    model = add_lora(base, LoraOptions(r=8), seed=0)
    method = Method(OBJECTIVES.build(name), SCORERS.build("independent"), reference="precomputed")
    config = TrainingConfig(updates=1, lists_per_update=lists)
    settings = training_arguments(config, Path(tempfile.mkdtemp()), lists=lists, validates=False, seed=0)
    trainer = ListTrainer(
        model=model, tokenizer=load_tokenizer("embedded"), method=method, lists=(items, []), args=settings
    )
    batch = method.batch(items, 0)

    def step() -> float:
        start = time.perf_counter()
        trainer.compute_loss(trainer.model, batch, num_items_in_batch=lists).backward()
        trainer.model.zero_grad()
        return time.perf_counter() - start

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--candidates", type=int, nargs="*", default=[50, 100])
    options = parser.parse_args()
    for candidates in options.candidates:
        steps = {name: stepper(name, 2, candidates) for name in ("irpo", "irpo_sampled")}
        times: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(options.repetitions + 1):
            for name, step in steps.items():
                times[name].append(step())
        whole, drawn = (statistics.median(times[name][1:]) for name in steps)  # the first warms up
        row = {"benchmark": "sampled", "case": f"K={candidates}", "against": "irpo", "unit": "s/step"}
        print(json.dumps(row | {"ours": round(drawn, 4), "theirs": round(whole, 4), "ratio": round(whole / drawn, 3)}))


if __name__ == "__main__":
    main()
