"""What stands around the turns of a chat: as the tokenizer's own template writes it, or a file's in its place."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from jinja2.exceptions import SecurityError, TemplateError, TemplateSyntaxError

from irpo.files import read_text
from irpo.prompting.chat import render_chat
from irpo.prompting.specials import marks_in, specials_in, tokenize, without_specials
from irpo.resources import prompts_dir
from irpo.types import UserError

PLAIN_HEADER = "\n\nAnswer:\n"  # opens the answer where a tokenizer has no chat template
_BLANK = "\u2581"  # SentencePiece's
_MARK = re.compile(r"<{1,2}[^<>\s]+>{1,2}|\[/?[A-Z_]+\]")  # <|user|>, <<SYS>>, [/INST], where they are no tokens


def markup_source(given: str) -> str:
    """The Jinja text of a chat template: of a file, or of a shipped one by its name ("vicuna")."""
    shipped = {path.stem: path for path in sorted((prompts_dir() / "markup").glob("*.jinja"))}
    if given not in shipped and Path(given).suffix != ".jinja":
        raise UserError(f"prompt.chat_template = {given!r}: give a .jinja file, or one of: {', '.join(shipped)}")
    return read_text(shipped.get(given, Path(given)))


def with_markup(tokenizer: Any, given: str | None) -> Any:
    """The tokenizer itself, its chat template that of `markup_source` where one is given."""
    if given is not None:
        tokenizer.chat_template = markup_source(given)
    return tokenizer


def markup(tokenizer: Any, user: str, system: str = "", *, published: bool = False) -> tuple[str, bool]:
    """(the user's turn in chat markup up to the assistant's header, True), or the plain form and False.

    Where there is no system turn, or the tokenizer's template refuses one, as Gemma's does, all stands in the user's.
    The date that Llama 3's template prints is fixed: a prompt must not change with the day. A template that offers
    thinking is told not to: the answer is a list, or a word.

    A `published` prompt is kept as it was: `UserError` where its turns cannot be written, and the tokenizer adds its
    beginning of a sequence where the markup has none. The second value says that nothing is to be added.
    """
    turns = [*([{"role": "system", "content": system}] if system else []), {"role": "user", "content": user}]
    whole = f"{system}\n\n{user}" if system else user
    if not getattr(tokenizer, "chat_template", None):
        if published:
            raise UserError(
                "the model's tokenizer has no chat template, which this prompt is made for: set prompt.chat_template"
            )
        return whole + PLAIN_HEADER, False
    try:
        text = in_turns(tokenizer, turns)
    except TemplateError as error:
        if published:
            raise UserError(f"the model's chat markup refuses the template's system message: {error}") from None
        text = _written(tokenizer, [{"role": "user", "content": whole}])
    begun = tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token)
    return text, begun or not published


def _written(tokenizer: Any, turns: list[dict[str, str]], *, header: bool = True) -> str:
    """As `in_turns`; `UserError` where the template refuses these turns, too."""
    try:
        return in_turns(tokenizer, turns, header=header)
    except TemplateError as error:
        raise UserError(f"the tokenizer's chat template refuses a dialogue: {error}") from None


def in_turns(tokenizer: Any, turns: list[dict[str, str]], *, header: bool = True) -> str:
    """The turns as the tokenizer's chat template writes them, the assistant's header behind them where it is asked for.

    A `TemplateError` is what the template itself refuses; where it runs away or fails, a `UserError`.
    """
    values = {
        **tokenizer.special_tokens_map,
        "messages": turns,
        "tools": None,
        "documents": None,
        "add_generation_prompt": header,
        "date_string": "26 Jul 2024",
        "enable_thinking": False,
    }
    try:
        return render_chat(tokenizer.get_chat_template(), values)
    except TemplateError as error:
        if isinstance(error, SecurityError | TemplateSyntaxError):
            raise UserError(f"the tokenizer's chat template: {' '.join(str(error).split())[:200]}") from None
        raise
    except Exception as error:  # noqa: BLE001 - a template is a program, which may fail in any way
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"the tokenizer's chat template: {said}") from None


@cache
def end_of_turn(tokenizer: Any) -> int:
    """The token that ends the assistant's turn: what the chat template puts behind it, else the tokenizer's eos."""
    if getattr(tokenizer, "chat_template", None):
        mark = "answer"
        turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": mark}]
        text = _written(tokenizer, turns, header=False)
        rest = tokenize(tokenizer, [text[text.rindex(mark) + len(mark) :].lstrip()])[0].ids
        # Not all_special_ids: a token such as Phi-3's <|end|> is special without having a role of its own.
        if rest and (rest[0] in tokenizer.all_special_ids or tokenizer.added_tokens_decoder.get(rest[0]) is not None):
            return int(rest[0])
    if tokenizer.eos_token_id is None:
        raise UserError("the tokenizer has neither an end-of-turn nor an end-of-sequence token")
    return int(tokenizer.eos_token_id)


def kept_apart(tokenizer: Any, texts: Sequence[str], around: tuple[str, str] = ("\n", "")) -> list[str]:
    """The texts as data: no special token and no markup of the tokenizer's turns comes out of them.

    `around` as in `without_specials`. The letter that a vocabulary writes blanks with becomes the line that it looks
    like: a candidate of nothing else would be nothing.
    """
    if _takes_for_blank(tokenizer):
        texts = [text.replace(_BLANK, "_") for text in texts]
    return without_specials(tokenizer, texts, around, plain_marks(tokenizer))


@cache
def _takes_for_blank(tokenizer: Any) -> bool:
    written, blank = tokenize(tokenizer, [f"a{_BLANK}b", "a b"])
    return written.ids == blank.ids


def plain_marks(tokenizer: Any) -> tuple[str, ...]:
    """What the chat template opens turns with that is no special token: `USER:`, `[/INST]`, `### Response:`.

    A bare word behind a special token (`<start_of_turn>user`) opens nothing without it, and is none.
    """
    return _plain_marks(tokenizer, str(getattr(tokenizer, "chat_template", None) or ""))


@cache
def _plain_marks(tokenizer: Any, template: str) -> tuple[str, ...]:
    if not template:
        return (PLAIN_HEADER,)
    marks = set()
    for piece in _between_turns(tokenizer):
        *others, last = _without_their_specials(tokenizer, piece)
        if not last.replace(" ", "").strip().isalnum():
            marks.add(last.strip())
        elif not others and "\n" in last:
            marks.add(last)
        marks |= {mark for part in (*others, last) for mark in _MARK.findall(part)}
    return tuple(sorted(mark for mark in marks if len(mark) > 1))


def _between_turns(tokenizer: Any) -> list[str]:
    """What the template writes before, between and behind the turns of a dialogue."""
    said = [f"Qz{number}zQ" for number in range(4)]
    roles = ("system", "user", "assistant", "user")
    turns = [{"role": role, "content": text} for role, text in zip(roles, said, strict=True)]
    for some in (turns, turns[1:]):  # templates may refuse a system's turn
        with suppress(TemplateError):
            return re.split("|".join(said), in_turns(tokenizer, some))
    return re.split(said[1], _written(tokenizer, turns[1:2]))


def _without_their_specials(tokenizer: Any, piece: str) -> list[str]:
    """The parts of a text that its special tokens divide."""
    parts, last = [], 0
    for _, start, end in specials_in(tokenizer, piece, tokenize(tokenizer, [piece])[0]):
        parts.append(piece[last:start])
        last = end
    return [*parts, piece[last:]]


def foreign_specials(tokenizer: Any, text: str, system: bool, published: bool) -> list[str]:
    """The special tokens and marks in a text that are not those of the markup around any user's turn, any system's."""
    found = _held(tokenizer, text) - _own(tokenizer, str(tokenizer.chat_template), system, published)
    return [str(tokenizer.convert_ids_to_tokens(held)) if isinstance(held, int) else held for held in found]


@cache
def _own(tokenizer: Any, _template: str, system: bool, published: bool) -> Counter[int | str]:
    return _held(tokenizer, markup(tokenizer, "x", "x" if system else "", published=published)[0])


def _held(tokenizer: Any, text: str) -> Counter[int | str]:
    """How often each special token and mark stands in a text."""
    ids = (id for id, *_ in specials_in(tokenizer, text, tokenize(tokenizer, [text])[0]))
    return Counter([*ids, *(mark for mark, *_ in marks_in(text, plain_marks(tokenizer)))])
