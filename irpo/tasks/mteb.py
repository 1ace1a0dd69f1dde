"""MTEB's reranking datasets (Muennighoff et al. 2023), from a folder or from the hub, in either of their forms.

- rows `query`, `positive`, `negative`, lists of texts: a row is a list, whose ids are like those that mteb gives:
  its number among the split's rows, through all of its files
- `corpus` (`_id` or `id`, `title`, `text`), `queries` (`_id` or `id`, `text`), `qrels` (`query-id`, `corpus-id`,
  `score`; on the hub also called `default`) and `top_ranked` (`query-id`, `corpus-ids`), the first stage

In a folder the parts are files (corpus.jsonl, corpus.parquet) or folders of such files; a word of a file's name tells
its split. A language of a dataset that has several is `config`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

from irpo.chance import Chance, fingerprint
from irpo.files import existing
from irpo.rows import Row, need
from irpo.sameness import text_key
from irpo.tasks import TASKS, Intake, Refused, Rows, split_of
from irpo.tasks._cells import texts_in
from irpo.tasks._hub import hub_configs, is_hub, load_hub
from irpo.tasks._intake import require_file
from irpo.tasks._retrieval import (
    Listing,
    Ranked,
    Shuffle,
    Split,
    documents_of,
    id_of,
    judgements_of,
    texts_of,
)
from irpo.types import Candidate, RankingExample, UserError

_SUFFIXES = (".jsonl", ".json", ".parquet", ".tsv")
_PARTS = ("corpus", "queries", "qrels", "top_ranked")
_KINDS = {"train": "train", "dev": "dev", "validation": "dev", "test": "test"}  # of the hub's splits
_Found = Mapping[str, Rows]  # "train", "dev", "test", or "" where no name tells a split -> rows


@TASKS.register("mteb")
@dataclass(frozen=True)
class Mteb:
    """The documents that a reranking dataset gives for each query; its test split, else its dev split, is evaluated.

    In the first form candidates are always mixed, unless `shuffle` is none; in the second, evaluation lists keep the
    order of `top_ranked`, and without it the first stage is BM25. `LNDCG@10` is mteb's ndcg_at_10, `MAP` its map.
    """

    also_measured: ClassVar[tuple[str, ...]] = ("LNDCG@10",)
    words: ClassVar[tuple[str, ...]] = ("dataset", "config")

    data: str
    dataset: str = ""  # of the hub: mteb/AskUbuntuDupQuestions, ...
    config: str = ""  # of a dataset with several languages: fr, ...
    eval_split: Literal["test", "dev"] | None = None  # None: test, else dev
    top_k: int = 1000  # of the second form's first stage
    train_candidates: int = 0  # of its training lists: what is relevant, and others drawn from the top k; 0 is all
    shuffle: Shuffle = "train"  # which of its lists do not stand in the first stage's order
    seed: int = 0
    relevant_from: float = 1.0  # the label from which a document counts as relevant in Recall, P, MRR and MAP

    def __post_init__(self) -> None:
        _ = self._listing
        if is_hub(self.data) != bool(self.dataset):
            raise UserError(
                f"data is {self.data!r} and dataset {self.dataset!r}; dataset says which one of the hub, "
                "as in data=hub dataset=mteb/AskUbuntuDupQuestions"
            )

    @property
    def _listing(self) -> Listing:
        return Listing(self.top_k, self.train_candidates, self.shuffle, self.seed)

    def build(self, intake: Intake) -> Mapping[str, Iterable[RankingExample]]:
        """See `irpo.tasks.Task`."""
        parts = self._on_the_hub(intake) if is_hub(self.data) else _in_folder(Path(self.data), intake)
        if "corpus" not in parts:
            kinds = self._chosen(parts[""])
            return {
                split: intake.collect(split, parts[""][kind], partial(self._whole, kind))
                for split, kind in kinds.items()
            }
        missing = [part for part in ("queries", "qrels") if part not in parts]
        if missing:
            raise UserError(f"{self.dataset or self.data}: a corpus, and no {' and no '.join(missing)}")
        splits, kinds = {}, self._chosen(parts["qrels"])
        # A corpus of a split numbers its documents by itself: the same id may stand for another text in another one.
        texts = {id(rows): partial(_documents, rows, intake) for rows in parts["corpus"].values()}
        for split, kind in kinds.items():
            judged = judgements_of(parts["qrels"][kind], intake)
            queries = texts_of(_of_split(parts["queries"], kind, "queries"), intake)
            documents = texts[id(_of_split(parts["corpus"], kind, "corpus"))]
            ranked = self._ranked(parts.get("top_ranked"), kind, intake)
            splits[split] = Split(queries, judged, documents, ranked)
        return self._listing.build(splits, intake)

    def _chosen(self, found: Mapping[str, object]) -> dict[str, str]:
        """Which kind of rows each split has."""
        wanted = (self.eval_split,) if self.eval_split else ("test", "dev", "")
        evaluated = next((kind for kind in wanted if kind in found), None)
        chosen = {"eval": evaluated, "train": "train" if "train" in found else None}
        kinds = {split: kind for split, kind in chosen.items() if kind is not None}
        if not kinds or ("eval" not in kinds and self.eval_split):
            there = ", ".join(kind for kind in found if kind) or "none"
            raise UserError(f"{self.dataset or self.data}: no split {self.eval_split or 'test, dev or train'}; {there}")
        return kinds

    def _ranked(self, found: _Found | None, kind: str, intake: Intake) -> Ranked | None:
        if found is None:
            return None
        ranked: dict[str, list[str]] = {}

        def parse(row: Row) -> tuple[str, list[str]]:
            query, documents = _ranking_of(row)
            if query in ranked:
                raise UserError(f"query {query!r} was ranked before; ids are unique")
            return query, documents

        for query, documents in intake.collect("", _of_split(found, kind, "top_ranked"), parse):
            ranked[query] = documents
        return ranked

    def _whole(self, kind: str, row: Row) -> RankingExample:
        """The list of a row with positives and negatives."""
        query = need(row.value, "query", str)
        good, bad = (texts_in(row.value, name) for name in ("positive", "negative"))
        if not query.strip():
            raise UserError("'query' is empty")
        if not good or not bad:
            raise Refused(f"query without {'a positive' if not good else 'a negative'}")
        name = f"{kind or 'test'}_query{row.number - 1}"
        candidates = [Candidate(f"apositive_{name}_{n:05}", text, 1.0, "judged") for n, text in enumerate(good)]
        candidates += [Candidate(f"negative_{name}_{n:05}", text, 0.0, "judged") for n, text in enumerate(bad)]
        mixed = candidates if self.shuffle == "none" else Chance("order", self.seed, name).shuffled(candidates)
        return RankingExample(name, query, tuple(mixed), fingerprint(text_key(query)))

    def _on_the_hub(self, intake: Intake) -> dict[str, _Found]:
        """The parts that the dataset has; "" is the first form's rows."""
        configs = hub_configs(self.data, self.dataset)
        names = {part: f"{self.config}-{part}" if self.config else part for part in _PARTS}
        if not self.config and "qrels" not in configs and "corpus" in configs:
            names["qrels"] = "default"
        there = {part: name for part, name in names.items() if name in configs}
        if "corpus" not in there:
            there = {"": self.config}
        return {part: self._rows(name, intake) for part, name in there.items()}

    def _rows(self, config: str, intake: Intake) -> _Found:
        splits = load_hub(self.data, self.dataset, config or None)
        place = f"hub:{self.dataset}/{config}".rstrip("/")
        return {_KINDS.get(name, ""): intake.hub_rows(f"{place}/{name}", rows) for name, rows in splits.items()}


def _in_folder(folder: Path, intake: Intake) -> dict[str, _Found]:
    if existing(folder).is_file():
        return {"": {split_of(folder) or "": intake.file_rows([folder])}}
    parts = {part: _files(folder, part) for part in _PARTS}
    if not parts["corpus"]:
        parts = {"": _by_kind(sorted(path for path in folder.iterdir() if path.suffix in _SUFFIXES))}
    found: dict[str, _Found] = {
        part: {kind: intake.file_rows(paths) for kind, paths in by.items()} for part, by in parts.items() if by
    }
    if not found:
        raise UserError(f"{folder}: neither rows with query, positive and negative here, nor corpus, queries and qrels")
    return found


def _files(folder: Path, part: str) -> dict[str, list[Path]]:
    """The files of a part, by the split that their names tell."""
    inside = sorted((folder / part).iterdir()) if (folder / part).is_dir() else []
    lone = [path for suffix in _SUFFIXES if os.path.lexists(path := folder / f"{part}{suffix}")]
    return _by_kind([require_file(path) for path in (*inside, *lone) if path.suffix in _SUFFIXES])


def _by_kind(paths: Sequence[Path]) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for path in paths:
        found.setdefault(split_of(path) or "", []).append(path)
    return found


def _of_split(found: _Found, kind: str, part: str) -> Rows:
    """The rows of a split; those of the only one, where there is one for all, as mteb has it."""
    if kind in found:
        return found[kind]
    if len(found) == 1:
        return next(iter(found.values()))
    raise UserError(f"{part}: no rows for {kind or 'the evaluation'}; there are {', '.join(found)}")


def _documents(rows: Rows, intake: Intake, _: set[str] | None) -> Iterator[tuple[str, str]]:
    return documents_of(rows, intake)


def _ranking_of(row: Row) -> tuple[str, list[str]]:
    query = id_of(need(row.value, "query-id", (str, int)), "'query-id'")
    documents = [id_of(doc, "an id of 'corpus-ids'") for doc in need(row.value, "corpus-ids", list)]
    if len(set(documents)) < len(documents):
        twice = next(doc for doc, count in Counter(documents).items() if count > 1)
        raise UserError(f"document {twice!r} is ranked twice for query {query!r}")
    return query, documents
