"""What the embedded model and its world are before any fine-tuning: is there something to learn, and only by knowledge?

python benchmarks/embedded_measure.py [FOLDER] [--lists 480] [--out results/embedded.json]

On the world's evaluation lists, whose wishes no list of the pretraining asks for: rankings that need no model (words,
given order, popularity, a table of each film's training labels), the model asked as every method asks it, and the model
asked in the second register, in which pretraining ranked by the wish. No method's result enters here.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from embedded_corpus import BY_WISH, OPTIONS, QUESTIONS, VERDICTS
from transformers import AutoModelForCausalLM, AutoTokenizer

from irpo.config.schema import EvaluationConfig
from irpo.evaluation.baselines import at_random
from irpo.measures import ndcg
from irpo.pipeline import measure as evaluated
from irpo.prompting.prompts import STYLES, markup
from irpo.ranking.modes import by_score
from irpo.ranking.reranker import Reranker
from irpo.resources import embedded_dir
from irpo.tasks import Intake, build_lists
from irpo.tasks.world import WISHES, WORDINGS, World, films
from irpo.types import Ranking, RankingExample

MODES = {"score": "score", "free": "generate strict", "constrain": "constrain"}
BASELINES = ("BM25", "input order", "popularity")
SETTINGS = EvaluationConfig(measures=("NDCG@10",), lists_per_batch=32)
MAIN = "NDCG@10"


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
    """Accuracy by kind of question, over a third of the films; `verdict` asks how far a film satisfies a wish."""
    known = {}
    for kind, (ask, answer) in QUESTIONS.items():
        asked = [(ask.format(f=film), OPTIONS[kind], answer.format(f=film)) for film in films()[::3]]
        known[kind] = best_option(model, tokenizer, asked)
    rng = random.Random(0)
    verdicts: list[tuple[str, Sequence[str], str]] = []
    for label, answer in enumerate(VERDICTS):
        while sum(said == answer for *_, said in verdicts) < 50:
            film, wish = rng.choice(films()), rng.choice(WISHES)
            if film.label(wish) == label:
                text = rng.choice(WORDINGS[wish.kind]).format(first=wish.first, second=wish.second)
                verdicts.append((f"{text}\nWhich wish does {film.title} satisfy?", VERDICTS, answer))
    known["verdict"] = best_option(model, tokenizer, verdicts)
    return known


def table_ndcg(train: Sequence[RankingExample], asked: Sequence[RankingExample], sign: int) -> float:
    """NDCG@10 of a film's mean training label, the query unseen; `sign` -1: the lowest first."""
    labels: dict[str, list[float]] = defaultdict(list)
    for example in train:
        for candidate in example.candidates:
            labels[candidate.text].append(candidate.relevance)
    value = {text: sign * fmean(seen) for text, seen in labels.items()}
    return mean_ndcg(asked, [by_score([value.get(t, 0.0) for t in e.texts], e.id)[0] for e in asked])


def chance_ndcg(asked: Sequence[RankingExample], orders: int = 20) -> float:
    """NDCG@10 of random orders, the mean of several."""
    return fmean(mean_ndcg(asked, [at_random(e, seed) for e in asked]) for seed in range(orders))


def mean_ndcg(asked: Sequence[RankingExample], rankings: Sequence[Ranking]) -> float:
    """Mean NDCG@10, gain 2^y - 1."""
    return fmean(ndcg(r.order, e.relevance, 10) for e, r in zip(asked, rankings, strict=True))


def rankings(folder: Path, lists: int) -> dict[str, Any]:
    """NDCG@10 by what does the ranking: nothing that knows the films, or the model in either register and style."""
    world = World(eval_lists=lists)
    splits = build_lists(world, Intake())
    asked = splits["eval"]
    by_wish = [replace(e, query=e.query + BY_WISH) for e in asked]
    found: dict[str, Any] = {
        "lists": len(asked),
        "wishes": len({e.group for e in asked}),
        "random": chance_ndcg(asked),
        "table of training labels": table_ndcg(splits["train"], asked, 1),
        "the same, lowest first": table_ndcg(splits["train"], asked, -1),
    }
    for style in STYLES:
        ranker = Reranker.load(str(folder), style=style, template="world")
        for register, examples in (("plain", asked), ("by the wish", by_wish)):
            summary = evaluated(ranker, examples, SETTINGS, task={"name": "world"}, train=splits["train"]).summary
            rows = {row.name: row for row in summary.rows}
            found |= {name: rows[name].measures[MAIN] for name in BASELINES}
            found[f"{register}, {style}"] = {
                **{mode: rows[name].measures[MAIN] for mode, name in MODES.items()},
                "interval": list(rows["score"].interval),
                "named": rows["generate strict"].answers.coverage,
            }
    return found


def measure(folder: Path, lists: int = 480) -> dict[str, Any]:
    """Everything, with the model's name: SHA-256 of its weights."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    weights = (folder / "model.safetensors").read_bytes()
    return {
        "sha256": hashlib.sha256(weights).hexdigest(),
        "bytes": sum(path.stat().st_size for path in folder.iterdir()),
        "parameters": model.num_parameters(),
        "facts": facts_known(model, AutoTokenizer.from_pretrained(folder)),
        "ndcg@10": rankings(folder, lists),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=embedded_dir())
    parser.add_argument("--lists", type=int, default=480)
    parser.add_argument("--out", type=Path, help="a file for the result, besides the screen")
    options = parser.parse_args()
    torch.set_num_threads(2)
    text = json.dumps(measure(options.folder, options.lists), indent=1)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
