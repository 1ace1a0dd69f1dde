"""Servers for tests: a ranker that does what a test says, requests without a network, and a server on a free port."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import httpx
from tiny import tiny_tokenizer

from irpo.ranking.reranker import Ranked
from irpo.server.addresses import address_of, listening
from irpo.server.app import create_app
from irpo.server.limits import Limits
from irpo.server.rankers import Rankers, Served
from irpo.server.running import serve_until, server_of

TOKENIZER = tiny_tokenizer()
QUERY, FILMS = "a film about space", ["Heat", "Alien", "Spaceballs", "Gravity"]
BODY = {"query": QUERY, "documents": FILMS}


class FakeReranker:
    """Ranks longer documents first, with minus its rank as a score; `gate` holds it up, `fails` is raised."""

    def __init__(self, max_tokens=512, scores=True):
        self.lock, self.tokenizer, self.model = threading.RLock(), TOKENIZER, None
        self.builder = SimpleNamespace(max_tokens=max_tokens)
        self.scores = scores
        self.gate, self.batches = threading.Event(), []
        self.gate.set()
        self.begun = threading.Semaphore(0)
        self.fails = None

    def rank_many(self, requests, mode="score"):
        self.batches.append([query for query, _ in requests])
        self.begun.release()
        assert self.gate.wait(20)
        if self.fails is not None:
            raise self.fails
        return [self.rank(texts) for _, texts in requests]

    def rank(self, texts):
        if len(texts) == 1:
            return [Ranked(1, 0, texts[0], by="alone")]
        order = sorted(range(len(texts)), key=lambda j: (-len(texts[j]), j))
        scores = [-float(rank) if self.scores else None for rank in range(len(texts))]
        return [Ranked(rank, j, texts[j], scores[rank - 1]) for rank, j in enumerate(order, start=1)]


def fake_app(ranker=None, keys=None, name="fake", **limits):
    """An app around a fake; the fake."""
    fake = ranker or FakeReranker()
    return create_app(Rankers((Served(name, fake),)), Limits(**limits), keys), fake


def held_at_the_counter(desk):
    """Events: what is counted waits for the first, and says by the second that it is there."""
    go, begun, count = threading.Event(), threading.Event(), desk.counter.counted

    def counted(given):
        begun.set()
        assert go.wait(20)
        return count(given)

    desk.counter.counted = counted
    return go, begun


def client_of(app):
    """A client whose requests go to the app without a network."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server")


def ask(app, path="/v1/rerank", body=None, **how):
    """One answer."""
    return asks(app, [("POST", path, {"json": BODY if body is None else body} | how)])[0]


def get(app, path, **how):
    """One answer to a GET."""
    return asks(app, [("GET", path, how)])[0]


def asks(app, requests):
    """Answers to requests that are made at once."""

    async def all_of_them():
        async with client_of(app) as client:
            return await asyncio.gather(*(client.request(method, path, **how) for method, path, how in requests))

    return asyncio.run(all_of_them())


def until(true, seconds=10.0):
    """Wait for what is to become true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def asked_in_turn(pool, here, fake, *bodies):
    """Answers to come: to a first request, which is being ranked, and to others, which wait."""

    def post(body):
        return pool.submit(httpx.post, f"{here.url}/v1/rerank", json=body, timeout=20)

    asked = [post(bodies[0])]
    assert fake.begun.acquire(timeout=10)
    asked += [post(body) for body in bodies[1:]]
    until(lambda: len(here.app.state.desk.queue) == len(bodies) - 1)
    return asked


@contextmanager
def running(app, **how):
    """A server of the app on a free port of this machine: its URL, and itself."""
    bound = listening("127.0.0.1", 0)
    server = server_of(app, app.state.desk.limits)
    thread = threading.Thread(target=lambda: asyncio.run(serve_until(server, bound, app.state.desk)))
    thread.start()
    try:
        until(lambda: server.started)
        yield SimpleNamespace(app=app, url=address_of(bound), server=server, thread=thread)
    finally:
        server.should_exit = True
        thread.join(15)
        assert not thread.is_alive()
