"""One model, many callers: threads and event loops get what a lone caller gets."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import ClassVar

import pytest
from ranked_lists import BUILDER, FILMS, TOKENIZER
from tiny import tiny_model, with_adapter

from irpo.ranking.modes import RankedList, Ranker, Score
from irpo.ranking.reranker import _LOCKS, Reranker
from irpo.scorers import Independent
from irpo.scoring.strength import Strength
from irpo.types import RankingExample, UserError

MODEL = with_adapter(tiny_model())
PLAIN = Reranker(MODEL, TOKENIZER, BUILDER, Independent())
REWARD = replace(PLAIN, strength=Strength(float("inf")))  # takes the adapter off for its second pass
THRICE = replace(PLAIN, strength=Strength(3, "adapter"))  # makes the adapter three times as large


@dataclass(frozen=True)
class Held:
    """`score`, once it may: it says when it has begun, and waits."""

    begun: threading.Event = field(default_factory=threading.Event)
    may: threading.Event = field(default_factory=threading.Event)
    writes: ClassVar[bool] = False

    def __call__(self, ranker: Ranker, examples: Sequence[RankingExample]) -> list[RankedList]:
        self.begun.set()
        assert self.may.wait(30)
        return Score()(ranker, examples)


def test_rerankers_of_one_model_share_a_lock_and_others_do_not():
    assert PLAIN.lock is REWARD.lock
    assert Reranker(MODEL.get_base_model(), TOKENIZER, BUILDER, Independent()).lock is PLAIN.lock
    assert Reranker(with_adapter(tiny_model()), TOKENIZER, BUILDER, Independent()).lock is not PLAIN.lock


def test_a_model_that_is_gone_leaves_no_lock():
    ranker = Reranker(with_adapter(tiny_model()), TOKENIZER, BUILDER, Independent())
    copy = deepcopy(ranker)
    assert copy.lock is not ranker.lock
    held = len(_LOCKS)
    del ranker, copy
    gc.collect()
    assert len(_LOCKS) <= held - 2


def test_threads_get_what_a_lone_caller_gets():
    asked = [(ranker, f"query {i}", FILMS[i % 3 :]) for i in range(4) for ranker in (PLAIN, REWARD, THRICE)]
    alone = [ranker.rank(query, documents) for ranker, query, documents in asked]
    assert len({tuple(row.score for row in rows) for rows in alone}) == len(asked)
    with ThreadPoolExecutor(8) as pool:
        runs = [[pool.submit(ranker.rank, query, documents) for ranker, query, documents in asked] for _ in range(5)]
        for futures in runs:
            assert [future.result() for future in futures] == alone


def test_one_who_waits_is_not_let_in_while_another_ranks():
    held = Held()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(PLAIN.rank, "a film", FILMS, held)
        assert held.begun.wait(30)
        second = pool.submit(REWARD.rank, "a film", FILMS)
        with pytest.raises(TimeoutError):
            second.result(0.2)
        held.may.set()
        assert first.result() == PLAIN.rank("a film", FILMS)
        assert second.result() == REWARD.rank("a film", FILMS)


def test_an_error_lets_the_next_one_in():
    with pytest.raises(UserError):
        PLAIN.rank("a film", FILMS * 400)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(PLAIN.rank, "a film", FILMS).result(30) == PLAIN.rank("a film", FILMS)


def test_async_is_the_same_in_a_worker_thread():
    async def both():
        return await asyncio.gather(
            PLAIN.arank("a film", FILMS, top_n=2), PLAIN.arank_many([("a film", FILMS), ("none", [])], top_n=3)
        )

    few, many = asyncio.run(both())
    assert few == PLAIN.rank("a film", FILMS)[:2]
    assert many == [PLAIN.rank("a film", FILMS)[:3], []]


def test_an_event_loop_goes_on_while_a_model_ranks():
    async def ticks():
        held, seen = Held(), 0
        task = asyncio.create_task(PLAIN.arank("a film", FILMS, held))
        while not held.begun.is_set() or seen < 100:
            await asyncio.sleep(0)
            seen += 1
        assert not task.done()
        held.may.set()
        return await task

    assert asyncio.run(ticks()) == PLAIN.rank("a film", FILMS)


def test_one_who_no_longer_waits_does_no_harm():
    async def cancelled():
        held = Held()
        task = asyncio.create_task(REWARD.arank("a film", FILMS, held))
        while not held.begun.is_set():
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        held.may.set()
        return await asyncio.wait_for(PLAIN.arank("a film", FILMS), 30)

    before = PLAIN.rank("a film", FILMS)
    assert asyncio.run(cancelled()) == before
