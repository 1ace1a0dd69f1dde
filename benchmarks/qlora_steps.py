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
import time

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from irpo.encoding import EncodedList
from irpo.lists import ScoredLists
from irpo.models import (
    LoadOptions,
    LoraOptions,
    add_lora,
    default_device,
    load_model,
    require_four_bit,
    trainable_parameters,
)
from irpo.objectives import OBJECTIVES
from irpo.scorers import SCORERS, check_model, score_batch
from irpo.training import Method, peak_memory

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


def step(model, method: Method, batch, optimizer) -> float:
    """One update on one batch; the loss, a mean over its lists."""
    policy = score_batch(model, batch).first
    with torch.no_grad(), model.disable_adapter():
        reference = score_batch(model, batch).first
    lists = ScoredLists(policy, reference, batch.relevance, batch.mask, torch.zeros_like(policy))
    loss = method.loss(lists).mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return float(loss)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="llama3.2-3b")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--lists", type=int, default=4, help="lists in one batch")
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--candidates", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=8, help="tokens of a candidate")
    options = parser.parse_args()
    device = default_device()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        AutoModelForCausalLM.from_config(LlamaConfig(**SHAPES[options.shape]), dtype=dtype).save_pretrained(folder)
        base = load_model(folder, LoadOptions(quantization="nf4"))
    layers = require_four_bit(base)
    check_model(base)
    model = add_lora(base, LoraOptions(r=16), seed=0)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    method = Method(OBJECTIVES.build("irpo"), SCORERS.build("independent"))
    vocabulary = SHAPES[options.shape]["vocab_size"]
    sizes = (vocabulary, options.prompt, options.candidates, options.tokens)
    batch = method.batch([random_list(str(i), *sizes) for i in range(options.lists)], pad_id=0).to(device)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    losses, seconds = [], []
    for _ in range(options.steps):
        start = time.perf_counter()
        losses.append(step(model, method, batch, optimizer))
        seconds.append(time.perf_counter() - start)
    learn, whole = trainable_parameters(model)
    middle = statistics.median(seconds)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    row = {
        "benchmark": "qlora_steps",
        "case": options.shape,
        "device": name,
        "four_bit_layers": layers,
        "trainable": learn,
        "parameters": whole,
        "lists_per_s": round(options.lists / middle, 3),
        "tokens_per_s": round(batch.tokens / middle, 1),
        "peak_memory_gb": round(peak_memory() / 2**30, 2),
        "first_loss": round(losses[0], 4),
        "last_loss": round(losses[-1], 4),
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
