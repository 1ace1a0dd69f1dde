"""What a request asks for, whatever its form: a query, texts, and which ranker; and whether it is within the limits."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic_core import PydanticSerializationError, to_json

from irpo.server.limits import Limits, Refused
from irpo.server.schema import RerankRequest, TeiRequest
from irpo.types import UserError, one_line, printable, require_text

_AT_ONCE = 8192  # characters
_CHARACTERS = 8  # a token, at most: text has 4 to 5, and a megabyte takes a second to count


@dataclass(frozen=True)
class Asked:
    """One request in our words."""

    query: str
    texts: tuple[str, ...]
    model: str | None = None
    top_n: int | None = None
    text_cap: int | None = None  # tokens of a text that are read; None: all
    field: Literal["documents", "texts"] = "documents"  # where the texts stood
    tokens: int = 0  # of the query and all texts, uncut, once they are counted
    warnings: tuple[str, ...] = ()


def asked(body: RerankRequest | TeiRequest) -> Asked:
    """The request in our words; `Refused` where a document has no text or cannot be given back."""
    if isinstance(body, TeiRequest):
        if (body.model_extra or {}).get("documents") is not None:
            raise Refused(422, "both documents and texts are given; give one of them")
        return Asked(body.query, tuple(body.texts), body.model or None, field="texts")
    warnings = []
    if body.max_chunks_per_doc is not None:
        warnings.append("max_chunks_per_doc has no effect: a document is read as one")
    if body.model_extra:
        names = ", ".join(sorted(body.model_extra)[:10])
        warnings.append(f"without effect: {printable(one_line(names, longest=200))}")
    # Each once: a text is no longer than the body that it came in.
    fields = None if body.rank_fields is None else list(dict.fromkeys(body.rank_fields))
    texts = tuple(_text(place, each, fields) for place, each in enumerate(body.documents))
    for place, each in enumerate(body.documents if body.return_documents else ()):
        _require_returnable(place, each)
    return Asked(body.query, texts, body.model or None, body.top_n, body.max_tokens_per_doc, warnings=tuple(warnings))


def _text(place: int, document: str | dict[str, Any], fields: Sequence[str] | None) -> str:
    if isinstance(document, str):
        return document
    if fields is None:
        text = document.get("text")
        if not isinstance(text, str) or not text.strip():
            raise Refused(422, f"documents[{place}]: an object without rank_fields needs its text in 'text'")
        return _utf8(place, text)
    values = [str(document[field]) for field in fields if isinstance(document.get(field), str | int | float)]
    if not any(value.strip() for value in values):
        raise Refused(422, f"documents[{place}]: it has a text or number in none of rank_fields")
    return _utf8(place, "\n".join(values))


def _utf8(place: int, text: str) -> str:
    """The text; `Refused` where it is none in UTF-8. JSON can spell half of a surrogate pair."""
    try:
        require_text(f"documents[{place}]", text)
    except UserError as error:
        raise Refused(422, str(error)) from None
    return text


def _require_returnable(place: int, document: str | dict[str, Any]) -> None:
    """`Refused` where an answer cannot hold the document: what is no UTF-8 in it, or nested too deep."""
    try:
        to_json([[[[document]]]])  # as deep as it stands in an answer, and deeper
    except PydanticSerializationError:
        told = "it is nested too deep, or holds what is no text in UTF-8; return_documents cannot give it back"
        raise Refused(422, f"documents[{place}]: {told}") from None


class Counter:
    """Counts a request's tokens, a long one's in `thread`, with a tokenizer of its own; cuts texts that are capped."""

    def __init__(self, tokenizer: Any, limits: Limits) -> None:
        from tokenizers import Tokenizer

        # The ranker's own is busy in another thread, and its settings may not change under it.
        self._tokenizer = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._limits = limits
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="irpo-counter")

    def counted(self, given: Asked) -> Asked:
        """The request with its tokens, and its texts as short as it wants them; `Refused` beyond a limit."""
        found = self._encoded([given.query, *given.texts])
        sizes, most = [len(each) for each in found], self._limits.text_tokens
        if sizes[0] > most:
            raise Refused(422, f"the query has {sizes[0]} tokens; this server takes {most}")
        cap = given.text_cap
        for place, size in enumerate(sizes[1:]):
            if (cap is None or cap > most) and size > most:
                told = f"this server takes {most} of a text; max_tokens_per_doc cuts it"
                raise Refused(422, f"{given.field}[{place}] has {size} tokens; {told}")
        if (total := sum(min(size, cap or size) for size in sizes[1:]) + sizes[0]) > self._limits.tokens:
            told = f"the query and {len(given.texts)} {given.field} have {total} tokens"
            raise Refused(422, f"{told}; this server takes {self._limits.tokens} in a request")
        if cap is None or max(sizes[1:]) <= cap:
            return replace(given, tokens=total)
        pairs = zip(given.texts, found[1:], strict=True)
        short = tuple(text if len(each) <= cap else _begin(text, each.offsets[cap - 1 :]) for text, each in pairs)
        cut = sum(size > cap for size in sizes[1:])
        told = f"{cut} of {len(short)} documents were cut to max_tokens_per_doc, {cap} tokens"
        return replace(given, texts=short, tokens=total, warnings=(*given.warnings, told))

    def _encoded(self, texts: Sequence[str]) -> Sequence[Any]:
        """The texts' tokens. One at a time where they are short: many at once wait for those that another thread has
        in the tokenizer's pool."""
        if is_short(texts):
            return [self._tokenizer.encode(text, add_special_tokens=False) for text in texts]
        found: Sequence[Any] = self._tokenizer.encode_batch(texts, add_special_tokens=False)
        return found


def _begin(text: str, ends: Sequence[tuple[int, int]]) -> str:
    """The text up to the first of these tokens behind which it is not blank.

    >>> _begin("  Heat (1995)", [(0, 2), (2, 6), (6, 13)])
    '  Heat'
    """
    blank = len(text) - len(text.lstrip())
    return next((text[:end] for _, end in ends if end > blank), text)


def is_short(texts: Sequence[str]) -> bool:
    """Whether their tokens are counted in a millisecond or two, sooner than another thread begins."""
    return sum(map(len, texts)) <= _AT_ONCE


def require_few(body: Any, limits: Limits) -> None:
    """`Refused` where a body, as JSON has it, holds too many documents; before any of them is looked at."""
    for name in ("documents", "texts"):
        texts = body.get(name) if isinstance(body, dict) else None
        if isinstance(texts, list) and len(texts) > limits.documents:
            raise Refused(422, f"{len(texts)} {name}; this server takes {limits.documents} in a request")


def require_within(given: Asked, limits: Limits) -> None:
    """`Refused` where there are so many characters that they are not worth counting."""
    most = _CHARACTERS * limits.text_tokens
    for place, text in enumerate((given.query, *given.texts), start=-1):
        if len(text) > most:
            what = "the query" if place < 0 else f"{given.field}[{place}]"
            raise Refused(422, f"{what} has {len(text)} characters; this server takes {most} of a text")
    if (total := sum(map(len, given.texts))) > (most := _CHARACTERS * limits.tokens):
        raise Refused(
            422, f"{len(given.texts)} {given.field} have {total} characters; this server takes {most} in a request"
        )
