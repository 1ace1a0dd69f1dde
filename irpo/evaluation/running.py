"""Running a ranker over examples in its modes, and the baselines beside it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

from rich.console import Console
from rich.progress import track

from irpo.encoding import EncodedList, encode
from irpo.evaluation.baselines import at_random, bm25_scores, by_score
from irpo.evaluation.results import Answer, Evaluation, Row
from irpo.generation import constrained_ranking, generate_text
from irpo.measures import KS
from irpo.parsing import parse_ranking, repair
from irpo.prompting import Prompt, PromptBuilder, cuts_of
from irpo.scorers import SCORERS, Length, Scorer, score_lists
from irpo.types import Ranking, RankingExample, UnknownName, UserError

Mode = Literal["score", "generate", "constrain"]
MODES: tuple[Mode, ...] = ("score", "generate", "constrain")

T = TypeVar("T")


@dataclass(frozen=True)
class EvaluationOptions:
    """How a ranker is run and measured."""

    modes: tuple[Mode, ...] = MODES
    ks: tuple[int, ...] = KS  # cut-offs of NDCG, recall and precision
    lists_per_batch: int = 8
    seed: int = 0  # of the order of ties, of candidates not named, of the random baseline and of the intervals
    length: Length = "sum"

    def __post_init__(self) -> None:
        for mode in self.modes:
            if mode not in MODES:
                raise UnknownName(f"unknown mode {mode!r}; choose from {', '.join(MODES)}")


@dataclass(frozen=True)
class _Lists:
    """The examples as the model sees them."""

    examples: tuple[RankingExample, ...]
    prompts: tuple[Prompt, ...]
    items: tuple[EncodedList, ...]


def evaluate(
    examples: Sequence[RankingExample],
    builder: PromptBuilder,
    model: Any,
    scorer: Scorer,
    options: EvaluationOptions | None = None,
) -> Evaluation:
    """Rank every example in every mode and by the baselines (random, input order, BM25).

    No label reaches the prompt, the model or the scorer. `UserError` where there is no example or an id comes twice.
    """
    options = options or EvaluationOptions()
    if builder.style == "response" and tuple(options.modes) != ("score",):
        raise UserError(
            "prompt.style 'response' shows no candidates to the model: set evaluation.modes to [score], or --mode score"
        )
    lists = _blind(examples, builder)
    rows: list[Row] = []
    if "score" in options.modes:
        rows.append(_scored(lists, model, builder.tokenizer, scorer, options))
    if "generate" in options.modes:
        rows += _generated(lists, model, builder.tokenizer, options)
    if "constrain" in options.modes:
        rows.append(_constrained(lists, model, builder.tokenizer, options))
    rows += _baselines(lists.examples, options.seed)
    setting = {
        "style": builder.style,
        "template": builder.template.name,
        "max_tokens": builder.max_tokens,
        "scorer": SCORERS.described(scorer),
        "length": options.length,
        "seed": options.seed,
        "lists_per_batch": options.lists_per_batch,
        **cuts_of(lists.prompts),
    }
    return Evaluation(tuple(examples), tuple(rows), tuple(options.ks), options.seed, setting)


def _blind(examples: Sequence[RankingExample], builder: PromptBuilder) -> _Lists:
    """The examples without labels and sources, their prompts and tokens."""
    if not examples:
        raise UserError("there is no list to evaluate")
    seen: set[str] = set()
    for example in examples:
        if example.id in seen:
            raise UserError(f"two lists have the id {example.id!r}; results are kept by id")
        seen.add(example.id)
    blind = tuple(
        replace(e, candidates=tuple(replace(c, relevance=0.0, source="") for c in e.candidates)) for e in examples
    )
    prompts = tuple(builder.build(example) for example in blind)
    items = tuple(
        encode(builder.tokenizer, prompt, example.relevance, id=example.id)
        for prompt, example in zip(prompts, blind, strict=True)
    )
    return _Lists(blind, prompts, items)


def _scored(lists: _Lists, model: Any, tokenizer: Any, scorer: Scorer, options: EvaluationOptions) -> Row:
    def work(items: Sequence[EncodedList]) -> list[list[float]]:
        scores = score_lists(model, tokenizer, items, scorer, length=options.length)
        return [row.tolist() for row in scores]

    scores, seconds = _timed("score", lists.items, options.lists_per_batch, work)
    pairs = zip(lists.examples, scores, strict=True)
    return _by_scores("score", [(e, s) for e, s in pairs], options.seed, seconds=seconds)


def _generated(lists: _Lists, model: Any, tokenizer: Any, options: EvaluationOptions) -> list[Row]:
    """Two rows from the same answers: strict, and repaired."""

    def work(items: Sequence[EncodedList]) -> list[str]:
        return generate_text(model, tokenizer, items, lists_per_batch=options.lists_per_batch)

    texts, seconds = _timed("generate", lists.items, options.lists_per_batch, work)
    answers = tuple(
        Answer(example.id, text, *parse_ranking(text, prompt.names, prompt.style))
        for example, prompt, text in zip(lists.examples, lists.prompts, texts, strict=True)
    )
    strict = {answer.id: answer.ranking for answer in answers}
    whole = {
        e.id: repair(a.ranking, len(e.candidates), e.id, options.seed)
        for e, a in zip(lists.examples, answers, strict=True)
    }
    return [
        Row(name, rankings, answers, seconds=seconds)
        for name, rankings in (("generate strict", strict), ("generate repaired", whole))
    ]


def _constrained(lists: _Lists, model: Any, tokenizer: Any, options: EvaluationOptions) -> Row:
    def work(items: Sequence[EncodedList]) -> list[Ranking]:
        return constrained_ranking(model, tokenizer, items, lists_per_batch=options.lists_per_batch)

    rankings, seconds = _timed("constrain", lists.items, options.lists_per_batch, work)
    ids = [example.id for example in lists.examples]
    return Row("constrain", dict(zip(ids, rankings, strict=True)), seconds=seconds)


def _baselines(examples: Sequence[RankingExample], seed: int) -> list[Row]:
    given = {e.id: Ranking(tuple(range(len(e.candidates)))) for e in examples}
    return [
        Row("random", {e.id: at_random(e, seed) for e in examples}, baseline=True),
        Row("input order", given, baseline=True),
        _by_scores("BM25", [(e, bm25_scores(e)) for e in examples], seed, baseline=True),
    ]


def _by_scores(
    name: str,
    scored: Sequence[tuple[RankingExample, Sequence[float]]],
    seed: int,
    *,
    seconds: float | None = None,
    baseline: bool = False,
) -> Row:
    ranked = {example.id: by_score(scores, example.id, seed) for example, scores in scored}
    rankings = {id: ranking for id, (ranking, _) in ranked.items()}
    tied = sum(tied for _, tied in ranked.values())
    return Row(name, rankings, tied_lists=tied, seconds=seconds, baseline=baseline)


def _timed(
    mode: str,
    items: Sequence[EncodedList],
    lists_per_batch: int,
    work: Callable[[Sequence[EncodedList]], list[T]],
) -> tuple[list[T], float]:
    """The work's results in the order of `items`, and the seconds it took; a progress bar where a person looks on."""
    by_size = sorted(range(len(items)), key=lambda i: -len(items[i].prompt))
    console = Console(stderr=True)
    starts = range(0, len(items), lists_per_batch)
    found: dict[int, T] = {}
    began = time.perf_counter()
    for start in track(starts, mode, console=console, transient=True, disable=not console.is_terminal):
        chosen = by_size[start : start + lists_per_batch]
        found.update(zip(chosen, work([items[i] for i in chosen]), strict=True))
    seconds = time.perf_counter() - began
    return [found[i] for i in range(len(items))], seconds
