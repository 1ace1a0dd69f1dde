"""What a scorer's layout reads, asked of vLLM: any scorer that there is, or will be, in two kinds of question.

log p(token | prefix) can be asked for behind every prefix (`next_logprobs`): the prefixes of one list share their
beginning, which vLLM computes once and keeps. Or along a whole text (`prompt_logprobs`), for which vLLM reads nothing
of what it keeps. Labels, or short candidates of a long prompt, are cheaper by the first; a list in one piece by the
second, and so is what a family reads whose layers are not all attention, for which vLLM keeps no prefixes. Both give
the same numbers; which costs less is reckoned, and was not measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from irpo.ranking.vllm.asking import MOST_TOKENS, Adapter, Question, Served
from irpo.scoring.layout import Layout, Length
from irpo.scoring.tokens import Tokens

# Tokens of a prompt in whose time vLLM takes in one more request: what its cache lacks of a block of 16, scheduling.
REQUEST = 64
TOGETHER = 2048  # prefixes asked about in one call: enough for every batch of vLLM's, and bounded in memory

Found = dict[tuple[Tokens, int], float]  # log p(token | prefix)


@dataclass(frozen=True)
class Reading:
    """One layout's reads: the tokens asked for by prefix, or the texts that hold all of them."""

    layout: Layout
    prefixes: dict[int, Tokens]  # by column
    asked: dict[Tokens, tuple[int, ...]]  # by prefix
    texts: tuple[Tokens, ...]

    @classmethod
    def of(cls, layout: Layout) -> Reading:
        """What to ask for a layout."""
        wanted = [(column, token) for column, token, _ in layout.reads]
        wanted += [(column, token) for column, tokens, _ in layout.among for token in tokens]
        prefixes = {column: _prefix(layout, column) for column in dict.fromkeys(column for column, _ in wanted)}
        asked: dict[Tokens, dict[int, None]] = {}
        for column, token in wanted:
            asked.setdefault(prefixes[column], {})[token] = None
        texts = _longest((*prefix, token) for prefix, tokens in asked.items() for token in tokens)
        return cls(layout, prefixes, {prefix: tuple(tokens) for prefix, tokens in asked.items()}, texts)

    def by_prefix(self, room: int, keeps: bool) -> bool:
        """Whether questions behind prefixes take vLLM less time than the texts do; `keeps`: what prefixes share.

        Also where a text fills the room: vLLM wants a place behind it for a token of its own.
        """
        if any(len(text) >= room for text in self.texts):
            return True
        computed = len(self.layout.ids) if keeps else sum(map(len, self.asked))
        return computed + REQUEST * len(self.asked) < sum(map(len, self.texts)) + REQUEST * len(self.texts)

    @property
    def questions(self) -> list[Question]:
        """One a prefix, none of more tokens than vLLM answers at once."""
        starts = (
            (prefix, tokens, at) for prefix, tokens in self.asked.items() for at in range(0, len(tokens), MOST_TOKENS)
        )
        return [Question(prefix, tokens[at : at + MOST_TOKENS]) for prefix, tokens, at in starts]

    def table(self, found: Found, length: Length) -> Tensor:
        """The candidates' scores, (K,) float32 in nats, as `irpo.scoring.forward.score_batch` has them."""
        layout, sums = self.layout, [0.0] * self.layout.size
        counts = [0] * layout.size
        for column, token, place in layout.reads:
            if place < layout.size:  # behind them are later ranks and the target list
                sums[place] += found[self.prefixes[column], token]
                counts[place] += 1
        for column, tokens, place in layout.among:
            if place < layout.size:
                sums[place] -= _log_sum([found[self.prefixes[column], token] for token in tokens])
        if length == "mean":
            sums = [total / max(1, count) for total, count in zip(sums, counts, strict=True)]
        return torch.tensor(sums, dtype=torch.float32)


def read(
    served: Served, layouts: Iterable[Layout], adapter: Adapter | None, length: Length, *, keeps: bool = True
) -> Iterator[Tensor]:
    """The scores of each layout's candidates, (K,) each. `keeps`: vLLM computes what prefixes share once."""
    for readings in _together(map(Reading.of, layouts)):
        ways = [reading.by_prefix(served.room, keeps) for reading in readings]
        behind = [q for reading, by in zip(readings, ways, strict=True) if by for q in reading.questions]
        texts = [text for reading, by in zip(readings, ways, strict=True) if not by for text in reading.texts]
        told = iter(served.next_logprobs(behind, adapter) if behind else [])
        spoken = iter(served.prompt_logprobs(texts, adapter) if texts else [])
        for reading, by in zip(readings, ways, strict=True):
            found = _behind(reading, told) if by else _along(reading, spoken)
            yield reading.table(found, length)


def _behind(reading: Reading, told: Iterator[list[float]]) -> Found:
    return {
        (q.prefix, token): value for q in reading.questions for token, value in zip(q.tokens, next(told), strict=True)
    }


def _along(reading: Reading, spoken: Iterator[list[float]]) -> Found:
    found: Found = {}
    lengths = sorted({len(prefix) for prefix in reading.asked})
    for text in reading.texts:
        values = next(spoken)
        for at in lengths:
            if at < len(text) and text[at] in reading.asked.get(text[:at], ()):
                found[text[:at], text[at]] = values[at - 1]
    return found


def _prefix(layout: Layout, column: int) -> Tokens:
    """The tokens that a column sees, its own included: of the trunk, and of its branch."""
    branch = layout.branches[column]
    if branch == 0:
        return tuple(layout.ids[: column + 1])
    first = layout.branches.index(branch)
    return (*layout.ids[: layout.positions[first]], *layout.ids[first : column + 1])


def _longest(texts: Iterable[Tokens]) -> tuple[Tokens, ...]:
    """The texts that no other one begins with; sorted, a beginning stands right before what goes on from it."""
    ordered = sorted(set(texts))
    following = [*ordered[1:], ()]
    return tuple(text for text, after in zip(ordered, following, strict=True) if after[: len(text)] != text)


def _together(readings: Iterable[Reading]) -> Iterator[list[Reading]]:
    """Readings of about `TOGETHER` prefixes."""
    group: list[Reading] = []
    count = 0
    for reading in readings:
        group.append(reading)
        count += len(reading.asked)
        if count >= TOGETHER:
            yield group
            group, count = [], 0
    if group:
        yield group


def _log_sum(values: Sequence[float]) -> float:
    peak = max(values)
    return peak + math.log(sum(math.exp(value - peak) for value in values))
