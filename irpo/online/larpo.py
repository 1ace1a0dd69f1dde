"""LarPO (arXiv 2502.03699): answers to a prompt compete by a reward, with those of earlier rounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from irpo.config.schema import OnlineConfig
from irpo.measures import pass_at
from irpo.objectives import above_zero
from irpo.online import ON_POLICY, Account, Course
from irpo.online.policy import Key, Policy, Round
from irpo.online.pools import Hardness, JudgedAnswer, Negatives, Pool, different, merged, read_pools, write_pools
from irpo.online.questions import seed_of
from irpo.online.rewards import REWARDS, Reward, require_judge
from irpo.processes import is_first, wait
from irpo.registry import plugin_field
from irpo.scoring.tokens import EncodedList, PromptedList
from irpo.tasks.preferences import Labels
from irpo.training.method import Method
from irpo.types import Style

ANSWERS = "answers.jsonl"  # of a round's folder: what was drawn, for the memory of later rounds


@ON_POLICY.register("larpo")
@dataclass(frozen=True)
class LarPO:
    """Answers to a prompt compete by a reward, those of earlier rounds among them (LarPO, Algorithm 1).

    With `memory` other than current, every round asks the same prompts. `negatives`: see `irpo.online.pools`.
    """

    memory: Literal["current", "previous", "all"] = "all"  # whose answers to a prompt compete
    negatives: Hardness = "hardest"
    high_temperature: float = 1.5  # of hard negatives
    labels: Labels = "rank"  # what becomes of rewards; see irpo.tasks.preferences
    reward: Reward = plugin_field(REWARDS, "labels")
    pass_reward: float = 0.5  # from which an answer counts as suitable, in Pass@N

    def __post_init__(self) -> None:
        above_zero("larpo", high_temperature=self.high_temperature)

    @property
    def course(self) -> Course:
        """How many earlier rounds compete is an option."""
        return Course(earlier={"current": 0, "previous": 1, "all": None}[self.memory])

    def require_sound(self, online: OnlineConfig, style: Style, method: Method) -> None:
        require_judge(self.reward, style)

    def lists(self, policy: Policy, now: Round) -> tuple[list[EncodedList], Account]:
        pools = self.judged(policy, now.questions, now.key)
        if is_first():
            write_pools(now.folder / ANSWERS, pools)
        wait()  # until later rounds can read it
        earlier = [read_pools(folder / ANSWERS) for folder in now.before(self.course.earlier)]
        high = None
        if self.negatives == "hard":
            high = self.judged(policy, now.questions, (*now.key, "high"), temperature=self.high_temperature)
        count, seed = policy.options.samples - 1, seed_of(policy.seed, *now.key)
        negatives = Negatives(self.negatives, self.labels, count, seed)
        kept, dropped = negatives.lists(now.questions, merged([*earlier, pools]), high)
        account = {
            "answers": len(pools) * policy.options.samples,
            "different": sum(map(len, pools.values())),
            "candidates": sum(len(item.bodies) for item in kept),
            "kept": len(kept),
            "dropped": dict(sorted(dropped.items())),
            "mean_reward": mean([answer.reward for pool in pools.values() for answer in pool]),
        }
        return kept, account

    def judged(
        self, policy: Policy, questions: Sequence[PromptedList], key: Key, *, temperature: float | None = None
    ) -> dict[str, Pool]:
        """Different answers to each question, with their rewards, by the example's id."""
        found = {}
        drawn = policy.judged(questions, key, self.reward, temperature=temperature)
        for question, (samples, rewards) in zip(questions, drawn, strict=True):
            answers = [JudgedAnswer(s.tokens, s.text, r) for s, r in zip(samples, rewards, strict=True)]
            found[question.example.id] = different(answers)
        return found

    def measures(self, policy: Policy, questions: Sequence[PromptedList]) -> dict[str, float]:
        """Pass@N (which is Recall@N) of drawn answers, and their mean reward."""
        samples = policy.options.samples
        rewards = [found for _, found in policy.judged(questions, ("pass",), self.reward)]
        suited = [sum(r >= self.pass_reward for r in row) for row in rewards]
        ns = [n for n in (1, 2, 4, 8, 16, 32, 64) if n < samples] + [samples]
        found = {f"Pass@{n}": mean([pass_at(count, samples, n) for count in suited]) for n in ns}
        return found | {"mean_reward": mean([r for row in rewards for r in row])}


def mean(values: Sequence[float]) -> float:
    """The mean, 0 of nothing."""
    return sum(values) / len(values) if values else 0.0
