"""What the tasks of retrieval data share: queries, judgements, a collection and a first stage become lists.

A list is a query with the first stage's `top_k` documents. Evaluation lists keep the first stage's order, which is the
row "input order" of an evaluation, and know the judged documents that it missed (`RankingExample.unlisted`); training
lists are shuffled, for a place in them says what the first stage thought. Held are the texts that a list needs, and in
training those of all that is relevant; a first stage of our own (BM25) needs the whole collection once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from irpo.chance import Chance
from irpo.files import existing, sha256_of
from irpo.rows import Row, need, shown
from irpo.sameness import text_key
from irpo.tasks import Intake, Refused, groups_of
from irpo.tasks.mining import top_places
from irpo.tasks.trec_files import first_stage, judgement_rows
from irpo.types import MAX_LABEL, Candidate, RankingExample, UserError

Shuffle = Literal["train", "all", "none"]
Judgements = dict[str, dict[str, float]]  # query id -> document id -> label
Documents = Callable[[set[str] | None], Iterable[tuple[str, str]]]  # (id, text) of these, others too; None is all
Ranked = Mapping[str, Sequence[str]]  # query id -> the first stage's documents, best first

NOBODY = "query without a judged document"
TEXTLESS = "judged query whose text is missing"
TOO_FEW = "query for which the first stage has fewer than two documents"
UNFOUND = "query for which the first stage found no relevant document (it cannot train)"
MISSING = "document of the first stage that the collection does not hold"
EMPTY = "document of the first stage without a text"
SAME = "document without a label above 0 whose text is that of a relevant one"
TWICE = "document of the collection whose id was there before"


@dataclass(frozen=True)
class Split:
    """What one split has; without `ranked` the first stage is BM25.

    Splits of one collection have the same `documents`, the very object: it is gone through once for all of them.
    """

    queries: Mapping[str, str]  # id -> text
    judged: Judgements
    documents: Documents
    ranked: Ranked | None = None


@dataclass(frozen=True)
class Listing:
    """How lists are made of a first stage's documents."""

    top_k: int = 100
    train_candidates: int = 0
    shuffle: Shuffle = "train"
    seed: int = 0
    own_id: bool = True  # whether a document whose id is the query's may stand in its list

    def __post_init__(self) -> None:
        if not 2 <= self.top_k <= 10_000:
            raise UserError(f"top_k is {self.top_k}; a list has 2 to 10000 candidates")
        if self.train_candidates and not 2 <= self.train_candidates <= self.top_k:
            raise UserError(
                f"train_candidates is {self.train_candidates}; give 2 to top_k ({self.top_k}), or 0 for all of them"
            )

    def build(self, splits: Mapping[str, Split], intake: Intake) -> dict[str, Iterator[RankingExample]]:
        """The lists of each split."""
        judged = {id for split in splits.values() for id in split.judged}
        every = {id for split in splits.values() for id in split.queries}
        intake.drop(min(splits), NOBODY, len(every - judged))
        splits = _ranked_at_all(splits, intake)
        found: dict[str, tuple[Ranked, Mapping[str, str]]] = {}
        for documents in dict.fromkeys(split.documents for split in splits.values()):
            theirs = {name: split for name, split in splits.items() if split.documents is documents}
            ranked, texts = self._found(theirs, documents, intake)
            found |= {name: (ranked[name], texts) for name in theirs}
        asked = [(id, split.queries[id]) for split in splits.values() for id in split.judged if id in split.queries]
        groups = groups_of(asked)
        return {
            name: _Making(self, name, split, *found[name], groups, intake).lists() for name, split in splits.items()
        }

    def _found(
        self, splits: Mapping[str, Split], documents: Documents, intake: Intake
    ) -> tuple[dict[str, Ranked], dict[str, str]]:
        """The first stage of each split of one collection, and the texts that they take."""
        searched = {name: split for name, split in splits.items() if split.ranked is None}
        texts: dict[str, str] = {}
        ranked: dict[str, Ranked] = {name: split.ranked for name, split in splits.items() if split.ranked is not None}
        if searched:
            texts = _collected(documents(None), None, min(splits), intake)
            search = Bm25Search(texts)
            for name, split in searched.items():
                asked = {id: split.queries[id] for id in split.judged if id in split.queries}
                ranked[name] = {
                    id: search(text, self.top_k + 1, _relevant(split.judged[id])) for id, text in asked.items()
                }
        needed = {doc for name in splits for docs in ranked[name].values() for doc in docs}
        if "train" in splits:  # what says the same as a relevant document is no negative, found or not
            needed |= {doc for labels in splits["train"].judged.values() for doc in _relevant(labels)}
        if searched:
            return ranked, {id: text for id, text in texts.items() if id in needed}
        return ranked, _collected(documents(needed), needed, min(splits), intake)


def _relevant(labels: Mapping[str, float]) -> frozenset[str]:
    return frozenset(document for document, label in labels.items() if label > 0)


def _ranked_at_all(splits: Mapping[str, Split], intake: Intake) -> Mapping[str, Split]:
    """The splits but for one of whose queries a run ranks nothing, where it does of another's."""
    kept = {name: one for name, one in splits.items() if one.ranked is None or one.ranked.keys() & one.judged.keys()}
    for name in splits.keys() - kept.keys() if kept else ():
        intake.note(f"{name}: the run ranks nothing for its queries; no lists are made of them")
    return kept or splits


def _collected(
    documents: Iterable[tuple[str, str]], needed: set[str] | None, split: str, intake: Intake
) -> dict[str, str]:
    texts: dict[str, str] = {}
    for id, text in documents:
        if needed is not None and id not in needed:
            continue
        if id in texts:
            intake.drop(split, TWICE)
        else:
            texts[id] = text
    if not texts and needed is None:
        raise UserError(
            f"no list could be made of {', '.join(sorted(intake.sources))}: the collection holds no document"
        )
    return texts


@dataclass(frozen=True)
class _Making:
    """One split on its way from a first stage to lists."""

    how: Listing
    name: str
    split: Split
    ranked: Ranked
    texts: Mapping[str, str]
    groups: Mapping[str, str]
    intake: Intake

    def lists(self) -> Iterator[RankingExample]:
        """The split's lists in the order of its queries, and what is to be told of them."""
        made = unfound = lone = 0
        self.intake.drop(self.name, TEXTLESS, sum(id not in self.split.queries for id in self.split.judged))
        for id, query in self.split.queries.items():
            if id not in self.split.judged:
                continue
            try:
                example = self._example(id, query)
            except Refused as refusal:
                self.intake.drop(self.name, str(refusal))
                lone += str(refusal) == TOO_FEW and len(self.ranked.get(id, ())) == 1
                continue
            made, unfound = made + 1, unfound + (not example.labelled)
            yield example
        if self.name == "eval" and self.how.shuffle != "all":
            self.intake.note("eval: candidates stand in the first stage's order; its figures are the row 'input order'")
        if lone and self.name == "eval":
            told = "the first stage has one document alone are left out; BEIR and trec_eval count them"
            self.intake.note(f"{self.name}: {lone} queries for which {told}")
        if unfound:
            self.intake.note(f"{self.name}: {unfound} of {made} lists hold no relevant document; they count 0")

    def _example(self, id: str, query: str) -> RankingExample:
        labels = self.split.judged[id]
        candidates = self._candidates(id, labels)
        if len(candidates) < 2:
            raise Refused(TOO_FEW)
        found = {c.id for c in candidates}
        missed = tuple((doc, label) for doc, label in labels.items() if label > 0 and doc not in found)
        if self.name == "train":
            if not any(c.relevance for c in candidates):
                raise Refused(UNFOUND)
            candidates = self._drawn(id, self._told_apart(labels, candidates))
        if self.how.shuffle == "all" or self.how.shuffle == self.name:
            candidates = Chance("order", self.how.seed, id).shuffled(candidates)
        return RankingExample(id, query, tuple(candidates), self.groups.get(id), unlisted=missed)

    def _candidates(self, id: str, labels: Mapping[str, float]) -> list[Candidate]:
        ranked = [doc for doc in self.ranked.get(id, ()) if self.how.own_id or doc != id]
        found = []
        for doc in ranked[: self.how.top_k]:
            text = self.texts.get(doc)
            if text is None or not text.strip():
                self.intake.drop(self.name, MISSING if text is None else EMPTY)
                continue
            source = "judged" if doc in labels else "first stage"
            found.append(Candidate(doc, text, labels.get(doc, 0.0), source))
        return found

    def _told_apart(self, labels: Mapping[str, float], candidates: list[Candidate]) -> list[Candidate]:
        """A training list without what is called irrelevant and has a relevant document's text."""
        good = {text_key(self.texts[doc]) for doc in _relevant(labels) if doc in self.texts}
        kept = [c for c in candidates if c.relevance or text_key(c.text) not in good]
        self.intake.drop(self.name, SAME, len(candidates) - len(kept))
        if len(kept) < 2:
            raise Refused(TOO_FEW)
        return kept

    def _drawn(self, id: str, candidates: list[Candidate]) -> list[Candidate]:
        """A training list of the wanted length, in the first stage's order: what is relevant, others by chance."""
        size = self.how.train_candidates
        if not size or len(candidates) <= size:
            return candidates
        chance = Chance("train_candidates", self.how.seed, id)
        relevant = [c for c in candidates if c.relevance]
        others = [c for c in candidates if not c.relevance]
        kept = relevant if len(relevant) < size else chance.shuffled(relevant)[: size - bool(others)]
        taken = {c.id for c in (*kept, *chance.shuffled(others)[: size - len(kept)])}
        return [c for c in candidates if c.id in taken]


class Bm25Search:
    """BM25 (Lucene's form, k1 = 0.9, b = 0.4, English stop words, no stemming) over a whole collection."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        import bm25s

        self._tokenize: Callable[..., Any] = bm25s.tokenize
        self._ids = list(texts)
        tokens = bm25s.tokenize(list(texts.values()), stopwords="en", show_progress=False)
        self._known = tokens.vocab
        self._index = bm25s.BM25(method="lucene", k1=0.9, b=0.4, backend="numpy") if any(tokens.ids) else None
        if self._index is not None:
            self._index.index(tokens, show_progress=False)

    def __call__(self, query: str, top_k: int, relevant: Collection[str] = ()) -> list[str]:
        """The best documents that share a word with the query, ties in the collection's order; but two at least.

        What fills up to two is none of the `relevant`: BM25 did not find them.
        """
        words = self._tokenize([query], stopwords="en", return_ids=False, show_progress=False)[0]
        words = [word for word in words if word in self._known]
        places: list[int] = []
        if self._index is not None and words:
            # Rounded: sums of floats may differ in the last digit between machines.
            scores = np.round(self._index.get_scores(words).astype(np.float64), 4)
            places = list(islice(top_places(scores), top_k))
        fill = (place for place, id in enumerate(self._ids) if place not in places and id not in relevant)
        places = [*places, *islice(fill, max(0, 2 - len(places)))]
        return [self._ids[place] for place in places]


# ---- files -----------------------------------------------------------------------------------------------------------


def beside(folder: Path, name: str) -> Path:
    """A file that an option names: in the data's folder, else as the path that it is."""
    inside = folder / name
    return inside if folder.is_dir() and inside.exists() else existing(Path(name))


def judgements_in(path: Path, intake: Intake) -> Judgements:
    """The judgements of a qrels file."""
    found = judgements_of(judgement_rows(path), intake)
    intake.source(path.name, sha256_of(path), sum(map(len, found.values())))
    return found


def ranked_in(path: Path, queries: Collection[str], top_k: int, intake: Intake) -> dict[str, list[str]]:
    """The first stage that a run file holds for these queries; `UserError` where it ranks for none of them."""
    found = first_stage(path, queries, top_k)
    if not found:
        raise UserError(f"{path}: it ranks nothing for any of the {len(queries)} judged queries; are the ids the same?")
    intake.source(path.name, sha256_of(path), sum(map(len, found.values())))
    return found


# ---- rows ------------------------------------------------------------------------------------------------------------

_IDS = ("_id", "id", "docid", "doc_id", "pid", "qid", "query_id", "query-id", "topic_id")
_TEXTS = ("text", "contents", "body", "passage", "query", "question", "content", "title")


def id_of(value: Any, what: str) -> str:
    """An id as text; the hub's are often numbers."""
    if isinstance(value, bool) or not isinstance(value, (str, int)) or not str(value).strip():
        raise UserError(f"{what} is {shown(value)}; an id is a text or a whole number")
    return str(value).strip()


def text_of(row: Row) -> tuple[str, str]:
    """(id, text) of a document's or a query's row, a title before its text as BEIR has it; the text may be empty."""
    value = row.value
    id = next((key for key in _IDS if key in value), _IDS[0])
    text = next((key for key in _TEXTS if value.get(key) is not None), _TEXTS[0])
    need(value, id, (str, int))
    body = need(value, text, str)
    title = value.get("title") if text != "title" else None
    joined = f"{title} {body}" if isinstance(title, str) else body
    return id_of(value[id], repr(id)), joined.strip()


def judgement_of(row: Row) -> tuple[str, str, float]:
    """(query, document, label) of a row of qrels; a label below 0 (spam, say) is 0, as in trec_eval."""
    query, document = (id_of(need(row.value, key, (str, int)), repr(key)) for key in ("query-id", "corpus-id"))
    given: Any = need(row.value, "score", (str, int, float)) if "score" in row.value else 1
    try:
        label = float(given)
    except (ValueError, OverflowError):
        label = float("nan")
    if not label <= MAX_LABEL:
        raise UserError(f"the label is {shown(given)}; a label is a number up to {MAX_LABEL:g}")
    return query, document, max(label, 0.0)


def texts_of(rows: Iterable[Row], intake: Intake) -> dict[str, str]:
    """The queries of rows, by id; one without a text is a bad row, as is one whose id was there before."""
    found: dict[str, str] = {}

    def parse(row: Row) -> tuple[str, str]:
        id, text = text_of(row)
        if not text:
            raise UserError(f"query {id!r} has no text")
        if id in found:
            raise UserError(f"query {id!r} was there before; ids are unique")
        return id, text

    for id, text in intake.collect("", rows, parse):
        found[id] = text
    return found


def judgements_of(rows: Iterable[Row], intake: Intake) -> Judgements:
    """The judgements of rows; two labels of one document for a query are a bad row."""
    found: Judgements = {}

    def parse(row: Row) -> tuple[str, str, float]:
        query, document, label = judgement_of(row)
        if found.get(query, {}).get(document, label) != label:
            raise UserError(f"document {document!r} is judged twice for query {query!r}, with another label")
        return query, document, label

    for query, document, label in intake.collect("", rows, parse):
        found.setdefault(query, {})[document] = label
    return found


def documents_of(rows: Iterable[Row], intake: Intake) -> Iterator[tuple[str, str]]:
    """(id, text) of a collection's rows."""
    return iter(intake.collect("", rows, text_of))
