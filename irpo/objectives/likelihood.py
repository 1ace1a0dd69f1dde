"""Supervised fine-tuning: the likelihood of what should be written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from irpo.lists import ScoredLists
from irpo.objectives import OBJECTIVES, Needs
from irpo.types import UserError


@OBJECTIVES.register("sft")
@dataclass(frozen=True)
class SFT:
    """Negative log-likelihood of the whole target list's text, summed over its tokens (nats); no reference."""

    needs: ClassVar[Needs] = Needs(scores=False, reference=False, target=True)

    def __call__(self, lists: ScoredLists) -> Tensor:
        if lists.target is None:
            raise UserError("objective 'sft' needs the target list's log-likelihood (target=...)")
        return -lists.target
