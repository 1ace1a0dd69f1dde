"""What is wrong with a request's body, in the words in which `Reranker.rank` says it; no text of it is repeated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_EMPTY = {"string_too_short", "string_pattern_mismatch"}
_KINDS = {
    "string_type": "a text",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
}
_NEEDED = {
    "query": "query is missing; give what the documents are ranked for",
    "documents": "documents is missing; give a list of texts, or of objects (texts in TEI's form, at /rerank)",
    "texts": "texts is missing; give a list of texts",
}
_FORMS = {"rerank", "tei"}  # the tags of the two forms, which no body holds


def sentence(errors: Sequence[Mapping[str, Any]]) -> str:
    """The first mistake of those that the schema found.

    >>> sentence([{"type": "string_too_short", "loc": ("body", "query")}])
    'query: the text is empty'
    """
    error = errors[0]
    kind, keys = error["type"], _keys(error)
    if kind == "json_invalid":
        return f"the body is no JSON: {_broken(error)}"
    if kind == "missing":
        return _NEEDED.get(str(keys[-1]), f"{_place(keys)} is missing") if keys else _NO_BODY
    if keys[:1] in (("documents",), ("texts",)) and len(keys) > 1:
        return f"{_place(keys[:2])}: {_of_document(keys, errors)}"
    return f"{_place(keys)}: {_wrong(error)}" if keys else _NO_BODY


_NO_BODY = 'the body must be a JSON object, such as {"query": "...", "documents": ["...", "..."]}'


def _broken(error: Mapping[str, Any]) -> str:
    """Where and why, as Python's own reader of JSON says; it repeats nothing of the body."""
    return f"{error.get('ctx', {}).get('error', 'it cannot be read')}, at character {error['loc'][-1]}"


def _keys(error: Mapping[str, Any]) -> tuple[str | int, ...]:
    """Where in the body: behind "body", and behind the form where a route has two."""
    place: tuple[str | int, ...] = tuple(error["loc"][1:])
    return place[1:] if place[:1] and place[0] in _FORMS else place


def _of_document(keys: tuple[str | int, ...], errors: Sequence[Mapping[str, Any]]) -> str:
    """What is wrong with one document, about which each of the forms that it may have has its say."""
    said = {each["type"] for each in errors if _keys(each)[:2] == keys[:2]}
    if said & _EMPTY:
        return "the text is empty"
    return "it is no text" if keys[0] == "texts" else "it is neither a text nor an object"


def _wrong(error: Mapping[str, Any]) -> str:
    kind = error["type"]
    if kind in _EMPTY:
        return "the text is empty"
    if kind == "too_short":
        return "the list is empty"
    if kind == "too_long":
        return f"give at most {error['ctx']['max_length']}"
    if kind == "greater_than_equal":
        return f"give a number from {error['ctx']['ge']}"
    if kind == "literal_error":
        return f"choose from {error['ctx']['expected']}"
    return f"it must be {_KINDS[kind]}" if kind in _KINDS else "it is not of the kind that belongs there"


def _place(keys: Sequence[str | int]) -> str:
    """Where in the body.

    >>> _place(("documents", 3))
    'documents[3]'
    """
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys).lstrip(".")
