"""What a user gives to be ranked, read once: texts, dicts and pairs as documents, and which of them is wrong."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from irpo.rows import shown
from irpo.types import Candidate, RankingExample, UserError, require_text

_FORMS = 'a text, {"text": ..., "id": ...}, (id, text) or a Document'


@dataclass(frozen=True)
class Document:
    """A text to rank and, where its owner has one, the id by which it is known there."""

    text: str
    id: str | None = None

    def __post_init__(self) -> None:
        _require("text", self.text)
        if self.id is not None:
            _require("id", self.id)


DocumentLike = str | Mapping[str, str | None] | tuple[str, str] | Document


@dataclass(frozen=True)
class Request:
    """A query and the documents to rank for it, in the order in which they were given; `name` is its list's id."""

    query: str
    documents: tuple[Document, ...]
    name: str = "query"

    @property
    def example(self) -> RankingExample:
        """The list that a mode ranks, of two documents or more; a candidate's id is its document's index."""
        candidates = (Candidate(str(j), document.text) for j, document in enumerate(self.documents))
        where = "the list" if self.name == Request.name else self.name  # for messages
        return RankingExample(self.name, self.query, tuple(candidates), where=where)


def read_request(query: object, documents: object) -> Request:
    """The request, or a `UserError` that says what is wrong with it and at which index of the documents."""
    if not isinstance(query, str):
        raise UserError(f"query is {shown(query)}; give one text (rank_many takes many)")
    _require("query", query)
    if not isinstance(documents, Iterable) or isinstance(documents, str | bytes | Mapping):
        raise UserError(f"documents is {shown(documents)}; give a list, each {_FORMS}")
    return Request(query, documents_of((f"documents[{j}]", given) for j, given in enumerate(documents)))


def read_requests(requests: object) -> list[Request]:
    """Many requests, each a pair (query, documents); a `UserError` names the index of the first that is wrong."""
    if not isinstance(requests, Iterable) or isinstance(requests, str | bytes | Mapping):
        raise UserError(f"requests is {shown(requests)}; give a list of pairs (query, documents)")
    return [_read_named(f"requests[{place}]", request) for place, request in enumerate(requests)]


def _read_named(name: str, request: object) -> Request:
    if not isinstance(request, tuple | list) or len(request) != 2:
        raise UserError(f"{name} is {shown(request)}; give a pair (query, documents)")
    try:
        read = read_request(*request)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    return Request(read.query, read.documents, name)


def documents_of(given: Iterable[tuple[str, object]]) -> tuple[Document, ...]:
    """Documents, each given with the place where it stands, which begins the `UserError` of a wrong one."""
    documents: list[Document] = []
    seen: dict[str, str] = {}
    for where, one in given:
        try:
            document = _read_document(one)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        if document.id is not None and (first := seen.setdefault(document.id, where)) != where:
            raise UserError(f"{where}: id {shown(document.id)} is that of {first} too")
        documents.append(document)
    return tuple(documents)


def _read_document(given: Any) -> Document:
    match given:
        case Document():
            return given
        case str():
            return Document(given)
        case (id, own) if isinstance(given, tuple):
            _require("id", id)
            return Document(own, id)
        case Mapping():
            if unknown := [key for key in given if key not in ("text", "id")]:
                raise UserError(f"unknown key {shown(unknown[0])}; a document has 'text' and, if it has one, 'id'")
            text: Any = given.get("text")  # of any kind until `Document` has looked
            return Document(text, given.get("id"))
    raise UserError(f"it is {shown(given)}; give {_FORMS}")


def _require(what: str, value: object) -> None:
    """`UserError` for what is no text, or an empty one."""
    if not isinstance(value, str):
        raise UserError(f"{what} is {shown(value)}; it must be a text")
    if not value.strip():
        raise UserError(f"{what} is empty")
    require_text(what, value)
