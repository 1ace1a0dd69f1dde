"""Lists whose candidates are the first documents of a first stage's run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from irpo.files import sha256_of
from irpo.mine.asking import Asked
from irpo.mine.mining import (
    NO_POSITIVE,
    Known,
    asked_of,
    documents_in,
    forget,
    listed,
    mixed,
    note_untaught,
    spec_of,
    taught_in_part,
)
from irpo.sameness import text_key
from irpo.tasks import TASKS, Intake
from irpo.tasks import relevant_from as relevant_from_of
from irpo.tasks.trec_files import first_stage
from irpo.types import Candidate, RankingExample, UserError

TEXTLESS = "document of the run whose text is neither in the corpus nor in a list of the split"
AMBIGUOUS = "document of the run whose id is neither the list's own nor in the corpus, and stands for several texts"
NOT_RANKED = "list of which the run ranks fewer than two documents"
MISSED = "list for which the run finds nothing relevant, which took the last place"


@dataclass(frozen=True)
class FirstStage:
    """The run's first `top_k` documents for each list, whose labels are those of the list's own candidates.

    An evaluation list holds exactly these, in the run's order; what is relevant and missing is `unlisted`, so that its
    measures know of it. A training list is mixed, leaves out unjudged texts that say the same as a relevant one, and
    holds a relevant one always: where the run finds none, the best labelled stands in for the last. An id is the list's
    own candidate, else a document of the corpus, else what the split's other lists call so, if that is one text.
    """

    run: str
    task: str
    data: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    top_k: int = 100
    corpus: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 2 <= self.top_k <= 10_000:
            raise UserError(f"--top-k {self.top_k}: give 2 to 10000")

    @property
    def relevant_from(self) -> float:
        """The task's own."""
        return relevant_from_of(TASKS.build(self._spec))

    @property
    def _spec(self) -> dict[str, Any]:
        return spec_of(self.task, self.data, self.options)

    def build(self, intake: Intake) -> dict[str, Iterator[RankingExample]]:
        """See `irpo.tasks.Task`."""
        asked = asked_of(self._spec, intake)
        forget(asked, intake)
        run = Path(self.run)
        ranked = first_stage(run, {item.id for items in asked.values() for item in items}, self.top_k)
        if not ranked:
            raise UserError(f"{self.run}: it ranks nothing for any list; its first column holds the lists' ids")
        intake.source(run.name, sha256_of(run), sum(map(len, ranked.values())))
        wanted = {id for documents in ranked.values() for id in documents}
        wanted |= {id for items in asked.values() for item in items for id, _ in item.unlisted}
        corpus = {id: text for id, text in documents_in(self.corpus, intake) if id in wanted} if self.corpus else {}
        known = Known.of(asked, corpus)
        return {split: self._lists(split, items, ranked, corpus, known, intake) for split, items in asked.items()}

    def _lists(
        self,
        split: str,
        asked: Sequence[Asked],
        ranked: Mapping[str, Sequence[str]],
        corpus: Mapping[str, str],
        known: Known,
        intake: Intake,
    ) -> Iterator[RankingExample]:
        elsewhere = _texts(c for item in asked for c in item.candidates)
        untaught, dropped = 0, Counter[str]()
        for item in asked:
            places = (_texts(item.candidates), corpus, elsewhere)
            found = list(_candidates(item, ranked.get(item.id, ()), places, dropped))
            if split == "train":
                found = _for_training(item, found, known, dropped)
            if len(found) < 2:
                dropped[NOT_RANKED] += 1
            elif not (any(c.relevance for c in found) or (split == "eval" and (item.kept or item.unlisted))):
                dropped[NO_POSITIVE] += 1
            else:
                untaught += taught_in_part(found)
                yield mixed(item, found, self.seed) if split == "train" else listed(item, found)
        for reason, count in dropped.items():
            intake.drop(split, reason, count)
        note_untaught(split, untaught, intake)


def _texts(candidates: Iterable[Candidate]) -> dict[str, str | None]:
    """The text of each id; None where lists, whose ids are their own, give one id to several texts."""
    found: dict[str, str | None] = {}
    for candidate in candidates:
        text = found.setdefault(candidate.id, candidate.text)
        if text is not None and text_key(text) != text_key(candidate.text):
            found[candidate.id] = None
    return found


def _candidates(
    item: Asked, ranked: Sequence[str], places: Sequence[Mapping[str, str | None]], dropped: Counter[str]
) -> Iterator[Candidate]:
    by_id = {c.id: c.relevance for c in item.candidates} | dict(item.unlisted)
    by_text = {text_key(c.text): c.relevance for c in item.candidates}
    for id in ranked:
        text = next((texts[id] for texts in places if id in texts), "")
        if text is None or not text.strip():
            dropped[AMBIGUOUS if text is None else TEXTLESS] += 1
            continue
        key = text_key(text)
        yield Candidate(id, text, by_id.get(id, by_text.get(key, 0.0)), "run", item.teachers.get(key))


def _for_training(item: Asked, found: list[Candidate], known: Known, dropped: Counter[str]) -> list[Candidate]:
    kept = []
    for candidate in found:
        judged = candidate.relevance > 0 or text_key(candidate.text) in item.refused
        if not judged and (why := known.doubt(candidate.text, item)):
            dropped[why] += 1
        else:
            kept.append(candidate)
    if kept and item.positives and not any(c.relevance for c in kept):
        dropped[MISSED] += 1
        best = max(item.positives, key=lambda c: c.relevance)
        kept = [*(kept[:-1] if len(kept) > 1 else kept), best]
    return kept
