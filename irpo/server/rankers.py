"""The rankers of a server, by the names that requests call them: one model, or several adapters on one base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from irpo.ranking.engines import ENGINES, Transformers
from irpo.ranking.modes import RANKING_MODES
from irpo.ranking.reranker import Ranked, Reranker
from irpo.registry import Spec
from irpo.runs import run_config
from irpo.runs.rankers import ranker_config
from irpo.server.adapters import SharedBase, public_name, shared_base
from irpo.server.limits import Refused
from irpo.types import UserError


@dataclass(frozen=True)
class Served:
    """One ranker, and what the model is brought into before it ranks."""

    name: str
    reranker: Reranker
    mode: Spec = "score"
    base: SharedBase | None = None
    adapter: str | None = None  # of the base, by peft's name; None: the base itself

    def rank(self, requests: Sequence[tuple[str, Sequence[str]]]) -> list[list[Ranked]]:
        """`Reranker.rank_many`, with its adapter on."""
        with self.reranker.lock, self.base.with_adapter(self.adapter) if self.base else nullcontext():
            return self.reranker.rank_many(requests, self.mode)


@dataclass(frozen=True)
class Rankers:
    """All rankers of a server; the first is who ranks where a request names none."""

    served: tuple[Served, ...]

    @property
    def names(self) -> list[str]:
        """As requests may call them."""
        return [each.name for each in self.served]

    def find(self, name: str | None) -> Served:
        """By its name; `Refused` with 404 for another."""
        if name is None:
            return self.served[0]
        for each in self.served:
            if each.name == name:
                return each
        raise Refused(404, f"there is no model of this name; choose from {', '.join(self.names)}")

    def rank(self, name: str, requests: Sequence[tuple[str, Sequence[str]]]) -> list[list[Ranked]]:
        """What the queue's thread does."""
        return self.find(name).rank(requests)


def load_rankers(model: str, adapters: Mapping[str, Path], mode: Spec = "score", **loaded: Any) -> Rankers:
    """The model, and each adapter by its name on the same base weights; `loaded` are options of `Reranker.load`.

    `UserError` as `shared_base` has it, and where the mode works with one of them not.
    """
    base = shared_base(model, adapters)
    if base is not None:
        engine = ENGINES.build(loaded.get("engine", "transformers"))
        if not isinstance(engine, Transformers):
            raise UserError("--adapter: several adapters share a base of this process; take --engine transformers")
        base.kept = engine.kept
        loaded["engine"] = base
    every = {public_name(model): model} | {name: str(path) for name, path in adapters.items()}
    rerankers = {name: _load(run, base, loaded) for name, run in every.items()}
    on = base.adapters if base is not None else {}
    served = tuple(Served(name, rerankers[name], mode, base, on.get(run)) for name, run in every.items())
    for each in served:
        each.reranker.ranker.require(RANKING_MODES.build(mode))
    return Rankers(served)


def _load(name: str, base: SharedBase | None, loaded: Mapping[str, Any]) -> Reranker:
    """A ranker; the base's own at the commit that all share."""
    if base is None or run_config(name) is not None:
        return Reranker.load(name, **loaded)
    return Reranker.load(base.name, like=ranker_config(name), **loaded)
