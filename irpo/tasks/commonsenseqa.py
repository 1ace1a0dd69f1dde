"""CommonsenseQA (Talmor et al. 2019): find the right answer to a common-sense question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from irpo.tasks import TASKS, Intake, Lists, Release
from irpo.tasks._choices import VALIDATION_SHARES, ChoiceLists
from irpo.tasks.mining import MinerName

RELEASE = Release(eval_names=("dev", "test"), hub="tau/commonsense_qa")


@TASKS.register("commonsenseqa")
@dataclass(frozen=True)
class CommonsenseQA:
    """The right answer has label 1, wrong ones 0, filled up to `list_size` with wrong answers to other questions.

    They come from questions of the same split; validation lists share none with training lists where
    `training.validation_fraction` is 0.05, 0.1 or 0.2.

    The website's files and the hub's rows are read alike. The test file has no answers: its rows are refused.
    """

    validation_shares: ClassVar[tuple[float, ...]] = VALIDATION_SHARES

    data: str
    seed: int = 0
    list_size: int = 10
    miner: MinerName = "bm25"
    dense_model: str = "sentence-transformers/all-MiniLM-L6-v2"

    def build(self, intake: Intake) -> Lists:
        """See `irpo.tasks.Task`."""
        lists = ChoiceLists(self.list_size, self.seed, self.miner, self.dense_model)
        return lists.build(self.data, RELEASE, intake)
