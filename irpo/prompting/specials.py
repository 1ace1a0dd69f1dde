"""A user's text is data: a document that says `<|end|>` must not end the user's turn, nor one that says `USER:`.

Tokenizers match their added tokens anywhere in a text. What comes out is judged by the tokens, not by the spelling: a
normaliser makes such a token of other characters (full-width brackets), and a model may hold one in its own vocabulary.
Where one comes out, a blank behind its first character keeps it apart; every character stays, for people and models.
Markup that is plain text in a family (`[INST]`, `USER:`) is told to this module as marks, and kept apart likewise.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

_MARKUP = re.compile(r"<.+>|\[.+\]|\{.+\}", re.DOTALL)  # <|end|>, </s>, <start_of_turn>, [INST]
# Tags that Gemma's vocabulary holds as words of text; not <s> and </s>, which end sequences elsewhere.
_HTML = re.compile(r"</?(?:h[1-6]|[abiu]|em|strong|su[bp]|code|table|caption|t(?:body|head|foot|[rdh])|[uo]l|li|p|br)>")
_NOBODYS = "\U000ffffd"  # a letter for private use, the last of its plane: in no vocabulary
_LABEL = re.compile(r"\[([^\[\]\n]{1,9})\]")
_ROUNDS = 8  # breaking one special token may leave another; in the second half nothing of them is left


@dataclass(frozen=True)
class TextTokens:
    """Tokens of a text, and the characters that each stands for."""

    ids: tuple[int, ...]
    spans: Sequence[tuple[int, int]]

    def __len__(self) -> int:
        return len(self.ids)


def tokenize(tokenizer: Any, texts: Sequence[str], *, ends: bool = False) -> list[TextTokens]:
    """Tokens of each text; `ends` adds what the tokenizer puts around a sequence. The one way to tokens.

    Special tokens in it are matched, whatever the tokenizer's own setting, since markup must be; a text of any length
    is taken without a word, since the caller cuts.
    """
    if not texts:
        return []
    found = tokenizer(
        list(texts),
        add_special_tokens=ends,
        return_offsets_mapping=True,
        split_special_tokens=False,
        verbose=False,
    )
    rows = zip(found["input_ids"], found["offset_mapping"], strict=True)
    return [TextTokens(tuple(ids), spans) for ids, spans in rows]


def special_tokens(tokenizer: Any) -> Mapping[int, str]:
    """The tokens that no text may hold, by id.

    Those flagged as special, and of the others that were added to the vocabulary those that are markup: Phi-3's `</s>`
    and Qwen's `<tool_call>` bear no flag. Blanks and words are text, though added.
    """
    return _special_tokens(tokenizer, len(tokenizer), str(getattr(tokenizer, "chat_template", None) or ""))


@cache
def _special_tokens(tokenizer: Any, _size: int, template: str) -> Mapping[int, str]:
    named = dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
    added = {id: (token.content, token.special or id in named) for id, token in tokenizer.added_tokens_decoder.items()}
    ordinary = {id: (text, False) for id, text in named.items()}  # a word of the vocabulary that pads, say
    both = {**ordinary, **added}
    return {id: text for id, (text, flag) in both.items() if text.strip() and (flag or _is_markup(text, template))}


def _is_markup(text: str, template: str) -> bool:
    if _HTML.fullmatch(text) or not any(c for c in text if not c.isalnum() and not c.isspace() and c != "\u2581"):
        return False
    return bool(_MARKUP.fullmatch(text)) or text in template


def specials_in(tokenizer: Any, text: str, tokens: TextTokens) -> Iterator[tuple[int, int, int]]:
    """(id, first character, end) of every special token.

    The unknown token and the tokens of single bytes count where they are spelt out: they also stand for letters that
    the vocabulary lacks.
    """
    specials, spelt = special_tokens(tokenizer), _spelt(tokenizer, len(tokenizer))
    if specials.keys().isdisjoint(tokens.ids) and spelt.keys().isdisjoint(tokens.ids):
        return
    for id, (start, end) in zip(tokens.ids, tokens.spans, strict=True):
        if id in spelt:
            if unicodedata.normalize("NFKC", text[start:end]).strip() == spelt[id]:
                yield id, start, end
        elif id in specials:
            yield id, start, end


@cache
def _spelt(tokenizer: Any, size: int) -> Mapping[int, str]:
    """Tokens that stand for letters, by id: `<unk>`, and `<0x0A>` in a model that would read it as a line break."""
    specials = special_tokens(tokenizer)
    unknown = {id: specials[id] for id in _unknown(tokenizer, size) if id in specials}
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    ids = dict(zip(tokenizer.convert_tokens_to_ids(bytes_), bytes_, strict=True))
    return {id: text for id, text in ids.items() if id is not None and id != tokenizer.unk_token_id} | unknown


def marks_in(text: str, marks: Sequence[str]) -> Iterator[tuple[str, int, int]]:
    """(mark, first character, end) of every mark that a text holds."""
    for mark in marks:
        start = text.find(mark)
        while start >= 0:
            yield mark, start, start + len(mark)
            start = text.find(mark, start + len(mark))


@cache
def _unknown(tokenizer: Any, _size: int) -> frozenset[int]:
    """What stands for unknown letters, by name and by trying one; a model may have such a token that bears no name."""
    return frozenset({tokenizer.unk_token_id, *tokenize(tokenizer, [_NOBODYS])[0].ids})


def without_specials(
    tokenizer: Any, texts: Sequence[str], around: tuple[str, str] = ("\n", ""), marks: Sequence[str] = ()
) -> list[str]:
    """The texts, each of them as it is where no special token comes out of it and no mark stands in it.

    `around` is what stands before and behind a text where it is used.
    """
    before, behind = around
    found = list(texts)
    open_ = list(range(len(found)))
    for attempt in range(_ROUNDS):
        framed = [before + found[j] + behind for j in open_]
        held = {
            j: sorted((a, b) for _, a, b in (*specials_in(tokenizer, text, tokens), *marks_in(text, marks)))
            for j, text, tokens in zip(open_, framed, tokenize(tokenizer, framed), strict=True)
        }
        open_ = [j for j in open_ if held[j]]
        for j in open_:
            spans = [(start - len(before), end - len(before)) for start, end in held[j]]
            found[j] = _broken(found[j], spans, away=attempt >= _ROUNDS // 2)
    return found


def _broken(text: str, spans: Sequence[tuple[int, int]], *, away: bool) -> str:
    """The text with a blank behind the first character of each span, or with a question mark in its place."""
    parts, last = [], 0
    for start, end in spans:
        first = max(start, last)
        piece = text[first : max(end, first)]
        whole = piece.strip()
        if whole:
            first += len(piece) - len(piece.lstrip())
            parts += [text[last:first], "?" if away or len(whole) == 1 else f"{whole[0]} {whole[1:]}"]
            last = first + len(whole)
    return "".join([*parts, text[last:]])


def without_labels(text: str, labels: Collection[str]) -> str:
    """The text, the labels of its list in round brackets: "[B]" in a document is not candidate B.

    >>> without_labels("see [B], [1] and [C]", ["A", "B"])
    'see (B), [1] and [C]'
    """
    return _LABEL.sub(lambda found: f"({found[1]})" if found[1].strip() in labels else found[0], text)
