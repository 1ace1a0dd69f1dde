"""What the embedded model can do before any fine-tuning: facts known, lists completed.

python benchmarks/embedded_measure.py [folder]    prints one JSON line
"""

from __future__ import annotations

import json
import math
import random
import sys
from collections.abc import Sequence
from typing import Any

import torch
from embedded_corpus import OPTIONS, QUESTIONS, VERDICTS
from transformers import AutoModelForCausalLM, AutoTokenizer

from irpo.prompting.prompts import STYLES, PromptBuilder, load_template, markup
from irpo.resources import embedded_dir, prompts_dir
from irpo.scoring.tokens import encode
from irpo.tasks.world import COUNTRIES, GENRES, WORDINGS, World, films
from irpo.types import RankingExample, Style


def ndcg(relevance: Sequence[float], k: int = 10) -> float:
    """NDCG@k of labels in ranked order, gain 2^y - 1; the ideal is over the same labels."""

    def dcg(labels: Sequence[float]) -> float:
        return sum((2**y - 1) / math.log2(i + 2) for i, y in enumerate(labels[:k]))

    return dcg(relevance) / dcg(sorted(relevance, reverse=True))


def named(answer: str, names: Sequence[str], style: Style) -> list[int]:
    """Candidates that an answer names exactly, each once, in order."""
    if style == "text":
        parts = [line.partition(". ")[2] for line in answer.split("\n")]
    else:
        parts = [part.strip(" []") for part in answer.split(">")]
    return list(dict.fromkeys(names.index(part) for part in parts if part in names))


@torch.inference_mode()
def generated(model: Any, tokenizer: Any, prompts: Sequence[Sequence[int]], new_tokens: int) -> list[str]:
    """Greedy answers to prompts in tokens, all in one left-padded batch."""
    width = max(map(len, prompts))
    ids = torch.tensor([[tokenizer.pad_token_id] * (width - len(p)) + list(p) for p in prompts])
    output = model.generate(
        ids, attention_mask=(ids != tokenizer.pad_token_id).long(), max_new_tokens=new_tokens, do_sample=False
    )
    return [str(text) for text in tokenizer.batch_decode(output[:, width:], skip_special_tokens=True)]


def free_lists(
    model: Any, tokenizer: Any, examples: Sequence[RankingExample], task: str, style: Style
) -> dict[str, float]:
    """Coverage and NDCG@10 of greedy lists; what a list leaves out earns nothing."""
    builder = PromptBuilder(tokenizer, load_template(prompts_dir(), task, style), style)
    coverage, quality = [], []
    for start in range(0, len(examples), 50):
        chunk = examples[start : start + 50]
        prompts = [builder.build(example) for example in chunk]
        items = [encode(tokenizer, p, e.relevance) for p, e in zip(prompts, chunk, strict=True)]
        longest = max(len(item.answer(range(len(item.bodies)))) for item in items)
        answers = generated(model, tokenizer, [item.prompt for item in items], longest + 16)
        for example, prompt, answer in zip(chunk, prompts, answers, strict=True):
            order = named(answer, prompt.names, style)
            coverage.append(len(order) / len(prompt.names))
            rest = [j for j in range(len(prompt.names)) if j not in order]
            labels = [example.relevance[j] for j in order] + [0.0] * len(rest)
            full = ndcg([*labels[: len(order)], *(example.relevance[j] for j in rest)])
            quality.append(full if not rest else _strict(example, labels))
    return {"coverage": sum(coverage) / len(coverage), "ndcg@10": sum(quality) / len(quality)}


def _strict(example: RankingExample, labels: Sequence[float]) -> float:
    ideal = sum((2**y - 1) / math.log2(i + 2) for i, y in enumerate(sorted(example.relevance, reverse=True)[:10]))
    return sum((2**y - 1) / math.log2(i + 2) for i, y in enumerate(labels[:10])) / ideal


@torch.inference_mode()
def best_option(model: Any, tokenizer: Any, asked: Sequence[tuple[str, Sequence[str], str]]) -> float:
    """Share of questions (text, options, answer) whose likeliest option is the answer."""
    right = 0
    for text, options, answer in asked:
        prompt = tokenizer(markup(tokenizer, text)[0], add_special_tokens=False)["input_ids"]
        tails = [[*tokenizer(o, add_special_tokens=False)["input_ids"], _end(tokenizer)] for o in options]
        width = max(map(len, tails))
        rows = torch.tensor([prompt + tail + [tokenizer.pad_token_id] * (width - len(tail)) for tail in tails])
        logp = model(rows).logits[:, len(prompt) - 1 : -1].log_softmax(-1)
        scores = [sum(logp[i, t, token].item() for t, token in enumerate(tail)) for i, tail in enumerate(tails)]
        right += options[scores.index(max(scores))] == answer
    return right / len(asked)


def _end(tokenizer: Any) -> int:
    return int(tokenizer.convert_tokens_to_ids("<|end|>"))


def facts_known(model: Any, tokenizer: Any) -> dict[str, float]:
    """Accuracy by kind of question, over all films; `verdict` asks how far a film satisfies a wish."""
    known = {}
    for kind, (ask, answer) in QUESTIONS.items():
        asked = [(ask.format(f=film), OPTIONS[kind], answer.format(f=film)) for film in films()]
        known[kind] = best_option(model, tokenizer, asked)
    rng = random.Random(0)
    verdicts: list[tuple[str, Sequence[str], str]] = []
    for label in (0, 1, 2):
        while sum(answer == VERDICTS[label] for *_, answer in verdicts) < 100:
            film, genre, country = rng.choice(films()), rng.choice(GENRES), rng.choice(COUNTRIES)
            if film.label(genre, country) == label:
                wish = rng.choice(WORDINGS).format(genre=genre, country=country)
                question = f"{wish}\nWhich wishes does {film.title} satisfy?"
                verdicts.append((question, VERDICTS, VERDICTS[label]))
    known["verdict"] = best_option(model, tokenizer, verdicts)
    return known


def measure(model: Any, tokenizer: Any, lists: int = 200) -> dict[str, Any]:
    """Facts, and free lists of the world's evaluation split in both styles beside a random order."""
    examples = World(train_lists=1, eval_lists=lists).build(None)["eval"]  # type: ignore[arg-type]
    rng = random.Random(0)
    chance = [ndcg(rng.sample(e.relevance, len(e.relevance))) for e in examples for _ in range(20)]
    result: dict[str, Any] = {"facts": facts_known(model, tokenizer), "random_ndcg@10": sum(chance) / len(chance)}
    for style in STYLES:
        result[style] = free_lists(model, tokenizer, examples, "world", style)
    return result


if __name__ == "__main__":
    torch.set_num_threads(2)
    folder = sys.argv[1] if len(sys.argv) > 1 else str(embedded_dir())
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    print(json.dumps(measure(loaded, AutoTokenizer.from_pretrained(folder))))
