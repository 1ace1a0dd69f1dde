"""One look at a task's lists: what they are like, and what is found wrong with them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from irpo.checking.counting import Counts, Sample
from irpo.checking.findings import BAD_ROWS, Finding, Level, Seen, Table, judge
from irpo.checking.measuring import Budget, Measured
from irpo.checking.notebook import Notebook, name_of
from irpo.measures import ndcg
from irpo.ranking.modes import by_score
from irpo.tasks import Intake, Task, as_given, relevant_from
from irpo.types import RankingExample, UserError

_TOLD = 1000  # bad rows that are told one by one


@dataclass(frozen=True)
class Split:
    """What the lists of a split are like."""

    counts: Counts
    groups: int
    drawn: int  # lists whose tokens were asked for; 0 without a budget
    tokens: tuple[int, ...]  # of prompt and answer, of those lists that have a prompt, in order of length
    refused: tuple[str, ...] = ()  # `name: why` of those that have none

    @property
    def lists(self) -> int:
        """How many there are."""
        return self.counts.statistics.lists

    def fit(self, max_tokens: int) -> float:
        """The share of the lists that were drawn that fits so many tokens; 1 where none was."""
        return sum(count <= max_tokens for count in self.tokens) / self.drawn if self.drawn else 1.0

    def too_long(self, max_tokens: int) -> float:
        """The share of the lists that were drawn that has a prompt, of more tokens; 0 where none was."""
        return sum(count > max_tokens for count in self.tokens) / self.drawn if self.drawn else 0.0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        counts = self.counts
        card = counts.statistics.card(self.groups, "")
        del card["sha256"]
        kinds = ("without_relevant", "all_relevant", "repeated", "contradicted", "decided")
        of_candidates = ("relevant", "fractional", "cut", "wordless")
        places = {str(place + 1): {"found": at.found, "expected": at.expected} for place, at in counts.places.items()}
        return card | {
            "lists_by_kind": {kind: getattr(counts, kind) for kind in kinds},
            "candidates_by_kind": {kind: getattr(counts, kind) for kind in of_candidates},
            "best_candidate_at": places,
            "tokens": {"lists": self.drawn, "counts": list(self.tokens), "refused": list(self.refused)},
        }


@dataclass(frozen=True)
class Check:
    """What was found. `wrong`: something of it keeps rows or lists out, so that `prepare` would stop or leave them."""

    task: Mapping[str, Any]
    relevant_from: float
    splits: Mapping[str, Split]
    findings: tuple[Finding, ...]
    bad_rows: tuple[str, ...]  # `name:line: why` of the first 1000
    bad_count: int
    dropped: Mapping[str, Mapping[str, int]]  # split -> why -> how many the task itself leaves out
    label_table: Table | None
    budget: Budget | None

    @property
    def wrong(self) -> bool:
        """Whether any finding is an error."""
        return any(finding.level == "error" for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        budget, table = self.budget, self.label_table
        return {
            "check": 1,
            "task": dict(self.task),
            "relevant_from": self.relevant_from,
            "wrong": self.wrong,
            "findings": [finding.as_dict() for finding in self.findings],
            "bad_rows": {"count": self.bad_count, "first": list(self.bad_rows)},
            "dropped": {split: dict(reasons) for split, reasons in self.dropped.items()},
            "splits": {name: split.as_dict() for name, split in self.splits.items()},
            "label_table": None if table is None else table._asdict(),
            "budget": budget
            and {"model": budget.model, "style": budget.style, "max_tokens": budget.max_tokens}
            | {"share_that_fits": {name: split.fit(budget.max_tokens) for name, split in self.splits.items()}},
        }


def look(task: Task, spec: Mapping[str, Any], budget: Budget | None = None, *, skip_bad_rows: bool = False) -> Check:
    """Go through all lists of a task once. `UserError` where there is nothing to go through: no file, no such split.

    Bad rows are errors, or, where `skip_bad_rows` says that they will be left out, warnings.
    """
    intake, book = Intake(skip_bad_rows=True, told=_TOLD), Notebook()
    found = task.build(intake)
    # Evaluation first, as `prepare` does.
    gone = {split: _gone_through(split, found[split], book, intake, relevant_from(task)) for split in sorted(found)}
    book.close()
    splits = {split: _split(split, *gone[split], book, budget) for split in sorted(gone, reverse=True)}
    table = _label_table(book) if len(splits) == 2 else None
    bad = tuple(intake.bad_rows)
    seen = Seen(
        splits={name: split.counts for name, split in splits.items()},
        too_long={name: split.too_long(budget.max_tokens) for name, split in splits.items()} if budget else {},
        refused={name: split.refused for name, split in splits.items()},
        longest=max((max(split.tokens, default=0) for split in splits.values()), default=0),
        book=book,
        table=table,
        relevant_from=relevant_from(task),
        given=as_given(task),
    )
    findings = tuple(_of_rows(intake, "warning" if skip_bad_rows else "error")) + judge(seen)
    dropped = {split: dict(reasons) for split, reasons in intake.dropped.items() if reasons}
    return Check(spec, relevant_from(task), splits, findings, bad, intake.bad_count, dropped, table, budget)


def _gone_through(
    split: str, found: Iterable[RankingExample], book: Notebook, intake: Intake, relevant: float
) -> tuple[Counts, Sample]:
    counts, sample = Counts(relevant), Sample(split)
    try:
        for example in found:
            counts.add(example, name_of(example))
            sample.add(example)
            book.add(split, example)
    except UserError as error:  # a file that cannot be read on
        intake.bad_count += 1
        intake.bad_rows.append(f"{error}; the rest of {split} was not read")
    return counts, sample


def _split(name: str, counts: Counts, sample: Sample, book: Notebook, budget: Budget | None) -> Split:
    tokens, refused = budget.measure(sample.examples) if budget else Measured()
    named = (f"{name_of(example)}: {why.removeprefix(f'{example.called}: ')}" for example, why in refused)
    return Split(counts, book.groups(name), len(tokens) + len(refused), tuple(sorted(tokens)), tuple(named))


def _of_rows(intake: Intake, level: Level) -> Iterable[Finding]:
    if intake.bad_count:
        advice = "mend them, or leave them out with --skip-bad-rows (prepare, evaluate)"
        first = tuple(intake.bad_rows)
        text, first = f"rows that cannot be used: {intake.bad_count}", tuple(intake.bad_rows)
        yield Finding(level, BAD_ROWS, text, advice, intake.bad_count, first)


def _label_table(book: Notebook) -> Table | None:
    """How well texts' mean training labels rank the evaluation lists; None where training shows none of their texts."""
    middle, known, all_texts = book.mean_label(), 0, 0
    gains: list[float] = []
    scores: list[float] = []
    for item in book.labelled():
        known += sum(mean is not None for mean in item.means)
        all_texts += len(item.means)
        by_table, _ = by_score([middle if mean is None else mean for mean in item.means], item.name)
        by_chance, _ = by_score([0.0] * len(item.labels), item.name)
        scores.append(ndcg(by_table.order, item.labels, 10, missed=item.missed))
        gains.append(scores[-1] - ndcg(by_chance.order, item.labels, 10, missed=item.missed))
    if not known or not scores:
        return None
    mean = math.fsum(gains) / len(gains)
    spread = math.fsum((gain - mean) ** 2 for gain in gains) / max(1, len(gains) - 1)
    ndcg_10 = math.fsum(scores) / len(scores)
    return Table(ndcg_10, ndcg_10 - mean, math.sqrt(spread / len(gains)), known / all_texts)
