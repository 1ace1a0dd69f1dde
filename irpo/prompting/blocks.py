"""A prompt in pieces, for `prompt.attention: block`: what stands before the candidates, each one's lines, what is left.

A template is a program, so its candidates are found by what it writes: it renders the list once more with a letter for
private use around every name and text. Each piece is tokenized by itself, behind a line break; a candidate's tokens are
the same wherever it stands.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from irpo.prompting.labels import token_ids_after_newline
from irpo.prompting.markup import kept_apart, markup
from irpo.prompting.specials import tokenize
from irpo.prompting.templates import PromptTemplate
from irpo.types import UserError

Tokens = tuple[int, ...]
_PRIVATE = range(0xF0000, 0xFFFFE)  # letters that stand for nothing, in any text
_TRIAL = tuple(f"candidate {j}" for j in range(1, 6))


@dataclass(frozen=True)
class Pieces:
    """A prompt, or a user's turn. Of a candidate's lines the first part is what its text alone decides.

    The second begins at its label; where that stands before the text, the first is empty.
    """

    before: str
    own: tuple[tuple[str, str], ...] = ()  # empty: a prompt in one piece, `before`
    behind: str = ""

    @property
    def parts(self) -> list[str]:
        """All of it, from the beginning."""
        return [self.before, *(part for parts in self.own for part in parts), self.behind]

    @property
    def text(self) -> str:
        """All of it, in one."""
        return "".join(self.parts)

    def in_markup(self, tokenizer: Any, system: str, *, published: bool) -> tuple[Pieces, bool]:
        """The user's turn as the whole prompt, and whether its markup is whole; see `markup`."""
        if not self.own:
            text, chat = markup(tokenizer, self.before, system, published=published)
            return Pieces(text), chat
        (mark,) = _unused(1, (self.before, self.behind, system))
        text, chat = markup(tokenizer, self.before + mark + self.behind, system, published=published)
        if text.count(mark) != 1:
            raise UserError("prompt.attention 'block': the chat template does not show the user's turn as it is, once")
        before, _, behind = text.partition(mark)
        return Pieces(before, self.own, behind), chat

    def kept_apart(self, tokenizer: Any) -> Pieces:
        """The user's turn without special tokens and marks that its template made of texts."""
        before, *own, behind = kept_apart(tokenizer, self.parts)
        return Pieces(before, tuple(zip(own[::2], own[1::2], strict=True)), behind)

    def tokens(self, tokenizer: Any, *, ends: bool) -> tuple[Tokens, list[tuple[Tokens, Tokens]], Tokens]:
        """Tokens of each piece; `ends` adds before the first what the tokenizer puts around a sequence."""
        before = tokenize(tokenizer, [self.before], ends=ends)[0].ids
        *own, behind = token_ids_after_newline(tokenizer, self.parts[1:])
        return before, list(zip(own[::2], own[1::2], strict=True)), behind


def divided(template: PromptTemplate, query: str, texts: Sequence[str], names: Sequence[str]) -> tuple[str, Pieces]:
    """(the system's turn, the user's turn in pieces); `UserError` where candidates have no lines of their own."""
    system, turn = template.turns(query, texts, names)
    labelled = tuple(names) != tuple(texts)
    marks = _unused((1 + labelled) * len(texts), (query, turn, *texts, *names))
    around = [[mark + text + mark for mark, text in zip(marks, texts, strict=False)], list(names)]
    if labelled:
        around[1] = [mark + name + mark for mark, name in zip(marks[len(texts) :], names, strict=True)]
    shown_system, shown = template.turns(query, *around)
    if (shown_system, _without(shown, marks)) != (system, turn):
        raise UserError(f"{_no_pieces(template)}: what it writes depends on more than their letters")
    return system, _pieces(template, shown, marks, len(texts))


def require_pieces(template: PromptTemplate, *, labelled: bool) -> None:
    """`UserError` where a template's candidates cannot be told apart, or what it writes of one depends on its place."""
    if template.published:
        raise UserError(f"{_no_pieces(template)}: it is a published prompt, whose ranker reads the whole list")
    names = [f"L{j}" for j in range(len(_TRIAL))] if labelled else _TRIAL
    there, back = (divided(template, "query", _TRIAL[::way], names[::way]) for way in (1, -1))
    if there != (back[0], replace(back[1], own=back[1].own[::-1])):
        raise UserError(f"{_no_pieces(template)}: what it writes of one depends on where it stands")


def _no_pieces(template: PromptTemplate) -> str:
    return f"prompt.attention 'block': template {template.name} cannot be cut into its candidates"


def _unused(count: int, texts: Sequence[str]) -> list[str]:
    """So many letters for private use that none of the texts holds."""
    held = set("".join(texts))
    return [letter for letter in map(chr, _PRIVATE[: count + len(held)]) if letter not in held][:count]


def _without(text: str, marks: Sequence[str]) -> str:
    return text.translate(dict.fromkeys(map(ord, marks)))


def _pieces(template: PromptTemplate, shown: str, marks: Sequence[str], count: int) -> Pieces:
    """The rendered turn cut at its candidates' lines, without the marks."""
    places: dict[str, list[int]] = {mark: [] for mark in marks}
    for found in re.finditer(f"[{''.join(marks)}]", shown):
        places[found[0]].append(found.start())
    lines: list[tuple[int, int]] = []
    cuts = []
    for j in range(count):
        text, name = places[marks[j]], places[marks[count + j]] if len(marks) > count else []
        if not text:
            raise UserError(f"{_no_pieces(template)}: it does not show the text of each")
        first, last = min([*text, *name]), max([*text, *name])
        lines.append((shown.rfind("\n", 0, first) + 1, _line_end(shown, last)))
        cuts.append(_cut(shown, lines[-1], text, name))
    borders = [border for line in lines for border in line]
    if borders != sorted(borders):
        raise UserError(f"{_no_pieces(template)}: each needs lines of its own, shown once, in the order given")
    gaps = {shown[end:begin] for (_, end), (begin, _) in pairwise(lines)}
    if len(gaps) > 1:
        raise UserError(f"{_no_pieces(template)}: what stands between two of them is not always the same")
    gap = "".join(gaps)
    own = []
    for (begin, end), cut in zip(lines, cuts, strict=True):
        closing = ("" if shown[begin:end].endswith("\n") else "\n") + gap  # a turn may end with the last of them
        alone, labelled = _without(shown[begin:cut], marks), _without(shown[cut:end], marks)
        own.append((alone, labelled + closing) if labelled else (alone + closing, ""))
    return Pieces(shown[: lines[0][0]], tuple(own), shown[lines[-1][1] :].removeprefix(gap))


def _line_end(shown: str, place: int) -> int:
    """Where the line of a place ends, its break included."""
    end = shown.find("\n", place)
    return len(shown) if end < 0 else end + 1


def _cut(shown: str, line: tuple[int, int], text: Sequence[int], name: Sequence[int]) -> int:
    """Where a candidate's label begins, with the blank before it: at its lines' end if it has none."""
    if not name:
        return line[1]
    cut = shown.rfind(" ", line[0], min(name))
    return cut if cut > max(text) else line[0]
