"""sentence-transformers' `CrossEncoder`: a ranker with its `rank` and `predict`, for code that is written for one.

model = CrossEncoder.load("runs/x")
model.rank(query, documents, top_k=3, return_documents=True)

Nothing of that package is imported. What a list's order does not depend on there (batch size, progress bar) is left
to the ranker, which batches by tokens; what a ranker does not have (prompts, devices, pools) is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from irpo.ranking.modes import RankingMode
from irpo.ranking.reranker import Ranked, Reranker, require_count
from irpo.registry import Spec
from irpo.rows import shown
from irpo.types import UserError


@dataclass(frozen=True)
class NoCard:
    """What their evaluators tell their figures to; a ranker's card is `irpo push`'s, and nothing is kept here."""

    def set_evaluation_metrics(self, evaluator: Any, metrics: dict[str, Any], epoch: int = 0, step: int = 0) -> None:
        """Takes what theirs takes."""


@dataclass(frozen=True)
class CrossEncoder:
    """A ranker in a mode, with the methods of a cross-encoder of one label.

    Its scores order a list. They are nats where the mode gives them, for every document of the list; else 1 / rank, so
    1.0 for a document alone. They compare documents of one query: a listwise ranker reads them beside each other.
    """

    reranker: Reranker
    mode: Spec | RankingMode = "score"
    num_labels: int = 1
    model_card_data: NoCard = NoCard()

    @classmethod
    def load(cls, name: str, mode: Spec | RankingMode = "score", **loading: Any) -> CrossEncoder:
        """What `Reranker.load` takes, and its options."""
        return cls(Reranker.load(name, **loading), mode)

    def rank(  # noqa: PLR0913 - the other package's signature
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = None,
        return_documents: bool = False,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        activation_fn: Callable[[Tensor], Tensor] | None = None,
        device: str | list[str] | None = None,
        pool: dict[str, Any] | None = None,
        chunk_size: int | None = None,
    ) -> list[dict[str, Any]]:
        """{"corpus_id", "score"} of each document, and its "text" if asked for, best first."""
        _require_unused(prompt_name=prompt_name, prompt=prompt, device=device, pool=pool, chunk_size=chunk_size)
        require_count(top_k, "top_k")
        rows = self.reranker.rank(query, documents, self.mode)
        scores = _through(activation_fn, _scores(rows)).tolist()
        found: list[dict[str, Any]] = [
            {"corpus_id": row.index, "score": score, **({"text": row.text} if return_documents else {})}
            for row, score in zip(rows, scores, strict=True)
        ]
        return found[:top_k]

    def predict(  # noqa: PLR0913 - the other package's signature
        self,
        inputs: Any,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        activation_fn: Callable[[Tensor], Tensor] | None = None,
        apply_softmax: bool | None = False,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: str | list[str] | None = None,
        pool: dict[str, Any] | None = None,
        chunk_size: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """A score for each pair (query, document), or for the one pair: an array, a tensor, or a list of tensors.

        Pairs of one query are one list, wherever they stand. `apply_softmax` is of several labels, and changes nothing.
        """
        _require_unused(
            prompt_name=prompt_name, prompt=prompt, device=device, pool=pool, chunk_size=chunk_size, **kwargs
        )
        given = inputs.tolist() if isinstance(inputs, np.ndarray) else list(inputs)
        single = bool(given) and isinstance(given[0], str)
        scores = _through(activation_fn, self._predicted(_pairs([given] if single else given)))
        found: Any = list(scores)
        if convert_to_tensor:
            found = scores
        elif convert_to_numpy:
            found = scores.numpy() if len(scores) else np.array([])
        return found[0] if single else found

    def _predicted(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """A score for each pair, in their order; the queries' lists go through the model together."""
        places: dict[str, list[int]] = {}
        for place, (query, _) in enumerate(pairs):
            places.setdefault(query, []).append(place)
        requests = [(query, [pairs[place][1] for place in own]) for query, own in places.items()]
        by_place: dict[int, float] = {}
        for own, rows in zip(places.values(), self.reranker.rank_many(requests, self.mode), strict=True):
            by_place.update(zip((own[row.index] for row in rows), _scores(rows), strict=True))
        return [by_place[place] for place in range(len(pairs))]


def _pairs(inputs: Sequence[Any]) -> list[tuple[str, str]]:
    """The inputs as pairs of texts; `UserError` with the index of what is none."""
    pairs = []
    for place, pair in enumerate(inputs):
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise UserError(f"inputs[{place}] is {shown(pair)}; give a pair of texts (query, document)")
        pairs.append((pair[0], pair[1]))
    return pairs


def _scores(rows: Sequence[Ranked]) -> list[float]:
    """The rows' scores where all have one, else 1 / rank: the two on one scale would not be in the ranking's order."""
    known = [row.score for row in rows if row.score is not None]
    return known if len(known) == len(rows) else [1 / row.rank for row in rows]


def _through(activation: Callable[[Tensor], Tensor] | None, scores: Sequence[float]) -> Tensor:
    """The scores as a tensor, (N,) float32, through an activation where one is given."""
    table = torch.tensor(scores, dtype=torch.float32)
    return table if activation is None else activation(table)


def _require_unused(**given: Any) -> None:
    """`UserError` for options that a ranker does not have."""
    if used := [name for name, value in given.items() if value is not None]:
        raise UserError(f"{', '.join(used)}: a ranker is loaded with its prompt and on its device; leave this out")
