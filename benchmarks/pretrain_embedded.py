"""Pretrains the embedded model from nothing: a tokenizer, then a small Llama, on `embedded_corpus`.

The model that ships was made by four runs, each of which goes on from the one before:

F=benchmarks/pretrain_embedded.py
python $F --pull 0.05 --steps 4000 --until 2250 --adam-rate 0.002 --out A
python $F --pull 0.05 --start A --steps 4000 --seed 1 --muon-rate 0.003 --adam-rate 0.0015 --out B
python $F --start B --steps 700 --seed 2 --muon-rate 0.001 --adam-rate 0.0005 --out C
python $F --pull 0.05 --start C --steps 900 --seed 3 --muon-rate 0.0015 --adam-rate 0.0008 --out D

`--width 512 --layers 10` makes a larger one, of 27 million parameters. Hidden matrices are optimised by Muon, the rest
by AdamW; constant learning rate, then a linear fall to 0.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import torch
from embedded_copying import lay_copying
from embedded_corpus import COPYING_FIRST, PULL, Corpus, Row, tokenizer_texts
from embedded_measure import measure
from embedded_tokenizer import END, train_tokenizer
from muon import Muon
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, IterableDataset
from transformers import AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from irpo.resources import embedded_dir

POOL = 256  # rows sorted by length together, so that batches need little padding
FALL = 0.7  # share of the steps in which the learning rate falls
WARMUP = 40  # steps


def new_model(tokenizer: PreTrainedTokenizerFast, width: int = 128, layers: int = 6) -> LlamaForCausalLM:
    """By default about 1.2M parameters; every linear layer's sides are multiples of 64, as NF4 blocks want them.

    Heads have 32 channels, whatever the width.
    """
    end = tokenizer.convert_tokens_to_ids(END)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        num_key_value_heads=width // 32,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=[end, tokenizer.eos_token_id],
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.04,
    )
    model = LlamaForCausalLM(config)
    lay_copying(model)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=[end, tokenizer.eos_token_id],
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
    )
    return model


class Reading(Protocol):
    """A corpus: rows without end, and the chance by which they are drawn."""

    rng: random.Random

    def rows(self, copying_first: int) -> Iterator[Row]:
        """The rows, the first so many of which teach copying alone."""
        ...


class Batches(IterableDataset[list[Row]]):
    """Rows of similar length, about `tokens` tokens together, in random order."""

    def __init__(self, corpus: Reading, tokens: int, copying_first: int) -> None:
        self.corpus, self.tokens, self.copying_first = corpus, tokens, copying_first

    def __iter__(self) -> Iterator[list[Row]]:
        rows = self.corpus.rows(self.copying_first)
        while True:
            groups: list[list[Row]] = [[]]
            for row in sorted((next(rows) for _ in range(POOL)), key=lambda row: len(row.ids)):
                if (len(groups[-1]) + 1) * len(row.ids) > self.tokens:
                    groups.append([])
                groups[-1].append(row)
            self.corpus.rng.shuffle(groups)
            yield from groups


def gradient(model: Any, rows: Sequence[Row], counted: float) -> tuple[dict[str, list[float]], Sequence[Tensor]]:
    """Losses by kind of row, and the gradient of their weighed sum over `counted`; rows are right-padded.

    Only learned tokens reach the head.
    """
    width = max(len(row.ids) for row in rows)
    pad = model.config.pad_token_id
    ids = torch.tensor([row.ids + [pad] * (width - len(row.ids)) for row in rows])
    learned = torch.tensor([row.learned + [False] * (width - len(row.ids)) for row in rows])[:, 1:]
    hidden = model.model(ids[:, :-1], use_cache=False).last_hidden_state
    losses = cross_entropy(model.lm_head(hidden[learned]), ids[:, 1:][learned], reduction="none")
    kinds: dict[str, list[float]] = {}
    parts = losses.split(learned.sum(1).tolist())
    for row, part in zip(rows, parts, strict=True):
        kinds.setdefault(row.kind, []).append(part.detach().mean().item())
    weighed = torch.stack([row.weight * part.sum() for row, part in zip(rows, parts, strict=True)]).sum()
    return kinds, torch.autograd.grad(weighed / counted, list(model.parameters()))


def backward(model: Any, rows: Sequence[Row], pool: ThreadPoolExecutor) -> dict[str, list[float]]:
    """Gradients of a batch, its two halves side by side: a core each, and no waiting between operations."""
    counted = sum(row.weight * sum(row.learned) for row in rows)
    halves = [half for half in (rows[::2], rows[1::2]) if half]
    done = list(pool.map(lambda half: gradient(model, half, counted), halves))
    for parameter, *parts in zip(model.parameters(), *(grads for _, grads in done), strict=True):
        parameter.grad = sum(parts[1:], parts[0])
    kinds: dict[str, list[float]] = {}
    for found, _ in done:
        for kind, values in found.items():
            kinds.setdefault(kind, []).extend(values)
    return kinds


def optimisers(model: Any, muon_rate: float, adam_rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for embeddings and norms."""
    inside = [p for p in model.model.layers.parameters() if p.ndim == 2]
    known = {id(p) for p in inside}
    rest = [p for p in model.parameters() if id(p) not in known]
    return [Muon(inside, lr=muon_rate), torch.optim.AdamW(rest, lr=adam_rate, betas=(0.9, 0.95), weight_decay=0.0)]


def share_of_peak(step: int, steps: int) -> float:
    """Learning rate at a step, as a share of its peak."""
    return min(1.0, (step + 1) / WARMUP, (steps - step) / (FALL * steps))


def pretrain(model: Any, corpus: Reading, args: argparse.Namespace, log: Any) -> dict[str, float]:
    """Train in place; returns the last losses by kind of row, in nats a token."""
    together = optimisers(model, args.muon_rate, args.adam_rate)
    schedules = [torch.optim.lr_scheduler.LambdaLR(o, lambda s: share_of_peak(s, args.steps)) for o in together]
    batches = Batches(corpus, args.batch_tokens, 0 if args.start else COPYING_FIRST)
    stream = iter(DataLoader(batches, batch_size=None, num_workers=1, prefetch_factor=16))
    begun, tokens = time.perf_counter(), 0
    recent: dict[str, list[float]] = {}
    means: dict[str, float] = {}
    with ThreadPoolExecutor(2) as pool:
        for step in range(1, (args.until or args.steps) + 1):
            rows = next(stream)
            for kind, values in backward(model, rows, pool).items():
                recent.setdefault(kind, []).extend(values)
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, error_if_nonfinite=True)
            for optimiser, schedule in zip(together, schedules, strict=True):
                optimiser.step()
                schedule.step()
            tokens += sum(len(row.ids) for row in rows)
            if step % 50 == 0 or step in (args.steps, args.until):
                means = {kind: round(sum(values) / len(values), 4) for kind, values in sorted(recent.items())}
                seconds = round(time.perf_counter() - begun, 1)
                line = {
                    "step": step,
                    "tokens": tokens,
                    "seconds": seconds,
                    "norm": round(norm.item(), 3),
                    "loss": means,
                }
                log.write(json.dumps(line) + "\n")
                log.flush()
                recent = {}
            if step % 250 == 0:
                model.save_pretrained(args.out)
    return means


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--pull", type=float, default=PULL, help="of relevance on the plain order")
    parser.add_argument("--until", type=int, help="stop after so many of these steps; the rates are those of all")
    parser.add_argument("--batch-tokens", type=int, default=2048)
    parser.add_argument("--muon-rate", type=float, default=0.004)
    parser.add_argument("--adam-rate", type=float, default=0.003)
    parser.add_argument("--width", type=int, default=128, help="of a new model: a multiple of 64")
    parser.add_argument("--layers", type=int, default=6, help="of a new model: 2 or more")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=Path, help="go on from the model in this folder instead of from nothing")
    parser.add_argument("--out", type=Path, default=embedded_dir())
    parser.add_argument("--log", type=Path, default=Path("pretrain.jsonl"))
    return parser.parse_args()


def main() -> None:
    """Tokenizer, model, training, saving, measuring; results go to the log as JSON lines."""
    args = arguments()
    torch.set_num_threads(1)  # two workers of one thread each; see `backward`
    torch.manual_seed(args.seed)
    if args.start:
        tokenizer = AutoTokenizer.from_pretrained(args.start)
        model = LlamaForCausalLM.from_pretrained(args.start, dtype=torch.float32)
        model.generation_config.pad_token_id = tokenizer.pad_token_id
    else:
        tokenizer = train_tokenizer(tokenizer_texts(args.seed))
        model = new_model(tokenizer, args.width, args.layers)
    with args.log.open("w", encoding="utf-8") as log:
        begun = time.perf_counter()
        tokenizer.save_pretrained(args.out, save_jinja_files=False)
        losses = pretrain(model.train(), Corpus(tokenizer, args.seed, args.pull), args, log)
        seconds = time.perf_counter() - begun
        model.eval().save_pretrained(args.out)
        result = {"parameters": model.num_parameters(), "final_loss": losses, "training_seconds": seconds}
        result |= measure(args.out)
        log.write(json.dumps(result) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
