"""Lists that `irpo prepare` wrote, as JSON lines or as Parquet shards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from irpo.tasks import TASKS, Intake
from irpo.tasks.shards import ShardedLists, read_card
from irpo.types import RankingExample, UserError


@TASKS.register("prepared")
@dataclass(frozen=True)
class Prepared:
    """The lists of a folder that `irpo prepare` wrote, in their order; their files are checked against its card.

    From which label an item counts as relevant is as the card says.
    """

    data: str

    def __post_init__(self) -> None:
        if not self.data.strip():
            raise UserError("task prepared: data is empty; give a folder that `irpo prepare` wrote")

    @property
    def relevant_from(self) -> float:
        """The label from which an item counts as relevant; 1 where there is no card to say it."""
        try:
            return float(read_card(Path(self.data))["relevant_from"])
        except UserError:
            return 1.0

    @property
    def also_measured(self) -> tuple[str, ...]:
        """The measures that these lists are evaluated by, beside those that are asked for."""
        try:
            return tuple(map(str, read_card(Path(self.data)).get("also_measured", ())))
        except (UserError, TypeError):
            return ()

    def build(self, intake: Intake) -> dict[str, Iterator[RankingExample]]:
        """See `irpo.tasks.Task`."""
        splits = self.splits()
        for split, lists in splits.items():
            lists.verify()
            intake.source(f"prepared {split}", lists.sha256, len(lists))
        return {split: iter(lists) for split, lists in splits.items()}

    def splits(self) -> dict[str, ShardedLists]:
        """The splits that are there, to be read as streams."""
        folder = Path(self.data)
        return {split: ShardedLists.of(folder, split) for split in read_card(folder)["splits"]}
