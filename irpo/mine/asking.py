"""What is asked and what is known of it: from a task's lists, or from pairs of a query and a relevant text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from irpo.chance import fingerprint
from irpo.rows import Row, need
from irpo.sameness import text_key, tidy, words_of
from irpo.tasks import Intake, Release
from irpo.types import Candidate, RankingExample, UserError

PAIRS = Release(
    eval_names=("test", "dev"),
    suffixes=(".jsonl", ".json", ".csv", ".tsv", ".parquet"),
    form='; --pairs reads rows with a query and a relevant text, {"query": ..., "positive": ...}, or columns so named',
)


RANKED = frozenset({"run", "first stage"})  # sources of candidates that stand where a first stage put them
# Sources of candidates that a search found and nobody judged: their label 0 is no judgement.
SEARCHED = RANKED | {"bm25", "dense"}
# Sources of candidates of a list that a first stage made, or a benchmark.
FIRST_STAGE = RANKED | {"judged"}


@dataclass(frozen=True)
class Columns:
    """How the rows of pairs call what they hold."""

    query: str = "query"
    positive: str = "positive"


@dataclass(frozen=True)
class Asked:
    """A query, its candidates as they were labelled, and from which label one is relevant."""

    id: str
    query: str
    candidates: tuple[Candidate, ...]
    group: str | None = None
    unlisted: tuple[tuple[str, float], ...] = field(default=(), repr=False)
    relevant_from: float = 1.0

    @property
    def is_ranked(self) -> bool:
        """Whether the list is what a first stage found, or a benchmark's own: its candidates are what is measured."""
        return any(c.source in FIRST_STAGE for c in self.candidates)

    @cached_property
    def kept(self) -> tuple[Candidate, ...]:
        """What has a label above 0: it stays in the list."""
        return tuple(c for c in self.candidates if c.relevance > 0)

    @cached_property
    def positives(self) -> tuple[Candidate, ...]:
        """What is relevant, or, where nothing reaches that label, what has any above 0."""
        return tuple(c for c in self.kept if c.relevance >= self.relevant_from) or self.kept

    @cached_property
    def refused(self) -> frozenset[str]:
        """Keys of the texts that somebody labelled 0: they are known to be no answer. A search alone says nothing."""
        return frozenset(text_key(c.text) for c in self.candidates if not c.relevance and c.source not in SEARCHED)

    @cached_property
    def teachers(self) -> dict[str, float | None]:
        """The teacher's scores of the candidates, by the texts' keys."""
        return {text_key(c.text): c.teacher for c in self.candidates}

    @property
    def question(self) -> str:
        """What two queries have in common that differ in case and punctuation alone."""
        return " ".join(words_of(self.query)) or text_key(self.query)


def of_list(example: RankingExample, relevant_from: float) -> Asked:
    """A list's query and candidates."""
    return Asked(
        example.id, example.query, example.candidates, example.group, example.unlisted, relevant_from=relevant_from
    )


def of_pairs(data: str, columns: Columns, intake: Intake) -> dict[str, list[Asked]]:
    """The queries of rows, each once, with all texts that rows call relevant; `UserError` as for a task's files."""
    found = {}
    for split, rows in intake.splits(data, PAIRS).items():
        pairs = intake.collect(split, rows, lambda row: _pair(row, columns))
        found[split] = list(_joined(pairs))
    return found


def _pair(row: Row, columns: Columns) -> tuple[str, tuple[str, ...]]:
    query: str = need(row.value, columns.query, str)
    given: Any = need(row.value, columns.positive, (str, list))
    texts = tuple(given) if isinstance(given, list) else (given,)
    if not query.strip():
        raise UserError(f"{columns.query!r} is empty; it must be a text")
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise UserError(f"{columns.positive!r} is empty; it must be a text, or a list of texts")
    return query, texts


def _joined(pairs: Iterable[tuple[str, tuple[str, ...]]]) -> Iterable[Asked]:
    queries: dict[str, str] = {}
    answers: dict[str, dict[str, str]] = {}
    for query, texts in pairs:
        key = text_key(query)
        queries.setdefault(key, query)
        answers.setdefault(key, {}).update({text_key(text): tidy(text) for text in texts})
    for key, query in queries.items():
        positives = tuple(Candidate(name_of(text), text, 1.0) for text in answers[key].values())
        yield Asked(fingerprint(key), query, positives)


def name_of(text: str) -> str:
    """An id for a text that has none."""
    return f"t-{fingerprint(text_key(text))}"


def answers_of(asked: Mapping[str, Iterable[Asked]], texts: Mapping[str, str]) -> dict[str, frozenset[str]]:
    """By question, the keys of all texts that any list calls relevant for it; `texts` by id, of what lists miss."""
    found: dict[str, set[str]] = {}
    for items in asked.values():
        for item in items:
            keys = found.setdefault(item.question, set())
            keys.update(text_key(c.text) for c in item.kept)
            keys.update(text_key(texts[id]) for id, _ in item.unlisted if id in texts)
    return {question: frozenset(keys) for question, keys in found.items()}
