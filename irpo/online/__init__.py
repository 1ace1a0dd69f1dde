"""On-policy training: rounds of drawing answers from the policy, judging them, and training on them.

`iterative`: rankings that the policy drew become in-context lists with the ground truth's labels (IRPO 6.1).
`reinforce`: drawn answers with a reward, anew at every update (Williams 1992).
`larpo`: answers to a prompt compete by a reward, with those of earlier rounds (LarPO, arXiv 2502.03699).
"""

from irpo.online.questions import Question
from irpo.online.rewards import REWARDS, Reward
from irpo.online.rounds import Job, require_sound, run_rounds

__all__ = ["REWARDS", "Job", "Question", "Reward", "require_sound", "run_rounds"]
