"""From an example to the text that a model reads, and the written form of its answer.

Two styles answer with a list. `text`: a numbered list of the candidates' texts, one a line. `label`: candidates carry
labels A, B, ... or 1, 2, ... in the prompt and the answer reads `[B] > [A] > [C]`. In the third, `response`, candidates
are not in the prompt: each is a whole answer of its own. In the fourth, `pointwise`, each has a prompt of its own,
whose answer is yes or no. Templates are Jinja files, one a task and style; chat markup comes from the tokenizer, never
from here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from irpo.prompting.blocks import Pieces, divided, require_pieces
from irpo.prompting.labels import dealt, label_names, of_several_tokens, token_ids_after_newline
from irpo.prompting.markup import PLAIN_HEADER, end_of_turn, foreign_specials, kept_apart, markup
from irpo.prompting.specials import tokenize, without_labels
from irpo.prompting.templates import PromptTemplate, Template, load_template
from irpo.resources import prompts_dir
from irpo.types import Attention, Labels, RankingExample, Style, TooLong, UserError

__all__ = [
    "PLAIN_HEADER",
    "STYLES",
    "AnswerForm",
    "Prompt",
    "PromptBuilder",
    "Template",
    "count_tokens",
    "cut_to_tokens",
    "cuts_of",
    "end_of_turn",
    "label_names",
    "load_template",
    "markup",
    "one_line",
    "positions",
    "prompt_builder",
    "require_positions",
    "shared_start",
    "token_ids_after_newline",
]

STYLES: tuple[Style, ...] = ("text", "label")  # whose answer is a list of all candidates
_MIN_TOKENS = 4  # a candidate is never cut shorter than this


@dataclass(frozen=True)
class AnswerForm:
    """How a ranking is written: head(1) body(a) head(2) body(b) ... tail, then the end of the turn.

    A body ends in something that no longer name can continue (the newline), so "Alien" is not a prefix of "Aliens".
    A label ends in its bracket where it is `closed`: labels of several tokens, "1" of which begins "10".
    """

    style: Style
    closed: bool = False

    def head(self, rank: int) -> str:
        """What stands before the candidate at a 1-based rank."""
        if self.style in ("response", "pointwise"):
            return ""
        if self.style == "text":
            return f"{rank}."
        return "[" if rank == 1 else " > [" if self.closed else "] > ["

    def body(self, name: str) -> str:
        """A candidate's own part, the same at every rank."""
        if self.closed:
            return f"{name}]"
        return f" {name}\n" if self.style == "text" else name

    @property
    def tail(self) -> str:
        """What closes the list."""
        return "]" if self.style == "label" and not self.closed else ""

    def write(self, names: Sequence[str]) -> str:
        """The whole answer.

        >>> AnswerForm("label").write(["B", "A"])
        '[B] > [A]'
        >>> AnswerForm("text").write(["Alien", "Heat"])
        '1. Alien\\n2. Heat\\n'
        >>> AnswerForm("label", closed=True).write(["10", "1"])
        '[10] > [1]'
        """
        parts = (self.head(rank) + self.body(name) for rank, name in enumerate(names, start=1))
        return "".join(parts) + self.tail


@dataclass(frozen=True)
class Prompt:
    """What the model is fed, and what its answer calls each candidate (in prompt order).

    In the style `pointwise` `text` is what the candidates' prompts begin with, and a name is the rest of a candidate's.
    """

    text: str  # chat markup and the assistant's header included
    names: tuple[str, ...]
    style: Style
    chat: bool  # the markup, a beginning-of-sequence token among it, is already in `text`
    tokens_cut: tuple[int, ...] = ()  # of each candidate, to fit
    query_tokens_cut: int = 0
    special_texts: int = 0  # query and candidates that held markup or labels, kept apart (`irpo.prompting.specials`)
    closed: bool = False  # see `AnswerForm`
    pieces: Pieces | None = None  # of `text`, where candidates see nothing of each other

    @property
    def candidate_tokens_cut(self) -> int:
        """Tokens that all candidates together lost."""
        return sum(self.tokens_cut)

    @property
    def form(self) -> AnswerForm:
        """How an answer to this prompt is written."""
        return AnswerForm(self.style, self.closed)


def cuts_of(prompts: Sequence[Prompt]) -> dict[str, int]:
    """What a card says of prompts: what was cut to fit, and how many texts held special tokens."""
    return {
        "prompts": len(prompts),
        "prompts_cut": sum(bool(p.candidate_tokens_cut or p.query_tokens_cut) for p in prompts),
        "candidate_tokens_cut": sum(p.candidate_tokens_cut for p in prompts),
        "query_tokens_cut": sum(p.query_tokens_cut for p in prompts),
        "special_texts": sum(p.special_texts for p in prompts),
    }


def one_line(text: str) -> str:
    """Blanks and line breaks folded: an item of a list is one line."""
    return " ".join(text.split())


def shared_start(rows: Sequence[Sequence[object]]) -> int:
    """How many items (characters, tokens) all the rows begin with.

    >>> shared_start(["a cat", "a car"])
    4
    """
    columns = enumerate(zip(*rows, strict=False))
    return next((place for place, column in columns if len(set(column)) > 1), min(map(len, rows)))


def count_tokens(tokenizer: Any, text: str) -> int:
    """Number of tokens of a text without any special token added."""
    return len(tokenize(tokenizer, [text])[0])


def cut_to_tokens(tokenizer: Any, text: str, limit: int, *, keep: Literal["first", "last"]) -> str:
    """The first (or last) `limit` tokens of a text, as a substring of it."""
    offsets = tokenize(tokenizer, [text])[0].spans
    if len(offsets) <= limit:
        return text
    if limit <= 0:
        return ""
    return text[: offsets[limit - 1][1]].rstrip() if keep == "first" else text[offsets[-limit][0] :].lstrip()


@dataclass(frozen=True)
class PromptBuilder:
    """Builds prompts of one style for one tokenizer, within `max_tokens` for prompt and answer together."""

    tokenizer: Any
    template: PromptTemplate
    style: Style = "text"
    max_tokens: int = 2048
    labels: Labels = "letters"  # of the style `label`
    attention: Attention = "full"

    def __post_init__(self) -> None:
        if self.attention == "block":
            require_pieces(self.template, labelled=self.style == "label")
        if self.template.labels not in (None, self.labels):
            asked = self.template.labels
            raise UserError(f"template {self.template.name} asks for {asked} as labels; set prompt.labels to {asked!r}")

    def build(self, example: RankingExample) -> Prompt:
        """The example's prompt; where it is too long, candidates are cut first, then the query's oldest part.

        Cuts happen before templating, so the markup and the assistant's header stay whole. The example's texts are
        data, in the prompt and in an answer: no special token, markup or label of this list comes out of them.
        """
        fold = str.strip if self.style in ("response", "pointwise") else one_line
        folded = tuple(fold(t) for t in example.texts)
        labels = label_names(self.tokenizer, len(folded), self.labels) if self.style == "label" else ()
        texts = self._plain([without_labels(text, labels) for text in folded])
        query = kept_apart(self.tokenizer, [without_labels(example.query, labels)])[0]
        held = (query != example.query) + sum(a != b for a, b in zip(texts, folded, strict=True))
        prompt = self._within(replace(example, query=query), texts)
        return replace(prompt, special_texts=prompt.special_texts + held) if held else prompt

    def length(self, prompt: Prompt) -> int:
        """Tokens of the prompt and of a complete answer (the longest), one for each end of the sequence included.

        In the style `pointwise` the longest prompt's, and one for the answer.
        """
        if self.style == "pointwise":
            return max(count_tokens(self.tokenizer, prompt.text + own) for own in prompt.names) + 3
        answers = prompt.names if self.style == "response" else (prompt.form.write(prompt.names),)
        longest = max(len(tokens) for tokens in tokenize(self.tokenizer, answers))
        parts = [prompt.text] if prompt.pieces is None else prompt.pieces.parts
        return sum(len(tokens) for tokens in tokenize(self.tokenizer, parts)) + longest + 2

    def _plain(self, texts: Sequence[str]) -> tuple[str, ...]:
        """The candidates' texts, from which no special token comes out where they stand in an answer."""
        before, _, behind = AnswerForm(self.style).body("\0").partition("\0")
        return tuple(kept_apart(self.tokenizer, texts, ("\n" + before, behind)))

    def _within(self, example: RankingExample, texts: tuple[str, ...]) -> Prompt:
        if self.style == "pointwise":
            return self._fitted_pointwise(example, texts)
        prompt = self._compose(example, texts)
        if self.length(prompt) <= self.max_tokens:
            return prompt
        return self._fitted_responses(example, texts) if self.style == "response" else self._fitted(example, texts)

    def _compose(
        self, example: RankingExample, texts: Sequence[str], cut: tuple[int, ...] = (), query_cut: int = 0
    ) -> Prompt:
        """The prompt for these texts; what the template joins to a special token is kept apart, too."""
        names = label_names(self.tokenizer, len(texts), self.labels) if self.style == "label" else tuple(texts)
        if self.attention == "block" and self.style == "label":
            names = dealt(names, example.query, example.texts)  # whole: what is cut may be equal
        system, turn = self._turn(example.query, texts, names)
        published = self.template.published
        whole, chat = turn.in_markup(self.tokenizer, system, published=published)
        joined = bool(foreign_specials(self.tokenizer, whole.text, bool(system), published))
        if joined:
            whole, chat = turn.kept_apart(self.tokenizer).in_markup(self.tokenizer, system, published=published)
            if found := foreign_specials(self.tokenizer, whole.text, bool(system), published):
                raise UserError(f"{example.called}: its texts give markup of the model's: {', '.join(found)}")
        # Letters are chosen so that they are one token each.
        closed = (self.style, self.labels) == ("label", "numbers") and of_several_tokens(self.tokenizer, names)
        lost, pieces = cut or (0,) * len(names), whole if whole.own else None
        return Prompt(whole.text, names, self.style, chat, lost, query_cut, int(joined), closed, pieces)

    def _turn(self, query: str, texts: Sequence[str], names: Sequence[str]) -> tuple[str, Pieces]:
        """(the system's turn, the user's), in pieces where candidates see nothing of each other."""
        if self.attention == "block":
            return divided(self.template, query, texts, names)
        system, turn = self.template.turns(query, texts, names)
        return system, Pieces(turn)

    def _fitted(self, example: RankingExample, texts: tuple[str, ...]) -> Prompt:
        """The longest prompt that fits: the arithmetic is a guess, since cuts move token borders; `length` decides."""
        offsets = [tokens.spans for tokens in tokenize(self.tokenizer, texts)]
        sizes = [len(spans) for spans in offsets]
        uses = 2 if self.style == "text" else 1  # a text stands in the prompt, and again in such an answer
        whole = count_tokens(self.tokenizer, example.query)

        def composed(cap: int, keep: int) -> Prompt:
            short = [text[: spans[:cap][-1][1]].rstrip() or text for text, spans in zip(texts, offsets, strict=True)]
            cut = tuple(max(0, n - cap) for n in sizes)
            return self._compose(self._recent(example, keep), self._plain(short), cut, whole - keep)

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
                raise TooLong(
                    f"{example.called}: {len(texts)} candidates need at least {self.length(prompt)} tokens in "
                    f"the {self.style} style, prompt.max_tokens is {self.max_tokens}: give more (rank and evaluate: "
                    "--max-tokens), as far as the model has positions, or fewer candidates"
                )
            kept = max(0, kept - more)
        return prompt

    def _fitted_responses(self, example: RankingExample, responses: tuple[str, ...]) -> Prompt:
        """Responses keep what the prompt leaves, at least half of the budget; then the query's oldest part is cut."""
        sizes = [len(tokens) for tokens in tokenize(self.tokenizer, responses)]
        whole = kept = count_tokens(self.tokenizer, example.query)
        room = self.max_tokens + max(sizes) - self.length(self._compose(example, responses))
        cap = max(room, self.max_tokens // 2)
        short = self._plain([cut_to_tokens(self.tokenizer, text, cap, keep="first") for text in responses])
        cut = tuple(max(0, size - cap) for size in sizes)
        while True:
            prompt = self._compose(self._recent(example, kept), short, cut, whole - kept)
            more = self.length(prompt) - self.max_tokens
            if more <= 0:
                return prompt
            if kept == 0:
                raise TooLong(f"{example.called}: no room for a response, prompt.max_tokens {self.max_tokens}")
            kept = max(0, kept - more)

    def _fitted_pointwise(self, example: RankingExample, texts: tuple[str, ...]) -> Prompt:
        """Documents keep what the longest prompt leaves them; then the query's oldest part is cut."""
        sizes = [len(tokens) for tokens in tokenize(self.tokenizer, texts)]
        whole = kept = count_tokens(self.tokenizer, example.query)
        cap = max(sizes)
        while True:
            asked = self._recent(example, kept)
            short = self._plain([cut_to_tokens(self.tokenizer, text, cap, keep="first") for text in texts])
            alone = [self._compose(asked, [text], (max(0, n - cap),)) for text, n in zip(short, sizes, strict=True)]
            prompt = replace(_side_by_side(alone), query_tokens_cut=whole - kept)
            more = self.length(prompt) - self.max_tokens
            if more <= 0:
                return prompt
            if cap > _MIN_TOKENS:
                cap = max(_MIN_TOKENS, cap - more)
            elif kept:
                kept = max(0, kept - more)
            else:
                raise TooLong(f"{example.called}: no room for a document, prompt.max_tokens {self.max_tokens}")

    def _recent(self, example: RankingExample, keep: int) -> RankingExample:
        """The example with the last tokens of its query."""
        return replace(example, query=cut_to_tokens(self.tokenizer, example.query, keep, keep="last"))


def _side_by_side(prompts: Sequence[Prompt]) -> Prompt:
    """Prompts of one candidate each as one, in the style `pointwise`."""
    shared = shared_start([prompt.text for prompt in prompts])
    return replace(
        prompts[0],
        text=prompts[0].text[:shared],
        names=tuple(prompt.text[shared:] for prompt in prompts),
        tokens_cut=tuple(cut for prompt in prompts for cut in prompt.tokens_cut),
        special_texts=sum(prompt.special_texts for prompt in prompts),
    )


def positions(config: Any) -> int | None:
    """The longest sequence that a model can read, by its `config`; None where that has no bound."""
    inner = config.get_text_config() if hasattr(config, "get_text_config") else config
    names = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "seq_length")
    return next((value for name in names if isinstance(value := getattr(inner, name, None), int)), None)


def require_positions(config: Any, max_tokens: int) -> None:
    """`UserError` where prompt and answer together may be longer than what a model (its `config`) can read."""
    most = positions(config)
    if most is not None and max_tokens > most:
        raise UserError(f"prompt.max_tokens = {max_tokens}: the model has {most} positions; choose {most} or fewer")


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


def prompt_builder(
    tokenizer: Any,
    template: str,
    style: Style,
    max_tokens: int,
    labels: Labels = "letters",
    attention: Attention = "full",
) -> PromptBuilder:
    """A builder with one of the shipped templates, or a user's own."""
    found = load_template(prompts_dir(), template, style)
    return PromptBuilder(tokenizer, found, style, max_tokens, labels, attention)
