"""Tokens: an encoded list, and the one way from an example to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

from irpo.prompting.prompts import (
    AnswerForm,
    Prompt,
    PromptBuilder,
    end_of_turn,
    shared_start,
    token_ids_after_newline,
)
from irpo.prompting.specials import tokenize
from irpo.types import RankingExample, UserError

Tokens = tuple[int, ...]
Choices = tuple[tuple[int, Tokens], ...]  # places in an answer, counted from somewhere, and the tokens allowed there


class Block(NamedTuple):
    """A candidate's tokens in the prompt: from `start` to `stop`; those before `own` its text alone decides."""

    start: int
    own: int
    stop: int


@dataclass(frozen=True)
class EncodedList:
    """A list in tokens: prompt, heads[0], bodies[a], heads[1], bodies[b], ..., tail is one complete sequence.

    `bodies[j]` is candidate j's own part, its terminator included; the scored span. Where there is no tail, the
    candidates make no list: each body is a whole answer of its own, its end of turn included.

    `choices` are those of a list that was drawn in this very order along a walk, candidate by candidate, counted from
    the first token of its body: all that it is scored by, each choice renormalised over the tokens allowed there. In
    the style `pointwise` a body is the rest of a candidate's own prompt and `yes`, its one choice that against `no`.

    `teacher` are another ranker's scores of the candidates, for objectives alone; empty where the list has none.
    `blocks` are the candidates in the prompt where they see nothing of each other, one behind the other; else empty.
    `missed` are labels of what is relevant and no candidate (`RankingExample.unlisted`), for measures alone.
    """

    id: str
    prompt: Tokens
    heads: tuple[Tokens, ...]
    bodies: tuple[Tokens, ...]
    tail: Tokens
    relevance: tuple[float, ...]
    choices: tuple[Choices, ...] = ()
    teacher: tuple[float, ...] = ()
    blocks: tuple[Block, ...] = ()
    missed: tuple[float, ...] = ()

    def answer(self, order: Sequence[int]) -> Tokens:
        """The complete answer that ranks the candidates in this order, end of turn included."""
        parts = (self.heads[rank] + self.bodies[j] for rank, j in enumerate(order))
        return tuple(token for part in parts for token in part) + self.tail

    @property
    def end(self) -> int:
        """The token that ends an answer."""
        return (self.tail or self.bodies[0])[-1]

    def require_list(self, what: str) -> None:
        """`UserError` where the candidates are answers of their own, and `what` needs one list of them."""
        if not self.tail:
            raise UserError(f"{what} needs an answer that lists the candidates; responses of their own make none")

    def only(self, chosen: Sequence[int]) -> EncodedList:
        """The same prompt with some of the candidates to score, in this order."""
        bodies, relevance = tuple(self.bodies[j] for j in chosen), tuple(self.relevance[j] for j in chosen)
        choices = tuple(self.choices[j] for j in chosen) if self.choices else ()
        teacher = tuple(self.teacher[j] for j in chosen) if self.teacher else ()
        return replace(self, bodies=bodies, relevance=relevance, choices=choices, teacher=teacher)

    def without_labels(self) -> EncodedList:
        """The list with every label 0 and no teacher: what evaluation may show to a scorer, so that none can leak."""
        return replace(self, relevance=(0.0,) * len(self.relevance), teacher=(), missed=())


def encode(tokenizer: Any, prompt: Prompt, relevance: Sequence[float], id: str = "") -> EncodedList:
    """Tokens of a prompt (as `generate` is fed it) and of every part of its answers."""
    if prompt.style == "pointwise":
        return _pointwise(tokenizer, prompt, relevance, id)
    form = prompt.form
    ids, blocks = _prompt_tokens(tokenizer, prompt)
    bodies = token_ids_after_newline(tokenizer, [form.body(name) for name in prompt.names])
    end = (end_of_turn(tokenizer),)
    listed = prompt.style != "response"
    return EncodedList(
        id=id,
        prompt=ids,
        heads=_heads(tokenizer, form, len(prompt.names)),
        bodies=tuple(bodies if listed else (body + end for body in bodies)),
        tail=token_ids_after_newline(tokenizer, [form.tail])[0] + end if listed else (),
        relevance=tuple(relevance),
        blocks=blocks,
    )


def _prompt_tokens(tokenizer: Any, prompt: Prompt) -> tuple[Tokens, tuple[Block, ...]]:
    """The whole prompt's tokens; or piece by piece, so that no candidate's depend on where it stands."""
    if prompt.pieces is None:
        return tokenize(tokenizer, [prompt.text], ends=not prompt.chat)[0].ids, ()
    before, own, behind = prompt.pieces.tokens(tokenizer, ends=not prompt.chat)
    ids = list(before)
    blocks = []
    for text, rest in own:
        start = len(ids)
        ids += text + rest
        blocks.append(Block(start, start + len(text), len(ids)))
    return (*ids, *behind), tuple(blocks)


def _pointwise(tokenizer: Any, prompt: Prompt, relevance: Sequence[float], id: str) -> EncodedList:
    """Each candidate's prompt tokenized whole; what all begin with is the trunk, the rest and `yes` a body.

    An answer of several tokens is told by its first; `UserError` where `yes` and `no` begin alike.
    """
    rows = [row.ids for row in tokenize(tokenizer, [prompt.text + own for own in prompt.names], ends=not prompt.chat)]
    yes, no = (ids[0] for ids in token_ids_after_newline(tokenizer, ["yes", "no"]))
    if yes == no:
        raise UserError("prompt.style 'pointwise': the tokenizer's 'yes' and 'no' begin with the same token")
    shared = min(shared_start(rows), *(len(row) - 1 for row in rows))
    bodies = tuple((*row[shared:], yes) for row in rows)
    choices = tuple(((len(body) - 1, (yes, no)),) for body in bodies)
    heads: tuple[Tokens, ...] = ((),) * len(bodies)
    return EncodedList(id, rows[0][:shared], heads, bodies, (), tuple(relevance), choices)


@dataclass(frozen=True)
class PromptedList:
    """A list as a model is asked about it: the example, its prompt, and the tokens of the prompt and its answers."""

    example: RankingExample
    prompt: Prompt
    tokens: EncodedList


def prompted(builder: PromptBuilder, examples: Sequence[RankingExample], *, labels: bool) -> list[PromptedList]:
    """The examples as `builder` puts them, in their order: the one way from an example to tokens.

    `labels=False` withholds every label, source and teacher's score from prompt, tokens and example alike: what
    evaluation, ranking and validation show, so that none can leak.
    """
    found = []
    for given in examples:
        example = given if labels else _blind(given)
        prompt = builder.build(example)
        tokens = encode(builder.tokenizer, prompt, example.relevance, id=example.id)
        tokens = replace(tokens, teacher=example.teacher or (), missed=example.missed)
        found.append(PromptedList(example, prompt, tokens))
    return found


def _blind(example: RankingExample) -> RankingExample:
    blind = (replace(c, relevance=0.0, source="", teacher=None) for c in example.candidates)
    return replace(example, candidates=tuple(blind), unlisted=())


@cache
def _heads(tokenizer: Any, form: AnswerForm, count: int) -> tuple[Tokens, ...]:
    return tuple(token_ids_after_newline(tokenizer, [form.head(rank) for rank in range(1, count + 1)]))
