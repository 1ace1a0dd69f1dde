"""Supervised fine-tuning: the likelihood of what should be written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from irpo.lists import ScoredLists, masked_sum
from irpo.objectives import OBJECTIVES, Needs
from irpo.objectives.pairs import log_probs
from irpo.types import UserError


@OBJECTIVES.register("sft")
@dataclass(frozen=True)
class SFT:
    """Negative log-likelihood (nats); no reference.

    `form: target` of the whole target list's text, summed over its tokens: it reads the labels only through the order
    of that list. `form: positives` of the candidates with a label above 0, each after the prompt, summed: labels
    may be graded or binary, and a list without a relevant candidate has loss 0.
    """

    form: Literal["target", "positives"] = "target"

    @property
    def needs(self) -> Needs:
        """The target's likelihood or the policy's table, by form."""
        if self.form == "target":
            return Needs(scores=False, reference=False, target=True)
        return Needs(reference=False)

    def __call__(self, lists: ScoredLists) -> Tensor:
        if self.form == "positives":
            return -masked_sum(log_probs(lists), lists.counted & (lists.relevance > 0))
        if lists.target is None:
            raise UserError("objective 'sft' needs the target list's log-likelihood (target=...)")
        return -lists.target
