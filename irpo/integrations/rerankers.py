"""The package `rerankers`: a ranker as one of its own, whose `rank` gives `RankedResults`.

ranker = IrpoRanker("runs/x")
ranker.rank(query, docs, doc_ids=["a", "b"]).top_k(3)
"""

from __future__ import annotations

from typing import Any

from irpo.integrations import needs
from irpo.ranking.modes import RankingMode
from irpo.ranking.reranker import Reranker
from irpo.registry import Spec
from irpo.types import UserError

with needs("rerankers"):
    from rerankers.documents import Document
    from rerankers.models.ranker import BaseRanker
    from rerankers.results import RankedResults, Result
    from rerankers.utils import prep_docs


class IrpoRanker(BaseRanker):
    """A ranker in a mode; results have scores (nats) where the mode gives them, and ranks always.

    `model_name_or_path` is what `Reranker.load` takes, with its options as `loading`, or a loaded `Reranker`.
    """

    def __init__(
        self,
        model_name_or_path: str | Reranker,
        verbose: int = 1,
        *,
        mode: Spec | RankingMode = "score",
        **loading: Any,
    ) -> None:
        given = model_name_or_path
        if isinstance(given, Reranker) and loading:
            raise UserError(f"{', '.join(loading)}: options of loading, and the ranker is loaded already")
        self.reranker = given if isinstance(given, Reranker) else Reranker.load(given, **loading)
        self.verbose, self.mode = verbose, mode

    def rank(
        self,
        query: str,
        docs: str | list[str] | Document | list[Document],
        doc_ids: list[str] | list[int] | None = None,
        metadata: list[dict[str, Any]] | None = None,
    ) -> RankedResults:
        """The documents, best first; without `doc_ids` they are numbered from 0."""
        documents = prep_docs(docs, doc_ids, metadata) if docs else []
        rows = self.reranker.rank(query, [one.text for one in documents], self.mode)
        results = [Result(documents[row.index], row.score, row.rank) for row in rows]
        return RankedResults(results, query, has_scores=all(row.score is not None for row in rows))

    def score(self, query: str, doc: str) -> float:
        """Refused: a listwise ranker scores a document beside the others of its list."""
        raise UserError("a listwise ranker scores documents beside each other: call rank with all of them")
