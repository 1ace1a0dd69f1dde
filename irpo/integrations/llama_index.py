"""LlamaIndex: a ranker as a node postprocessor, behind any retriever or in a query engine.

rerank = IrpoRerank(reranker=irpo.Reranker.load("runs/x"), top_n=3)
index.as_query_engine(similarity_top_k=20, node_postprocessors=[rerank])
"""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict

from irpo.integrations import Loaded, TopN, needs
from irpo.types import UserError

with needs("llama_index"):
    from llama_index.core.postprocessor.types import BaseNodePostprocessor
    from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle


class IrpoRerank(BaseNodePostprocessor):
    """The best `top_n` of retrieved nodes, best first.

    A node's score is the ranker's, in nats; None where the mode gives none, as `generate`. A node alone, which no model
    was asked about, keeps the score that it came with.
    """

    reranker: Loaded
    top_n: TopN = None
    mode: Any = "score"  # a ranking mode's name, or a mapping of it and its options
    metadata_mode: MetadataMode = MetadataMode.EMBED  # what of a node's metadata stands before its text

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    @classmethod
    def class_name(cls) -> str:
        return "IrpoRerank"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if query_bundle is None:
            raise UserError("nodes are reranked for a query: give query_str or query_bundle")
        texts = [one.node.get_content(metadata_mode=self.metadata_mode) for one in nodes]
        rows = self.reranker.rank(query_bundle.query_str, texts, self.mode, top_n=self.top_n)
        return [
            NodeWithScore(node=nodes[row.index].node, score=nodes[row.index].score if row.by == "alone" else row.score)
            for row in rows
        ]
