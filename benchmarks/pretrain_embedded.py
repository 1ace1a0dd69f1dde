"""Pretrains the embedded model from nothing: a tokenizer, then a small Llama, on `embedded_corpus`.

python benchmarks/pretrain_embedded.py [--steps 1200] [--out FOLDER] [--log FILE]

Hidden matrices are optimised by Muon, the rest by AdamW; constant learning rate, then a linear fall to 0.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from embedded_corpus import Corpus, Row, tokenizer_texts
from embedded_measure import measure
from embedded_tokenizer import END, train_tokenizer
from muon import Muon
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from irpo.resources import embedded_dir

POOL = 256  # rows sorted by length together, so that batches need little padding
FALL = 0.4  # share of the steps in which the learning rate falls
WARMUP = 30  # steps


def new_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """About 1.2M parameters; every linear layer's sides are multiples of 64, as NF4 blocks want them."""
    end = tokenizer.convert_tokens_to_ids(END)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=[end, tokenizer.eos_token_id],
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.04,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=[end, tokenizer.eos_token_id],
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
    )
    return model


def batches(corpus: Corpus, tokens: int, pad: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(ids, learned) of rows of similar length, right-padded, about `tokens` tokens each, in random order."""
    rows = corpus.rows()
    while True:
        pool = sorted((next(rows) for _ in range(POOL)), key=lambda row: len(row.ids))
        groups: list[list[Row]] = [[]]
        for row in pool:
            if (len(groups[-1]) + 1) * len(row.ids) > tokens:
                groups.append([])
            groups[-1].append(row)
        corpus.rng.shuffle(groups)
        for group in groups:
            width = max(len(row.ids) for row in group)
            ids = torch.tensor([row.ids + [pad] * (width - len(row.ids)) for row in group])
            learned = torch.tensor([row.learned + [False] * (width - len(row.ids)) for row in group])
            yield ids, learned


def loss_of(model: Any, ids: Tensor, learned: Tensor) -> Tensor:
    """Mean cross-entropy of the learned tokens; only they reach the head."""
    hidden = model.model(ids[:, :-1], use_cache=False).last_hidden_state
    wanted = learned[:, 1:]
    return cross_entropy(model.lm_head(hidden[wanted]), ids[:, 1:][wanted])


def optimisers(model: Any, muon_rate: float, adam_rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for embeddings and norms."""
    inside = [p for p in model.model.layers.parameters() if p.ndim == 2]
    known = {id(p) for p in inside}
    rest = [p for p in model.parameters() if id(p) not in known]
    return [Muon(inside, lr=muon_rate), torch.optim.AdamW(rest, lr=adam_rate, betas=(0.9, 0.95), weight_decay=0.0)]


def share_of_peak(step: int, steps: int) -> float:
    """Learning rate at a step, as a share of its peak."""
    return min(1.0, (step + 1) / WARMUP, (steps - step) / (FALL * steps))


def pretrain(model: Any, corpus: Corpus, args: argparse.Namespace, log: Any) -> float:
    """Train in place; returns the mean loss of the last 50 steps, in nats a token."""
    together = optimisers(model, args.muon_rate, args.adam_rate)
    schedules = [torch.optim.lr_scheduler.LambdaLR(o, lambda s: share_of_peak(s, args.steps)) for o in together]
    stream = batches(corpus, args.batch_tokens, model.config.pad_token_id)
    begun, tokens, recent = time.perf_counter(), 0, []
    for step in range(args.steps):
        ids, learned = next(stream)
        loss = loss_of(model, ids, learned)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser, schedule in zip(together, schedules, strict=True):
            optimiser.step()
            schedule.step()
            optimiser.zero_grad()
        tokens += ids.numel()
        recent = [*recent, loss.item()][-50:]
        if not math.isfinite(recent[-1]):
            raise FloatingPointError(f"the loss is {recent[-1]} at step {step}; lower the learning rates")
        if (step + 1) % 25 == 0:
            mean, seconds = sum(recent) / len(recent), time.perf_counter() - begun
            line = {"step": step + 1, "loss": round(mean, 4), "tokens": tokens, "seconds": round(seconds, 1)}
            log.write(json.dumps(line) + "\n")
            log.flush()
    return sum(recent) / len(recent)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--muon-rate", type=float, default=0.02)
    parser.add_argument("--adam-rate", type=float, default=0.005)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=embedded_dir())
    parser.add_argument("--log", type=Path, default=Path("pretrain.jsonl"))
    return parser.parse_args()


def main() -> None:
    """Tokenizer, model, training, saving, measuring; results go to the log as JSON lines."""
    args = arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    tokenizer = train_tokenizer(tokenizer_texts(args.seed))
    model = new_model(tokenizer)
    with args.log.open("w", encoding="utf-8") as log:
        begun = time.perf_counter()
        loss = pretrain(model.train(), Corpus(tokenizer, args.seed), args, log)
        seconds = time.perf_counter() - begun
        model.eval().save_pretrained(args.out)
        tokenizer.save_pretrained(args.out, save_jinja_files=False)
        result = {"parameters": model.num_parameters(), "final_loss": loss, "training_seconds": seconds}
        result |= measure(model, tokenizer)
        log.write(json.dumps(result) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
