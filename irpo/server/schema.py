"""What is asked and answered over HTTP: the forms of Cohere (v1, v2), of Jina and of text-embeddings-inference (TEI).

Cohere's and Jina's are one form here: each field of either is taken, and an answer has the fields of both.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag

_WORDS = r"[^\s\x1c-\x1f]"  # something that is not blank, as Python's strip has it

SCORE = (
    "The document's share of relevance among the documents given, from 0 to 1. A ranker with a fitted temperature "
    "gives probabilities, another the softmax of its scores, in nats: either sums to 1 over the request. A ranking "
    "mode without scores gives 1 / rank. It is no measure across requests."
)


def _whole(given: Any) -> Any:
    """JSON has one kind of number: 3.0 is a whole one."""
    return int(given) if isinstance(given, float) and given.is_integer() else given


Count = Annotated[int, Field(ge=1), BeforeValidator(_whole)]
Text = Annotated[str, Field(pattern=_WORDS)]
Object = Annotated[dict[str, Any], Field(description="Its `text`, or what `rank_fields` names, is ranked.")]
Document = Text | Object


class RerankRequest(BaseModel):
    """Documents to rank for a query, in Cohere's form, `/v1/rerank` and `/v2/rerank`, and Jina's, `/v1/rerank`."""

    model_config = ConfigDict(extra="allow", strict=True)  # fields of another version are named in `meta.warnings`

    model: str | None = Field(None, description="A ranker by name; the server's first where none is given.")
    query: str = Field(description="What the documents are ranked for.", min_length=1, pattern=_WORDS)
    documents: list[Document] = Field(description="The documents: texts, or objects.", min_length=1, fail_fast=True)
    top_n: Count | None = Field(None, description="How many of the best to answer with; all by default.")
    return_documents: bool | None = Field(None, description="Whether results hold the documents; not by default.")
    rank_fields: list[str] | None = Field(
        None,
        min_length=1,
        max_length=100,
        fail_fast=True,
        description="Of documents that are objects: whose values are ranked, one a line.",
    )
    max_tokens_per_doc: Count | None = Field(None, description="A document's tokens behind these are left out.")
    max_chunks_per_doc: Count | None = Field(None, description="Without effect: a document is read as one.")


class TeiRequest(BaseModel):
    """Texts to rank for a query, in the form of TEI's `/rerank`."""

    model_config = ConfigDict(extra="allow", strict=True)

    model: str | None = Field(None, description="A ranker by name; the server's first where none is given.")
    query: str = Field(description="What the texts are ranked for.", min_length=1, pattern=_WORDS)
    texts: list[Text] = Field(description="The texts.", min_length=1, fail_fast=True)
    raw_scores: bool = Field(False, description="Whether `score` is the ranker's own, in nats, null where it has none.")
    return_text: bool = Field(False, description="Whether results hold the texts.")
    truncate: bool | None = Field(
        None, description="false: texts that do not fit the ranker's prompt are refused (413); else they are cut."
    )
    truncation_direction: Literal["Right", "right"] = Field("Right", description="A text loses its end.")


class Usage(BaseModel):
    """What was read, in the ranker's tokens."""

    total_tokens: int = Field(description="Tokens of the query and of all documents, before any is cut.")


class Result(BaseModel):
    """One document in the ranking."""

    index: int = Field(description="The document's place in the request, from 0.")
    relevance_score: float = Field(description=SCORE, ge=0, le=1)
    document: dict[str, Any] | None = Field(None, description="As it was given, where documents are returned.")


class Tokens(BaseModel):
    """Tokens as Cohere counts them."""

    input_tokens: int


class ApiVersion(BaseModel):
    """Whose form an answer has."""

    version: str


class Meta(BaseModel):
    """What else is to be known of a ranking."""

    api_version: ApiVersion
    tokens: Tokens
    warnings: list[str] | None = Field(
        None, description="What was cut to fit the prompt, what stands in its place by chance, and fields not known."
    )


class RerankResponse(BaseModel):
    """The ranking, best first."""

    id: str
    model: str
    results: list[Result]
    usage: Usage
    meta: Meta


class TeiResult(BaseModel):
    """One text in the ranking."""

    index: int = Field(description="The text's place in the request, from 0.")
    score: float | None = Field(description=f"{SCORE} With `raw_scores` the score itself.")
    text: str | None = None


class Failure(BaseModel):
    """Why a request was not answered."""

    message: str
    detail: str = Field(description="The message once more, where clients of Jina's form look for it.")
    id: str = Field(description="The request's, which the server's log has, too.")


class State(BaseModel):
    """How the server is."""

    status: str


def _form(body: Any) -> str:
    """Which of the two forms a body has: TEI's has `texts`."""
    given = body if isinstance(body, dict) else vars(body) if isinstance(body, BaseModel) else {}
    return "tei" if "texts" in given else "rerank"


EitherRequest = Annotated[
    Annotated[RerankRequest, Tag("rerank")] | Annotated[TeiRequest, Tag("tei")], Discriminator(_form)
]
