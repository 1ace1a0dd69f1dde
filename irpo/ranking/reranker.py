"""A ranker ready for use: a model, the prompt that it was trained with, and how candidates are scored.

ranker = Reranker.load("runs/x")
for row in ranker.rank("a funny film about space", ["Spaceballs (1987)", "Heat (1995)"]):
    print(row.rank, row.text, row.score)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from irpo.config.schema import RankerConfig, RunConfig
from irpo.config.trust import load_theirs
from irpo.progress import say
from irpo.prompting.markup import with_markup
from irpo.prompting.prompts import PromptBuilder, prompt_builder, require_positions
from irpo.ranking.choosing import Choice, choice_of_run, probabilities, strengthened
from irpo.ranking.engines import ENGINES, Opening, engine_of
from irpo.ranking.modes import RANKING_MODES, Ranker, RankingMode
from irpo.registry import Spec, load_plugins
from irpo.runs import base_name, run_config
from irpo.runs.rankers import model_behind, ranker_config
from irpo.scorers import SCORERS
from irpo.scoring.layout import Length, Scorer
from irpo.scoring.models import EMBEDDED, load_tokenizer, require_there, resolve
from irpo.scoring.strength import PLAIN, Strength, StrengthBy
from irpo.types import Candidate, RankingExample, Style


@dataclass(frozen=True)
class Ranked:
    """One document in a ranking. `score`, in the mode `score`: nats, at the ranker's strength; None if not finite."""

    rank: int  # 1-based
    index: int  # of the document as given
    text: str
    score: float | None = None
    named: bool = True  # False: the model's answer does not name it, and it follows by chance
    cut: int = 0  # tokens of it that did not fit the prompt
    probability: float | None = None  # that it is the relevant one, where the ranker has a temperature

    @property
    def note(self) -> str:
        """What a reader of the table should know of this row."""
        cut = [f"cut by {self.cut} tokens"] if self.cut else []
        return "; ".join(cut + ([] if self.named else ["not named by the model"]))


@dataclass(frozen=True)
class Reranker:
    """Ranks documents for a query with one model and one prompt."""

    model: Any  # of this process, or an `Engine` that holds one
    tokenizer: Any
    builder: PromptBuilder
    scorer: Scorer
    length: Length = "sum"
    strength: Strength = PLAIN
    temperature: float | None = None  # softmax(score / temperature) over a list are its probabilities

    @classmethod
    def load(  # noqa: PLR0913 - a model, and what may differ from its run's own
        cls,
        name: str,
        *,
        style: Style | None = None,
        template: str | None = None,
        max_tokens: int | None = None,
        strength: float | str | None = None,
        strength_by: StrengthBy | None = None,
        like: RankerConfig | RunConfig | None = None,
        trust_plugins: bool = False,
        engine: Spec | Opening = "transformers",
    ) -> Reranker:
        """A run's folder, `embedded`, a model's folder, a hub id, or a ranker's configuration (`rankers/first.yaml`).

        Prompt, scorer and strength are the run's or the configuration's own.

        `strength`, a number or "reward", takes the place of the one that the run was given or chose; a temperature
        serves the scores that it was fitted to, of the run's own strength and prompt. `max_tokens`
        of prompt and answer may be as many as the model has positions. `like` lends a base model the prompt, the scorer
        and the way of loading of a run or of a ranker's configuration. `engine` runs the model: `transformers`, `vllm`.
        Plug-ins that a run's own files name are imported where `trust_plugins` says so, and else refused: `UserError`.
        """
        own, given = run_config(name), ranker_config(name)
        config = given or (RankerConfig.of(like) if isinstance(like, RunConfig) else like)
        if own is not None:
            load_theirs(name, own, trusts=trust_plugins)
        elif config is not None:  # the user gave it
            load_plugins(config.plugins)
        name = model_behind(name)
        if max_tokens is not None:
            _require_room(name, max_tokens)
        chosen = choice_of_run(name, own) if own else Choice()
        choice = strengthened(chosen, strength, strength_by)
        builder = _builder(name, config, style, template, max_tokens)
        model = ENGINES.build(engine)(name, config, builder)
        engine_of(model, builder.tokenizer).require(choice.strength, writes=False)
        if config is None:
            return cls(model, builder.tokenizer, builder, SCORERS.build("independent"), strength=choice.strength)
        as_trained = style in (None, config.prompt.style)
        scorer = SCORERS.build(config.method.scorer if as_trained else "independent")
        temperature = choice.temperature if as_trained and template is None else None
        if chosen.temperature and not temperature:
            say("note: no probabilities, for the run's temperature was fitted at its own strength and prompt")
        return cls(model, builder.tokenizer, builder, scorer, config.method.length, choice.strength, temperature)

    @property
    def ranker(self) -> Ranker:
        """What a ranking mode works with."""
        return Ranker(self.model, self.builder, self.scorer, self.length, strength=self.strength)

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
        shares = self._shares(found.scores) or (None,) * len(documents)
        return [
            Ranked(rank, j, documents[j], _finite(scores[j]), j in named, cut[j], shares[j])
            for rank, j in enumerate(found.ranking.order, start=1)
        ]

    def _shares(self, scores: Sequence[float] | None) -> Sequence[float] | None:
        """The candidates' probabilities, where there is a temperature and every candidate has a score."""
        if self.temperature is None or scores is None or not all(map(isfinite, scores)):
            return None
        return probabilities(scores, self.temperature)


def notes_on(rows: Sequence[Ranked], max_tokens: int) -> list[str]:
    """What a user should know of a ranking: what was cut, and what stands where it stands by chance."""
    lost = [row.cut for row in rows if row.cut]
    unnamed = sum(not row.named for row in rows)
    notes = []
    if lost:
        notes.append(
            f"{len(lost)} of {len(rows)} documents were cut to fit {max_tokens} tokens, {sum(lost)} tokens in all; "
            "give more with --max-tokens, as far as the model has positions"
        )
    if unnamed:
        notes.append(
            f"the model's answer does not name {unnamed} of {len(rows)} documents; they follow in a random order"
        )
    return notes


def _builder(
    name: str, config: RankerConfig | None, style: Style | None, template: str | None, max_tokens: int | None
) -> PromptBuilder:
    """How the model is asked: as the run was trained where nothing else is said."""
    tokenizer = load_tokenizer(base_name(name))
    if config is None:
        limit = max_tokens or (1024 if name == EMBEDDED else 4096)
        return prompt_builder(tokenizer, template or "default", style or "text", limit)
    own = config.prompt
    with_markup(tokenizer, own.chat_template)
    chosen, labels = template or own.template or "default", own.labels if style in (None, own.style) else "letters"
    return prompt_builder(tokenizer, chosen, style or own.style, max_tokens or own.max_tokens, labels)


def _require_room(name: str, max_tokens: int) -> None:
    """`UserError` where the model has fewer positions; before its weights are loaded."""
    from transformers import AutoConfig

    require_there(base := base_name(name))
    place, revision = resolve(base)
    require_positions(AutoConfig.from_pretrained(place, revision=revision, trust_remote_code=False), max_tokens)


def _finite(score: float | None) -> float | None:
    return score if score is not None and isfinite(score) else None
