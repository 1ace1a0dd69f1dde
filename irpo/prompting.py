"""From an example to the text that a model reads, and the written form of its answer.

Two styles answer with a list. `text`: a numbered list of the candidates' texts, one a line. `label`: candidates carry
labels A, B, ... in the prompt and the answer reads `[B] > [A] > [C]`. In the third, `response`, candidates are not in
the prompt: each is a whole answer of its own. Templates are Jinja files, one a task and style; chat markup comes from
the tokenizer, never from here.
"""

from __future__ import annotations

import itertools
import string
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from irpo.types import RankingExample, Style, UserError

STYLES: tuple[Style, ...] = ("text", "label")  # whose answer is a list of all candidates
PLAIN_HEADER = "\n\nAnswer:\n"  # opens the answer where a tokenizer has no chat template
_MIN_TOKENS = 4  # a candidate is never cut shorter than this
_ENVIRONMENT = ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=False)


@dataclass(frozen=True)
class AnswerForm:
    """How a ranking is written: head(1) body(a) head(2) body(b) ... tail, then the end of the turn.

    A body ends in something that no longer name can continue (the newline), so "Alien" is not a prefix of "Aliens".
    """

    style: Style

    def head(self, rank: int) -> str:
        """What stands before the candidate at a 1-based rank."""
        if self.style == "response":
            return ""
        if self.style == "text":
            return f"{rank}."
        return "[" if rank == 1 else "] > ["

    def body(self, name: str) -> str:
        """A candidate's own part, the same at every rank."""
        return f" {name}\n" if self.style == "text" else name

    @property
    def tail(self) -> str:
        """What closes the list."""
        return "]" if self.style == "label" else ""

    def write(self, names: Sequence[str]) -> str:
        """The whole answer.

        >>> AnswerForm("label").write(["B", "A"])
        '[B] > [A]'
        >>> AnswerForm("text").write(["Alien", "Heat"])
        '1. Alien\\n2. Heat\\n'
        """
        parts = (self.head(rank) + self.body(name) for rank, name in enumerate(names, start=1))
        return "".join(parts) + self.tail


@dataclass(frozen=True)
class Template:
    """A Jinja template with the variables `query`, `candidates` (each with `.name` and `.text`) and `count`."""

    source: str
    name: str = "inline"

    def render(self, query: str, texts: Sequence[str], names: Sequence[str]) -> str:
        """The user's turn; `UserError` where the template is broken."""
        candidates = [{"text": text, "name": name} for text, name in zip(texts, names, strict=True)]
        try:
            return _compiled(self.source).render(query=query, candidates=candidates, count=len(texts)).strip()
        except jinja2.TemplateError as error:
            raise UserError(f"template {self.name}: {error}") from None


@cache
def _compiled(source: str) -> jinja2.Template:
    return _ENVIRONMENT.from_string(source)


def load_template(folder: Path, task: str, style: Style) -> Template:
    """`<task>.<style>.jinja` of a folder, else `default.<style>.jinja`; a path to a file is taken as it is."""
    given = Path(task)
    choices = [given] if given.suffix == ".jinja" else [folder / f"{n}.{style}.jinja" for n in (task, "default")]
    for path in choices:
        if path.is_file():
            return Template(path.read_text(encoding="utf-8"), name=path.name)
    raise UserError(f"no prompt template {choices[0]}; a template is a .jinja file")


@dataclass(frozen=True)
class Prompt:
    """What the model is fed, and what its answer calls each candidate (in prompt order)."""

    text: str  # chat markup and the assistant's header included
    names: tuple[str, ...]
    style: Style
    chat: bool  # the markup, a beginning-of-sequence token among it, is already in `text`
    candidate_tokens_cut: int = 0
    query_tokens_cut: int = 0

    @property
    def form(self) -> AnswerForm:
        """How an answer to this prompt is written."""
        return AnswerForm(self.style)


def one_line(text: str) -> str:
    """Blanks and line breaks folded: an item of a list is one line."""
    return " ".join(text.split())


@cache
def label_names(tokenizer: Any, count: int) -> tuple[str, ...]:
    """The first `count` of A ... Z, AA ... ZZ that are a single token each, so that one position holds all scores."""
    letters = string.ascii_uppercase
    spellings = [*letters, *(a + b for a, b in itertools.product(letters, repeat=2))]
    names = []
    for start in range(0, len(spellings), len(letters)):
        chunk = spellings[start : start + len(letters)]
        tokens = token_ids_after_newline(tokenizer, chunk)
        names += [name for name, ids in zip(chunk, tokens, strict=True) if len(ids) == 1]
        if len(names) >= count:
            return tuple(names[:count])
    raise UserError(f"the tokenizer has single tokens for {len(names)} labels; the list has {count} candidates")


def token_ids_after_newline(tokenizer: Any, texts: Sequence[str]) -> list[tuple[int, ...]]:
    """Tokens of each text where it follows a line break.

    A line break is a token border in every tokenizer family we know, and so is the blank that begins an item's text;
    an answer can therefore be encoded part by part, and a part's tokens do not depend on what stands before it.
    """
    encoded = tokenizer(["\n" + text for text in texts], add_special_tokens=False, return_offsets_mapping=True)
    rows = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
    return [tuple(token for token, (_, end) in zip(ids, spans, strict=True) if end > 1) for ids, spans in rows]


def markup(tokenizer: Any, user: str) -> tuple[str, bool]:
    """(the user's turn in chat markup up to the assistant's header, True), or the plain form and False.

    Only a user turn is used, since Gemma's template refuses a system role. The date that Llama 3's template prints is
    fixed: a prompt must not change with the day. A template that offers thinking is told not to: the answer is a list.
    """
    if not getattr(tokenizer, "chat_template", None):
        return user + PLAIN_HEADER, False
    turns = [{"role": "user", "content": user}]
    text: str = tokenizer.apply_chat_template(
        turns, tokenize=False, add_generation_prompt=True, date_string="26 Jul 2024", enable_thinking=False
    )
    return text, True


def count_tokens(tokenizer: Any, text: str) -> int:
    """Number of tokens of a text without any special token added."""
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


def cut_to_tokens(tokenizer: Any, text: str, limit: int, *, keep: Literal["first", "last"]) -> str:
    """The first (or last) `limit` tokens of a text, as a substring of it."""
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    if len(offsets) <= limit:
        return text
    if limit <= 0:
        return ""
    return text[: offsets[limit - 1][1]].rstrip() if keep == "first" else text[offsets[-limit][0] :].lstrip()


@dataclass(frozen=True)
class PromptBuilder:
    """Builds prompts of one style for one tokenizer, within `max_tokens` for prompt and answer together."""

    tokenizer: Any
    template: Template
    style: Style = "text"
    max_tokens: int = 2048

    def build(self, example: RankingExample) -> Prompt:
        """The example's prompt; where it is too long, candidates are cut first, then the query's oldest part.

        Cuts happen before templating, so the markup and the assistant's header stay whole.
        """
        fold = str.strip if self.style == "response" else one_line
        texts = tuple(fold(t) for t in example.texts)
        prompt = self._compose(example.query, texts)
        if self.length(prompt) <= self.max_tokens:
            return prompt
        return self._fitted_responses(example, texts) if self.style == "response" else self._fitted(example, texts)

    def length(self, prompt: Prompt) -> int:
        """Tokens of the prompt and of a complete answer (the longest), one for each end of the sequence included."""
        answers = prompt.names if self.style == "response" else (prompt.form.write(prompt.names),)
        longest = max(count_tokens(self.tokenizer, answer) for answer in answers)
        return count_tokens(self.tokenizer, prompt.text) + longest + 2

    def _compose(self, query: str, texts: Sequence[str], cut: tuple[int, int] = (0, 0)) -> Prompt:
        names = label_names(self.tokenizer, len(texts)) if self.style == "label" else tuple(texts)
        text, chat = markup(self.tokenizer, self.template.render(query, texts, names))
        return Prompt(text, names, self.style, chat, candidate_tokens_cut=cut[0], query_tokens_cut=cut[1])

    def _fitted(self, example: RankingExample, texts: tuple[str, ...]) -> Prompt:
        """The longest prompt that fits: the arithmetic is a guess, since cuts move token borders; `length` decides."""
        offsets = self.tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        sizes = [len(spans) for spans in offsets]
        uses = 2 if self.style == "text" else 1  # a text stands in the prompt, and again in such an answer
        whole = count_tokens(self.tokenizer, example.query)

        def composed(cap: int, keep: int) -> Prompt:
            short = [text[: spans[:cap][-1][1]].rstrip() or text for text, spans in zip(texts, offsets, strict=True)]
            query = cut_to_tokens(self.tokenizer, example.query, keep, keep="last")
            return self._compose(query, short, (sum(max(0, n - cap) for n in sizes), whole - keep))

        def over(prompt: Prompt) -> int:
            return self.length(prompt) - self.max_tokens

        excess = over(composed(_MIN_TOKENS, whole))
        if excess <= 0:
            cap = _largest_cap(sizes, uses, sum(min(n, _MIN_TOKENS) for n in sizes) * uses - excess)
            while cap > _MIN_TOKENS and (more := over(composed(cap, whole))) > 0:
                cap = max(_MIN_TOKENS, cap - max(1, more // (uses * len(texts))))
            return composed(cap, whole)
        kept = max(0, whole - excess)
        while (more := over(prompt := composed(_MIN_TOKENS, kept))) > 0:
            if kept == 0:
                raise UserError(
                    f"example {example.id!r}: {len(texts)} candidates need at least {self.length(prompt)} tokens in "
                    f"the {self.style} style, prompt.max_tokens is {self.max_tokens}"
                )
            kept = max(0, kept - more)
        return prompt

    def _fitted_responses(self, example: RankingExample, responses: tuple[str, ...]) -> Prompt:
        """Responses keep what the prompt leaves, at least half of the budget; then the query's oldest part is cut."""
        sizes = [count_tokens(self.tokenizer, response) for response in responses]
        whole = kept = count_tokens(self.tokenizer, example.query)
        room = self.max_tokens + max(sizes) - self.length(self._compose(example.query, responses))
        cap = max(room, self.max_tokens // 2)
        short = [cut_to_tokens(self.tokenizer, response, cap, keep="first") for response in responses]
        lost = sum(max(0, size - cap) for size in sizes)
        while True:
            query = cut_to_tokens(self.tokenizer, example.query, kept, keep="last")
            prompt = self._compose(query, short, (lost, whole - kept))
            more = self.length(prompt) - self.max_tokens
            if more <= 0:
                return prompt
            if kept == 0:
                raise UserError(f"example {example.id!r}: no room for a response, prompt.max_tokens {self.max_tokens}")
            kept = max(0, kept - more)


def _largest_cap(sizes: Sequence[int], uses: int, room: int) -> int:
    """The largest cap with uses * sum(min(size, cap)) <= room, at least the minimum.

    >>> _largest_cap([10, 20, 30], 1, 50)
    20
    """
    low, high = _MIN_TOKENS, max(_MIN_TOKENS, *sizes)
    while low < high:
        middle = (low + high + 1) // 2
        fits = uses * sum(min(n, middle) for n in sizes) <= room
        low, high = (middle, high) if fits else (low, middle - 1)
    return low


@cache
def end_of_turn(tokenizer: Any) -> int:
    """The token that ends the assistant's turn: what the chat template puts behind it, else the tokenizer's eos."""
    if getattr(tokenizer, "chat_template", None):
        mark = "answer"
        turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": mark}]
        text = tokenizer.apply_chat_template(turns, tokenize=False, date_string="26 Jul 2024")
        rest = tokenizer(text[text.rindex(mark) + len(mark) :].lstrip(), add_special_tokens=False)["input_ids"]
        # Not all_special_ids: a token such as Phi-3's <|end|> is special without having a role of its own.
        if rest and (rest[0] in tokenizer.all_special_ids or tokenizer.added_tokens_decoder.get(rest[0]) is not None):
            return int(rest[0])
    if tokenizer.eos_token_id is None:
        raise UserError("the tokenizer has neither an end-of-turn nor an end-of-sequence token")
    return int(tokenizer.eos_token_id)
