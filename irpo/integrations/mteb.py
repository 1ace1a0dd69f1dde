"""mteb: a ranker that reranks inside that package's own evaluation.

import mteb
from irpo.integrations.mteb import MtebReranker

mteb.evaluate(MtebReranker.load("runs/x"), mteb.get_tasks(["AskUbuntuDupQuestions"]))

Tasks that bring first-stage documents (`top_ranked`: reranking, or what `convert_to_reranking` made) are reranked as
they are, each query's documents as one list.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from torch.nn import Module

from irpo.chance import fingerprint
from irpo.integrations import needs
from irpo.progress import say
from irpo.ranking.modes import RankingMode
from irpo.ranking.reranker import Ranked, Reranker
from irpo.registry import Spec
from irpo.types import UserError

with needs("mteb"):
    from mteb.models import ModelMeta

_QUERIES = 64  # that are ranked together


class MtebReranker:
    """A ranker in a mode, with the methods of mteb's `SearchProtocol`."""

    def __init__(self, reranker: Reranker, name: str, mode: Spec | RankingMode = "score") -> None:
        self.reranker, self.name, self.mode = reranker, name, mode
        self._corpus: Any = None
        self._places: dict[str, int] = {}

    @classmethod
    def load(cls, name: str, mode: Spec | RankingMode = "score", **loading: Any) -> MtebReranker:
        """What `Reranker.load` takes, and its options."""
        return cls(Reranker.load(name, **loading), Path(name).name or name, mode)

    @cached_property
    def mteb_model_meta(self) -> ModelMeta:
        """Its name and revision in mteb's results, which are kept by these: the revision is of weights and prompt."""
        own = {"name": f"irpo/{self.name}", "revision": self._revision(), "model_type": ["cross-encoder"]}
        return ModelMeta.create_empty(overwrites=own | {"max_tokens": self.reranker.builder.max_tokens})

    def _revision(self) -> str:
        from irpo.training.reference import model_key

        ranker, builder = self.reranker, self.reranker.builder
        model = model_key(ranker.model) if isinstance(ranker.model, Module) else repr(ranker.model)
        markup = getattr(builder.tokenizer, "chat_template", None)
        asked = (builder.template.source, builder.style, builder.max_tokens, builder.labels, builder.attention, markup)
        return fingerprint(repr((model, asked, ranker.scorer, ranker.length, ranker.strength, self.mode)))

    def index(self, corpus: Any, **_: Any) -> None:
        """Take the task's documents; nothing is computed before a query asks."""
        self._corpus, self._places = corpus, {id: place for place, id in enumerate(corpus["id"])}

    def search(
        self, queries: Any, *, top_k: int, top_ranked: Mapping[str, Sequence[str]] | None = None, **_: Any
    ) -> dict[str, dict[str, float]]:
        """Scores of each query's first-stage documents, strictly in the order in which they are ranked.

        A document without a text stands behind those that have one.
        """
        if top_ranked is None:
            raise UserError("a ranker needs a first stage's documents (top_ranked); see mteb's convert_to_reranking")
        asked = (row for row in queries if row["id"] in top_ranked)
        found: dict[str, dict[str, float]] = {id: {} for id in queries["id"]}
        while some := list(islice(asked, _QUERIES)):
            lists = [list(self._documents(top_ranked[row["id"]])) for row in some]
            requests = [
                (_query(row), [(id, text) for id, text in own if text]) for row, own in zip(some, lists, strict=True)
            ]
            for row, own, ranked in zip(some, lists, self.reranker.rank_many(requests, self.mode), strict=True):
                scores = _scores(ranked)
                last = min(scores.values(), default=0.0)
                scores |= {id: last - place for place, (id, text) in enumerate(own, start=1) if not text}
                found[row["id"]] = dict(islice(scores.items(), top_k))
            say(f"mteb: {sum(map(bool, found.values()))} of {len(found)} queries ranked")
        return found

    def _documents(self, ids: Sequence[str]) -> Iterator[tuple[str, str]]:
        """(id, text) of each, a title before its text."""
        known = list(dict.fromkeys(ids))
        rows = self._corpus.select([self._places[id] for id in known])
        for id, row in zip(known, rows, strict=True):
            yield id, f"{row.get('title') or ''} {row['text'] or ''}".strip()


def _query(row: Mapping[str, Any]) -> str:
    """A query's text with its instruction behind it, as mteb has it; a conversation's turns, one after another."""
    text = row["text"]
    if isinstance(text, str):
        return f"{text} {row.get('instruction') or ''}".strip()
    turns = [turn if isinstance(turn, str) else f"{turn['role']}: {turn['content']}" for turn in text]
    return f"{row.get('instruction') or ''} {'; '.join(turns)}".strip()


def _scores(rows: Sequence[Ranked]) -> dict[str, float]:
    """By id: the ranker's scores where they say the order, else minus the rank: mteb would order ties by id."""
    known = [row.score for row in rows if row.score is not None]
    falling = len(known) == len(rows) and all(a > b for a, b in pairwise(known))
    scores = known if falling else [-float(row.rank) for row in rows]
    return {str(row.id): score for row, score in zip(rows, scores, strict=True)}
