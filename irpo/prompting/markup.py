"""What stands around the turns of a chat: as the tokenizer's own template writes it, or a file's in its place."""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

from jinja2.exceptions import TemplateError

from irpo.files import read_text
from irpo.prompting.specials import specials_in, tokenize
from irpo.resources import prompts_dir
from irpo.types import UserError

PLAIN_HEADER = "\n\nAnswer:\n"  # opens the answer where a tokenizer has no chat template


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
        text = _in_turns(tokenizer, turns)
    except TemplateError as error:
        if published:
            raise UserError(f"the model's chat markup refuses the template's system message: {error}") from None
        if not system:
            raise
        text = _in_turns(tokenizer, [{"role": "user", "content": whole}])
    begun = tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token)
    return text, begun or not published


def _in_turns(tokenizer: Any, turns: list[dict[str, str]]) -> str:
    text: str = tokenizer.apply_chat_template(
        turns, tokenize=False, add_generation_prompt=True, date_string="26 Jul 2024", enable_thinking=False
    )
    return text


@cache
def end_of_turn(tokenizer: Any) -> int:
    """The token that ends the assistant's turn: what the chat template puts behind it, else the tokenizer's eos."""
    if getattr(tokenizer, "chat_template", None):
        mark = "answer"
        turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": mark}]
        text = tokenizer.apply_chat_template(turns, tokenize=False, date_string="26 Jul 2024")
        rest = tokenize(tokenizer, [text[text.rindex(mark) + len(mark) :].lstrip()])[0].ids
        # Not all_special_ids: a token such as Phi-3's <|end|> is special without having a role of its own.
        if rest and (rest[0] in tokenizer.all_special_ids or tokenizer.added_tokens_decoder.get(rest[0]) is not None):
            return int(rest[0])
    if tokenizer.eos_token_id is None:
        raise UserError("the tokenizer has neither an end-of-turn nor an end-of-sequence token")
    return int(tokenizer.eos_token_id)


def foreign_specials(tokenizer: Any, text: str, system: bool, published: bool) -> list[str]:
    """The special tokens in a text that are not those of the markup around any user's turn, and any system's."""
    found = Counter(id for id, *_ in specials_in(tokenizer, text, tokenize(tokenizer, [text])[0]))
    return [
        str(tokenizer.convert_ids_to_tokens(id))
        for id in found - _own_specials(tokenizer, str(tokenizer.chat_template), system, published)
    ]


@cache
def _own_specials(tokenizer: Any, _template: str, system: bool, published: bool) -> Counter[int]:
    text, _ = markup(tokenizer, "x", "x" if system else "", published=published)
    return Counter(id for id, *_ in specials_in(tokenizer, text, tokenize(tokenizer, [text])[0]))
