"""Rewards: what a drawn answer is worth. A plug-in point; its fields are its options."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import torch

from irpo.measures import ndcg
from irpo.prompting.markup import in_turns, kept_apart
from irpo.prompting.parsing import parse_ranking
from irpo.registry import Registry, import_named
from irpo.scoring.models import default_device
from irpo.scoring.names import as_it_answers, own_code, require_there, resolve
from irpo.scoring.tokens import PromptedList
from irpo.types import Style, UserError


class Reward(Protocol):
    """A judge of answers."""

    def __call__(self, question: PromptedList, answers: Sequence[str]) -> list[float]:
        """One finite number an answer, higher is better."""
        ...


REWARDS: Registry[Reward] = Registry("reward")


def require_judge(reward: Reward, style: Style) -> None:
    """`UserError` where the reward reads rankings and answers of this style are none, or its model is not there."""
    if isinstance(reward, Model):
        require_there(reward.model, "reward 'model': ")
    if style == "response" and isinstance(reward, Labels):
        raise UserError(
            "reward 'labels' judges rankings, and prompt.style 'response' draws free answers; choose "
            "{name: model, model: ...} or {name: python, function: module:function}"
        )


@REWARDS.register("labels")
@dataclass(frozen=True)
class Labels:
    """NDCG@k of the ranking that the answer writes, by the task's labels; what it does not name earns nothing."""

    k: int = 10

    def __call__(self, question: PromptedList, answers: Sequence[str]) -> list[float]:
        prompt = question.prompt
        require_judge(self, prompt.style)
        rankings = [parse_ranking(answer, prompt.names, prompt.style)[0] for answer in answers]
        example = question.example
        return [ndcg(ranking.order, example.relevance, self.k, missed=example.missed) for ranking in rankings]


@REWARDS.register("model")
@dataclass(frozen=True)
class Model:
    """The logit of a reward model: any `AutoModelForSequenceClassification`, a folder or a hub id.

    It reads query and answer in its own chat markup, or as a pair of texts where its tokenizer has none.
    """

    model: str
    label: int | None = None  # which logit; None: the only one
    max_tokens: int = 2048  # query + answer; the rest is cut off
    answers_per_batch: int = 8

    def __call__(self, question: PromptedList, answers: Sequence[str]) -> list[float]:
        tokenizer, model = _judge(self.model)
        label = self._label(model)
        found: list[float] = []
        for start in range(0, len(answers), self.answers_per_batch):
            chosen = answers[start : start + self.answers_per_batch]
            inputs = self._inputs(tokenizer, question.example.query, chosen).to(model.device)
            with torch.no_grad():
                found += model(**inputs).logits[:, label].float().tolist()
        return found

    def _inputs(self, tokenizer: Any, query: str, answers: Sequence[str]) -> Any:
        query, *answers = kept_apart(tokenizer, [query, *answers])
        settings = {"padding": True, "truncation": True, "max_length": self.max_tokens, "return_tensors": "pt"}
        if not getattr(tokenizer, "chat_template", None):
            return tokenizer([query] * len(answers), list(answers), **settings)
        turns = [[{"role": "user", "content": query}, {"role": "assistant", "content": answer}] for answer in answers]
        texts = [in_turns(tokenizer, turn, header=False) for turn in turns]
        return tokenizer(texts, add_special_tokens=False, **settings)

    def _label(self, model: Any) -> int:
        count = int(model.config.num_labels)
        if self.label is None and count != 1:
            raise UserError(f"reward 'model': {self.model!r} has {count} labels; say which is the reward: label=...")
        if not 0 <= (self.label or 0) < count:
            raise UserError(f"reward 'model': label = {self.label}; {self.model!r} has the labels 0 to {count - 1}")
        return self.label or 0


@cache
def _judge(name: str) -> tuple[Any, Any]:
    """Tokenizer and reward model, loaded once."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    place, revision = resolve(name)
    try:
        with as_it_answers(name):
            tokenizer = AutoTokenizer.from_pretrained(place, revision=revision, trust_remote_code=False)
            model = AutoModelForSequenceClassification.from_pretrained(
                place, revision=revision, trust_remote_code=False
            )
    except (OSError, ValueError) as error:
        reason = own_code(error) or " ".join(str(error).split())[:200]
        raise UserError(f"reward 'model': {name!r} cannot be loaded as a sequence classifier ({reason})") from None
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if model.config.pad_token_id is None:  # without it the model cannot tell where a padded text ends
        model.config.pad_token_id = tokenizer.pad_token_id
    return tokenizer, model.to(default_device()).eval()


@REWARDS.register("python")
@dataclass(frozen=True)
class Python:
    """A function of yours: `module:function` that takes (example, answers) and gives a number for each answer.

    `example` is an `irpo.types.RankingExample` (query, candidates with labels), `answers` a list of texts.
    """

    function: str

    def __post_init__(self) -> None:
        _function(self.function)

    def __call__(self, question: PromptedList, answers: Sequence[str]) -> list[float]:
        found = list(_function(self.function)(question.example, list(answers)))
        if len(found) != len(answers) or not all(isinstance(x, (int, float)) and math.isfinite(x) for x in found):
            raise UserError(
                f"reward 'python': {self.function} gave {found!r} for {len(answers)} answers, "
                "not as many finite numbers"
            )
        return [float(x) for x in found]


def _function(spec: str) -> Callable[..., Any]:
    module, _, name = spec.partition(":")
    try:
        found = getattr(import_named(module, "reward 'python'"), name) if module and name else None
    except AttributeError as error:
        raise UserError(f"reward 'python': function = {spec!r}: {error}") from None
    if not callable(found):
        raise UserError(f"reward 'python': function = {spec!r}; give module:function, of a module that can be imported")
    function: Callable[..., Any] = found
    return function
