"""What ranking modes ask of an engine, asked of vLLM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from irpo.ranking.decoding import answer_limit, as_drawn, in_batches
from irpo.ranking.vllm.asking import MOST_TOKENS, Adapter, Question, Served, Writing, scaled
from irpo.ranking.vllm.reading import read
from irpo.ranking.walk import Walk
from irpo.scoring.layout import Length, Scorer
from irpo.scoring.strength import Strength
from irpo.scoring.tokens import EncodedList, Tokens
from irpo.scoring.whole import only_attention
from irpo.types import Ranking, UserError

LISTS_TOGETHER = 256


@dataclass(frozen=True)
class VllmEngine:
    """Weights in vLLM and what is known of them here, as `irpo.ranking.engines.Engine`."""

    served: Served
    tokenizer: Any
    config: Any  # of the base model, by transformers
    ends: frozenset[int]  # the tokens at which the model ends a turn
    adapter: Adapter | None = None

    @property
    def about(self) -> str:
        return self.served.about

    def require(self, strength: Strength, *, writes: bool) -> None:
        strength.require_adapter(self.adapter is not None)
        if writes:
            strength.require_writing()
        if writes and not strength.plain and strength.by == "logits":
            raise UserError(
                "vLLM writes freely as one model: a strength by logits mixes two at every token; take strength_by "
                "adapter, or --engine transformers"
            )
        if strength.by == "adapter":
            self._adapters(strength)

    def batches(self, items: Sequence[EncodedList], lists_per_batch: int | None) -> list[list[int]]:
        return in_batches(items, "cpu", lists_per_batch or LISTS_TOGETHER)

    def scores(
        self, items: Sequence[EncodedList], scorer: Scorer, strength: Strength, length: Length
    ) -> list[list[float]]:
        keeps = only_attention(self.config)
        tables = [
            read(self.served, (scorer.layout(item) for item in items), adapter, length, keeps=keeps)
            for adapter in self._adapters(strength)
        ]
        return [strength.of(found).tolist() for found in zip(*tables, strict=True)]

    def texts(self, items: Sequence[EncodedList], strength: Strength) -> list[str]:
        stop = sorted({item.end for item in items} | self.ends)
        how = [Writing(self._limit(item), tuple(stop)) for item in items]
        (adapter,) = self._adapters(strength)
        answers = self.served.complete([item.prompt for item in items], how, adapter)
        return [as_drawn(self.tokenizer, tokens, stop).text for tokens in answers]

    def rankings(self, items: Sequence[EncodedList], strength: Strength) -> list[Ranking]:
        walks = [Walk(item) for item in items]
        texts: list[Tokens] = [(*item.prompt, *walk.advance()) for item, walk in zip(items, walks, strict=True)]
        while going := [row for row, walk in enumerate(walks) if not walk.done]:
            for row, token in zip(going, self._choices(walks, texts, going, strength), strict=True):
                walks[row].step(token)
                texts[row] = (*texts[row], token, *walks[row].advance())
        return [Ranking(walk.order) for walk in walks]

    def _choices(
        self, walks: Sequence[Walk], texts: Sequence[Tokens], going: Sequence[int], strength: Strength
    ) -> list[int]:
        """The likeliest of the tokens that each walk may take, the first of equals."""
        allowed = [walks[row].allowed() for row in going]
        parts = [
            Question(texts[row], tuple(tokens[at : at + MOST_TOKENS]))
            for row, tokens in zip(going, allowed, strict=True)
            for at in range(0, len(tokens), MOST_TOKENS)
        ]
        told = [self.served.next_logprobs(parts, adapter) for adapter in self._adapters(strength)]
        values = [strength.of([torch.tensor(row) for row in rows]) for rows in zip(*told, strict=True)]
        flat = iter(torch.cat(values).tolist())
        chosen = []
        for tokens in allowed:
            row = [next(flat) for _ in tokens]
            chosen.append(tokens[row.index(max(row))])
        return chosen

    def _adapters(self, strength: Strength) -> list[Adapter | None]:
        """What the model is run with, once a way, as `Strength.ways`."""
        if strength.plain or self.adapter is None:
            return [self.adapter]
        if strength.by == "adapter":
            larger = scaled(self.adapter, strength.value)
            self.served.require_adapter(larger)
            return [larger]
        return [self.adapter, None]

    def _limit(self, item: EncodedList) -> int:
        """As `answer_limit`, within the engine's room."""
        return min(answer_limit(item, self.config), self.served.room - len(item.prompt))
