"""Requests that wait: ranked together, without a place, too late, left by their clients; and the end of a server."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import httpx
import pytest
from served import (
    BODY,
    FILMS,
    TOKENIZER,
    FakeReranker,
    ask,
    asked_in_turn,
    fake_app,
    get,
    held_at_the_counter,
    running,
    until,
)

from irpo.ranking.reranker import Ranked
from irpo.ranking.vllm.engine import VllmEngine
from irpo.server.queue import together
from irpo.types import NoAnswer


def job(tokens, ranker="a"):
    return SimpleNamespace(ranker=ranker, tokens=tokens)


# ---- together --------------------------------------------------------------------------------------------------------


def test_the_oldest_goes_with_those_of_its_ranker_that_are_likest_to_it():
    oldest, other, like, longer, short = job(100), job(100, "b"), job(110), job(900), job(20)
    assert together([oldest, other, longer, like, short], 300) == [oldest, like]
    assert together([oldest, other, longer, like, short], 360) == [oldest, like, short]
    assert together([oldest, other, longer, like, short], 10_000) == [oldest, like, short, longer]
    assert together([longer, oldest], 1) == [longer]  # one alone goes, however long


def test_what_waits_is_ranked_together_and_each_gets_its_own():
    app, fake = fake_app()
    fake.gate.clear()
    with running(app) as here, ThreadPoolExecutor(9) as pool:
        first = pool.submit(httpx.post, f"{here.url}/v1/rerank", json=BODY, timeout=20)
        assert fake.begun.acquire(timeout=10)
        others = [[f"{'x' * (j + n)}." for j in range(3)] for n in range(8)]
        asked = [
            pool.submit(
                httpx.post, f"{here.url}/v1/rerank", json=BODY | {"query": f"{n}", "documents": texts}, timeout=20
            )
            for n, texts in enumerate(others)
        ]
        until(lambda: len(app.state.desk.queue) == 8)
        assert "irpo_queue_requests 8.0" in httpx.get(f"{here.url}/metrics").text
        fake.gate.set()
        assert first.result().status_code == 200
        assert {tuple(row["index"] for row in each.result().json()["results"]) for each in asked} == {(2, 1, 0)}
    assert [len(batch) for batch in fake.batches] == [1, 8]


def test_an_engine_of_another_server_ranks_several_at_once():
    fake = FakeReranker()
    fake.model = VllmEngine(SimpleNamespace(about="vllm"), TOKENIZER, None, frozenset(), None)
    fake.gate.clear()
    app, _ = fake_app(fake)
    long = BODY | {"documents": ["word " * 40] * 10}
    with running(app) as here, ThreadPoolExecutor(4) as pool:
        asked = asked_in_turn(pool, here, fake, *[long] * 4)
        fake.gate.set()
        assert [each.result().status_code for each in asked] == [200] * 4
    assert [len(batch) for batch in fake.batches] == [1, 3]


def test_a_request_that_breaks_a_batch_breaks_itself_alone():
    class Breaks(FakeReranker):
        def rank_many(self, requests, mode="score"):
            found = super().rank_many(requests, mode)
            if any(query == "breaks" for query, _ in requests):
                raise RuntimeError("it breaks")
            return found

    app, fake = fake_app(Breaks())
    fake.gate.clear()
    with running(app) as here, ThreadPoolExecutor(4) as pool:
        others = [BODY | {"query": query} for query in ("one", "breaks", "other")]
        asked = asked_in_turn(pool, here, fake, BODY, *others)
        fake.gate.set()
        assert [each.result().status_code for each in asked] == [200, 200, 500, 200]


def test_a_model_of_another_server_that_does_not_answer_is_no_fault_of_the_texts():
    app, fake = fake_app()
    fake.fails = NoAnswer("--engine-url http://vllm:8000: no vLLM server answers there")
    fake.gate.clear()
    with running(app) as here, ThreadPoolExecutor(4) as pool:
        asked = asked_in_turn(pool, here, fake, *[BODY] * 4)
        fake.gate.set()
        answers = [each.result() for each in asked]
    assert {(each.status_code, each.headers.get("retry-after")) for each in answers} == {(503, "5")}
    assert answers[0].json()["message"] == "the server that runs the model does not answer"
    assert [len(batch) for batch in fake.batches] == [1, 3]  # none is tried alone: each would wait as long


# ---- no place --------------------------------------------------------------------------------------------------------


def test_beyond_the_queue_a_request_hears_when_to_come_again():
    app, fake = fake_app(queue=2)
    fake.gate.clear()
    with running(app) as here, ThreadPoolExecutor(3) as pool:
        held = asked_in_turn(pool, here, fake, *[BODY] * 3)
        refused = httpx.post(f"{here.url}/v1/rerank", json=BODY)
        assert refused.status_code == 429
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert httpx.get(f"{here.url}/health").status_code == 200
        fake.gate.set()
        assert [each.result().status_code for each in held] == [200] * 3
        assert httpx.post(f"{here.url}/v1/rerank", json=BODY).status_code == 200


# ---- too late --------------------------------------------------------------------------------------------------------


def test_a_request_that_waits_too_long_frees_its_place():
    app, fake = fake_app(timeout=1)
    fake.gate.clear()
    with running(app) as here, ThreadPoolExecutor(2) as pool:
        running_one = pool.submit(httpx.post, f"{here.url}/v1/rerank", json=BODY, timeout=20)
        assert fake.begun.acquire(timeout=10)
        waiting = pool.submit(httpx.post, f"{here.url}/v1/rerank", json=BODY | {"query": "too late"}, timeout=20)
        answers = [running_one.result(), waiting.result()]
        assert [(each.status_code, "1 s" in each.json()["message"]) for each in answers] == [(504, True)] * 2
        until(lambda: len(app.state.desk.queue) == 0)
        fake.gate.set()
        assert httpx.post(f"{here.url}/v1/rerank", json=BODY).status_code == 200
    assert ["too late"] not in fake.batches


def test_a_body_that_dawdles_is_not_waited_for():
    app, fake = fake_app(timeout=0.2)
    with running(app) as here, socket.create_connection(("127.0.0.1", int(here.url.rpartition(":")[2]))) as slow:
        slow.sendall(b"POST /v1/rerank HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{")
        slow.settimeout(10)
        assert slow.recv(100).startswith(b"HTTP/1.1 408 ")
    assert fake.batches == []


# ---- clients that leave ----------------------------------------------------------------------------------------------


def test_a_client_that_leaves_frees_its_place_and_is_not_ranked():
    app, fake = fake_app(queue=1)
    fake.gate.clear()
    with running(app) as here, ThreadPoolExecutor(2) as pool:
        first = pool.submit(httpx.post, f"{here.url}/v1/rerank", json=BODY, timeout=20)
        assert fake.begun.acquire(timeout=10)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{here.url}/v1/rerank", json=BODY | {"query": "leaves"}, timeout=2)
        until(lambda: len(app.state.desk.queue) == 0)
        last = pool.submit(httpx.post, f"{here.url}/v1/rerank", json=BODY | {"query": "stays"}, timeout=20)
        until(lambda: len(app.state.desk.queue) == 1)
        fake.gate.set()
        assert (first.result().status_code, last.result().status_code) == (200, 200)
        assert 'status="499"} 1.0' in httpx.get(f"{here.url}/metrics").text
    assert fake.batches == [[BODY["query"]], ["stays"]]


def test_a_client_that_leaves_in_the_middle_of_its_body_leaves_nothing():
    app, fake = fake_app(held_mib=4)
    with running(app) as here:
        for turn in range(1, 4):
            with socket.create_connection(("127.0.0.1", int(here.url.rpartition(":")[2]))) as gone:
                gone.sendall(
                    b"POST /v1/rerank HTTP/1.1\r\nHost: x\r\nContent-Length: 4000000\r\n\r\n" + b" " * 2_000_000
                )
            left = f'route="/v1/rerank",status="499"}} {turn}.0'
            until(lambda left=left: left in httpx.get(f"{here.url}/metrics").text)
        wide = BODY | {"documents": [" " * 3_900_000 + "Alien", "Heat"]}
        assert httpx.post(f"{here.url}/v1/rerank", json=wide).status_code == 422  # and not 429
    assert fake.batches == []


# ---- the end ---------------------------------------------------------------------------------------------------------


def refuses(url):
    """Whether nobody listens there."""
    try:
        httpx.get(f"{url}/health", timeout=20)
    except httpx.TransportError as error:
        return isinstance(error, httpx.ConnectError)
    return False


def test_a_server_that_is_told_to_stop_answers_what_it_took():
    app, fake = fake_app()
    fake.gate.clear()
    with running(app) as here, ThreadPoolExecutor(3) as pool:
        asked = asked_in_turn(pool, here, fake, *[BODY] * 3)
        here.server.should_exit = True
        until(lambda: not app.state.desk.queue.alive)
        assert get(app, "/ready").status_code == 503
        assert ask(app).status_code == 503
        until(lambda: refuses(here.url))
        fake.gate.set()
        assert [each.result().status_code for each in asked] == [200] * 3
        here.thread.join(10)
        assert not here.thread.is_alive()


def test_what_cannot_be_answered_in_time_hears_so():
    app, fake = fake_app(stop=0.3)
    fake.gate.clear()
    with running(app) as here, ThreadPoolExecutor(2) as pool:
        asked = asked_in_turn(pool, here, fake, BODY, BODY)
        here.server.should_exit = True
        assert [each.result().status_code for each in asked] == [503] * 2
        fake.gate.set()


@pytest.mark.parametrize("in_time", [True, False])
def test_what_is_counted_when_the_end_comes_is_ranked_or_told_of(in_time):
    app, fake = fake_app(**({} if in_time else {"stop": 0.3}))
    desk = app.state.desk
    go, begun = held_at_the_counter(desk)
    long = BODY | {"documents": ["word " * 2000, "Heat"]}
    with running(app) as here, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(httpx.post, f"{here.url}/v1/rerank", json=long, timeout=20)
        assert begun.wait(10)
        here.server.should_exit = True
        until(lambda: not desk.queue.alive)
        if in_time:
            go.set()
        assert asked.result().status_code == (200 if in_time else 503)
        go.set()
    assert (len(fake.batches), desk.abandoned) == ((1, 0) if in_time else (0, 1))


# ---- under load ------------------------------------------------------------------------------------------------------


def test_a_storm_of_clients_that_come_and_leave_loses_and_mixes_nothing():
    class Slow(FakeReranker):
        def rank(self, texts):
            time.sleep(0.0005)
            return [Ranked(1, 0, texts[0], 0.0), *(Ranked(j + 1, j, texts[j], -1.0 * j) for j in range(1, len(texts)))]

    app, _ = fake_app(Slow(), queue=12)
    before = threading.active_count() + 1  # the counter's

    async def client(number, url):
        told = []
        async with httpx.AsyncClient(timeout=20) as asking:
            for turn in range(6):
                films = [f"{number} {turn} {film}" for film in FILMS[: 2 + number % 3]]
                post = asking.post(f"{url}/v1/rerank", json=BODY | {"documents": films, "return_documents": True})
                try:
                    answer = await asyncio.wait_for(post, 0.005 if number % 4 == 0 else 20)
                except TimeoutError:
                    continue
                told.append(answer.status_code)
                if answer.status_code == 200:
                    assert [row["document"]["text"] for row in answer.json()["results"]] == films
        return told

    async def storm(url):
        return [status for told in await asyncio.gather(*(client(n, url) for n in range(24))) for status in told]

    with running(app) as here:
        statuses = asyncio.run(storm(here.url))
        until(lambda: len(app.state.desk.queue) == 0)
        figures = httpx.get(f"{here.url}/metrics").text
    assert set(statuses) <= {200, 429}
    assert statuses.count(200) > 24
    counted = dict(re.findall(r'irpo_requests_total\{route="/v1/rerank",status="(\d+)"\} (\d+)', figures))
    assert int(counted["200"]) >= statuses.count(200)
    assert threading.active_count() <= before
