"""The words every other module speaks: examples, rankings, parse problems, and the one error a user sees.

Nothing here imports torch: the command line answers before it is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

# text: the answer holds the candidates' texts; label: their labels, [B] > [A]; response: each is a whole answer;
# pointwise: each has a prompt of its own, whose answer is yes or no
Style = Literal["text", "label", "response", "pointwise"]
Labels = Literal["letters", "numbers"]  # of the style `label`: [B] > [A], or [2] > [1]
Attention = Literal["full", "block"]  # between candidates in a prompt; block: none
# C0 and C1 but for tab and line break, marks and overrides of the writing direction, lone surrogates
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_SURROGATE = re.compile("[\ud800-\udfff]")

MAX_LABEL = 1000.0  # the gain of NDCG, 2^y - 1, is a float up to here
MAX_TEACHER = 1e9  # of a teacher's score, of either sign; its square is a float32


class UserError(ValueError):
    """A mistake of the user's: one line that says what was given, what is allowed, and where.

    The command line prints it and exits with status 2.
    """

    keys: tuple[str, ...] = ()  # in a plug-in's mapping, the way to the option that is wrong: ("metric", "k")


class Diverged(UserError):
    """A loss, gradient, weight or score that is not finite: the same settings would end so again.

    `found` says at which update, what, and with which lists; `short` is the line without where more can be read.
    """

    def __init__(self, text: str, found: Mapping[str, Any] | None = None, *, short: str | None = None) -> None:
        super().__init__(text)
        self.found, self.short = dict(found or {}), short or text


class TooLong(UserError):
    """A list that a prompt, or its labels, cannot hold."""


class TooFew(UserError):
    """A round drew fewer whole answers than it needs to train on."""


class NoAnswer(UserError):
    """Another server, which runs the model, cannot be reached, or is not ready."""


class UnknownName(UserError):
    """A plug-in, option or key that does not exist."""


@dataclass(frozen=True)
class Candidate:
    """One thing that can be ranked.

    `relevance` is a graded label (0 = not relevant); `source` says where the candidate came from
    ("ground_truth", "llm", "random", "user", ...). `teacher` is what another ranker gave it, on any scale (a logit, a
    log-probability, minus a rank): only training reads it.
    """

    id: str
    text: str
    relevance: float = 0.0
    source: str = "user"
    teacher: float | None = None

    def __post_init__(self) -> None:
        if not self.id:
            raise UserError("a candidate has an empty id")
        if not self.text.strip():
            raise UserError(f"candidate {self.id!r} has an empty text")
        require_text(f"candidate {self.id!r}", self.id, self.text)
        if not 0 <= self.relevance <= MAX_LABEL:
            allowed = f"a label is a number from 0 to {MAX_LABEL:g}"
            raise UserError(f"candidate {self.id!r} has relevance {self.relevance!r}; {allowed}")
        if self.teacher is not None and not abs(self.teacher) <= MAX_TEACHER:
            allowed = f"a score is a number from {-MAX_TEACHER:g} to {MAX_TEACHER:g}"
            raise UserError(f"candidate {self.id!r} has teacher {self.teacher!r}; {allowed}")


@dataclass(frozen=True)
class RankingExample:
    """A query (question, dialogue, ...) and the candidates to rank, in the order in which the prompt shows them.

    At least two candidates; ids are unique. Texts may repeat (they are then tied in every text-based mode);
    the builders in `irpo.tasks.mining` do not let that happen.

    `group` names what makes lists depend on each other (the wish, dialogue or question that they share): they are
    split, resampled and permuted together. None: a list that shares nothing. `where` is its `file:line`, for messages.

    `unlisted` are documents that are known to be relevant and are no candidates, since the search that found the
    candidates missed them: (id, label above 0). Only measures know of them, whose best possible ranking holds them.
    """

    id: str
    query: str
    candidates: tuple[Candidate, ...]
    group: str | None = None
    where: str = field(default="", compare=False, repr=False)
    unlisted: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        if not self.id:
            raise UserError("an example has an empty id")
        if len(self.candidates) < 2:
            raise UserError(f"example {self.id!r} has {len(self.candidates)} candidate(s); a list needs at least 2")
        ids = [c.id for c in self.candidates]
        if len(set(ids)) != len(ids):
            twice = next(i for i in ids if ids.count(i) > 1)
            raise UserError(f"example {self.id!r} holds candidate id {twice!r} twice")
        require_text(f"example {self.id!r}", self.id, self.query, self.group or "")
        if self.group == "":
            raise UserError(f"example {self.id!r} has an empty group; leave it out where a list shares nothing")
        self._require_unlisted(set(ids))
        without = [c.id for c in self.candidates if c.teacher is None]
        if 0 < len(without) < len(self.candidates):
            raise UserError(f"example {self.id!r}: candidate {without[0]!r} has no teacher score, and others do")

    def _require_unlisted(self, known: set[str]) -> None:
        for id, label in self.unlisted:
            if not id or id in known:
                raise UserError(f"example {self.id!r}: unlisted id {id!r} is empty, or an id that is there already")
            if not 0 < label <= MAX_LABEL:
                allowed = f"its label is a number above 0, to {MAX_LABEL:g}"
                raise UserError(f"example {self.id!r}: unlisted {id!r} has relevance {label!r}; {allowed}")
            require_text(f"example {self.id!r}", id)
            known.add(id)

    @property
    def unit(self) -> str:
        """What splits, resampling and permutation draw: the group, else the list itself by its id."""
        return self.id if self.group is None else self.group

    @property
    def called(self) -> str:
        """What messages call it: where it stands, else its id."""
        return self.where or f"example {self.id!r}"

    @property
    def relevance(self) -> tuple[float, ...]:
        """The candidates' labels, in prompt order."""
        return tuple(c.relevance for c in self.candidates)

    @property
    def teacher(self) -> tuple[float, ...] | None:
        """The candidates' scores by a teacher, in prompt order; None where the list has none."""
        scores = [c.teacher for c in self.candidates if c.teacher is not None]
        return tuple(scores) or None

    @property
    def labelled(self) -> bool:
        """Whether any candidate is relevant: without one, nothing can be learned."""
        return any(self.relevance)

    @property
    def missed(self) -> tuple[float, ...]:
        """The labels of what is relevant and no candidate."""
        return tuple(label for _, label in self.unlisted)

    @property
    def texts(self) -> tuple[str, ...]:
        """The candidates' texts, in prompt order."""
        return tuple(c.text for c in self.candidates)


def require_text(what: str, *texts: str) -> None:
    """`UserError` for half of a surrogate pair: a command's argument that is not UTF-8 is read as such."""
    for text in texts:
        if found := _SURROGATE.search(text):
            raise UserError(f"{what} holds {found[0]!a}, half of a surrogate pair, which is no text in UTF-8")


def printable(text: str) -> str:
    r"""The text as a terminal may print it: no control character but line break and tab, none that turns the writing.

    >>> printable("a\x1b[2J b\u202ec")
    'a\\x1b[2J b\\u202ec'
    """
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def one_line(text: str, longest: int = 1450) -> str:
    """A message as one line, the middle of a long one left out: what a user gave may be a megabyte.

    >>> one_line("a.yaml:3: 12345678901234567890: give 1\\nor 2", longest=30)
    'a.yaml:3: 12345 ... ive 1 or 2'
    """
    line = " ".join(text.split())
    end = longest // 3
    return line if len(line) <= longest else f"{line[: longest - end - 5]} ... {line[-end:]}"


def require_relevant(example: RankingExample) -> RankingExample:
    """The example itself, or a `UserError` where no candidate is relevant: nothing can be learned or measured."""
    if not example.labelled:
        raise UserError(f"example {example.id!r} has no relevant candidate (every label is 0)")
    return example


def target_order(relevance: Sequence[float]) -> tuple[int, ...]:
    """Candidate indices by label, best first; ties keep the given order (stable sort).

    >>> target_order([0, 2, 1, 2])
    (1, 3, 2, 0)
    """
    return tuple(sorted(range(len(relevance)), key=lambda j: -relevance[j]))


@dataclass(frozen=True)
class Ranking:
    """Candidate indices, best first; a strict ranking may name only some of them."""

    order: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(set(self.order)) != len(self.order):
            raise ValueError(f"a candidate is ranked twice: {self.order}")


@dataclass(frozen=True)
class Missing:
    """The candidate at this index was not named."""

    index: int


@dataclass(frozen=True)
class Repeated:
    """The candidate at this index was named again; only the first naming counts."""

    index: int


@dataclass(frozen=True)
class Unknown:
    """The output named something that is not a candidate."""

    text: str


@dataclass(frozen=True)
class Unparseable:
    """Nothing in the output could be read as a ranking."""

    text: str


Problem = Missing | Repeated | Unknown | Unparseable
