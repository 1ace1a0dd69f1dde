"""From an example to the text that a model reads, and the written form of its answer.

Two styles. `text`: the answer is a numbered list of the candidates' texts, one a line. `label`: candidates carry
labels A, B, ... in the prompt and the answer reads `[B] > [A] > [C]`. Templates are Jinja files, one a task and style;
chat markup comes from the tokenizer, never from here.
"""

from __future__ import annotations

import itertools
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from irpo.types import RankingExample, UserError

Style = Literal["text", "label"]
STYLES: tuple[Style, ...] = ("text", "label")
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
        if self.style == "text":
            return f"{rank}."
        return "[" if rank == 1 else "] > ["

    def body(self, name: str) -> str:
        """A candidate's own part, the same at every rank."""
        return f" {name}\n" if self.style == "text" else name

    @property
    def tail(self) -> str:
        """What closes the list."""
        return "" if self.style == "text" else "]"

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
            template = _ENVIRONMENT.from_string(self.source)
            return template.render(query=query, candidates=candidates, count=len(texts)).strip()
        except jinja2.TemplateError as error:
            raise UserError(f"template {self.name}: {error}") from None


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


def label_names(tokenizer: Any, count: int) -> tuple[str, ...]:
    """The first `count` of A ... Z, AA ... ZZ that are a single token each, so that one position holds all scores."""
    letters = string.ascii_uppercase
    spellings = itertools.chain(letters, (a + b for a, b in itertools.product(letters, repeat=2)))
    single = (s for s in spellings if len(token_ids_after_newline(tokenizer, s)) == 1)
    names = tuple(itertools.islice(single, count))
    if len(names) < count:
        raise UserError(f"the tokenizer has single tokens for {len(names)} labels; the list has {count} candidates")
    return names


def token_ids_after_newline(tokenizer: Any, text: str) -> list[int]:
    """Tokens of `text` where it follows a line break.

    A line break is a token border in every tokenizer family we know, and so is the blank that begins an item's text;
    an answer can therefore be encoded part by part, and a part's tokens do not depend on what stands before it.
    """
    encoded = tokenizer("\n" + text, add_special_tokens=False, return_offsets_mapping=True)
    spans = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
    return [token for token, (_, end) in spans if end > 1]


def markup(tokenizer: Any, user: str) -> tuple[str, bool]:
    """(the user's turn in chat markup up to the assistant's header, True), or the plain form and False.

    Only a user turn is used, since Gemma's template refuses a system role. The date that Llama 3's template prints is
    fixed: a prompt must not change with the day.
    """
    if not getattr(tokenizer, "chat_template", None):
        return user + PLAIN_HEADER, False
    turns = [{"role": "user", "content": user}]
    text: str = tokenizer.apply_chat_template(
        turns, tokenize=False, add_generation_prompt=True, date_string="26 Jul 2024"
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
        texts = tuple(one_line(t) for t in example.texts)
        prompt = self._compose(example.query, texts)
        if self.length(prompt) <= self.max_tokens:
            return prompt
        return self._fitted(example, texts)

    def length(self, prompt: Prompt) -> int:
        """Tokens of the prompt and of a complete answer, one for each end of the sequence included."""
        answer = prompt.form.write(prompt.names)
        return count_tokens(self.tokenizer, prompt.text) + count_tokens(self.tokenizer, answer) + 2

    def _compose(self, query: str, texts: Sequence[str], cut: tuple[int, int] = (0, 0)) -> Prompt:
        names = tuple(texts) if self.style == "text" else label_names(self.tokenizer, len(texts))
        text, chat = markup(self.tokenizer, self.template.render(query, texts, names))
        return Prompt(text, names, self.style, chat, candidate_tokens_cut=cut[0], query_tokens_cut=cut[1])

    def _fitted(self, example: RankingExample, texts: tuple[str, ...]) -> Prompt:
        sizes = [count_tokens(self.tokenizer, t) for t in texts]

        def composed(cap: int, query: str, query_cut: int = 0) -> Prompt:
            short = [cut_to_tokens(self.tokenizer, t, cap, keep="first") or t[:1] for t in texts]
            lost = sum(max(0, size - cap) for size in sizes)
            return self._compose(query, short, (lost, query_cut))

        def fits(prompt: Prompt) -> bool:
            return self.length(prompt) <= self.max_tokens

        cap = _largest(lambda n: fits(composed(n, example.query)), _MIN_TOKENS, max(sizes))
        if cap is not None:
            return composed(cap, example.query)
        whole = count_tokens(self.tokenizer, example.query)

        def with_query(keep: int) -> Prompt:
            query = cut_to_tokens(self.tokenizer, example.query, keep, keep="last")
            return composed(_MIN_TOKENS, query, whole - keep)

        kept = _largest(lambda n: fits(with_query(n)), 0, whole)
        if kept is None:
            needed = self.length(with_query(0))
            raise UserError(
                f"example {example.id!r}: {len(texts)} candidates need at least {needed} tokens in the {self.style} "
                f"style, prompt.max_tokens is {self.max_tokens}"
            )
        return with_query(kept)


def _largest(fits: Callable[[int], bool], low: int, high: int) -> int | None:
    """The largest n in [low, high] that fits, by bisection; None where not even `low` does."""
    if not fits(low):
        return None
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def end_of_turn(tokenizer: Any) -> int:
    """The token that ends the assistant's turn: what the chat template puts behind it, else the tokenizer's eos."""
    if getattr(tokenizer, "chat_template", None):
        mark = "answer"
        turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": mark}]
        text = tokenizer.apply_chat_template(turns, tokenize=False, date_string="26 Jul 2024")
        rest = tokenizer(text[text.rindex(mark) + len(mark) :].lstrip(), add_special_tokens=False)["input_ids"]
        if rest and rest[0] in tokenizer.all_special_ids:
            return int(rest[0])
    if tokenizer.eos_token_id is None:
        raise UserError("the tokenizer has neither an end-of-turn nor an end-of-sequence token")
    return int(tokenizer.eos_token_id)
