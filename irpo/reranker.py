"""A ranker ready for use: a model, the prompt that it was trained with, and how candidates are scored.

ranker = Reranker.load("runs/x")
for row in ranker.rank("a funny film about space", ["Spaceballs (1987)", "Heat (1995)"]):
    print(row.rank, row.text, row.score)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any

from irpo.config import RUN_CONFIG, RunConfig, load_config
from irpo.models import ADAPTER, EMBEDDED, FULL, LoadOptions, default_device, load_adapter, load_model, load_tokenizer
from irpo.modes import RANKING_MODES, Ranker, RankingMode
from irpo.progress import say
from irpo.prompting import PromptBuilder, load_template
from irpo.registry import Spec, load_plugins
from irpo.resources import prompts_dir
from irpo.scorers import SCORERS, Length, Scorer
from irpo.types import Candidate, RankingExample, Style, UserError


@dataclass(frozen=True)
class Ranked:
    """One document in a ranking. `score`: a log-probability in nats, in the mode `score`; None if it is not finite."""

    rank: int  # 1-based
    index: int  # of the document as given
    text: str
    score: float | None = None
    named: bool = True  # False: the model's answer does not name it, and it follows by chance
    cut: int = 0  # tokens of it that did not fit the prompt


def run_config(name: str) -> RunConfig | None:
    """The configuration of a finished run, None where the name is not a run's folder."""
    written = Path(name) / RUN_CONFIG
    return load_config([written]) if written.is_file() else None


def load_options(config: RunConfig) -> LoadOptions:
    """How a run loads its model."""
    return LoadOptions(config.model.quantization, config.model.dtype, config.model.attention)


def load_weights(name: str, options: LoadOptions | None = None, *, merge: bool = False) -> Any:
    """A model by name: a run's adapter on its base (merged into it where `merge`), a run's full weights, or a base."""
    config = run_config(name)
    options = _that_run_here(options or (load_options(config) if config else LoadOptions()))
    if config is None:
        return load_model(name, options)
    folder = Path(name)
    if (folder / FULL).is_dir():
        return load_model(str(folder / FULL), options)
    if not (folder / ADAPTER).is_dir():
        raise UserError(f"{name}: the run has neither '{ADAPTER}' nor '{FULL}': it did not finish; use train --resume")
    base_name(name)
    if merge and options.quantization == "nf4":
        raise UserError(f"model.name = {name!r} is a run with an adapter; it can be trained on unquantized only")
    model = load_adapter(load_weights(config.model.name, options, merge=True), folder / ADAPTER)
    return model.merge_and_unload() if merge else model.eval()


def _that_run_here(options: LoadOptions) -> LoadOptions:
    """FlexAttention trains on a GPU only; elsewhere `eager`, which every family has, and the user is told."""
    if options.attention != "flex_attention" or default_device().type == "cuda":
        return options
    say("note: model.attention flex_attention needs a GPU; eager is used here, with the same results")
    return replace(options, attention="eager")


def base_name(name: str, seen: tuple[Path, ...] = ()) -> str:
    """The model that a run, or a run on a run, began with; `UserError` where runs name each other in a circle."""
    config = run_config(name)
    if config is None:
        return name
    if (folder := Path(name).resolve()) in seen:
        raise UserError(f"{name}: this run's model.name leads back to the run itself; name the model it began with")
    return base_name(config.model.name, (*seen, folder))


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

    @property
    def ranker(self) -> Ranker:
        """What a ranking mode works with."""
        return Ranker(self.model, self.builder, self.scorer, self.length)

    def rank(self, query: str, documents: Sequence[str], mode: Spec | RankingMode = "score") -> list[Ranked]:
        """The documents, best first; every one of them is in the result, whatever the mode.

        In `generate` what the model did not name follows in a fixed random order. Fewer than two documents, or an
        empty one, raise `UserError`.
        """
        candidates = tuple(Candidate(str(j), text) for j, text in enumerate(documents))
        ranker, chosen = self.ranker, RANKING_MODES.build(mode)
        ranker.require(chosen)
        (found,) = chosen(ranker, [RankingExample("query", query, candidates)])
        scores = found.scores or (None,) * len(documents)
        cut, named = found.cut or (0,) * len(documents), set(found.named.order)
        return [
            Ranked(rank, j, documents[j], _finite(scores[j]), j in named, cut[j])
            for rank, j in enumerate(found.ranking.order, start=1)
        ]


def _finite(score: float | None) -> float | None:
    return score if score is not None and isfinite(score) else None


def prompt_builder(tokenizer: Any, template: str, style: Style, max_tokens: int) -> PromptBuilder:
    """A builder with one of the shipped templates, or a user's own .jinja file."""
    return PromptBuilder(tokenizer, load_template(prompts_dir(), template, style), style, max_tokens)
