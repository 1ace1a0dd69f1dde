"""From lists to rankings: the ranking modes, one interface for evaluation, `Reranker` and whoever else ranks.

A mode takes lists as they are given and says of each one the ranking of all its candidates, and what that was read
from. It batches as it likes. Modes of this module show the model a whole list at once; those of `irpo.ranking.parts`
ask another mode about parts of it.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from irpo.chance import fingerprint, random_order
from irpo.processes import require_second_try
from irpo.ranking.engines import Engine, engine_of
from irpo.registry import Registry
from irpo.scoring.strength import PLAIN, Strength
from irpo.types import Problem, Ranking, RankingExample, Style, UserError

# What is heavy is imported where it is used: a configuration's modes are checked before that is loaded.
if TYPE_CHECKING:
    from irpo.prompting.prompts import PromptBuilder
    from irpo.scoring.kept import Kept
    from irpo.scoring.layout import Length, Scorer
    from irpo.scoring.tokens import EncodedList, PromptedList

T = TypeVar("T")
Watch = Callable[[Sequence[T], str], Iterable[T]]  # goes through batches and shows how far it has got


@dataclass(frozen=True)
class ParsedAnswer:
    """What the model wrote for one list, what that names, and what is wrong with it."""

    text: str
    ranking: Ranking  # strict: what was named, once
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class RankedList:
    """One list as a mode ranked it."""

    id: str  # the example's
    ranking: Ranking  # of every candidate
    scores: tuple[float, ...] | None = None  # by candidate, where the ranking is by score
    answer: ParsedAnswer | None = None  # where the ranking was read from text
    tied: bool = False  # whether two candidates have the same score
    cut: tuple[int, ...] = ()  # tokens that did not fit the prompt, by candidate; empty where all did
    query_cut: int = 0
    special_texts: int = 0  # query and candidates that spelt special tokens, kept apart
    prompts: int = 1  # that the model was given for it; what was cut and spelt is the most of any of them
    left: frozenset[int] = frozenset()  # candidates that no prompt's ranking placed, where there were several prompts

    @property
    def named(self) -> Ranking:
        """The ranking without what stands in it by chance (or as given): candidates that no answer names or places."""
        if self.answer is not None:
            return self.answer.ranking
        return Ranking(tuple(j for j in self.ranking.order if j not in self.left)) if self.left else self.ranking


def _unwatched(batches: Sequence[T], _: str) -> Iterable[T]:
    return batches


@dataclass(frozen=True)
class Ranker:
    """A model at work: what it is asked in, how it scores, and how it goes through many lists."""

    model: Any  # of this process, or an `Engine` that holds one
    builder: PromptBuilder
    scorer: Scorer
    length: Length = "sum"
    seed: int = 0  # of the order of equal scores and of candidates that were not named
    lists_per_batch: int | None = None  # None: as many as the device holds (`generation.in_batches`)
    watch: Watch[Any] = _unwatched
    strength: Strength = PLAIN  # of scores and constrained lists; of free ones where the mode strengthens them
    kept: Kept | None = None  # candidates that the model has read, of a model of this process

    @property
    def engine(self) -> Engine:
        """Whom a mode asks."""
        return engine_of(self.model, self.builder.tokenizer, self.kept)

    def require(self, mode: RankingMode) -> None:
        """`UserError` where the mode cannot work: the model has no such strength, the prompt shows no candidates.

        So for the mode that it asks about parts of a list.
        """
        if (inner := getattr(mode, "by", None)) is not None:
            self.require(inner)
        self.engine.require(self.strength, writes=getattr(mode, "strengthens", False))
        if isinstance(self.model, Engine) and not getattr(mode, "by_engine", False):
            name = RANKING_MODES.described(mode)
            raise UserError(f"mode {name!r} works on the model itself: take --engine transformers")
        if (needed := getattr(mode, "style", None)) not in (None, self.builder.style):
            name = RANKING_MODES.described(mode)
            raise UserError(
                f"mode {name!r} works with prompt.style {needed!r} alone, and this prompt's is {self.builder.style!r}: "
                f"--style {needed}, or another mode"
            )
        if (style := self.builder.style) in ("response", "pointwise") and mode.writes:
            name, shown = RANKING_MODES.described(mode), "candidates" if style == "response" else "list of candidates"
            raise UserError(
                f"mode {name!r}: prompt.style {style!r} shows no {shown} to the model; set evaluation.modes to "
                "[score], or --mode score"
            )

    def batches(self, lists: Sequence[PromptedList], what: str) -> Iterator[list[int]]:
        """Indices of the lists that go through the model together, those of like length, the longest first."""
        yield from self.watch(self.engine.batches([x.tokens for x in lists], self.lists_per_batch), what)


class RankingMode(Protocol):
    """A way from lists to rankings; its fields are its options.

    `writes`: the model writes the list, so the prompt must show it the candidates. It may say `strengthens`: that
    the model writes freely at the ranker's strength, which then cannot be `reward`; `by_engine`: that it asks
    `Ranker.engine` alone, and so works with any; `style`: the one prompt style that it works with; and `in_parts`: that
    it never shows a whole list, and asks the mode `by` about parts.
    """

    writes: ClassVar[bool]

    def __call__(self, ranker: Ranker, examples: Sequence[RankingExample]) -> list[RankedList]:
        """The examples' rankings, in their order. No label reaches prompt, model or scorer."""
        ...


RANKING_MODES: Registry[RankingMode] = Registry("ranking mode")


def at_rankers_strength(mode: str) -> bool:
    """Whether a mode, as its registry describes it, ranks at the ranker's strength; `generate` keeps to the policy.

    >>> at_rankers_strength("score"), at_rankers_strength("window (size=20, by=generate)")
    (True, False)
    """
    return "generate" not in re.findall(r"\w+", mode)


@RANKING_MODES.register("score")
@dataclass(frozen=True)
class Score:
    """By the scorer's log-probabilities at the ranker's strength, highest first."""

    writes: ClassVar[bool] = False
    by_engine: ClassVar[bool] = True

    def __call__(self, ranker: Ranker, examples: Sequence[RankingExample]) -> list[RankedList]:
        def work(items: Sequence[EncodedList]) -> list[list[float]]:
            return ranker.engine.scores(items, ranker.scorer, ranker.strength, ranker.length)

        return [_by_scores(ranker, asked, scores) for asked, scores in _asked(ranker, examples, work, "score")]


@RANKING_MODES.register("label")
@dataclass(frozen=True)
class Label:
    """By the logits of all labels at one position, whatever scorer the run has (FIRST); prompt.style label.

    Reddy et al. 2024, arXiv 2406.15657: the scorer `label`, at the ranker's strength.
    """

    writes: ClassVar[bool] = False
    by_engine: ClassVar[bool] = True
    style: ClassVar[Style] = "label"

    def __call__(self, ranker: Ranker, examples: Sequence[RankingExample]) -> list[RankedList]:
        from irpo.scorers import SCORERS

        return Score()(replace(ranker, scorer=SCORERS.build("label")), examples)


@RANKING_MODES.register("generate")
@dataclass(frozen=True)
class Generate:
    """By the answer that the policy writes freely; what it does not name follows in a fixed random order."""

    writes: ClassVar[bool] = True
    by_engine: ClassVar[bool] = True

    def __call__(self, ranker: Ranker, examples: Sequence[RankingExample]) -> list[RankedList]:
        return _written(ranker, examples, PLAIN)


@RANKING_MODES.register("generate_strengthened")
@dataclass(frozen=True)
class GenerateStrengthened:
    """`generate` at the ranker's strength: it names better candidates first, and fewer of them."""

    writes: ClassVar[bool] = True
    by_engine: ClassVar[bool] = True
    strengthens: ClassVar[bool] = True

    def __call__(self, ranker: Ranker, examples: Sequence[RankingExample]) -> list[RankedList]:
        return _written(ranker, examples, ranker.strength)


@RANKING_MODES.register("constrain")
@dataclass(frozen=True)
class Constrain:
    """By an answer that can be nothing but a permutation of the candidates."""

    writes: ClassVar[bool] = True
    by_engine: ClassVar[bool] = True

    def __call__(self, ranker: Ranker, examples: Sequence[RankingExample]) -> list[RankedList]:
        def work(items: Sequence[EncodedList]) -> list[Ranking]:
            return ranker.engine.rankings(items, ranker.strength)

        return [_ranked(asked, ranking) for asked, ranking in _asked(ranker, examples, work, "constrain")]


def by_score(scores: Sequence[float], key: object, seed: int = 0) -> tuple[Ranking, bool]:
    """Candidates by score, highest first, and whether any two are equal; NaN comes last.

    Equal scores are put in a random order fixed by (seed, key): the order of the input would be a hint. The one rule
    for equal scores, wherever something is ranked; `key_of` says the key of a list.
    """
    lot = {j: place for place, j in enumerate(random_order(len(scores), "ties", seed, key))}
    known = [score if score == score else float("-inf") for score in scores]
    order = sorted(range(len(scores)), key=lambda j: (-known[j], lot[j]))
    return Ranking(tuple(order)), len(set(known)) < len(known)


def key_of(item: EncodedList) -> str:
    """What chance about a list depends on: what the model is shown, and not the id.

    So a user, who has no id to give, gets the order that was measured.
    """
    return fingerprint(repr((item.prompt, item.bodies, item.blocks) if item.blocks else (item.prompt, item.bodies)))


def _asked(
    ranker: Ranker,
    examples: Sequence[RankingExample],
    work: Callable[[Sequence[EncodedList]], Sequence[T]],
    what: str,
) -> Iterator[tuple[PromptedList, T]]:
    """Each list as it was put to the model, and what the work found of it, in the order of the examples."""
    from irpo.scoring.tokens import prompted

    lists = prompted(ranker.builder, examples, labels=False)
    found: dict[int, T] = {}
    for chosen in ranker.batches(lists, what):
        found.update(zip(chosen, _as_fits(work, [lists[i].tokens for i in chosen]), strict=True))
    return ((asked, found[i]) for i, asked in enumerate(lists))


def _as_fits(work: Callable[[Sequence[EncodedList]], Sequence[T]], items: Sequence[EncodedList]) -> Sequence[T]:
    """The work on all lists at once, or in halves where memory does not hold them; what is found is the same."""
    import torch

    try:
        return work(items)
    except torch.OutOfMemoryError:
        if len(items) == 1:
            raise UserError("out of memory with one list; give fewer --max-tokens, or take a smaller model") from None
    # Here, not in the handler: there the traceback still holds the tensors of the attempt.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    require_second_try()
    half = len(items) // 2
    return [*_as_fits(work, items[:half]), *_as_fits(work, items[half:])]


def _written(ranker: Ranker, examples: Sequence[RankingExample], strength: Strength) -> list[RankedList]:
    """The lists by answers that the model writes freely."""

    def work(items: Sequence[EncodedList]) -> list[str]:
        return ranker.engine.texts(items, strength)

    return [_by_text(ranker, asked, text) for asked, text in _asked(ranker, examples, work, "generate")]


def _by_scores(ranker: Ranker, asked: PromptedList, scores: Sequence[float]) -> RankedList:
    ranking, tied = by_score(scores, key_of(asked.tokens), ranker.seed)
    return _ranked(asked, ranking, scores=tuple(scores), tied=tied)


def _by_text(ranker: Ranker, asked: PromptedList, text: str) -> RankedList:
    from irpo.prompting.parsing import parse_ranking, repair

    names = asked.prompt.names
    answer = ParsedAnswer(text, *parse_ranking(text, names, asked.prompt.style))
    whole = repair(answer.ranking, len(names), key_of(asked.tokens), ranker.seed)
    return _ranked(asked, whole, answer=answer)


def _ranked(asked: PromptedList, ranking: Ranking, **what: Any) -> RankedList:
    of = asked.prompt
    what |= {"cut": of.tokens_cut, "query_cut": of.query_tokens_cut, "special_texts": of.special_texts}
    return RankedList(asked.example.id, ranking, **what)


importlib.import_module("irpo.ranking.parts")  # whose modes register themselves here
