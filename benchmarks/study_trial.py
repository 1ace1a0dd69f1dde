"""One piece of the studies in one process: train on the embedded model, choose the strength, measure.

What pieces share is made once a process: the lists in tokens, and the reference's scores of validation and evaluation
lists by prompt style and scorer (those of training lists stand in the cache of `method.reference=precomputed`). Nothing
is written but a folder that is gone at the end.
"""

from __future__ import annotations

import contextlib
import io
import math
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from study_cases import MAIN, MEASURE, PUBLISHED, Piece, Protocol, Setting, as_published, cases
from torch import Tensor
from transformers.utils import logging

from irpo.chance import number_of, order_of
from irpo.config.schema import RunConfig
from irpo.measures import ndcg
from irpo.pipeline import trainer_of
from irpo.ranking.choosing import best_of, ndcg_of
from irpo.ranking.modes import RANKING_MODES, RankedList, Ranker, by_score, key_of
from irpo.scoring.forward import score_lists
from irpo.scoring.models import adapter_off, causal_lm
from irpo.scoring.strength import GRID, Strength, adapter_scaled, at_strength, named
from irpo.scoring.tokens import EncodedList, PromptedList, prompted
from irpo.tasks.preparing import build
from irpo.training.job import Parts, Splits, assemble, method_of, policy_model, split_training
from irpo.training.logbook import Progress
from irpo.training.method import Method
from irpo.types import Ranking, RankingExample, Style, UserError

CUTS = (1, 5, 10)
_ANY = Setting(1e-3)


@dataclass(frozen=True)
class Shared:
    """The lists of the studies in one prompt style."""

    parts: Parts
    eval: tuple[PromptedList, ...]

    @property
    def validation(self) -> list[EncodedList]:
        """The tokens of the validation lists, with their labels."""
        return [p.tokens for p in self.parts.validation]


@dataclass(frozen=True)
class Table:
    """Scores (K,) of some lists, and the seconds that they took."""

    scores: list[Tensor]
    seconds: float

    def at(self, reference: Table, value: float) -> list[Tensor]:
        """The scores at a strength."""
        return [at_strength(*pair, value) for pair in zip(self.scores, reference.scores, strict=True)]


@cache
def _splits(protocol: Protocol) -> tuple[Splits, tuple[RankingExample, ...]]:
    """Training and validation lists, evaluation lists."""
    config = cases()["irpo"].config(_ANY, protocol, 0, 1)
    lists, _ = build(config.task)
    splits = split_training(lists["train"], config.training.validation_fraction, protocol.validation_lists)
    train = splits.train[: protocol.train_lists]
    return Splits(train, splits.validation), tuple(lists["eval"][: protocol.eval_lists])


@cache
def shared(protocol: Protocol, style: Style) -> Shared:
    """The lists as prompts of this style have them."""
    case = next(case for case in cases().values() if case.config(_ANY, protocol, 0, 1).prompt.style == style)
    config = case.config(_ANY, protocol, 0, 1)
    splits, examples = _splits(protocol)
    parts = assemble(config, method_of(config), splits, {})
    return Shared(parts, tuple(prompted(parts.builder, examples, labels=True)))


class Bench:
    """A process's memory: lists by style, reference scores by whatever they depend on."""

    def __init__(self, protocol: Protocol) -> None:
        self.protocol = protocol
        self._references: dict[tuple[Any, ...], Table] = {}

    def work(self, piece: Piece) -> dict[str, Any]:
        """The piece's line: what was chosen and measured; `diverged` where loss or scores are not finite."""
        case = cases()[piece.case]
        config = case.config(piece.setting, self.protocol, piece.seed, piece.updates)
        lists = shared(self.protocol, config.prompt.style)
        train, validation = _given(lists, piece)
        try:
            model, seconds = trained(replace(lists.parts, config=config, method=method_of(config), train=train))
            run = Run(self, case.name, model, config, lists)
            curve = run.curve(validation, piece.labels)
        except UserError as error:
            return {"diverged": str(error)}
        auto = best_of(curve)
        line: dict[str, Any] = {"seconds": round(seconds, 2), "curve": _named(curve), "auto": named(auto)}
        if piece.kind == "trial":
            return line
        if piece.kind == "adapter":
            by = run.curve_by_adapter(validation)
            best = Strength(best_of(by), "adapter")
            return line | {"curve_adapter": _named(by), "auto_adapter": named(best.value), "rows": run.rows([best])}
        values = list(dict.fromkeys([1.0, auto]))
        decodes = piece.kind == "final"
        return line | {"rows": run.rows([Strength(value) for value in values], decodes=decodes)}

    def reference(self, key: tuple[Any, ...], make: Callable[[], Table]) -> Table:
        """The table of this key, made the first time."""
        if key not in self._references:
            self._references[key] = make()
        return self._references[key]

    def base(self, style: Style) -> dict[str, Any]:
        """The untrained model in the three modes, and how many of the lists belong to each wish."""
        case = next(case for case in cases().values() if case.config(_ANY, self.protocol, 0, 1).prompt.style == style)
        config = case.config(_ANY, self.protocol, 0, 1)
        lists = shared(self.protocol, style)
        run = Run(self, case.name, policy_model(config), config, lists)  # a fresh adapter changes nothing
        examples = [p.example for p in lists.eval]
        read = examples[: self.protocol.read_lists]
        return {"rows": run.rows([Strength()]), "wishes": _counts(examples), "wishes_read": _counts(read)}


@dataclass(frozen=True)
class Run:
    """A trained model at work."""

    bench: Bench
    case: str
    model: Any
    config: RunConfig
    lists: Shared

    @property
    def method(self) -> Method:
        return method_of(self.config)

    def table(self, items: Sequence[EncodedList]) -> Table:
        """The scores of lists by the model as it stands; no label reaches the scorer."""
        hidden = [item.without_labels() for item in items]
        began = time.perf_counter()
        tokenizer, method = self.lists.parts.builder.tokenizer, self.method
        found = score_lists(self.model, tokenizer, hidden, method.scorer, length=method.length)
        return Table(found, time.perf_counter() - began)

    def reference(self, what: str, items: Sequence[EncodedList]) -> Table:
        """The same by the reference, taken once a process."""

        def make() -> Table:
            with adapter_off(self.model):
                return self.table(items)

        key = (what, self.config.prompt.style, self.method.scorer, self.method.length)
        return self.bench.reference(key, make)

    def curve(self, items: Sequence[EncodedList], labels: str | None) -> dict[float, float]:
        """NDCG@10 on validation lists by strength; `UserError` where a score is not finite."""
        policy, reference = self.table(items), self.reference(f"validation {labels}", items)
        if not all(row.isfinite().all() for row in policy.scores):
            raise UserError("scores are not finite: the last update went too far")
        return {value: _mean_ndcg(policy.at(reference, value), items) for value in GRID}

    def curve_by_adapter(self, items: Sequence[EncodedList]) -> dict[float, float]:
        """The same with the adapter scaled."""
        found = {}
        for value in GRID:
            if math.isfinite(value):
                with adapter_scaled(self.model, value):
                    found[value] = _mean_ndcg(self.table(items).scores, items)
        return found

    def rows(self, strengths: Sequence[Strength], *, decodes: bool = True) -> list[dict[str, Any]]:
        """What is measured at each strength: by score on all evaluation lists, decoded on the first of them."""
        found = []
        policy = None
        for strength in strengths:
            if strength.by == "adapter":
                with adapter_scaled(self.model, strength.value):
                    found.append(self._by_score(strength, self.table(self._eval)))
            else:
                policy = policy or self.table(self._eval)
                found.append(self._by_score(strength, policy))
            modes = ("generate", "constrain") if self._writes(strength) else ("constrain",)
            found += [self._decoded(mode, strength) for mode in modes if decodes]
        return found

    def _writes(self, strength: Strength) -> bool:
        """Free lists: as the policy writes them, and of the main cases at their strength; the reward cannot write."""
        return strength.plain or (
            self.case in (*MAIN, *MEASURE, *map(as_published, PUBLISHED)) and math.isfinite(strength.value)
        )

    @property
    def _eval(self) -> list[EncodedList]:
        return [p.tokens for p in self.lists.eval]

    def _by_score(self, strength: Strength, policy: Table) -> dict[str, Any]:
        scores, seconds, passes = policy.scores, policy.seconds, 1
        if strength.by == "logits" and not strength.plain:
            reference = self.reference("eval", self._eval)
            scores, seconds, passes = policy.at(reference, strength.value), seconds + reference.seconds, 2
        orders = [by_score(row.tolist(), key_of(item))[0] for row, item in zip(scores, self._eval, strict=True)]
        return _row("score", strength, self.lists.eval, orders) | _cost(seconds, passes, len(orders))

    def _decoded(self, mode: str, strength: Strength) -> dict[str, Any]:
        """A row of lists that the model wrote: strict, so that what it does not name earns nothing."""
        lists = self.lists.eval[: self.bench.protocol.read_lists]
        builder, method = self.lists.parts.builder, self.method
        ranker = Ranker(self.model, builder, method.scorer, method.length, strength=strength)
        free = "generate" if strength.plain else "generate_strengthened"
        decode = RANKING_MODES.build(free if mode == "generate" else mode)
        began = time.perf_counter()
        with _counted(self.model) as rows:
            found = decode(ranker, [p.example for p in lists])
        seconds = time.perf_counter() - began
        row = _row(mode, strength, lists, [x.named for x in found]) | _cost(seconds, sum(rows) / len(lists), len(lists))
        return row | (_answers(found, lists) if mode == "generate" else {})


def trained(parts: Parts) -> tuple[Any, float]:
    """The model after all updates, and the seconds that they took; nothing is validated, logged or saved.

    `UserError` where a loss was not finite.
    """
    model = policy_model(parts.config)
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(parts, model, Path(folder))
        trainer.args.disable_tqdm, trainer.args.save_strategy, trainer.args.eval_strategy = True, "no", "no"
        trainer.args.load_best_model_at_end, trainer.args.logging_strategy = False, "no"
        trainer.remove_callback(Progress)
        began = time.perf_counter()
        loss = trainer.train().training_loss
        if not math.isfinite(loss):
            raise UserError(f"the loss is {loss}")
        return trainer.model.eval(), time.perf_counter() - began


def _given(lists: Shared, piece: Piece) -> tuple[tuple[PromptedList, ...], list[EncodedList]]:
    """Training and validation lists as the piece has them."""
    train, validation = lists.parts.train, lists.validation
    if piece.lists is not None:
        order = order_of([f"{piece.seed}/{p.example.id}" for p in train])
        train = tuple(train[i] for i in order[: piece.lists])
    if piece.labels is None:
        return train, validation
    change = partial(relabelled, how=piece.labels)
    return tuple(replace(p, tokens=change(p.tokens)) for p in train), [change(item) for item in validation]


def relabelled(item: EncodedList, how: str) -> EncodedList:
    """A list of which less is known, by chance that depends on its id alone.

    `pair`: of one candidate above the lowest label and one of a lower label than its own, which is better. `binary`: 1
    for the upper half of the labels. `flip10`, `flip30`: that share of the labels is another one of the list's.
    """
    chance = random.Random(number_of(f"labels/{item.id}"))
    labels = item.relevance
    if how == "pair":
        above = [j for j, label in enumerate(labels) if label > min(labels)]
        if not above:
            return item.only([0, 1])
        winner = chance.choice(above)
        loser = chance.choice([j for j, label in enumerate(labels) if label < labels[winner]])
        known = item.only(sorted((winner, loser)))
        return replace(known, relevance=tuple(float(label == max(known.relevance)) for label in known.relevance))
    if how == "binary":
        return replace(item, relevance=tuple(float(label > max(labels) / 2) for label in labels))
    share = int(how.removeprefix("flip")) / 100
    grades = sorted(set(labels))
    others = [[grade for grade in grades if grade != label] or [label] for label in labels]
    drawn = [
        chance.choice(other) if chance.random() < share else label for other, label in zip(others, labels, strict=True)
    ]
    return replace(item, relevance=tuple(drawn))


def _mean_ndcg(scores: Sequence[Tensor], items: Sequence[EncodedList]) -> float:
    pairs = zip(scores, items, strict=True)
    return math.fsum(ndcg_of(row, item.relevance, 10, key_of(item)) for row, item in pairs) / len(items)


def _row(mode: str, strength: Strength, lists: Sequence[PromptedList], orders: Sequence[Ranking]) -> dict[str, Any]:
    """The means, and NDCG@10 by wish in ten-thousandths, wishes in the order of their names."""
    each = {k: [ndcg(order.order, p.tokens.relevance, k) for order, p in zip(orders, lists, strict=True)] for k in CUTS}
    by_wish: dict[str, list[float]] = {}
    for value, p in zip(each[10], lists, strict=True):
        by_wish.setdefault(p.example.unit, []).append(value)
    return {
        "mode": mode,
        "strength": named(strength.value),
        "by": strength.by,
        "ndcg": {str(k): round(math.fsum(values) / len(values), 5) for k, values in each.items()},
        "by_wish": [round(1e4 * math.fsum(by_wish[wish]) / len(by_wish[wish])) for wish in sorted(by_wish)],
    }


def _answers(found: Sequence[RankedList], lists: Sequence[PromptedList]) -> dict[str, Any]:
    """Share of the candidates that are named, and of the answers that are permutations."""
    answers = [x.answer for x in found if x.answer is not None]
    shares = [len(x.named.order) / len(p.example.candidates) for x, p in zip(found, lists, strict=True)]
    exact = sum(not answer.problems for answer in answers) / len(answers)
    return {"coverage": round(math.fsum(shares) / len(shares), 5), "exact": round(exact, 5)}


def _cost(seconds: float, passes: float, lists: int) -> dict[str, float]:
    return {"ms_per_list": round(1e3 * seconds / lists, 2), "passes": round(passes, 2)}


def _counts(examples: Sequence[RankingExample]) -> dict[str, int]:
    units = [example.unit for example in examples]
    return {unit: units.count(unit) for unit in sorted(set(units))}


def _named(curve: Mapping[float, float]) -> dict[str, float]:
    return {named(value): round(found, 5) for value, found in curve.items()}


@contextlib.contextmanager
def _counted(model: Any) -> Iterator[list[int]]:
    """The rows of each forward pass while this lasts: over the lists, the passes that each took."""
    rows: list[int] = []

    def count(_: Any, args: tuple[Any, ...], options: Mapping[str, Any]) -> None:
        rows.append(len(options["input_ids"] if "input_ids" in options else args[0]))

    handle = causal_lm(model).get_decoder().register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield rows
    finally:
        handle.remove()


@cache
def bench(protocol: Protocol) -> Bench:
    """This process's bench, of one thread and without a word."""
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    return Bench(protocol)


def work(piece: Piece, protocol: Protocol) -> dict[str, Any]:
    """What the piece finds."""
    with contextlib.redirect_stderr(io.StringIO()):
        return bench(protocol).work(piece)


def base(style: Style, protocol: Protocol) -> dict[str, Any]:
    """The base model's line."""
    with contextlib.redirect_stderr(io.StringIO()):
        return bench(protocol).base(style)
