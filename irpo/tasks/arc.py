"""ARC-Challenge (Clark et al. 2018): find the right answer to a science question."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from irpo.tasks import TASKS, Intake, Lists, Release
from irpo.tasks._choices import VALIDATION_SHARES, ChoiceLists
from irpo.tasks.mining import MinerName

RELEASE = Release(eval_names=(), prefer="challenge", hub="allenai/ai2_arc", hub_config="ARC-Challenge")


@TASKS.register("arc")
@dataclass(frozen=True)
class Arc:
    """The right answer has label 1, wrong ones 0, filled up to `list_size` with wrong answers to other questions.

    They come from questions of the same split; validation lists share none with training lists where
    `training.validation_fraction` is 0.05, 0.1 or 0.2.

    The website's files and the hub's rows are read alike. Labels are matched, whatever they are (A-E, 1-5).
    """

    validation_shares: ClassVar[tuple[float, ...]] = VALIDATION_SHARES

    data: str
    seed: int = 0
    list_size: int = 10
    eval_split: Literal["dev", "test"] = "dev"  # the paper's 299 evaluation questions are the release's dev file
    miner: MinerName = "bm25"
    dense_model: str = "sentence-transformers/all-MiniLM-L6-v2"

    def build(self, intake: Intake) -> Lists:
        """See `irpo.tasks.Task`."""
        lists = ChoiceLists(self.list_size, self.seed, self.miner, self.dense_model)
        return lists.build(self.data, replace(RELEASE, eval_names=(self.eval_split,)), intake)
