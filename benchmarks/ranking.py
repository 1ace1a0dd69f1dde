"""Ranking by label, score and constrained decoding against free generation of the complete list, in lists a second.

    python benchmarks/ranking.py            # 24M-parameter Llama, prompt 256, K = 20, 8 tokens a candidate
    python benchmarks/ranking.py --quick    # within 50 s

The same prompts for all. Free generation writes exactly as many tokens as a complete answer has. `label` ranks by
labels of one token, `score` by the scorer `independent`, `constrain` by decoding that can only emit a permutation; one
list at a time, as a user waits for it, and 16 lists a batch. Ratio above 1: more lists a second than free generation.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from setting import interleaved, show
from shapes import case_of, command_line, kind_of

from irpo.ranking import answer_tokens, constrained_ranking, generate_text
from irpo.scorers import SCORERS, causal_lm
from irpo.scoring.forward import score_lists
from irpo.scoring.models import load_tokenizer
from irpo.scoring.tokens import EncodedList

BATCH = 16


def labelled(item: EncodedList) -> EncodedList:
    """The same prompt with labels of one token for the candidates."""
    return replace(item, bodies=tuple((100 + j,) for j in range(len(item.bodies))))


def main() -> None:
    options = command_line(__doc__, repetitions=5).parse_args()
    case = case_of(options, lists=BATCH)
    model, tokenizer, items = case.model().eval(), load_tokenizer("embedded"), case.items()
    tokenizer.eos_token = causal_lm(model).generation_config.eos_token_id = None
    for lists in (1, BATCH):
        name = f"{kind_of(case)} P={case.prompt} K={case.candidates}, {lists} lists a batch"
        warm_up = not options.quick or lists == 1
        compare(name, model, tokenizer, items[:lists], 1 if options.quick else options.repetitions, warm_up=warm_up)


def compare(
    name: str, model: Any, tokenizer: Any, items: list[EncodedList], repetitions: int, *, warm_up: bool
) -> None:
    """All ways of ranking these lists, as one batch, in turns."""
    size, length = len(items), answer_tokens(items[0])
    labels = [labelled(item) for item in items]
    endless = [replace(item, tail=(10**6,)) for item in items]  # no token ends an answer before its length
    works = {
        "label": lambda: score_lists(model, tokenizer, labels, SCORERS.build("label")),
        "score": lambda: score_lists(model, tokenizer, items, SCORERS.build("independent")),
        "constrain": lambda: constrained_ranking(model, tokenizer, items, lists_per_batch=size),
        "free": lambda: generate_text(model, tokenizer, endless, lists_per_batch=size, max_new_tokens=length),
    }
    with torch.no_grad():
        taken = interleaved(works, repetitions, warm_up=warm_up)
    for mode in ("label", "score", "constrain"):
        figures = (taken[mode] / size, taken["free"] / size)
        show("ranking", f"{mode}, {name}", "free_generation", figures, "s/list", lists_per_s=round(1 / figures[0], 2))


if __name__ == "__main__":
    main()
