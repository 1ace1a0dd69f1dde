"""How far an exported ranker ranks otherwise than its run: held-out lists, scored by both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from irpo.config.schema import RunConfig
from irpo.measures import ndcg
from irpo.progress import BEST
from irpo.ranking.modes import RANKING_MODES, RankedList
from irpo.ranking.reranker import Reranker
from irpo.tasks.preparing import build
from irpo.training.job import split_training
from irpo.types import RankingExample, UserError

EVALUATION = "evaluation lists"


@dataclass(frozen=True)
class Difference:
    """Of the scores and rankings of two rankers of the same lists."""

    lists: int
    of: str  # which lists they are
    largest: float  # absolute difference of a candidate's two scores, in nats
    mean: float
    reordered: int  # lists whose order is not the same
    other_first: int  # lists whose first candidate is not the same
    tau: float  # Kendall's tau-b of a list's two orders, mean over lists
    before: float  # mean NDCG@10 of the run
    after: float  # and of what was exported

    def __str__(self) -> str:
        return (
            f"re-scored {self.lists} {self.of}: scores differ by {self.mean:.2g} nats on average, "
            f"{self.largest:.2g} at most; {self.reordered} in another order (Kendall's tau {self.tau:.4f}), "
            f"{self.other_first} with another first; {BEST} {self.before:.4f} before, {self.after:.4f} after"
        )

    def as_dict(self) -> dict[str, Any]:
        """For `export.json`."""
        return asdict(self)


def held_out(config: RunConfig, most: int) -> tuple[list[RankingExample], str]:
    """The first lists that the run was not trained on, and what they are; `UserError` where its data are not there."""
    lists, _ = build(config.task, skip_bad_rows=config.skip_bad_rows)
    if "eval" in lists:
        return list(lists["eval"][:most]), EVALUATION
    t = config.training
    aside = split_training(lists["train"], t.validation_fraction, t.max_validation_lists).validation
    if not aside:
        raise UserError("the task has neither evaluation nor validation lists")
    return list(aside[:most]), "validation lists"


def ranked(ranker: Reranker, examples: Sequence[RankingExample]) -> list[RankedList]:
    """The lists by score."""
    return RANKING_MODES.build("score")(ranker.ranker, examples)


def difference(
    examples: Sequence[RankingExample], of: str, before: Sequence[RankedList], after: Sequence[RankedList]
) -> Difference:
    """How far two rankers of the same lists differ."""
    from scipy.stats import kendalltau

    orders = [(a.ranking.order, b.ranking.order) for a, b in zip(before, after, strict=True)]
    gaps = [
        abs(one - other)
        for a, b in zip(before, after, strict=True)
        for one, other in zip(a.scores or (), b.scores or (), strict=True)
    ]
    taus = [float(kendalltau(_places(a), _places(b)).statistic) for a, b in orders if len(a) > 1]
    return Difference(
        lists=len(examples),
        of=of,
        largest=max(gaps),
        mean=sum(gaps) / len(gaps),
        reordered=sum(a != b for a, b in orders),
        other_first=sum(a[0] != b[0] for a, b in orders),
        tau=sum(taus) / len(taus) if taus else 1.0,
        before=_mean_ndcg(examples, [a for a, _ in orders]),
        after=_mean_ndcg(examples, [b for _, b in orders]),
    )


def _places(order: Sequence[int]) -> list[int]:
    """Each candidate's place in a ranking."""
    return [order.index(j) for j in range(len(order))]


def _mean_ndcg(examples: Sequence[RankingExample], orders: Sequence[Sequence[int]]) -> float:
    values = [ndcg(order, e.relevance, 10, missed=e.missed) for e, order in zip(examples, orders, strict=True)]
    return sum(values) / len(values)
