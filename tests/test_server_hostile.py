"""What clients that mean harm, and clients that know no better, do to a server: it hears them out and lives."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import httpx
import pytest
from pydantic import ValidationError
from served import (
    BODY,
    FILMS,
    QUERY,
    TOKENIZER,
    FakeReranker,
    ask,
    asks,
    fake_app,
    get,
    held_at_the_counter,
    running,
    until,
)

from irpo import stopping
from irpo.prompting.labels import label_names
from irpo.server import running as process
from irpo.server.addresses import listening
from irpo.server.asked import Asked, Counter
from irpo.server.keys import ENVIRONMENT, Keys, _digest, read_keys
from irpo.server.limits import Limits
from irpo.server.schema import RerankRequest, TeiRequest
from irpo.types import TooLong, UserError

JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def app():
    return fake_app()[0]


def connected(here):
    """A connection to a server that runs; reading from it gives up in time."""
    return socket.create_connection(("127.0.0.1", int(here.url.rpartition(":")[2])), timeout=20)


# ---- keys ------------------------------------------------------------------------------------------------------------


KEY = "0123456789abcdef"


def one_key():
    return Keys((_digest(KEY.encode()),))


def test_whatever_is_not_open_needs_a_key():
    app, fake = fake_app(keys=one_key())
    posts = [("POST", path, {"json": BODY}) for path in ("/v1/rerank%0A", "/rerank%0A", "/v2/rerank/", "/rerank/x")]
    gets = [("GET", path, {}) for path in ("/metrics%0A", "/metrics/", "/nowhere", "/health%0A")]
    assert [answer.status_code for answer in asks(app, posts + gets)] == [401] * 8
    assert (get(app, "/health").status_code, fake.batches) == (200, [])


@pytest.mark.parametrize("path", ["/", "/docs", "/health", "/ready", "/openapi.json"])
def test_what_is_open_takes_no_body_without_a_key(path):
    methods = ("POST", "PUT", "PATCH")
    for keys, status in ((one_key(), 401), (None, 405)):
        app, _ = fake_app(keys=keys)
        assert [answer.status_code for answer in asks(app, [(each, path, {}) for each in methods])] == [status] * 3


def test_bodies_without_a_key_take_no_memory_of_those_with_one():
    app, _ = fake_app(keys=one_key(), body_mib=0.1, held_mib=0.1)
    half = b"POST /health HTTP/1.1\r\nHost: x\r\nContent-Length: 90001\r\n\r\n" + b"x" * 90_000
    with running(app) as here, connected(here) as one, connected(here) as other:
        for each in (one, other):
            each.sendall(half)
        time.sleep(0.5)  # until they are read
        with_key = {"authorization": f"Bearer {KEY}"}
        wide = BODY | {"documents": ["word " * 6000, "Heat"]}
        assert httpx.post(f"{here.url}/v1/rerank", json=wide, headers=with_key).status_code == 200
        assert one.recv(100).startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize("given", ["", " , "])
def test_a_variable_without_a_key_leaves_no_server_open(monkeypatch, given):
    monkeypatch.setenv(ENVIRONMENT, given)
    with pytest.raises(UserError, match="holds no key"):
        read_keys(None)


# ---- long lists ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["documents", "texts"])
def test_too_long_a_list_is_refused_before_its_items_are_looked_at(app, name):
    answer = ask(app, "/rerank", {"query": QUERY, name: [1] * 100_000})
    assert (answer.status_code, answer.json()["message"]) == (
        *(422, f"100000 {name}; this server takes 1000 in a request"),
    )


def test_a_text_of_many_fields_is_no_longer_than_its_body(app):
    film = {"text": "word " * 200, "year": 1995}
    body = {"query": QUERY, "documents": [film] * 2}
    once = ask(app, body=body | {"rank_fields": ["text", "year"]}).json()["usage"]
    often = ask(app, body=body | {"rank_fields": ["text", "year"] * 50})
    assert (often.status_code, often.json().get("usage")) == (200, once)


@pytest.mark.parametrize(
    ("form", "wrong"),
    [(RerankRequest, "documents"), (RerankRequest, "rank_fields"), (TeiRequest, "texts")],
)
def test_the_first_wrong_item_of_a_list_ends_the_search(form, wrong):
    with pytest.raises(ValidationError) as error:
        form.model_validate({"query": QUERY, "documents": FILMS, "texts": FILMS, wrong: [1] * 1000})
    assert error.value.error_count() <= 2  # a document is a text or an object


@pytest.mark.parametrize(("held", "first", "second"), [(5, 200, 429), (3, 413, 413)])
def test_a_body_weighs_what_its_values_do_while_it_waits(held, first, second):
    app, fake = fake_app(body_mib=1, held_mib=held)
    fake.gate.clear()
    many = BODY | {"documents": [{"text": "a", "more": [[]] * 9000}, "b"]}
    with running(app) as here, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(httpx.post, f"{here.url}/v1/rerank", json=many, timeout=20)
        until(lambda: asked.done() or fake.batches)
        assert httpx.post(f"{here.url}/v1/rerank", json=many).status_code == second
        fake.gate.set()
        assert asked.result().status_code == first
        assert httpx.post(f"{here.url}/v1/rerank", json=BODY).status_code == 200


@pytest.mark.parametrize("path", ["/rerank/", "/v1/rerank/", "/health/"])
def test_a_slash_more_is_no_way_to_wherever_a_client_says(app, path):
    answer = ask(app, path, headers={"host": "elsewhere.example"})
    assert (answer.status_code, answer.json()["message"]) == (404, "there is no such path")


# ---- connections -----------------------------------------------------------------------------------------------------


def test_a_head_that_does_not_come_closes_its_connection():
    app, _ = fake_app(head=1)
    with running(app) as here, connected(here) as silent, connected(here) as half, connected(here) as again:
        half.sendall(b"POST /v1/rerank HTTP/1.1\r\nHost: x\r\n")
        again.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = b""
        while not answer.endswith(b'{"status":"ok"}'):
            part = again.recv(4096)
            assert part, "it was closed before it was answered"
            answer += part
        again.sendall(b"GET /health HTTP/1.1\r\n")
        assert [each.recv(100) for each in (silent, half, again)] == [b""] * 3


HEAD = b"POST /v1/rerank HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
CHUNKS = HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\n"


def until_closed(connection):
    """What still comes over a connection that is closed."""
    found = b""
    try:
        while part := connection.recv(2**16):
            found += part
    except ConnectionError:
        pass
    return found


@pytest.mark.parametrize("begin", [HEAD, HEAD + b"X: ", b"GET /", CHUNKS], ids=["fields", "field", "url", "trailers"])
def test_a_head_without_end_closes_its_connection(begin):
    with running(fake_app()[0]) as here, connected(here) as endless:
        endless.sendall(begin)
        part = b"X: " + b"y" * 997 + b"\r\n" if begin in (HEAD, CHUNKS) else b"y" * 1000
        with suppress(ConnectionError):
            for _ in range(8000):
                endless.sendall(part)
            raise AssertionError("it took 8 MB")
        assert until_closed(endless)[:13] in (b"", b"HTTP/1.1 400 ")


def test_bodies_and_what_follows_them_are_no_head():
    body = json.dumps(BODY | {"more": "x" * 300_000}).encode()
    request = HEAD + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    with running(fake_app()[0]) as here, connected(here) as both:
        both.sendall(request + request + HEAD + b"Connection: close\r\nContent-Length: 2\r\n\r\n{}")
        found = until_closed(both)
    assert (found.count(b"HTTP/1.1 200 "), found.count(b"HTTP/1.1 422 ")) == (2, 1)


def test_what_follows_an_answer_and_is_no_request_raises_nothing(caplog):
    begin = b"GET /health HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    with running(fake_app()[0]) as here, connected(here) as wrong:
        wrong.sendall(begin)
        assert wrong.recv(100).startswith(b"HTTP/1.1 200 ")
        wrong.sendall(b"no chunk\r\n")
        until_closed(wrong)
    assert caplog.records == []


def test_an_answer_that_nobody_takes_closes_its_connection():
    app, _ = fake_app(timeout=3, body_mib=32)
    body = json.dumps(
        BODY | {"documents": [{"text": "a", "more": "x" * 16_000_000}], "return_documents": True}
    ).encode()
    with running(app) as here, socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", int(here.url.rpartition(":")[2])))
        deaf.sendall(HEAD + b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        held = here.server.server_state.connections
        until(lambda: any(each.transport.get_write_buffer_size() for each in held))
        until(lambda: not held)


def test_a_ranking_may_take_longer_than_its_head():
    app, fake = fake_app(head=1)
    fake.gate.clear()
    with running(app) as here, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(httpx.post, f"{here.url}/v1/rerank", json=BODY, timeout=20)
        assert fake.begun.acquire(timeout=10)
        threading.Timer(1.5, fake.gate.set).start()
        assert asked.result().status_code == 200


def test_health_is_answered_beside_as_many_requests_as_there_may_be():
    app, fake = fake_app(at_work=1)
    fake.gate.clear()
    with running(app) as here, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(httpx.post, f"{here.url}/v1/rerank", json=BODY, timeout=20)
        assert fake.begun.acquire(timeout=10)
        more = httpx.post(f"{here.url}/v1/rerank", json=BODY)
        assert (more.status_code, more.headers["retry-after"]) == (503, "1")
        assert httpx.get(f"{here.url}/health").status_code == 200
        fake.gate.set()
        assert asked.result().status_code == 200
        assert httpx.post(f"{here.url}/v1/rerank", json=BODY).status_code == 200


# ---- counting --------------------------------------------------------------------------------------------------------


def test_a_short_request_is_counted_without_the_pool_that_long_ones_fill():
    counter = Counter(TOKENIZER, Limits())
    both = counter._tokenizer
    given = Asked(QUERY, tuple(FILMS))
    wanted = sum(map(len, both.encode_batch([QUERY, *FILMS], add_special_tokens=False)))

    class OneByOne:
        encode = both.encode

    counter._tokenizer = OneByOne()
    assert counter.counted(given).tokens == wanted


def test_what_a_cap_leaves_of_a_text_is_not_blank():
    given = Asked(QUERY, ("\n\n\n\nHeat of 1995", "Alien"), text_cap=1)
    begin, _ = Counter(TOKENIZER, Limits()).counted(given).texts
    assert begin.strip()
    assert len(begin) < len(given.texts[0])


def test_a_client_that_leaves_while_it_is_counted_frees_its_place():
    app, fake = fake_app(queue=1)
    desk = app.state.desk
    go, begun = held_at_the_counter(desk)
    with running(app) as here:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{here.url}/v1/rerank", json=BODY | {"documents": ["word " * 2000, "Heat"]}, timeout=2)
        assert begun.is_set()
        until(lambda: desk.queue.coming == 0)
        go.set()
        assert httpx.post(f"{here.url}/v1/rerank", json=BODY).status_code == 200
    assert fake.batches == [[QUERY]]


# ---- what cannot be ranked -------------------------------------------------------------------------------------------


def nested(depth):
    return '{"text": "x", "n": ' + "[" * depth + "]" * depth + "}"


@pytest.mark.parametrize(
    ("document", "more"),
    [
        (r'{"text": "\ud800"}', ""),
        (r'{"title": "\ud800"}', ', "rank_fields": ["title"]'),
        (r'{"text": "x", "n": "\ud800"}', ', "return_documents": true'),
        (r'{"text": "x", "\ud800": 1}', ', "return_documents": true'),
        (nested(900), ', "return_documents": true'),
    ],
)
def test_a_document_that_no_answer_could_hold_is_named(app, document, more):
    body = f'{{"query": "a", "documents": ["Heat", {document}]{more}}}'
    answer = ask(app, content=body.encode(), json=None, headers=JSON)
    assert (answer.status_code, "documents[1]" in answer.json()["message"]) == (422, True)


def test_however_deep_a_document_is_it_is_answered(app):
    bodies = [
        f'{{"query": "a", "documents": [{nested(depth)}], "return_documents": true}}' for depth in range(230, 260)
    ]
    asked = [("POST", "/v1/rerank", {"content": body.encode(), "headers": JSON}) for body in bodies]
    statuses = [answer.status_code for answer in asks(app, asked)]
    assert statuses == sorted(statuses)
    assert set(statuses) == {200, 422}


@pytest.mark.parametrize("blank", ["\u001c", "\u001f \u2003\u0085"])
def test_blank_is_what_python_strips(app, blank):
    bodies = [{"query": blank}, {"documents": ["Heat", blank]}, {"documents": ["Heat", {"text": blank}]}]
    assert [ask(app, body=BODY | body).status_code for body in bodies] == [422] * 3


@pytest.mark.parametrize(("error", "fits"), [(TooLong("702 labels"), False), (UserError("out of memory"), True)])
def test_fewer_documents_are_asked_for_where_they_are_too_many(error, fits):
    app, fake = fake_app()
    fake.fails = error
    answer = ask(app)
    assert answer.status_code == 422
    assert ("send fewer" in answer.json()["message"]) == (not fits)


def test_more_documents_than_labels_are_too_long_a_list():
    with pytest.raises(TooLong, match="labels"):
        label_names(TOKENIZER, 10_000)


# ---- begin and end ---------------------------------------------------------------------------------------------------


def test_it_is_said_that_a_server_listens_once_it_does(monkeypatch):
    app, _ = fake_app()
    said = []

    def connect(told):
        with socket.create_connection(bound.getsockname(), timeout=5):
            said.append(told)

    monkeypatch.setattr(process, "say", connect)
    monkeypatch.setattr(stopping, "asked", lambda: signal.SIGTERM if said else 0)
    with listening("127.0.0.1", 0) as bound:
        process.run(app, bound, "here")
    assert said == ["here"]


@pytest.mark.parametrize("ends", [True, False])
def test_a_ranking_that_outlasts_the_end_is_not_waited_for_and_it_is_said(monkeypatch, ends):
    app, fake = fake_app(FakeReranker(), stop=0.3)
    fake.gate.clear()
    left, told = [], []
    monkeypatch.setattr(process, "say", lambda _: None)
    monkeypatch.setattr(stopping, "leave", lambda: left.append(stopping.told(signal.SIGTERM)))
    monkeypatch.setattr(stopping, "asked", lambda: signal.SIGTERM if fake.batches else 0)

    def ask_it():
        with httpx.Client(timeout=20) as client:
            told.append(client.post(f"http://127.0.0.1:{port}/v1/rerank", content=json.dumps(BODY), headers=JSON))

    with listening("127.0.0.1", 0) as bound, ThreadPoolExecutor(1) as pool:
        port = bound.getsockname()[1]
        bound.listen()
        asked = pool.submit(ask_it)
        if ends:
            fake.gate.set()
        process.run(app, bound, "here")
        asked.result()
    fake.gate.set()
    assert [answer.status_code for answer in told] == [200 if ends else 503]
    assert left == ([] if ends else ["stopped by SIGTERM; 1 requests were not ranked within 0.3 s and heard 503"])
