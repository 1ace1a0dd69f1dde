"""An evaluation campaign's files: topics, judgements (qrels), a first stage's run and the collection.

- topics: TREC's markup (`<top>`, `<num>`, `<title>`), lines of id, tab and text, or JSON lines (`_id` or `id`, `text`)
- qrels: `qid 0 docid label`; a label below 0 counts as 0
- run: `qid Q0 docid rank score tag`, or MS MARCO's `qid docid rank`; without one the first stage is BM25
- collection: lines of id, tab and text, or JSON lines (`_id` or `id`, `title`, `text`), or a Parquet file of such rows

Runs, qrels, topics and tab-separated collections may be gzipped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

from irpo.files import existing, sha256_of
from irpo.rows import Row, form_of
from irpo.tasks import TASKS, Intake, split_of
from irpo.tasks._hub import is_hub
from irpo.tasks._intake import require_file
from irpo.tasks._retrieval import (
    Listing,
    Shuffle,
    Split,
    beside,
    documents_of,
    judgements_in,
    ranked_in,
    texts_of,
)
from irpo.tasks.trec_files import is_packed, is_topics, text_rows, topic_rows
from irpo.types import RankingExample, UserError

# How a file's name says what it holds, where no option names it.
_WORDS = {
    "topics": ("topics", "topic", "queries", "query"),
    "qrels": ("qrels", "qrel"),
    "run": ("run", "runs", "top100", "top1000"),
    "collection": ("collection", "corpus", "documents", "docs", "passages"),
}


@TASKS.register("trec")
@dataclass(frozen=True)
class Trec:
    """The first `top_k` documents of a run, or of BM25, for each judged topic.

    Files are looked for in the folder `data`: by the options, else by their names (qrels.train.txt and qrels.dev.txt
    are the judgements of two splits; topics.txt is the topics of all; a file of a split without judgements is of those
    that have none of their own, where it is the only one). Of a collection only the texts that a list needs are held,
    but without a run the whole of it is searched. `LNDCG@10` is trec_eval's ndcg_cut_10.
    """

    also_measured: ClassVar[tuple[str, ...]] = ("LNDCG@10",)
    words: ClassVar[tuple[str, ...]] = ("topic_field",)

    data: str
    topics: str = ""
    qrels: str = ""
    run: str = ""
    collection: str = ""
    split: Literal["train", "eval"] | None = None  # of qrels that are named; None: as their name tells, else eval
    eval_split: Literal["test", "dev"] | None = None  # of those that are found by their names; None: test, else dev
    topic_field: str = "title"  # of TREC's markup: title, desc, narr, query, question
    top_k: int = 100  # of the first stage
    train_candidates: int = 0  # of a training list: what is relevant, and others drawn from the top k; 0 is all
    shuffle: Shuffle = "train"  # which lists do not stand in the first stage's order
    seed: int = 0
    relevant_from: float = 1.0  # the label from which a document counts as relevant in Recall, P, MRR and MAP

    def __post_init__(self) -> None:
        _ = self._listing
        if is_hub(self.data):
            raise UserError("data: 'hub': the trec task reads files; give their folder")
        if self.split and not self.qrels:
            raise UserError(f"split={self.split} says which split the judgements of qrels=FILE are; give qrels too")

    @property
    def _listing(self) -> Listing:
        return Listing(self.top_k, self.train_candidates, self.shuffle, self.seed)

    def build(self, intake: Intake) -> Mapping[str, Iterator[RankingExample]]:
        """See `irpo.tasks.Task`."""
        if not existing(Path(self.data)).is_dir():
            raise UserError(f"{self.data}: this is a file; data is the folder of topics, qrels, run and collection")
        splits: dict[str, Split] = {}
        documents = partial(self._documents, self._needed("collection", ""), intake)
        asked: dict[Path, dict[str, str]] = {}
        for split, qrels in self._judged().items():
            kind = split_of(qrels) or ""
            judged = judgements_in(qrels, intake)
            topics = self._needed("topics", kind)
            asked[topics] = asked.get(topics) or self._topics(topics, intake)
            run = self._one("run", kind)
            intake.note(f"{split}: the first stage is {run.name if run else 'BM25'}")
            ranked = ranked_in(run, judged, self.top_k, intake) if run else None
            splits[split] = Split(asked[topics], judged, documents, ranked)
        return self._listing.build(splits, intake)

    def _documents(self, path: Path, intake: Intake, needed: set[str] | None) -> Iterator[tuple[str, str]]:
        return documents_of(_texts(path, intake, needed), intake)

    def _judged(self) -> dict[str, Path]:
        """The qrels of each split."""
        if self.qrels:
            path = beside(Path(self.data), self.qrels)
            return {self.split or ("train" if split_of(path) == "train" else "eval"): path}
        kinds = {"train": ("train",), "eval": (self.eval_split,) if self.eval_split else ("test", "dev", "")}
        first = {
            split: next(filter(None, (self._exactly("qrels", kind) for kind in of)), None)
            for split, of in kinds.items()
        }
        found = {split: path for split, path in first.items() if path}
        there = ", ".join(path.name for path in self._holding("qrels"))
        if self.eval_split and "eval" not in found and there:
            raise UserError(f"{self.data}: no judgements for {self.eval_split}; there are {there}")
        if not found:
            raise UserError(f"{self.data}: no file here has qrels as a word of its name; give qrels=FILE")
        return found

    def _needed(self, option: str, kind: str) -> Path:
        if path := self._one(option, kind):
            return path
        words, others = " or ".join(_WORDS[option][:3]), ", ".join(path.name for path in self._holding(option))
        lacking = f"no file here has {words} as a word of its name"
        found = f"of the {option} only {others} is here, of another split" if others else lacking
        raise UserError(f"{self.data}: {found}; give {option}=FILE")

    def _one(self, option: str, kind: str) -> Path | None:
        """The file that an option names, or that is of a split, or of none, or else the only one there is.

        That is of another split by its name, but of none whose judgements are here.
        """
        if given := getattr(self, option):
            return beside(Path(self.data), given)
        if found := self._exactly(option, kind) or self._exactly(option, ""):
            return found
        shared = self.qrels or option == "collection"
        judged = set() if shared else {split_of(path) for path in self._holding("qrels")}
        return self._sole(option, [path for path in self._holding(option) if split_of(path) not in judged])

    def _exactly(self, option: str, kind: str) -> Path | None:
        """The file of a split ("" is of none) whose name says that it holds this."""
        return self._sole(option, [path for path in self._holding(option) if (split_of(path) or "") == kind])

    def _holding(self, option: str) -> list[Path]:
        """The files whose names say that they hold this."""
        there = sorted(Path(self.data).iterdir())
        return [path for path in there if _holds(path) == option and not (path.is_dir() and not path.suffix)]

    def _sole(self, option: str, fitting: Sequence[Path]) -> Path | None:
        if len(fitting) > 1:
            names = ", ".join(path.name for path in fitting)
            raise UserError(f"{self.data}: several files may be the {option}: {names}; give {option}=FILE")
        return require_file(fitting[0]) if fitting else None

    def _topics(self, path: Path, intake: Intake) -> dict[str, str]:
        if not is_topics(path):
            return texts_of(_texts(path, intake), intake)
        found = texts_of(topic_rows(path, self.topic_field), intake)
        intake.source(path.name, sha256_of(path), len(found))
        return found


def _holds(path: Path) -> str:
    """Which option's file a name tells, if any: the first of its words that says so.

    >>> _holds(Path("bm25.run")), _holds(Path("2019qrels-pass.txt")), _holds(Path("README.md"))
    ('run', 'qrels', '')
    >>> _holds(Path("msmarco-docdev-top100.gz")), _holds(Path("run1.txt"))
    ('run', 'run')
    """
    by_word = {word: option for option, words in _WORDS.items() for word in words}
    found = re.findall(r"([a-z]+)(\d*)", path.name.lower())
    return next(
        (by_word[word] for letters, digits in found for word in (letters, letters + digits) if word in by_word), ""
    )


def _texts(path: Path, intake: Intake, ids: set[str] | None = None) -> Iterator[Row]:
    """Rows of ids and texts, of a file in any of its forms; of a file without a header those of the `ids` alone."""
    if not is_packed(path) and form_of(path) in ("json lines", "json list", "parquet"):
        yield from intake.file_rows([path])
        return
    count = 0
    for row in text_rows(path, ids):
        count += 1
        yield row
    intake.source(path.name, sha256_of(path), count)
