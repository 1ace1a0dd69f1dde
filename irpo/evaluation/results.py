"""What an evaluation found: rankings, raw answers, the measures of both, and the summary that reports are made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from irpo.evaluation.significance import mean_interval
from irpo.measures import MEASURES, RELEVANT_FROM, PerQuery, main_measure, mean, per_query
from irpo.ranking.modes import RankedList
from irpo.types import Missing, Problem, Ranking, RankingExample, Repeated, Unknown, Unparseable

Part = Literal["strict", "repaired"]  # of an answer: what it names, or that and the rest in a random order
KINDS: dict[str, type] = {"missing": Missing, "repeated": Repeated, "unknown": Unknown, "unparseable": Unparseable}


def kind_of(problem: Problem) -> str:
    """The name under which a problem is counted.

    >>> kind_of(Missing(2))
    'missing'
    """
    return next(kind for kind, cls in KINDS.items() if isinstance(problem, cls))


@dataclass(frozen=True)
class RankerResult:
    """One way of ranking all the lists: a mode of the model, a part of its answers, or a baseline (no mode)."""

    name: str  # as tables have it: "score", "generate strict", "BM25", ...
    rankings: Mapping[str, Ranking]  # by example id
    mode: str | None = None
    part: Part | None = None
    lists: tuple[RankedList, ...] = ()  # what the mode gave, in the order of the examples
    tied_lists: int = 0  # lists in which two candidates have the same score
    seconds: float | None = None  # the mode's time, None for a baseline

    @property
    def baseline(self) -> bool:
        """Whether no model took part."""
        return self.mode is None


def row_name(mode: str, part: Part | None = None) -> str:
    """What tables, files and curves call a mode's row."""
    return mode if part is None else f"{mode} {part}"


def results_of(mode: str, lists: Sequence[RankedList], seconds: float) -> list[RankerResult]:
    """A mode's rows: two of the same answers where it reads any, else one."""
    common: dict[str, Any] = {"mode": mode, "lists": tuple(lists), "seconds": seconds}
    whole = {x.id: x.ranking for x in lists}
    if any(x.answer is None for x in lists):
        return [RankerResult(row_name(mode), whole, tied_lists=sum(x.tied for x in lists), **common)]
    strict = {x.id: x.named for x in lists}
    return [
        RankerResult(row_name(mode, "strict"), strict, part="strict", **common),
        RankerResult(row_name(mode, "repaired"), whole, part="repaired", **common),
    ]


def most_cut(rows: Sequence[RankerResult]) -> tuple[RankedList, ...]:
    """A mode's lists, of the mode whose prompts lost most tokens, the first of such; nothing where none ranked."""
    return max((row.lists for row in rows), key=lambda lists: sum(sum(x.cut) + x.query_cut for x in lists), default=())


@dataclass(frozen=True)
class Setting:
    """How the rankings came about; two evaluations compare where their protocols are equal."""

    style: str
    template: str
    max_tokens: int
    scorer: str
    length: str
    seed: int
    lists_per_batch: int | None
    relevant_from: float = RELEVANT_FROM
    prompts_cut: int = 0
    candidate_tokens_cut: int = 0
    query_tokens_cut: int = 0
    special_texts: int = 0  # texts that spelt special tokens of the model, kept apart
    strength: str = "1"  # of scores and constrained lists: "5 by logits"
    engine: str = "transformers"  # what ran the model: "vllm 0.33.0, bfloat16"

    @property
    def protocol(self) -> Setting:
        """All but the strength, which is a ranker's own like its weights, and what ran them."""
        return replace(self, strength="1", engine="transformers")


@dataclass(frozen=True)
class Answers:
    """What was wrong with a mode's answers."""

    coverage: float = 1.0  # mean share of a list's candidates that are named, or placed by any prompt's ranking
    exact_permutations: float = 1.0  # share of answers without a problem
    problems: Mapping[str, int] | None = None  # counts by kind; None where nothing was read from text


@dataclass(frozen=True)
class Measured:
    """One row of a table."""

    name: str
    mode: str | None  # None: a baseline
    part: Part | None
    measures: Mapping[str, float]  # means over lists
    interval: tuple[float, float]  # 95 %, of the main measure's mean
    answers: Answers = Answers()
    tied_lists: int = 0
    seconds: float | None = None
    lists_per_second: float | None = None
    prompts: float | None = None  # that the model was given for a list, on average; None for a baseline

    @property
    def baseline(self) -> bool:
        """Whether no model took part."""
        return self.mode is None

    def as_dict(self) -> dict[str, Any]:
        """As `results.json` has it, the answers' figures among the row's own."""
        told = asdict(self)
        return {**told, **told.pop("answers"), "baseline": self.baseline, "interval": list(self.interval)}


@dataclass(frozen=True)
class Summary:
    """What `results.json` holds and the reports are made from; `about` says what was evaluated (model, task)."""

    about: Mapping[str, Any]
    lists: int
    groups: int  # of lists that share nothing with those of other groups: what intervals and tests draw
    candidates: int
    longest: int  # candidates of the longest list
    measures: tuple[str, ...]
    rows: tuple[Measured, ...]
    setting: Setting | None = None

    @property
    def main_measure(self) -> str:
        """The one that stands for all."""
        return main_measure(self.measures)

    @property
    def relevant_from(self) -> float:
        """The label from which Recall, P, MRR and MAP count a candidate."""
        return RELEVANT_FROM if self.setting is None else self.setting.relevant_from

    def row(self, mode: str, part: Part | None = None) -> Measured | None:
        """The row of a mode (and of a part of its answers, where it has any), None where it was not measured."""
        return next((row for row in self.rows if (row.mode, row.part) == (mode, part)), None)

    def as_dict(self) -> dict[str, Any]:
        """As `results.json` has it."""
        told = {key: value for key, value in vars(self).items() if key not in ("rows", "setting")}
        setting = {} if self.setting is None else asdict(self.setting)
        rows = [row.as_dict() for row in self.rows]
        return {**told, "about": dict(self.about), "main_measure": self.main_measure, "setting": setting, "rows": rows}


@dataclass(frozen=True)
class Evaluation:
    """All rows over the same examples."""

    examples: tuple[RankingExample, ...]
    rows: tuple[RankerResult, ...]
    measures: tuple[str, ...] = MEASURES
    setting: Setting | None = None
    about: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def values(self) -> dict[str, PerQuery]:
        """Every measure of every query, by the row's name."""
        relevance = {example.id: example.relevance for example in self.examples}
        start = RELEVANT_FROM if self.setting is None else self.setting.relevant_from
        missed = {example.id: example.missed for example in self.examples}
        return {row.name: per_query(row.rankings, relevance, self.measures, start, missed) for row in self.rows}

    @property
    def units(self) -> dict[str, str]:
        """By example id what intervals and tests draw: the group that a list belongs to, else the list."""
        return {example.id: example.unit for example in self.examples}

    @cached_property
    def summary(self) -> Summary:
        """The means, and what else a report tells."""
        sizes = [len(example.candidates) for example in self.examples]
        return Summary(
            about=self.about,
            lists=len(self.examples),
            groups=len(set(self.units.values())),
            candidates=sum(sizes),
            longest=max(sizes),
            measures=self.measures,
            rows=tuple(self._measured(row) for row in self.rows),
            setting=self.setting,
        )

    def _measured(self, row: RankerResult) -> Measured:
        values = self.values[row.name]
        seed = 0 if self.setting is None else self.setting.seed
        return Measured(
            name=row.name,
            mode=row.mode,
            part=row.part,
            measures={name: mean(of) for name, of in values.items()},
            interval=mean_interval(values[main_measure(self.measures)], self.units, seed=seed),
            answers=self._answers(row),
            tied_lists=row.tied_lists,
            seconds=row.seconds,
            lists_per_second=len(self.examples) / row.seconds if row.seconds else None,
            prompts=_mean([x.prompts for x in row.lists]) if row.lists else None,
        )

    def _answers(self, row: RankerResult) -> Answers:
        sizes = {example.id: len(example.candidates) for example in self.examples}
        read = [(x.answer, sizes[x.id]) for x in row.lists if x.answer is not None]
        if not read:
            return Answers(_mean([len(x.named.order) / sizes[x.id] for x in row.lists]) if row.lists else 1.0)
        problems = [problem for answer, _ in read for problem in answer.problems]
        return Answers(
            _mean([len(answer.ranking.order) / size for answer, size in read]),
            _mean([float(not answer.problems) for answer, _ in read]),
            {kind: sum(kind_of(p) == kind for p in problems) for kind in KINDS},
        )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
