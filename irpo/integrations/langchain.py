"""LangChain: a ranker as a document compressor, behind any retriever.

compressor = IrpoRerank(reranker=irpo.Reranker.load("runs/x"), top_n=3)
compressor.compress_documents(retriever.invoke(query), query)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import ConfigDict

from irpo.integrations import Loaded, TopN, needs
from irpo.ranking.reranker import Ranked

with needs("langchain"):
    from langchain_core.callbacks import Callbacks
    from langchain_core.documents import BaseDocumentCompressor, Document


class IrpoRerank(BaseDocumentCompressor):
    """The best `top_n` of retrieved documents, best first, with their ids and metadata.

    `metadata["relevance_score"]` is the ranker's score, in nats; None where the mode gives none, as `generate`. A
    document alone, which no model was asked about, keeps the one that it came with, if any.
    """

    reranker: Loaded
    top_n: TopN = None
    mode: Any = "score"  # a ranking mode's name, or a mapping of it and its options

    model_config = ConfigDict(extra="forbid")

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """The documents as `Reranker.rank` has them; those given are left as they are."""
        rows = self.reranker.rank(query, [one.page_content for one in documents], self.mode, top_n=self.top_n)
        return [_scored(documents[row.index], row) for row in rows]


def _scored(document: Document, row: Ranked) -> Document:
    score = document.metadata.get("relevance_score") if row.by == "alone" else row.score
    return document.model_copy(update={"metadata": {**document.metadata, "relevance_score": score}})
