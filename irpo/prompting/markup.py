"""What stands around the turns of a chat, as the tokenizer's own template writes it."""

from __future__ import annotations

import contextlib
from functools import cache
from typing import Any

from jinja2.exceptions import TemplateError

from irpo.prompting.specials import tokenize
from irpo.types import UserError

PLAIN_HEADER = "\n\nAnswer:\n"  # opens the answer where a tokenizer has no chat template


def markup(tokenizer: Any, user: str, system: str = "") -> tuple[str, bool]:
    """(the user's turn in chat markup up to the assistant's header, True), or the plain form and False.

    Where there is no system turn, or the tokenizer's template refuses one, as Gemma's does, all stands in the user's.
    The date that Llama 3's template prints is fixed: a prompt must not change with the day. A template that offers
    thinking is told not to: the answer is a list, or a word.
    """
    whole = f"{system}\n\n{user}" if system else user
    if not getattr(tokenizer, "chat_template", None):
        return whole + PLAIN_HEADER, False
    if system:
        with contextlib.suppress(TemplateError):
            return _in_turns(tokenizer, {"role": "system", "content": system}, {"role": "user", "content": user}), True
    return _in_turns(tokenizer, {"role": "user", "content": whole}), True


def _in_turns(tokenizer: Any, *turns: dict[str, str]) -> str:
    text: str = tokenizer.apply_chat_template(
        list(turns), tokenize=False, add_generation_prompt=True, date_string="26 Jul 2024", enable_thinking=False
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
