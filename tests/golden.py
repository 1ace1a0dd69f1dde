"""What every list, prompt and loss was before the house was rebuilt: `python tests/golden.py` writes `golden.json`.

Digests of texts and tokens, which no kernel can change; losses as numbers, in float64.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tiny import tiny_tokenizer

from irpo.lists import ScoredLists
from irpo.objectives import OBJECTIVES
from irpo.prompting.prompts import PromptBuilder, load_template
from irpo.resources import prompts_dir
from irpo.scoring.models import load_tokenizer
from irpo.scoring.tokens import encode
from irpo.tasks import TASKS, Intake, build_lists
from irpo.types import RankingExample

GOLDEN = Path(__file__).with_name("golden.json")
DATA = Path(os.environ.get("IRPO_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
# Not arc and commonsenseqa, whose distractors are mined from other questions since.
REAL = ("redial", "inspired", "hotpotqa", "musique")
OPTIONS: dict[str, dict[str, Any]] = {"point_sigmoid": {"max_label": 2}}


def digest(value: object) -> str:
    """16 hex digits of a JSON value."""
    return hashlib.sha256(json.dumps(value, ensure_ascii=True).encode()).hexdigest()[:16]


def lists_of(task: str, **options: Any) -> dict[str, list[RankingExample]]:
    """A task's lists."""
    return dict(build_lists(TASKS.build({"name": task, **options}), Intake()))


def lists() -> Iterator[tuple[str, Any]]:
    """The digests of every split, by the task's name and the data's."""
    places = {"world": ("world", {})}
    for size in ("sample", "extended"):
        places |= {
            f"{task} {size}": (task, {"data": str(DATA / size / task)})
            for task in REAL
            if (DATA / size / task).is_dir()
        }
    for name, (task, options) in places.items():
        found = lists_of(task, **options).items()
        yield name, {split: [len(examples), digest([told(e) for e in examples])] for split, examples in found}


def told(example: RankingExample) -> list[Any]:
    """What an example says, in a form that later fields do not change."""
    return [example.id, example.query, [[c.id, c.text, c.relevance, c.source] for c in example.candidates]]


def prompts() -> Iterator[tuple[str, Any]]:
    """The digests of prompts and tokens of 20 lists of films, in every template, whole and cut to 224 tokens."""
    examples = lists_of("world")["eval"][:20]
    tokenizers = {"embedded": load_tokenizer("embedded"), "chat": tiny_tokenizer(), "plain": tiny_tokenizer(chat=False)}
    for path in sorted(prompts_dir().glob("*.jinja")):
        task, style = path.name.split(".")[:2]
        for name, tokenizer in tokenizers.items():
            for most in (4096, 224):
                if most == 224 and name != "embedded":
                    continue
                builder = PromptBuilder(tokenizer, load_template(prompts_dir(), task, style), style, most)  # type: ignore[arg-type]
                built = [builder.build(example) for example in examples]
                tokens = [encode(tokenizer, p, e.relevance) for p, e in zip(built, examples, strict=True)]
                rows = [
                    [p.text, p.names, p.candidate_tokens_cut, p.query_tokens_cut, t.prompt, t.heads, t.bodies, t.tail]
                    for p, t in zip(built, tokens, strict=True)
                ]
                yield f"{task}.{style} {name} {most}", digest(rows)


def table() -> ScoredLists:
    """Four lists of up to six candidates with labels 0 and 1, so that no pair depends on how grades are compared."""
    chance = torch.Generator().manual_seed(0)
    shape = (4, 6)
    policy, reference = (torch.randn(shape, generator=chance, dtype=torch.float64) * 2 - 5 for _ in range(2))
    noise = torch.rand(shape, generator=chance, dtype=torch.float64)
    sizes = torch.tensor([6, 5, 3, 6])
    mask = torch.arange(6) < sizes[:, None]
    relevance = torch.tensor([[1, 0, 0, 1, 0, 0], [0, 0, 1, 0, 0, 0], [0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1]]) * mask
    target = torch.randn(4, generator=chance, dtype=torch.float64) - 9
    teacher = torch.randn(shape, generator=chance, dtype=torch.float64)
    return ScoredLists(policy, reference, relevance.double(), mask, noise, target, teacher=teacher)


def losses() -> Iterator[tuple[str, Any]]:
    """Loss of each list by every objective."""
    for name in OBJECTIVES:
        yield name, OBJECTIVES.build(name, **OPTIONS.get(name, {}))(table()).tolist()


def made() -> dict[str, Any]:
    """Everything."""
    return {"lists": dict(lists()), "prompts": dict(prompts()), "losses": dict(losses())}


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(made(), indent=1) + "\n", encoding="utf-8")
