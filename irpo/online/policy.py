"""What a method is given in a round: the policy to draw from, and the prompts it asks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from irpo.config.schema import OnlineConfig
from irpo.online.questions import seed_of
from irpo.processes import gather, share
from irpo.ranking import SAMPLERS, Drawn, Sampler, Sampling, WholeSampler
from irpo.scoring.sharding import within_each
from irpo.scoring.tokens import Choices, EncodedList, PromptedList

Key = tuple[str | int, ...]


@dataclass(frozen=True)
class Policy:
    """The model, and how answers are drawn from it."""

    model: Any
    tokenizer: Any
    options: OnlineConfig
    seed: int = 0

    def draw(
        self, questions: Sequence[PromptedList], key: Key, *, temperature: float | None = None
    ) -> list[list[Drawn]]:
        """`samples` answers to each question; which ones depends on the policy, the run's seed, the key and the ids.

        Each process draws the answers to its share of the questions.
        """
        items = [question.tokens for question in share(questions)]
        return gather(within_each(self.model, lambda: self._drawn(items, key, temperature)))

    def judged(
        self,
        questions: Sequence[PromptedList],
        key: Key,
        reward: Callable[[PromptedList, list[str]], Sequence[float]],
        *,
        temperature: float | None = None,
    ) -> list[tuple[list[Drawn], Sequence[float]]]:
        """The answers to each question, and the reward of each of them."""
        pairs = zip(questions, self.draw(questions, key, temperature=temperature), strict=True)
        judged = [(drawn, reward(question, [one.text for one in drawn])) for question, drawn in share([*pairs])]
        return gather(judged)

    def _drawn(self, items: Sequence[EncodedList], key: Key, temperature: float | None) -> list[list[Drawn]]:
        if not items:
            return []
        sampler: Sampler = SAMPLERS.build(self.options.sampler)
        sampling = Sampling(temperature or self.options.temperature, self.options.samples, seed_of(self.seed, *key))
        if self.options.draw == "constrained":
            if not isinstance(sampler, WholeSampler):
                raise ValueError(f"sampler {self.options.sampler['name']!r} draws free answers alone")
            return sampler.whole(self.model, self.tokenizer, items, sampling)
        return sampler(self.model, self.tokenizer, items, sampling, self.options.max_response_tokens)


@dataclass(frozen=True)
class Round:
    """One round, or one update of it: what is asked, and where the round is written. Rounds count from 1."""

    number: int
    questions: tuple[PromptedList, ...]
    folder: Path
    update: int | None = None  # of the round, where a method draws anew at each

    @property
    def key(self) -> Key:
        """What tells its draws from those of others."""
        return (self.number,) if self.update is None else (self.number, self.update)

    def before(self, count: int | None) -> list[Path]:
        """The folders of the rounds before it, `count` of them at most (None: all), the earliest first."""
        first = 1 if count is None else max(1, self.number - count)
        return [self.folder.parent / f"{number:03d}" for number in range(first, self.number)]


def as_answers(
    item: EncodedList,
    answers: Sequence[tuple[int, ...]],
    rewards: Sequence[float],
    choices: tuple[Choices, ...] = (),
) -> EncodedList:
    """Whole answers to the prompt as its candidates, rewards for labels; `choices` where drawn along walks."""
    return EncodedList(item.id, item.prompt, ((),) * len(answers), tuple(answers), (), tuple(rewards), choices)
