"""On-policy training: rounds of drawing answers from the policy, judging them, and training on them.

`iterative`: rankings that the policy drew become in-context lists with the ground truth's labels (IRPO 6.1).
`reinforce`: drawn answers with a reward, anew at every update (Williams 1992).
`larpo`: answers to a prompt compete by a reward, with those of earlier rounds (LarPO, arXiv 2502.03699).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from irpo.online.questions import Question
    from irpo.online.rewards import REWARDS, Reward
    from irpo.online.rounds import Job, require_sound, run_rounds

__all__ = ["REWARDS", "Job", "Question", "Reward", "require_sound", "run_rounds"]

# Imported at first use: rewards are listed and checked without the Trainer that the rounds need.
_LAZY = {
    "Question": "irpo.online.questions",
    **dict.fromkeys(("REWARDS", "Reward"), "irpo.online.rewards"),
    **dict.fromkeys(("Job", "require_sound", "run_rounds"), "irpo.online.rounds"),
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'irpo.online' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
