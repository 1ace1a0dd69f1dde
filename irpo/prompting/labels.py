"""Labels and names in tokens: what stands behind a line break is encoded by itself."""

from __future__ import annotations

import itertools
import string
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

from irpo.chance import key_of, order_of
from irpo.prompting.specials import tokenize
from irpo.types import Labels, TooLong


@cache
def label_names(tokenizer: Any, count: int, labels: Labels = "letters") -> tuple[str, ...]:
    """The first `count` of A ... Z, AA ... ZZ that are a single token each, so that one position holds all scores.

    Or 1, 2, ..., of however many tokens.
    """
    if labels == "numbers":
        return tuple(str(number) for number in range(1, count + 1))
    letters = string.ascii_uppercase
    spellings = [*letters, *(a + b for a, b in itertools.product(letters, repeat=2))]
    names = []
    for start in range(0, len(spellings), len(letters)):
        chunk = spellings[start : start + len(letters)]
        tokens = token_ids_after_newline(tokenizer, chunk)
        names += [name for name, ids in zip(chunk, tokens, strict=True) if len(ids) == 1]
        if len(names) >= count:
            return tuple(names[:count])
    raise TooLong(f"the tokenizer has single tokens for {len(names)} labels; the list has {count} candidates")


def dealt(names: Sequence[str], query: str, texts: Sequence[str]) -> tuple[str, ...]:
    """The names in an order that chance deals from query and texts, so that a candidate's does not tell its place.

    The same set of texts gets the same names in whatever order it stands. Equal texts are told apart by which comes
    first, and by nothing else.

    >>> dict(zip("xyz", dealt("ABC", "q", "xyz"))) == dict(zip("zxy", dealt("ABC", "q", "zxy")))
    True
    """
    before: Counter[str] = Counter()
    keys = []
    for text in texts:
        keys.append(key_of("label", query, text, before[text]))
        before[text] += 1
    given = dict(zip(order_of(keys), names, strict=True))
    return tuple(given[j] for j in range(len(texts)))


def token_ids_after_newline(tokenizer: Any, texts: Sequence[str]) -> list[tuple[int, ...]]:
    """Tokens of each text where it follows a line break.

    A line break is a token border in every tokenizer family we know, and so is the blank that begins an item's text;
    an answer can therefore be encoded part by part, and a part's tokens do not depend on what stands before it.
    """
    rows = tokenize(tokenizer, ["\n" + text for text in texts])
    return [tuple(token for token, (_, end) in zip(row.ids, row.spans, strict=True) if end > 1) for row in rows]


@cache
def of_several_tokens(tokenizer: Any, names: tuple[str, ...]) -> bool:
    """Whether any of these labels is more than one token."""
    return any(len(ids) > 1 for ids in token_ids_after_newline(tokenizer, names))
