"""A ranker ready for use: a model, the prompt that it was trained with, and how candidates are scored.

ranker = Reranker.load("runs/x")
for row in ranker.rank("a funny film about space", ["Spaceballs (1987)", "Heat (1995)"]):
    print(row.rank, row.text, row.score)
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal
from weakref import finalize

from irpo.config.schema import RankerConfig, RunConfig
from irpo.config.trust import load_theirs
from irpo.progress import say
from irpo.prompting.markup import with_markup
from irpo.prompting.prompts import PromptBuilder, prompt_builder, require_positions
from irpo.ranking.choosing import choice_of, probabilities, strengthened
from irpo.ranking.documents import DocumentLike, Request, read_request, read_requests
from irpo.ranking.engines import ENGINES, Opening, engine_of
from irpo.ranking.modes import RANKING_MODES, RankedList, Ranker, RankingMode
from irpo.registry import Spec, load_plugins
from irpo.rows import shown
from irpo.runs import base_name, tokenizer_name
from irpo.runs.exported import fetched, is_exported, require_as_exported
from irpo.runs.rankers import is_ranker, model_behind, ranker_config
from irpo.scorers import SCORERS
from irpo.scoring.kept import Kept, require_kept
from irpo.scoring.layout import Length, Scorer
from irpo.scoring.models import hub_config, load_tokenizer
from irpo.scoring.names import EMBEDDED
from irpo.scoring.strength import PLAIN, Strength, StrengthBy
from irpo.types import Style, UserError

# model: where the model put it; chance: the model's answer does not name it, and it follows in a random order fixed by
# the list's content; alone: no model was asked, for there is no other
By = Literal["model", "chance", "alone"]
_NOTES: dict[By, str] = {"model": "", "chance": "not named by the model", "alone": "the only document"}

_LOCKS: dict[int, AbstractContextManager[Any]] = {}  # by the identity of a model, for as long as that lives
_OF_LOCKS = threading.Lock()


@dataclass(frozen=True)
class Ranked:
    """One document in a ranking. `score`, in the mode `score`: nats, at the ranker's strength; None if not finite."""

    rank: int  # 1-based
    index: int  # of the document as given
    text: str
    score: float | None = None
    by: By = "model"
    cut: int = 0  # tokens of it that did not fit the prompt
    probability: float | None = None  # that it is the relevant one, where the ranker has a temperature
    id: str | None = None  # the document's own, where it was given one
    query_cut: int = 0  # tokens of the query that did not fit: of its beginning

    @property
    def named(self) -> bool:
        """False: the model's answer does not name it, and it follows by chance."""
        return self.by != "chance"

    @property
    def note(self) -> str:
        """What a reader of the table should know of this row."""
        cut = f"cut by {self.cut} tokens" if self.cut else ""
        return "; ".join(filter(None, (cut, _NOTES[self.by])))


@dataclass(frozen=True)
class Reranker:
    """Ranks documents for a query with one model and one prompt; from any thread.

    Rerankers of one model take turns: a strength takes the adapter off for a while, and tokenizers keep state.
    """

    model: Any  # of this process, or an `Engine` that holds one
    tokenizer: Any
    builder: PromptBuilder
    scorer: Scorer
    length: Length = "sum"
    strength: Strength = PLAIN
    temperature: float | None = None  # softmax(score / temperature) over a list are its probabilities
    kept: Kept | None = None  # candidates of prompts of blocks that the model has read

    @classmethod
    def load(  # noqa: PLR0913 - a model, and what may differ from its run's own
        cls,
        name: str,
        *,
        style: Style | None = None,
        template: str | None = None,
        max_tokens: int | None = None,
        strength: float | str | None = None,
        strength_by: StrengthBy | None = None,
        like: RankerConfig | RunConfig | None = None,
        trust_plugins: bool = False,
        engine: Spec | Opening = "transformers",
    ) -> Reranker:
        """A run's folder, `embedded`, a model's folder, a hub id, or a ranker's configuration (`rankers/first.yaml`).

        A folder or hub id may hold what `irpo export` wrote, which ranks as its run does, or a LoRA adapter.

        Prompt, scorer and strength are the run's or the configuration's own.

        `strength`, a number or "reward", takes the place of the one that the run was given or chose; a temperature
        serves the scores that it was fitted to, of the run's own strength and prompt. `max_tokens`
        of prompt and answer may be as many as the model has positions. `like` lends a base model the prompt, the scorer
        and the way of loading of a run or of a ranker's configuration. `engine` runs the model: `transformers`, `vllm`,
        `{"name": "transformers", "kept": 1}`, which keeps 1 GiB of candidates between queries (prompt.attention block).
        Plug-ins that a run's own files name are imported where `trust_plugins` says so, and else refused: `UserError`.
        """
        given = ranker_config(name)
        config = given or (RankerConfig.of(like) if isinstance(like, RunConfig) else like)
        if is_exported(fetched(name)):
            require_as_exported(fetched(name))
        if given is not None and not is_ranker(name):
            load_theirs(name, given, trusts=trust_plugins)
        elif config is not None:  # the user gave it
            load_plugins(config.plugins)
        name = model_behind(name)
        if max_tokens is not None:
            _require_room(name, max_tokens)
        chosen = choice_of(name)
        choice = strengthened(chosen, strength, strength_by)
        builder = _builder(name, config, style, template, max_tokens)
        opening = ENGINES.build(engine)
        kept = _kept(getattr(opening, "kept", None), builder)
        model = opening(name, config, builder)
        engine_of(model, builder.tokenizer).require(choice.strength, writes=False)
        if config is None:
            independent = SCORERS.build("independent")
            return cls(model, builder.tokenizer, builder, independent, strength=choice.strength, kept=kept)
        as_trained = style in (None, config.prompt.style)
        scorer = SCORERS.build(config.method.scorer if as_trained else "independent")
        temperature = choice.temperature if as_trained and template is None else None
        if chosen.temperature and not temperature:
            say("note: no probabilities, for the run's temperature was fitted at its own strength and prompt")
        return cls(model, builder.tokenizer, builder, scorer, config.method.length, choice.strength, temperature, kept)

    @property
    def ranker(self) -> Ranker:
        """What a ranking mode works with."""
        return Ranker(self.model, self.builder, self.scorer, self.length, strength=self.strength, kept=self.kept)

    @property
    def lock(self) -> AbstractContextManager[Any]:
        """The lock of all rerankers of this model, or of models with adapters around it; re-entrant.

        Whoever else works on the model or the tokenizer beside them takes it, too.
        """
        base = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        with _OF_LOCKS:
            if id(base) not in _LOCKS:
                _LOCKS[id(base)] = threading.RLock()
                if hasattr(base, "__weakref__"):
                    finalize(base, _LOCKS.pop, id(base))
            return _LOCKS[id(base)]

    def rank(
        self,
        query: str,
        documents: Iterable[DocumentLike],
        mode: Spec | RankingMode = "score",
        *,
        top_n: int | None = None,
    ) -> list[Ranked]:
        """The documents, best first, or the best `top_n` of them; all are ranked, whatever the mode.

        A document is a text, {"text", "id"}, (id, text) or a `Document`; ids are given back as they came. In `generate`
        what the model did not name follows in a fixed random order. No documents give [], one stands first without the
        model being asked. An empty text, an id given twice and what is no document raise `UserError` with its index.
        """
        return self._ranked([read_request(query, documents)], mode, top_n)[0]

    def rank_many(
        self,
        requests: Iterable[tuple[str, Iterable[DocumentLike]]],
        mode: Spec | RankingMode = "score",
        *,
        top_n: int | None = None,
    ) -> list[list[Ranked]]:
        """As `rank` of each (query, documents), in their order; lists of like length go through the model together.

        A request that `rank` would refuse raises `UserError` with its index, and nothing is ranked.
        """
        return self._ranked(read_requests(requests), mode, top_n)

    async def arank(
        self,
        query: str,
        documents: Iterable[DocumentLike],
        mode: Spec | RankingMode = "score",
        *,
        top_n: int | None = None,
    ) -> list[Ranked]:
        """`rank` in a worker thread. One that is cancelled ends when its model does; nobody waits for it."""
        return await asyncio.to_thread(self.rank, query, documents, mode, top_n=top_n)

    async def arank_many(
        self,
        requests: Iterable[tuple[str, Iterable[DocumentLike]]],
        mode: Spec | RankingMode = "score",
        *,
        top_n: int | None = None,
    ) -> list[list[Ranked]]:
        """`rank_many` in a worker thread."""
        return await asyncio.to_thread(self.rank_many, requests, mode, top_n=top_n)

    def _ranked(self, requests: Sequence[Request], mode: Spec | RankingMode, top_n: int | None) -> list[list[Ranked]]:
        require_count(top_n)
        ranker, chosen = self.ranker, RANKING_MODES.build(mode)
        lists = [request for request in requests if len(request.documents) > 1]
        with self.lock:
            ranker.require(chosen)
            found = iter(chosen(ranker, [request.example for request in lists]) if lists else ())
        rows = [self._rows(r, next(found)) if len(r.documents) > 1 else _unasked(r) for r in requests]
        return [row[:top_n] for row in rows]

    def _rows(self, request: Request, found: RankedList) -> list[Ranked]:
        """One list's ranking as rows, best first."""
        count, named = len(request.documents), set(found.named.order)
        scores, cut = found.scores or (None,) * count, found.cut or (0,) * count
        shares = self._shares(found.scores) or (None,) * count

        def row(rank: int, j: int) -> Ranked:
            document = request.documents[j]
            by: By = "model" if j in named else "chance"
            return Ranked(
                rank, j, document.text, _finite(scores[j]), by, cut[j], shares[j], document.id, found.query_cut
            )

        return [row(rank, j) for rank, j in enumerate(found.ranking.order, start=1)]

    def _shares(self, scores: Sequence[float] | None) -> Sequence[float] | None:
        """The candidates' probabilities, where there is a temperature and every candidate has a score."""
        if self.temperature is None or scores is None or not all(map(isfinite, scores)):
            return None
        return probabilities(scores, self.temperature)


def _unasked(request: Request) -> list[Ranked]:
    """The ranking of no document, or of one."""
    return [Ranked(1, 0, document.text, by="alone", id=document.id) for document in request.documents]


def require_count(top_n: object, name: str = "top_n") -> None:
    """`UserError` where what says how many documents are wanted, by its name, is no such number."""
    if top_n is not None and (not isinstance(top_n, int) or isinstance(top_n, bool) or top_n < 1):
        raise UserError(f"{name} is {shown(top_n)}; give a whole number from 1, or None for all documents")


def cuts_in(rows: Sequence[Ranked], room: str) -> list[str]:
    """What of a ranking's documents and query was cut to fit, a clause each; nothing where all fitted."""
    lost, query = [row.cut for row in rows if row.cut], max((row.query_cut for row in rows), default=0)
    found = [f"{len(lost)} of {len(rows)} documents were cut to fit {room}, {sum(lost)} tokens in all"] if lost else []
    return [*found, f"the query was cut to fit {room}: its first {query} tokens are left out"] if query else found


def notes_on(rows: Sequence[Ranked], max_tokens: int) -> list[str]:
    """What a user should know of a ranking: what was cut, and what stands where it stands by chance."""
    unnamed = sum(not row.named for row in rows)
    more = "give more with --max-tokens, as far as the model has positions"
    notes = [f"{told}; {more}" for told in cuts_in(rows, f"{max_tokens} tokens")]
    if unnamed:
        notes.append(
            f"the model's answer does not name {unnamed} of {len(rows)} documents; they follow by chance, or as given "
            "where a mode says start: given"
        )
    return notes


def _builder(
    name: str, config: RankerConfig | None, style: Style | None, template: str | None, max_tokens: int | None
) -> PromptBuilder:
    """How the model is asked: as the run was trained where nothing else is said."""
    tokenizer = load_tokenizer(tokenizer_name(name))
    if config is None:
        limit = max_tokens or (1024 if name == EMBEDDED else 4096)
        return prompt_builder(tokenizer, template or "default", style or "text", limit)
    own = config.prompt
    with_markup(tokenizer, own.chat_template)
    chosen, as_given = template or own.template or "default", style in (None, own.style)
    labels, attention = (own.labels, own.attention) if as_given else ("letters", "full")
    return prompt_builder(tokenizer, chosen, style or own.style, max_tokens or own.max_tokens, labels, attention)


def _kept(room: float | None, builder: PromptBuilder) -> Kept | None:
    """Room in GiB for candidates that are kept; `UserError` where this prompt cannot; before weights are loaded."""
    if room is None:
        return None
    require_kept(builder)
    return Kept(int(room * 2**30))


def _require_room(name: str, max_tokens: int) -> None:
    """`UserError` where the model has fewer positions; before its weights are loaded."""
    require_positions(hub_config(base_name(name)), max_tokens)


def _finite(score: float | None) -> float | None:
    return score if score is not None and isfinite(score) else None
