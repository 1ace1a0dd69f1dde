"""A ranking in the form that it was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from irpo.ranking.choosing import probabilities
from irpo.ranking.reranker import Ranked, cuts_in
from irpo.server.asked import Asked
from irpo.server.limits import Refused
from irpo.server.schema import (
    ApiVersion,
    Meta,
    RerankRequest,
    RerankResponse,
    Result,
    TeiRequest,
    TeiResult,
    Tokens,
    Usage,
)


def relevance(rows: Sequence[Ranked]) -> list[float]:
    """Each row's share of relevance among the documents of its list: in [0, 1], never rising from rank to rank.

    The ranker's probabilities where it has a temperature, else softmax(score) over the list, scores in nats; 1 / rank
    where a document has no score (a mode without scores, one document alone).

    >>> [round(share, 2) for share in relevance([Ranked(1, 0, "a", 0.0), Ranked(2, 1, "b", -1.0)])]
    [0.73, 0.27]
    """
    if rows and all(row.probability is not None for row in rows):
        return [row.probability or 0.0 for row in rows]
    scores = [row.score for row in rows if row.score is not None]
    if len(scores) < len(rows) or not rows:
        return [1 / row.rank for row in rows]
    return probabilities(scores, 1)


def warnings_on(rows: Sequence[Ranked]) -> list[str]:
    """What a client should know of a ranking, without a text."""
    chance = sum(row.by == "chance" for row in rows)
    found = cuts_in(rows, "the prompt")
    if chance:
        found.append(f"the model's answer does not name {chance} of {len(rows)} documents; they follow by chance")
    return found


def rerank_answer(
    id: str, model: str, version: str, body: RerankRequest, asked: Asked, rows: Sequence[Ranked]
) -> RerankResponse:
    """In Cohere's and Jina's form."""
    results = [
        Result(index=row.index, relevance_score=share, **_given(body, row.index))
        for row, share in zip(rows, relevance(rows), strict=True)
    ]
    return RerankResponse(
        id=id,
        model=model,
        results=results[: asked.top_n],
        usage=Usage(total_tokens=asked.tokens),
        meta=Meta(
            api_version=ApiVersion(version=version),
            tokens=Tokens(input_tokens=asked.tokens),
            warnings=[*asked.warnings, *warnings_on(rows)] or None,
        ),
    )


def _given(body: RerankRequest, index: int) -> dict[str, Any]:
    """The field `document`, where it is asked for."""
    if not body.return_documents:
        return {}
    document = body.documents[index]
    return {"document": {"text": document} if isinstance(document, str) else document}


def tei_answer(body: TeiRequest, rows: Sequence[Ranked], max_tokens: int) -> list[TeiResult]:
    """In TEI's form; `Refused` where texts had to be cut and may not be, or raw scores are asked of a mode without."""
    if body.truncate is False and cuts_in(rows, "the prompt"):
        raise Refused(413, f"the texts do not fit the prompt of {max_tokens} tokens, and truncate is false")
    if body.raw_scores and len(rows) > 1 and all(row.score is None for row in rows):
        raise Refused(422, "raw_scores: this server ranks in a mode that has no scores")
    scores = [row.score for row in rows] if body.raw_scores else relevance(rows)
    return [
        TeiResult(index=row.index, score=score, **({"text": body.texts[row.index]} if body.return_text else {}))
        for row, score in zip(rows, scores, strict=True)
    ]
