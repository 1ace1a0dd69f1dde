"""Ranking by label, score and constrained decoding against free generation of the complete list, in lists a second.

    python benchmarks/ranking.py            # 24M-parameter Llama, prompt 256, K = 20, 8 tokens a candidate
    python benchmarks/ranking.py --quick    # within 50 s

The same prompts for all. Free generation writes exactly as many tokens as a complete answer has. `label` ranks by
labels of one token, `score` by the scorer `independent`, `constrain` by decoding that can only emit a permutation; 16
lists a batch. Ratio above 1: more lists a second than free generation.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import torch
from setting import SHAPES, Case, interleaved, show

from irpo.encoding import EncodedList
from irpo.generation import answer_tokens, constrained_ranking, generate_text
from irpo.models import load_tokenizer
from irpo.scorers import SCORERS, score_lists

BATCH = 16


def labelled(item: EncodedList) -> EncodedList:
    """The same prompt with labels of one token for the candidates."""
    return replace(item, bodies=tuple((100 + j,) for j in range(len(item.bodies))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--shape", choices=SHAPES, default="24m")
    parser.add_argument("--prompt", type=int, default=256)
    parser.add_argument("--lists", type=int, default=BATCH)
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    case = Case(options.shape, prompt=options.prompt, lists=options.lists)
    model, tokenizer, items = case.model().eval(), load_tokenizer("embedded"), case.items()
    labels = [labelled(item) for item in items]
    length = answer_tokens(items[0])
    bodies = tuple(item.bodies for item in items)
    endless = [
        replace(item, tail=(case.vocabulary + 1,)) for item in items
    ]  # no token ends an answer before its length
    assert bodies == tuple(item.bodies for item in endless)
    tokenizer.eos_token = None
    works = {
        "label": lambda: score_lists(model, tokenizer, labels, SCORERS.build("label")),
        "score": lambda: score_lists(model, tokenizer, items, SCORERS.build("independent")),
        "constrain": lambda: constrained_ranking(model, tokenizer, items, lists_per_batch=BATCH),
        "free": lambda: generate_text(model, tokenizer, endless, lists_per_batch=BATCH, max_new_tokens=length),
    }
    with torch.no_grad():
        taken = interleaved(works, 1 if options.quick else options.repetitions)
    name = f"{case.shape} P={case.prompt} K={case.candidates} answer={length} tokens"
    for mode in ("label", "score", "constrain"):
        figures = (taken[mode] / len(items), taken["free"] / len(items))
        show("ranking", f"{mode} {name}", "free_generation", figures, "s/list", lists_per_s=round(1 / figures[0], 2))


if __name__ == "__main__":
    main()
