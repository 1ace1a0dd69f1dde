"""REINFORCE (Williams 1992): drawn answers with a reward, anew at every update."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from irpo.config.schema import OnlineConfig
from irpo.objectives.policy_gradient import Reinforce as Objective
from irpo.online import ON_POLICY, Account, Course
from irpo.online.policy import Policy, Round, as_answers
from irpo.online.rewards import REWARDS, Reward, require_judge
from irpo.ranking import path_of
from irpo.registry import plugin_field
from irpo.scoring.tokens import Choices, EncodedList, PromptedList
from irpo.training.method import Method
from irpo.types import Style, UserError


@ON_POLICY.register("reinforce")
@dataclass(frozen=True)
class Reinforce:
    """Answers drawn at every update, with a reward; for the objective `reinforce` (Williams 1992)."""

    course: ClassVar[Course] = Course(every_update=True, constrains=True)

    reward: Reward = plugin_field(REWARDS, "labels")

    def require_sound(self, online: OnlineConfig, style: Style, method: Method) -> None:
        require_judge(self.reward, style)
        if online.temperature != 1 or online.reference != "first":
            raise UserError(
                "online.method 'reinforce' follows the policy itself: online.temperature is 1, online.reference is "
                "first"
            )
        if not isinstance(method.objective, Objective):
            raise UserError(
                "online.method 'reinforce' takes method.objective=reinforce; other objectives compare answers: larpo"
            )
        if method.length != "sum":
            raise UserError("online.method 'reinforce' follows the probability of whole answers: method.length is sum")

    def lists(self, policy: Policy, now: Round) -> tuple[list[EncodedList], Account]:
        drawn = policy.judged(now.questions, now.key, self.reward)
        lists = []
        for question, (samples, rewards) in zip(now.questions, drawn, strict=True):
            choices: tuple[Choices, ...] = ()
            if policy.options.draw == "constrained":
                choices = tuple(path_of(question.tokens, s.tokens).of_answer for s in samples)
            lists.append(as_answers(question.tokens, [s.tokens for s in samples], rewards, choices))
        return lists, {"answers": sum(len(samples) for samples, _ in drawn), "kept": len(lists)}

    def measures(self, policy: Policy, questions: Sequence[PromptedList]) -> dict[str, float]:
        return {}
