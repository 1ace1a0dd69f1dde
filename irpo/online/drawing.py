"""The loop of a method that draws its lists anew at every update."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from irpo.lists import ScoredLists
from irpo.online import OnPolicy
from irpo.online.policy import Policy, Round
from irpo.progress import BEST
from irpo.scoring.tokens import EncodedList
from irpo.training.trainer import ListTrainer


class DrawingTrainer(ListTrainer):
    """Draws new answers to its lists at every update, from the policy as it then is, and trains on them."""

    def __init__(self, *, on_policy: OnPolicy, policy: Policy, now: Round, **rest: Any) -> None:
        super().__init__(**rest)
        self.on_policy, self.policy, self.now = on_policy, policy, now
        self.questions = {question.tokens.id: question for question in now.questions}

    def lists_of(self, inputs: Sequence[EncodedList]) -> Sequence[EncodedList]:
        """Lists of answers that are drawn now; from weights that are not finite nothing can be."""
        self.watch.require_weights(self.model, self.state.global_step)
        asked = tuple(self.questions[item.id] for item in inputs)
        lists, _ = self.on_policy.lists(self.policy, replace(self.now, questions=asked, update=self.state.global_step))
        return lists

    def _shown(self, lists: ScoredLists) -> dict[str, Tensor]:
        mean_reward = (lists.relevance * lists.mask).sum(-1) / lists.mask.sum(-1)
        shown = super()._shown(lists)
        shown.pop(f"train_{BEST}", None)  # its gains are of labels, these are rewards
        return {**shown, "mean_reward": mean_reward}
