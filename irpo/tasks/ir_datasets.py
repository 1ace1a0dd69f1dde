"""Any dataset of the package `ir_datasets` (MacAvaney et al. 2021) that has documents, queries and judgements.

The package downloads what it may, into its own folder (IR_DATASETS_HOME), and says what it may not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from irpo.chance import fingerprint
from irpo.tasks import TASKS, Intake
from irpo.tasks._retrieval import Documents, Judgements, Listing, Shuffle, Split, ranked_in
from irpo.types import MAX_LABEL, RankingExample, UserError

_NEEDED = ("docs", "queries", "qrels")


@TASKS.register("ir_datasets")
@dataclass(frozen=True)
class IrDatasets:
    """The first `top_k` documents for each judged query of the datasets `train` and `eval` (their ids).

    The first stage is a run file, else the dataset's own (`scoreddocs`), else BM25 over all documents. A document's
    text is what `ir_datasets` gives as its default. `LNDCG@10` is trec_eval's ndcg_cut_10.
    """

    also_measured: ClassVar[tuple[str, ...]] = ("LNDCG@10",)
    words: ClassVar[tuple[str, ...]] = ("train", "eval")

    train: str = ""  # msmarco-passage/train/judged, beir/fiqa/train, ...
    eval: str = ""  # msmarco-passage/trec-dl-2019/judged, beir/scifact/test, ...
    run: str = ""  # a TREC run file with the first stage of both
    top_k: int = 100  # of the first stage
    train_candidates: int = 0  # of a training list: what is relevant, and others drawn from the top k; 0 is all
    shuffle: Shuffle = "train"  # which lists do not stand in the first stage's order
    seed: int = 0
    relevant_from: float = 1.0  # the label from which a document counts as relevant in Recall, P, MRR and MAP

    def __post_init__(self) -> None:
        _ = self._listing
        if not self.train and not self.eval:
            raise UserError("give eval=ID or train=ID, or both: ids of ir_datasets such as beir/scifact/test")

    @property
    def _listing(self) -> Listing:
        return Listing(self.top_k, self.train_candidates, self.shuffle, self.seed)

    def build(self, intake: Intake) -> Mapping[str, Iterator[RankingExample]]:
        """See `irpo.tasks.Task`."""
        named = {split: id for split, id in (("eval", self.eval), ("train", self.train)) if id}
        loaded = {split: _loaded(id) for split, id in named.items()}
        if len({dataset.docs_handler() for dataset in loaded.values()}) > 1:
            raise UserError(f"train={self.train} and eval={self.eval} have not the same documents; prepare them apart")
        documents = partial(_documents, named[min(named)], loaded[min(named)])
        splits = {split: self._split(named[split], dataset, documents, intake) for split, dataset in loaded.items()}
        return self._listing.build(splits, intake)

    def _split(self, id: str, dataset: Any, documents: Documents, intake: Intake) -> Split:
        judged: Judgements = {}
        with _telling(id):
            queries = {query.query_id: query.default_text() for query in dataset.queries_iter()}
            for line in dataset.qrels_iter():
                label = float(line.relevance)
                if label > MAX_LABEL:
                    raise UserError(f"a label of {label:g}; labels go up to {MAX_LABEL:g}")
                judged.setdefault(line.query_id, {})[line.doc_id] = max(label, 0.0)
        told = [[id, text, sorted(judged.get(id, {}).items())] for id, text in sorted(queries.items())]
        intake.source(f"ir_datasets:{id}", fingerprint(repr(told), 64), sum(map(len, judged.values())))
        if self.run:
            return Split(queries, judged, documents, ranked_in(Path(self.run), judged, self.top_k, intake))
        ranked = _scored(id, dataset, judged, self.top_k) if dataset.has_scoreddocs() else None
        return Split(queries, judged, documents, ranked)


def _loaded(id: str) -> Any:
    """A dataset of the package; `UserError` where package, dataset or a part of it is missing."""
    try:
        import ir_datasets
    except ImportError:
        raise UserError("task ir_datasets needs that package: pip install 'irpo[ir_datasets]'") from None
    try:
        found = ir_datasets.load(id)
    except KeyError:
        raise UserError(f"ir_datasets has no dataset {id!r}; https://ir-datasets.com lists them") from None
    lacking = [what for what in _NEEDED if not found.has(what)]
    if lacking:
        raise UserError(f"ir_datasets: {id!r} has no {' and no '.join(lacking)}; docs, queries and qrels are needed")
    return found


def _scored(id: str, dataset: Any, judged: Judgements, top_k: int) -> dict[str, list[str]]:
    """The dataset's own first stage, in trec_eval's order; of a document that is scored twice the best score counts."""
    found: dict[str, dict[str, float]] = {}
    with _telling(id):
        for line in dataset.scoreddocs_iter():
            if line.query_id in judged:
                scores = found.setdefault(line.query_id, {})
                scores[line.doc_id] = max(line.score, scores.get(line.doc_id, line.score))
    return {query: _best(scores, top_k) for query, scores in found.items()}


def _best(scores: Mapping[str, float], top_k: int) -> list[str]:
    """The ids of the highest scores, of equal ones the last in the alphabet first."""
    return sorted(scores, key=lambda doc: (scores[doc], doc), reverse=True)[:top_k]


def _documents(id: str, dataset: Any, needed: set[str] | None) -> Iterator[tuple[str, str]]:
    """(id, text) of the documents that are needed, looked up in the package's store; None is all of them."""
    with _telling(id):
        read: Callable[[], Iterable[Any]] = dataset.docs_iter
        for doc in read() if needed is None else dataset.docs_store().get_many_iter(sorted(needed)):
            yield doc.doc_id, doc.default_text()


@contextmanager
def _telling(id: str) -> Iterator[None]:
    """What the package cannot download or read is one line."""
    try:
        yield
    except UserError as error:
        raise UserError(f"ir_datasets: {id!r}: {error}") from None
    except (OSError, RuntimeError, ValueError, KeyError, EOFError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"ir_datasets: {id!r} cannot be had: {reason}") from None
