"""A ranker ready for use: a model, the prompt that it was trained with, and how candidates are scored.

ranker = Reranker.load("runs/x")
for row in ranker.rank("a funny film about space", ["Spaceballs (1987)", "Heat (1995)"]):
    print(row.rank, row.text, row.score)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from irpo.config import RunConfig
from irpo.encoding import EncodedList, encode
from irpo.generation import constrained_ranking, generate_text
from irpo.jobs import prompt_builder
from irpo.models import EMBEDDED, load_tokenizer
from irpo.parsing import parse_ranking, repair
from irpo.prompting import PromptBuilder
from irpo.registry import load_plugins
from irpo.runs import base_name, load_options, load_weights, run_config
from irpo.scorers import SCORERS, Length, Scorer, score_lists
from irpo.types import Candidate, RankingExample, Style, UserError

Mode = Literal["score", "generate", "constrain"]


@dataclass(frozen=True)
class Ranked:
    """One document in a ranking. `score` is a log-probability in nats, in the mode `score` alone."""

    rank: int  # 1-based
    index: int  # of the document as given
    text: str
    score: float | None = None


@dataclass(frozen=True)
class Reranker:
    """Ranks documents for a query with one model and one prompt."""

    model: Any
    tokenizer: Any
    builder: PromptBuilder
    scorer: Scorer
    length: Length = "sum"

    @classmethod
    def load(
        cls, name: str, *, style: Style | None = None, template: str | None = None, like: RunConfig | None = None
    ) -> Reranker:
        """A run's folder, `embedded`, a model's folder or a hub id; prompt and scorer are the run's own by default.

        `like` lends a base model the prompt, the scorer and the way of loading of a run.
        """
        config = run_config(name) or like
        load_plugins(config.plugins if config else ())
        tokenizer = load_tokenizer(base_name(name))
        if config is None:
            limit = 1024 if name == EMBEDDED else 4096
            builder = prompt_builder(tokenizer, template or "default", style or "text", limit)
            return cls(load_weights(name), tokenizer, builder, SCORERS.build("independent"))
        own = config.prompt
        task = str(config.task["name"])
        builder = prompt_builder(tokenizer, template or own.template or task, style or own.style, own.max_tokens)
        scorer = SCORERS.build(config.method.scorer if style in (None, own.style) else "independent")
        return cls(load_weights(name, load_options(config)), tokenizer, builder, scorer, config.method.length)

    def encode(self, examples: Sequence[RankingExample]) -> list[EncodedList]:
        """The examples as this ranker is shown them, labels withheld."""
        prompts = [self.builder.build(example) for example in examples]
        return [
            encode(self.tokenizer, p, (0.0,) * len(p.names), id=e.id) for p, e in zip(prompts, examples, strict=True)
        ]

    def rank(self, query: str, documents: Sequence[str], mode: Mode = "score") -> list[Ranked]:
        """The documents, best first; every one of them is in the result, whatever the mode.

        In `generate` what the model did not name follows in a fixed random order. Fewer than two documents, or an
        empty one, raise `UserError`.
        """
        candidates = tuple(Candidate(str(j), text) for j, text in enumerate(documents))
        example = RankingExample("query", query, candidates)
        if self.builder.style == "response" and mode != "score":
            raise UserError(f"mode {mode!r}: style 'response' shows no candidates to the model; choose the mode score")
        prompt = self.builder.build(example)
        item = encode(self.tokenizer, prompt, example.relevance, id=example.id)
        scores: list[float | None] = [None] * len(documents)
        if mode == "score":
            values = score_lists(self.model, self.tokenizer, [item], self.scorer, length=self.length)[0].tolist()
            scores = list(values)
            order = tuple(sorted(range(len(documents)), key=lambda j: -values[j]))
        elif mode == "constrain":
            order = constrained_ranking(self.model, self.tokenizer, [item], lists_per_batch=1)[0].order
        else:
            text = generate_text(self.model, self.tokenizer, [item], lists_per_batch=1)[0]
            ranking, _ = parse_ranking(text, prompt.names, prompt.style)
            order = repair(ranking, len(documents), example.id, seed=0).order
        return [Ranked(rank, j, documents[j], scores[j]) for rank, j in enumerate(order, start=1)]
