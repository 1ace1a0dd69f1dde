"""Pretrains a small Llama on the training texts of real tasks, for them to be fine-tuned and compared on their lists.

The model that was measured was made by two runs, the second of which goes on from the first:

F=benchmarks/pretrain_real.py
python $F --data FOLDER --steps 2600 --until 500 --out A
python $F --data FOLDER --start A --steps 700 --seed 1 --out B

FOLDER holds redial/, commonsenseqa/, hotpotqa/, arc_challenge/ and, if at hand, inspired/, each with its authors' files
of training and evaluation rows. What is read of them, and what never is, stands in `real_corpus`. Model, optimisers and
schedule are those of the embedded model (`pretrain_embedded`).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from embedded_tokenizer import train_tokenizer
from pretrain_embedded import new_model, pretrain
from real_corpus import RealCorpus, Texts, tokenizer_texts, training_texts
from transformers import AutoTokenizer, LlamaForCausalLM


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--log", type=Path, default=Path("pretrain.jsonl"))
    parser.add_argument("--start", type=Path, help="go on from the model in this folder instead of from nothing")
    parser.add_argument("--width", type=int, default=192, help="of a new model: a multiple of 64")
    parser.add_argument("--layers", type=int, default=4, help="of a new model: 2 or more")
    parser.add_argument("--vocabulary", type=int, default=4096, help="tokens of a new model")
    parser.add_argument("--steps", type=int, default=2600)
    parser.add_argument("--until", type=int, help="stop after so many of these steps; the rates are those of all")
    parser.add_argument("--batch-tokens", type=int, default=2048)
    parser.add_argument("--muon-rate", type=float, default=0.004)
    parser.add_argument("--adam-rate", type=float, default=0.003)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> None:
    """Texts, tokenizer, model, training, saving; losses go to the log as JSON lines."""
    args = arguments(given)
    torch.set_num_threads(1)  # two workers of one thread each; see `pretrain_embedded.backward`
    torch.manual_seed(args.seed)
    texts = training_texts(args.data)
    if args.start:
        tokenizer = AutoTokenizer.from_pretrained(args.start)
        model = LlamaForCausalLM.from_pretrained(args.start, dtype=torch.float32)
        model.generation_config.pad_token_id = tokenizer.pad_token_id
    else:
        tokenizer = train_tokenizer(tokenizer_texts(texts, args.seed), args.vocabulary)
        model = new_model(tokenizer, args.width, args.layers)
    tokenizer.save_pretrained(args.out, save_jinja_files=False)
    with args.log.open("w", encoding="utf-8") as log:
        begun = time.perf_counter()
        losses = pretrain(model.train(), RealCorpus(tokenizer, texts, args.seed), args, log)
        seconds = round(time.perf_counter() - begun, 1)
        model.eval().save_pretrained(args.out)
        result = {"parameters": model.num_parameters(), "final_loss": losses, "training_seconds": seconds}
        text = json.dumps(result | counts(texts))
        log.write(text + "\n")
    print(text)


def counts(texts: Texts) -> dict[str, object]:
    """How much there is to read."""
    lists = {task: len(examples) for task, examples in texts.lists.items()}
    return {"documents": len(texts.documents), "characters": sum(map(len, texts.documents)), "lists": lists}


if __name__ == "__main__":
    main()
