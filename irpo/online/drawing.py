"""The policy's part of a round: answers drawn from it, judged, and made into what the objective is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from irpo.config import OnlineConfig, TrainingConfig
from irpo.encoding import EncodedList
from irpo.files import atomic_file, json_line, read_rows
from irpo.generation import SAMPLERS, Drawn, Sampler, Sampling
from irpo.measures import pass_at
from irpo.online.pools import Answer, Negatives, Pools, different, merged
from irpo.online.questions import Question, as_answers, choose, drawn_lists, seed_of
from irpo.online.rewards import REWARDS, Reward
from irpo.progress import BEST
from irpo.training import ListTrainer

ANSWERS = "answers.jsonl"  # of a round's folder: what LarPO drew, for the memory of later rounds
Account = dict[str, Any]  # what a round drew and left out


@dataclass(frozen=True)
class Policy:
    """The model, and how answers are drawn from it."""

    model: Any
    tokenizer: Any
    options: OnlineConfig
    seed: int = 0

    def draw(
        self, questions: Sequence[Question], *key: str | int, temperature: float | None = None
    ) -> list[list[Drawn]]:
        """`samples` answers to each question; which ones depends on the policy, the run's seed, the key and the ids."""
        sampler: Sampler = SAMPLERS.build(self.options.sampler)
        seed = seed_of(self.seed, *key)
        sampling = Sampling(temperature or self.options.temperature, self.options.samples, seed)
        items = [question.item for question in questions]
        return sampler(self.model, self.tokenizer, items, sampling, self.options.max_response_tokens)

    @property
    def reward(self) -> Reward:
        """The configured judge."""
        return REWARDS.build(self.options.reward)


@dataclass(frozen=True)
class Round:
    """One round: what it asks, and where it is written. Rounds count from 1."""

    number: int
    questions: tuple[Question, ...]
    folder: Path


def prompts_of(questions: Sequence[Question], options: OnlineConfig, training: TrainingConfig) -> int:
    """How many questions a round asks, where none is said: as many as its updates take lists from."""
    lists = options.updates_per_round * training.lists_per_update
    each = options.samples if options.name == "iterative" else 1  # every ranking is a list, else all answers make one
    return min(len(questions), options.prompts_per_round or -(-lists // each))


def questions_of(
    questions: Sequence[Question], options: OnlineConfig, training: TrainingConfig, *key: str | int
) -> tuple[Question, ...]:
    """A round's questions, by the key alone."""
    return tuple(choose(questions, prompts_of(questions, options, training), *key))


def iterative_lists(policy: Policy, now: Round) -> tuple[list[EncodedList], Account]:
    """Rankings that the policy drew, as lists (`drawn_lists`)."""
    answers = policy.draw(now.questions, now.number)
    kept, dropped = drawn_lists(now.questions, answers)
    return kept, {"answers": sum(map(len, answers)), "kept": len(kept), "dropped": dict(sorted(dropped.items()))}


def asked_lists(policy: Policy, now: Round) -> tuple[list[EncodedList], Account]:
    """The questions themselves: REINFORCE draws its answers while it trains."""
    return [question.item for question in now.questions], {"prompts": len(now.questions)}


def larpo_lists(policy: Policy, now: Round) -> tuple[list[EncodedList], Account]:
    """Candidate lists of this round's answers and, as `memory` says, of earlier rounds' (LarPO, Algorithm 1)."""
    options = policy.options
    pools = judged(policy, now.questions, now.number)
    write_pools(now.folder / ANSWERS, pools)
    first = {"current": now.number, "previous": now.number - 1, "all": 1}[options.memory]
    earlier = [read_pools(now.folder.parent / f"{n:03d}" / ANSWERS) for n in range(max(1, first), now.number)]
    high = None
    if options.negatives == "hard":
        high = judged(policy, now.questions, now.number, "high", temperature=options.high_temperature)
    negatives = Negatives(options.negatives, options.labels, options.samples - 1, seed_of(policy.seed, now.number))
    kept, dropped = negatives.lists(now.questions, merged([*earlier, pools]), high)
    different_ones = sum(map(len, pools.values()))
    account = {
        "answers": len(pools) * options.samples,
        "different": different_ones,
        "candidates": sum(len(item.bodies) for item in kept),
        "kept": len(kept),
        "dropped": dict(sorted(dropped.items())),
        "mean_reward": mean([answer.reward for pool in pools.values() for answer in pool]),
    }
    return kept, account


def judged(
    policy: Policy, questions: Sequence[Question], *key: str | int, temperature: float | None = None
) -> dict[str, tuple[Answer, ...]]:
    """Different answers to each question, with their rewards, by the example's id."""
    reward, found = policy.reward, {}
    drawn = policy.draw(questions, *key, temperature=temperature)
    for question, samples in zip(questions, drawn, strict=True):
        rewards = reward(question, [s.text for s in samples])
        answers = [Answer(s.tokens, s.text, r) for s, r in zip(samples, rewards, strict=True)]
        found[question.example.id] = different(answers)
    return found


def passes(policy: Policy, questions: Sequence[Question]) -> dict[str, float]:
    """Pass@N (which is Recall@N) of drawn answers and their mean reward, on questions that nothing is trained on."""
    reward, samples = policy.reward, policy.options.samples
    drawn = policy.draw(questions, "pass")
    rewards = [reward(q, [s.text for s in answers]) for q, answers in zip(questions, drawn, strict=True)]
    suited = [sum(r >= policy.options.pass_reward for r in row) for row in rewards]
    ns = [n for n in (1, 2, 4, 8, 16, 32, 64) if n < samples] + [samples]
    found = {f"Pass@{n}": mean([pass_at(count, samples, n) for count in suited]) for n in ns}
    return found | {"mean_reward": mean([r for row in rewards for r in row])}


def write_pools(path: Path, pools: Pools) -> None:
    """The pools of a round, one prompt a line."""
    with atomic_file(path) as file:
        for id, pool in pools.items():
            answers = [{"reward": a.reward, "text": a.text, "tokens": list(a.tokens)} for a in pool]
            file.write(json_line({"id": id, "answers": answers}) + "\n")


def read_pools(path: Path) -> dict[str, tuple[Answer, ...]]:
    """What `write_pools` wrote."""
    rows = [row.value for row in read_rows(path)]
    return {
        row["id"]: tuple(Answer(tuple(a["tokens"]), a["text"], a["reward"]) for a in row["answers"]) for row in rows
    }


def mean(values: Sequence[float]) -> float:
    """The mean, 0 of nothing."""
    return sum(values) / len(values) if values else 0.0


class DrawingTrainer(ListTrainer):
    """Draws new answers to its lists at every update, from the policy as it then is, and trains on them (REINFORCE)."""

    def __init__(self, *, policy: Policy, questions: Sequence[Question], key: tuple[str | int, ...], **rest: Any):
        super().__init__(**rest)
        self.policy, self.key = policy, key
        self.questions = {question.item.id: question for question in questions}

    def lists_of(self, inputs: Sequence[EncodedList]) -> Sequence[EncodedList]:
        """Answers drawn now, those to one prompt as a list."""
        questions = [self.questions[item.id] for item in inputs]
        drawn = self.policy.draw(questions, *self.key, self.state.global_step)
        return [
            as_answers(q.item, [s.tokens for s in samples], self.policy.reward(q, [s.text for s in samples]))
            for q, samples in zip(questions, drawn, strict=True)
        ]

    def _shown(self, lists: Any) -> dict[str, Any]:
        mean_reward = (lists.relevance * lists.mask).sum(-1) / lists.mask.sum(-1)
        shown = super()._shown(lists)
        shown.pop(f"train_{BEST}", None)  # its gains are of labels, these are rewards
        return {**shown, "mean_reward": mean_reward}
