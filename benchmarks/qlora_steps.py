"""Twenty QLoRA steps on a real model's shape with random weights: shows that NF4 + LoRA trains where a GPU is at hand.

    python benchmarks/qlora_steps.py --shape llama3.2-3b     # needs a GPU with about 16 GB
    python benchmarks/qlora_steps.py --shape tiny            # the same code on a CPU

Prints one JSON line: device, 4-bit layers, trainable share, lists/s, tokens/s, peak memory, first and last loss.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from irpo.config import TrainingConfig
from irpo.encoding import EncodedList
from irpo.method import Method
from irpo.models import (
    LoadOptions,
    LoraOptions,
    add_lora,
    default_device,
    load_model,
    load_tokenizer,
    require_four_bit,
    trainable_parameters,
)
from irpo.objectives import OBJECTIVES
from irpo.progress import peak_memory
from irpo.scorers import SCORERS, check_model
from irpo.training import ListTrainer, training_arguments

SHAPES = {
    "llama3.2-3b": {
        "vocab_size": 128256,
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 28,
        "num_attention_heads": 24,
        "num_key_value_heads": 8,
        "tie_word_embeddings": True,
    },
    "tiny": {
        "vocab_size": 1024,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
}


def random_list(name: str, vocabulary: int, prompt: int, candidates: int, tokens: int) -> EncodedList:
    """A list of random tokens with two relevant candidates."""
    generator = torch.Generator().manual_seed(sum(name.encode()))

    def draw(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, vocabulary, (count,), generator=generator).tolist())

    heads = tuple(draw(2) for _ in range(candidates))
    bodies = tuple(draw(tokens) for _ in range(candidates))
    return EncodedList(name, draw(prompt), heads, bodies, (2,), (2.0, 1.0) + (0.0,) * (candidates - 2))


def main() -> None:
    """Load in NF4, train by the real trainer, print what came out."""
    options = arguments()
    device = default_device()
    torch.manual_seed(0)
    shape = SHAPES[options.shape]
    with tempfile.TemporaryDirectory() as folder:
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        AutoModelForCausalLM.from_config(LlamaConfig(**shape), dtype=dtype).save_pretrained(folder)
        base = load_model(folder, LoadOptions(quantization="nf4"))
    layers = require_four_bit(base)
    check_model(base)
    model = add_lora(base, LoraOptions(r=16), seed=0)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    sizes = (shape["vocab_size"], options.prompt, options.candidates, options.tokens)
    items = [random_list(str(i), *sizes) for i in range(options.lists)]
    with tempfile.TemporaryDirectory() as folder:
        lines = trained(model, items, options.steps, Path(folder))
    learn, whole = trainable_parameters(model)
    row = {
        "benchmark": "qlora_steps",
        "case": options.shape,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "four_bit_layers": layers,
        "trainable": learn,
        "parameters": whole,
        "lists_per_s": statistics.median(line["lists_per_s"] for line in lines),
        "tokens_per_s": statistics.median(line["tokens_per_s"] for line in lines),
        "peak_memory_gb": round(peak_memory() / 2**30, 2),
        "first_loss": lines[0]["loss"],
        "last_loss": lines[-1]["loss"],
    }
    print(json.dumps(row))


def trained(model: Any, items: list[EncodedList], steps: int, out: Path) -> list[dict[str, float]]:
    """The log's lines, one an update, of a run of `ListTrainer` with every list in each update."""
    config = TrainingConfig(updates=steps, lists_per_update=len(items), learning_rate=1e-4, logging_every=1)
    settings = training_arguments(config, out / "checkpoints", lists=len(items), validates=False, seed=0)
    settings.disable_tqdm, settings.save_strategy = True, "no"
    method = Method(OBJECTIVES.build("irpo"), SCORERS.build("independent"))
    tokenizer = load_tokenizer("embedded")  # for its padding alone: the tokens are random
    trainer = ListTrainer(model=model, tokenizer=tokenizer, method=method, lists=(items, []), args=settings)
    trainer.go(None)
    found = [json.loads(line) for line in trainer.log_file.read_text(encoding="utf-8").splitlines()]
    return [line for line in found if "loss" in line]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="llama3.2-3b")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--lists", type=int, default=4, help="lists in an update")
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--candidates", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=8, help="tokens of a candidate")
    return parser.parse_args()


if __name__ == "__main__":
    main()
