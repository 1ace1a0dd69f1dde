"""Encoded lists and trainers on tiny models, for the tests of training."""

from dataclasses import replace

import torch
from tiny import tiny_model, tiny_tokenizer

from irpo.config.schema import TrainingConfig
from irpo.objectives import OBJECTIVES
from irpo.prompting.prompts import PromptBuilder, Template
from irpo.scorers import SCORERS
from irpo.scoring.batching import make_batch
from irpo.scoring.forward import score_batch
from irpo.scoring.models import LoraOptions, add_lora
from irpo.scoring.tokens import EncodedList, encode
from irpo.training.arguments import Loop, training_arguments
from irpo.training.method import Method
from irpo.training.trainer import ListTrainer
from irpo.types import Candidate, RankingExample

TOKENIZER = tiny_tokenizer()
TEMPLATE = Template("{{ query }}\n{% for c in candidates %}[{{ c.name }}] {{ c.text }}\n{% endfor %}")
WORDS = ("Alien", "Aliens", "Heat", "The Matrix", "The Godfather", "Movies")


def examples(count=8) -> list[RankingExample]:
    """Ragged lists of 3 to 5 candidates with labels 0, 1, 2."""
    made = []
    for i in range(count):
        texts = [WORDS[(i + j) % len(WORDS)] for j in range(3 + i % 3)]
        candidates = tuple(Candidate(str(j), text, (i + j) % 3) for j, text in enumerate(texts))
        made.append(RankingExample(f"list-{i}", "best " * (1 + i % 4), candidates))
    return made


def encoded(style="text", count=8) -> list[EncodedList]:
    builder = PromptBuilder(TOKENIZER, TEMPLATE, style)
    return [encode(TOKENIZER, builder.build(e), e.relevance, id=e.id) for e in examples(count)]


def taught(items) -> list[EncodedList]:
    """Lists whose teacher gives 10, 11, ... in their order."""
    return [replace(item, teacher=tuple(10.0 + j for j in range(len(item.bodies)))) for item in items]


GRADED = {"point_sigmoid": {"name": "point_sigmoid", "max_label": 2}}  # what an objective must be told of our labels


def method(objective="irpo", scorer="independent", **options) -> Method:
    built = OBJECTIVES.build(GRADED.get(objective, objective) if isinstance(objective, str) else objective)
    if not built.needs.reference:
        options.setdefault("reference", "none")
    return Method(built, SCORERS.build(scorer), **options)


def trainer(out, of: Method, *, items=None, validation=(), model=None, loop=None, **settings) -> ListTrainer:
    """A trainer on a fresh LoRA (or the given model); plain SGD, so that equal gradients are equal steps."""
    defaults = {"updates": 2, "lists_per_update": 4, "learning_rate": 0.1, "schedule": "constant"}
    config = TrainingConfig(**{**defaults, "warmup_fraction": 0.0, "logging_every": 1, **settings})
    items = (taught(encoded()) if of.objective.needs.teacher else encoded()) if items is None else items
    arguments = training_arguments(config, out, lists=len(items), validates=bool(validation), seed=0)
    arguments.optim = "sgd"
    arguments.disable_tqdm = True
    model = add_lora(tiny_model(), LoraOptions(r=4), seed=0) if model is None else model
    loop = loop or Loop(config.tokens_per_batch)
    return ListTrainer(
        model=model, tokenizer=TOKENIZER, method=of, lists=(items, validation), args=arguments, loop=loop
    )


def learned(model) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def gradients(model, items):
    """The policy's scores in training, and what they teach the adapter."""
    model.train().zero_grad()
    table = score_batch(model, make_batch(items, SCORERS.build("independent"))).table
    table.square().sum().backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}
    model.eval()
    return table.detach(), found


def bumped(model, by=0.1):
    """An adapter that has learnt something."""
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.normal_(0, by, generator=torch.Generator().manual_seed(1))
    return model
