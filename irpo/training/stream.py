"""Training lists that stay on disk: read through a shuffle buffer, put as tokens as they come, ahead of the step.

The folder is one that `irpo prepare` wrote. Which lists validate and which are trained on, in which order and in which
updates, depends on them, the seed and the epoch alone. Of all lists no more is held than the buffers do, one in each
encoding process.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch.utils.data import DataLoader

from irpo.chance import fingerprint, in_test_split, key_of, number_of
from irpo.config.schema import RunConfig
from irpo.files import atomic_file
from irpo.progress import say
from irpo.prompting.prompts import Prompt, PromptBuilder
from irpo.runs.key import read_json
from irpo.scoring.tokens import EncodedList, PromptedList, prompted
from irpo.training.ahead import in_order
from irpo.types import RankingExample, UserError

PROBE = (
    100  # training lists that are put as prompts before anything is loaded: what is wrong with all is wrong with them
)
PORTION = 64  # lists in memory that a process puts at a time
CHUNK = 1024  # lists of one portion where all are gone through


@dataclass(frozen=True)
class _Portions:
    """Lists in memory as prompts and tokens, some at a time."""

    builder: PromptBuilder
    examples: Sequence[RankingExample]

    def __call__(self, first: int, step: int) -> Iterator[list[tuple[Prompt, EncodedList]]]:
        for start in range(first * PORTION, len(self.examples), step * PORTION):
            some = prompted(self.builder, self.examples[start : start + PORTION], labels=True)
            yield [(p.prompt, p.tokens) for p in some]


def put(builder: PromptBuilder, examples: Sequence[RankingExample], processes: int) -> tuple[PromptedList, ...]:
    """Lists in memory as prompts and tokens, in their order; by so many processes, by this one where 0."""
    made = itertools.chain.from_iterable(in_order(_Portions(builder, examples), processes))
    return tuple(PromptedList(example, *parts) for example, parts in zip(examples, made, strict=True))


class OnDisk(Protocol):
    """A split's lists in a folder."""

    @property
    def sha256(self) -> str:
        """The digest of the lists, from their card."""
        ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[RankingExample]: ...

    def shuffled(self, seed: int, epoch: int, buffer: int) -> Iterator[RankingExample]:
        """Every list once, in an order of this seed and epoch, the same on every machine."""
        ...


@dataclass(frozen=True)
class Survey:
    """What one reading of all lists found; which of them validate, `irpo.training.job.split_training` says."""

    train: int  # lists to train on
    aside: int  # lists that can validate
    # The hashes of the units that validate; None: all that the hash sets aside, since no list has a teacher alone
    held: frozenset[int] | None

    def trains(self, example: RankingExample, fraction: float) -> bool:
        """Whether the list is trained on."""
        aside = in_test_split(example.unit, fraction)
        return not aside if self.held is None else not (aside and number_of(example.unit) in self.held)


def survey(
    lists: OnDisk, fraction: float, check: Callable[[RankingExample], None], *, told: str, cache: Path
) -> Survey:
    """What the lists are for, each passed through `check`, which raises; kept by `told` and the lists' digest."""
    path = cache / f"{fingerprint(key_of(lists.sha256, fraction, told), 32)}.json"
    if known := read_json(path):
        held = None if known["held"] is None else frozenset(known["held"])
        return Survey(known["train"], known["aside"], held)
    say(f"lists: {len(lists)} on disk, read once to check their labels")
    found = _surveyed(lists, fraction, check)
    try:
        with atomic_file(path) as file:
            held_units = None if found.held is None else sorted(found.held)
            file.write(json.dumps({"train": found.train, "aside": found.aside, "held": held_units}))
    except OSError as error:
        say(f"note: {path} cannot be written, and the lists will be read once more by the next run ({error})")
    return found


def _surveyed(lists: OnDisk, fraction: float, check: Callable[[RankingExample], None]) -> Survey:
    held: set[int] = set()
    free: dict[int, int] = {}  # units set aside of which no list so far can validate, and their lists
    outside = aside = others = 0  # `others`: lists that validate nothing, of units that are set aside
    for example in lists:
        check(example)
        if not in_test_split(example.unit, fraction):
            outside += 1
        elif example.labelled or example.teacher is None:
            aside += 1
            held.add(number_of(example.unit))
            free.pop(number_of(example.unit), None)
        else:
            others += 1
            unit = number_of(example.unit)
            if unit not in held:
                free[unit] = free.get(unit, 0) + 1
    return Survey(outside + sum(free.values()), aside, frozenset(held) if others else None)


@dataclass(frozen=True)
class Stream:
    """The lists of a folder that a run trains on, in updates."""

    lists: OnDisk
    survey: Survey
    fraction: float  # of the units, set aside to validate
    builder: PromptBuilder
    probe: tuple[PromptedList, ...]  # the first of them
    buffer: int  # lists
    seed: int
    each: int  # lists of an update
    processes: int = 0  # that encode ahead

    def __len__(self) -> int:
        return self.survey.train

    @property
    def updates(self) -> int:
        """Of one epoch; the last takes what is left."""
        return -(-len(self) // self.each)

    @property
    def told(self) -> str:
        """Which lists these are, as they are put: what depends on their tokens depends on it."""
        b = self.builder
        put: list[Any] = [b.style, b.max_tokens, b.labels, [(p.tokens.prompt, p.tokens.bodies) for p in self.probe]]
        put += [b.attention] if b.attention != "full" else []
        return json.dumps([self.lists.sha256, self.fraction, put])

    def from_update(self, number: int) -> Generator[tuple[EncodedList, ...], None, None]:
        """The lists of each update from this one on, without end; updates are counted from 0, over all epochs."""
        return in_order(self._updates, self.processes, first=number)

    def _updates(self, first: int, step: int) -> Iterator[tuple[EncodedList, ...]]:
        now, at = -1, 0
        lists: Iterator[RankingExample] = iter(())
        for number in itertools.count(first, step):
            epoch, update = divmod(number, self.updates)
            if epoch != now:
                now, at = epoch, 0
                lists = filter(self._trains, self.lists.shuffled(self.seed, epoch, self.buffer))
            for _ in itertools.islice(lists, update * self.each - at):  # others' lists, and what was trained on before
                pass
            some = list(itertools.islice(lists, self.each))
            at = update * self.each + len(some)
            if not some:
                raise UserError("the prepared lists have changed since training began, and there are fewer now")
            yield tuple(p.tokens for p in prompted(self.builder, some, labels=True))

    def chunks(self) -> Iterator[tuple[EncodedList, ...]]:
        """All lists once, in the order of the files, some at a time."""
        return in_order(self._chunks, self.processes)

    def _chunks(self, first: int, step: int) -> Iterator[tuple[EncodedList, ...]]:
        lists = filter(self._trains, self.lists)
        for number in itertools.count():
            some = list(itertools.islice(lists, CHUNK))
            if not some:
                return
            if number % step == first:
                yield tuple(p.tokens for p in prompted(self.builder, some, labels=True))

    def _trains(self, example: RankingExample) -> bool:
        return self.survey.trains(example, self.fraction)


class Updates:
    """A stream's updates by their numbers, as torch's loader asks for them: one after the other from anywhere on."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self._coming: Generator[tuple[EncodedList, ...], None, None] | None = None
        self._next = 0

    def __len__(self) -> int:
        return self.stream.updates

    def __getitem__(self, number: int) -> tuple[EncodedList, ...]:
        if self._coming is None or number != self._next:
            self.close()
            self._coming = self.stream.from_update(number)
        self._next = number + 1
        return next(self._coming)

    def close(self) -> None:
        """End the processes that encode ahead."""
        coming, self._coming = self._coming, None
        if coming is not None:
            coming.close()


class Epochs:
    """The numbers of an epoch's updates, so that torch's loader, and the Trainer where it goes on, count them."""

    def __init__(self, updates: int) -> None:
        self._updates, self.epoch = updates, 0

    def __len__(self) -> int:
        return self._updates

    def __iter__(self) -> Iterator[list[int]]:
        start = self.epoch * self._updates
        return ([number] for number in range(start, start + self._updates))

    def set_epoch(self, epoch: int) -> None:
        """Which epoch the next iteration is of."""
        self.epoch = epoch


class Loader(DataLoader[Any]):
    """Torch's loader over a stream: each item is an update's lists, whole, in every process of training."""

    def __init__(self, updates: Updates) -> None:
        super().__init__(updates, batch_sampler=Epochs(len(updates)), collate_fn=_only)  # type: ignore[arg-type]

    def set_epoch(self, epoch: int) -> None:
        """The Trainer says which epoch begins."""
        self.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]


def _only(updates: Sequence[tuple[EncodedList, ...]]) -> tuple[EncodedList, ...]:
    return updates[0]


def validating(lists: OnDisk, fraction: float, most: int, found: Survey) -> list[RankingExample]:
    """The lists that validate, at most so many, as `split_training` chooses them."""
    able = (e for e in lists if in_test_split(e.unit, fraction) and (e.labelled or e.teacher is None))
    return list(itertools.islice(able, min(most, found.aside)))


def stream_of(lists: OnDisk, found: Survey, builder: PromptBuilder, config: RunConfig, *, processes: int) -> Stream:
    """The stream that a run with `training.shuffle_buffer` trains on; `UserError` where it would hold nothing."""
    t = config.training
    if not found.train:
        raise UserError(
            f"training.validation_fraction = {t.validation_fraction} leaves none of {len(lists)} lists to train on"
        )
    first = itertools.islice((e for e in lists if found.trains(e, t.validation_fraction)), PROBE)
    probe = tuple(prompted(builder, list(first), labels=True))
    return Stream(
        lists,
        found,
        t.validation_fraction,
        builder,
        probe,
        buffer=t.shuffle_buffer or 1,
        seed=config.seed,
        each=t.lists_per_update,
        processes=processes,
    )
