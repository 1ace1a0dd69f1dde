"""Iterative IRPO (arXiv 2504.15477, section 6.1): rankings that the policy drew, as in-context lists."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from irpo.config.schema import OnlineConfig
from irpo.evaluation.results import kind_of
from irpo.online import ON_POLICY, Account, Course
from irpo.online.policy import Policy, Round
from irpo.prompting.parsing import parse_ranking
from irpo.ranking import Drawn, path_of
from irpo.scoring.tokens import EncodedList, PromptedList
from irpo.training.method import Method
from irpo.types import Style, UserError


@ON_POLICY.register("iterative")
@dataclass(frozen=True)
class Iterative:
    """Rankings that the policy drew become in-context lists with the ground truth's labels (IRPO 6.1)."""

    course: ClassVar[Course] = Course(compares=False, constrains=True)

    def require_sound(self, online: OnlineConfig, style: Style, method: Method) -> None:
        drawn = method.scorer.as_given or getattr(method.objective, "target_order", "") == "given"
        if not drawn:
            raise UserError(
                "online.method 'iterative' trains on the drawn order: method.scorer={name: list, order: given}, or an "
                "objective with target_order: given"
            )
        if online.draw == "constrained" and not method.scorer.as_given:
            raise UserError(
                "online.draw 'constrained' with the method 'iterative' scores the choices of the drawn order: set "
                "method.scorer={name: list, order: given}"
            )

    def lists(self, policy: Policy, now: Round) -> tuple[list[EncodedList], Account]:
        answers = policy.draw(now.questions, now.key)
        if policy.options.draw == "constrained":
            kept, dropped = whole_lists(now.questions, answers), Counter[str]()
        else:
            kept, dropped = drawn_lists(now.questions, answers)
        return kept, {"answers": sum(map(len, answers)), "kept": len(kept), "dropped": dict(sorted(dropped.items()))}

    def measures(self, policy: Policy, questions: Sequence[PromptedList]) -> dict[str, float]:
        return {}


def drawn_lists(
    questions: Sequence[PromptedList], answers: Sequence[Sequence[Drawn]]
) -> tuple[list[EncodedList], Counter[str]]:
    """The drawn answers that are complete permutations, as lists in their order with the ground truth's labels.

    The others are left out and counted, each under the first thing that is wrong with it (missing, repeated, unknown,
    unparseable); nothing takes their place.
    """
    kept: list[EncodedList] = []
    dropped: Counter[str] = Counter()
    for question, samples in zip(questions, answers, strict=True):
        for number, sample in enumerate(samples):
            ranking, problems = parse_ranking(sample.text, question.prompt.names, question.prompt.style)
            if problems:
                dropped[kind_of(problems[0])] += 1
            else:
                kept.append(in_order(question.tokens, ranking.order, f"{question.example.id}#{number}"))
    return kept, dropped


def whole_lists(questions: Sequence[PromptedList], answers: Sequence[Sequence[Drawn]]) -> list[EncodedList]:
    """Answers drawn along walks, as lists in their order that are scored by their choices; none is left out."""
    kept: list[EncodedList] = []
    for question, samples in zip(questions, answers, strict=True):
        for number, sample in enumerate(samples):
            path = path_of(question.tokens, sample.tokens)
            item = in_order(question.tokens, path.order, f"{question.example.id}#{number}")
            kept.append(replace(item, choices=path.of_candidates(question.tokens)))
    return kept


def in_order(item: EncodedList, order: Sequence[int], id: str) -> EncodedList:
    """The list with its candidates in this order: what `order: given` then scores is the answer as it was written."""
    return replace(item.only(order), id=id)
