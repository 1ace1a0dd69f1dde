"""The lists that a report lets one look at, with every ranker's order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from irpo.compare.page import Ranked, Viewed
from irpo.compare.results import EvaluationList, Frame, Result, TaskFrame
from irpo.compare.statistics.rankers import Compared, Ranker
from irpo.compare.statistics.tables import main_of


def viewed(
    frame: Frame, results: Sequence[Result], lists: Mapping[str, Sequence[EvaluationList]], most: int = 10_000
) -> tuple[Viewed, ...]:
    """The first lists of every task, at most `most` of all tasks together; orders are those of the first seed."""
    compared = Compared.of(frame, results, lists)
    shares = _shares([len(compared.lists[task.name]) for task in compared.frame.tasks], most)
    return tuple(_viewed(compared, task, share) for task, share in zip(compared.frame.tasks, shares, strict=True))


def _shares(sizes: Sequence[int], most: int) -> list[int]:
    """As many lists of every task as there are, the largest tasks cut alike until they fit.

    >>> _shares([10, 2, 7], 12)
    [5, 2, 5]
    """
    found, left = [0] * len(sizes), most
    for done, i in enumerate(sorted(range(len(sizes)), key=lambda i: sizes[i])):
        found[i] = min(sizes[i], left // (len(sizes) - done))
        left -= found[i]
    return found


def _viewed(compared: Compared, task: TaskFrame, n: int) -> Viewed:
    lists, measure = compared.lists[task.name], main_of(compared, task)
    rankers = [_ranked(r, task.name, measure, n) for r in compared.rankers if task.name in r.by_task]
    return Viewed(
        task=task.name,
        measure=measure,
        ids=tuple(x.id for x in lists[:n]),
        queries=tuple(x.query for x in lists[:n]),
        texts=tuple(x.texts for x in lists[:n]),
        relevance=tuple(x.relevance for x in lists[:n]),
        rankers=tuple(rankers),
        left_out=len(lists) - n,
    )


def _ranked(ranker: Ranker, task: str, measure: str, n: int) -> Ranked:
    row = ranker.by_task[task][0].row
    orders = [tuple(j for j in order if j >= 0) for order in row.rankings[:n].tolist()]
    values: list[float | None] = row.of(measure)[:n].tolist() if measure in row.measures else []
    orders += [()] * (n - len(orders))  # some rank the first lists alone
    values += [None] * (n - len(values))
    return Ranked(
        ranker.name, ranker.model, tuple(orders), tuple(values), {i: text for i, text in row.problems.items() if i < n}
    )
