"""What a server takes and answers: the forms of Cohere, Jina and TEI, limits, keys, and what an error may say."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import replace

import pytest
from commands import refused
from served import BODY, FILMS, QUERY, FakeReranker, ask, asks, fake_app, get

from irpo.server import keys as api_keys
from irpo.server.keys import Keys, read_keys
from irpo.server.rankers import Rankers, Served
from irpo.types import UserError

ROUTES = ("/v1/rerank", "/v2/rerank", "/rerank")
BEST = [2, 3, 1, 0]  # of FILMS, by the fake
SECRET = "a text that nobody else may read"


@pytest.fixture(scope="module")
def app():
    return fake_app()[0]


# ---- the forms -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ROUTES)
def test_an_answer_has_the_fields_of_cohere_and_of_jina(app, path):
    answer = ask(app, path, BODY | {"top_n": 2, "return_documents": True})
    told = answer.json()
    assert answer.status_code == 200
    assert [(row["index"], row["document"]) for row in told["results"]] == [(j, {"text": FILMS[j]}) for j in BEST[:2]]
    assert told["id"] == answer.headers["x-request-id"]
    assert (told["model"], told["usage"], told["meta"]["tokens"]) == (
        *("fake", {"total_tokens": told["usage"]["total_tokens"]}),
        {"input_tokens": told["usage"]["total_tokens"]},
    )
    assert told["meta"]["api_version"] == {"version": "2" if path == "/v2/rerank" else "1"}


def test_shares_are_the_softmax_over_all_documents_whatever_is_asked_back(app):
    whole, best = ask(app).json()["results"], ask(app, body=BODY | {"top_n": 1}).json()["results"]
    powers = [2.718281828459045**-j for j in range(4)]
    assert [row["relevance_score"] for row in whole] == pytest.approx([power / sum(powers) for power in powers])
    assert best == whole[:1]


def test_without_scores_a_share_is_one_by_the_rank_and_raw_scores_are_refused():
    app, _ = fake_app(FakeReranker(scores=False))
    assert [row["relevance_score"] for row in ask(app).json()["results"]] == [1, 1 / 2, 1 / 3, 1 / 4]
    answer = ask(app, "/rerank", {"query": QUERY, "texts": FILMS, "raw_scores": True})
    assert (answer.status_code, "no scores" in answer.json()["message"]) == (422, True)


def test_tei_is_answered_as_tei_does(app):
    body = {"query": QUERY, "texts": FILMS, "raw_scores": True, "return_text": True, "truncate": True}
    told = ask(app, "/rerank", body).json()
    assert told == [{"index": j, "score": -rank, "text": FILMS[j]} for rank, j in enumerate(BEST)]
    shares = ask(app, "/rerank", {"query": QUERY, "texts": FILMS}).json()
    assert sum(row["score"] for row in shares) == pytest.approx(1)
    assert set(shares[0]) == {"index", "score"}


@pytest.mark.parametrize(
    ("what", "warning"),
    [
        ("cut", "4 of 4 documents were cut to fit the prompt, 12 tokens in all"),
        ("query_cut", "the query was cut to fit the prompt: its first 3 tokens are left out"),
    ],
)
def test_truncate_false_refuses_what_would_be_cut(what, warning):
    class Cuts(FakeReranker):
        def rank(self, texts):
            return [replace(row, **{what: 3}) for row in super().rank(texts)]

    app, _ = fake_app(Cuts())
    body = {"query": QUERY, "texts": FILMS}
    assert ask(app, "/rerank", body).status_code == 200
    assert ask(app, "/rerank", body | {"truncate": False}).status_code == 413
    assert ask(app).json()["meta"]["warnings"] == [warning]


def test_one_document_stands_alone(app):
    (row,) = ask(app, body={"query": QUERY, "documents": FILMS[:1]}).json()["results"]
    assert row == {"index": 0, "relevance_score": 1.0}  # clients look whether "document" is there
    raw = ask(app, "/rerank", {"query": QUERY, "texts": FILMS[:1], "raw_scores": True}).json()
    assert raw == [{"index": 0, "score": None}]


def test_documents_may_be_objects_and_come_back_whole(app):
    films = [{"title": "Heat", "year": 1995, "seen": None}, {"title": "Alien", "year": 1979, "text": "xenomorph"}]
    body = {"query": QUERY, "documents": films, "rank_fields": ["title", "year"], "return_documents": True}
    assert [row["document"] for row in ask(app, body=body).json()["results"]] == [films[1], films[0]]
    without = ask(app, body={"query": QUERY, "documents": films})
    assert (without.status_code, "documents[0]" in without.json()["message"]) == (422, True)
    nowhere = ask(app, body=body | {"rank_fields": ["seen"]})
    assert (nowhere.status_code, "documents[0]" in nowhere.json()["message"]) == (422, True)


def test_equal_documents_are_each_ranked(app):
    told = ask(app, body={"query": QUERY, "documents": ["Heat"] * 3}).json()["results"]
    assert sorted(row["index"] for row in told) == [0, 1, 2]


def test_what_has_no_effect_is_said(app):
    told = ask(app, body=BODY | {"max_chunks_per_doc": 3, "topn": 1, "priority\x1b": 2}).json()["meta"]["warnings"]
    assert told == [
        "max_chunks_per_doc has no effect: a document is read as one",
        "without effect: priority\\x1b, topn",
    ]


def test_texts_are_cut_to_max_tokens_per_doc(app):
    films = ["word " * 50, "Heat"]
    body = {"query": QUERY, "documents": films, "max_tokens_per_doc": 10}
    whole, short = ask(app, body={"query": QUERY, "documents": films}).json(), ask(app, body=body).json()
    assert short["meta"]["warnings"] == ["1 of 2 documents were cut to max_tokens_per_doc, 10 tokens"]
    assert short["usage"]["total_tokens"] < whole["usage"]["total_tokens"]


@pytest.mark.parametrize(
    ("path", "wrong", "says"),
    [
        ("/v1/rerank", {"query": " "}, "query"),
        ("/v1/rerank", {"query": None}, "query"),
        ("/v1/rerank", {"documents": []}, "documents"),
        ("/v1/rerank", {"documents": ["Heat", " \n"]}, "documents[1]"),
        ("/v1/rerank", {"documents": ["Heat", {"text": ""}]}, "documents[1]"),
        ("/v1/rerank", {"documents": ["Heat", 3]}, "documents[1]"),
        ("/v1/rerank", {"documents": "Heat"}, "documents"),
        ("/v2/rerank", {"top_n": 0}, "top_n"),
        ("/v2/rerank", {"top_n": 1.5}, "top_n"),
        ("/rerank", {"query": 3}, "query"),
        ("/rerank", {"texts": [], "documents": None}, "texts"),
        ("/rerank", {"texts": ["Heat", " "]}, "texts[1]"),
        ("/rerank", {"texts": FILMS, "truncation_direction": "Left"}, "truncation_direction"),
    ],
)
def test_what_is_wrong_is_named_by_its_place(app, path, wrong, says):
    answer = ask(app, path, BODY | wrong)
    assert answer.status_code == 422
    assert says in answer.json()["message"]
    assert answer.json()["id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[" * 100_000, b'{"query": "\xff"}', b"null", b"NaN", b"1" * 10_000, b'{"query": "\\ud800"}'],
)
def test_a_body_that_is_no_request_is_the_clients_mistake(app, body):
    answer = ask(app, content=body, json=None, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422)
    assert set(answer.json()) == {"message", "detail", "id"}


# ---- which ranker ----------------------------------------------------------------------------------------------------


def test_a_request_chooses_its_ranker_by_name():
    from irpo.server.app import create_app

    one, other = FakeReranker(), FakeReranker()
    app = create_app(Rankers((Served("one", one), Served("other", other))))
    for model, ranked in ((None, "one"), ("", "one"), ("one", "one"), ("other", "other")):
        assert ask(app, body=BODY | {"model": model}).json()["model"] == ranked
    assert (len(one.batches), len(other.batches)) == (3, 1)
    answer = ask(app, body=BODY | {"model": "rerank-v3.5"})
    assert (answer.status_code, answer.json()["message"]) == (
        *(404, "there is no model of this name; choose from one, other"),
    )


# ---- limits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"documents": ["Heat"] * 6}, "6 documents; this server takes 5"),
        ({"query": "long " * 60}, "the query has"),
        ({"documents": ["Heat", "long " * 60]}, "documents[1] has"),
        ({"query": "long " * 600}, "the query has 3000 characters; this server takes 800 of a text"),
        ({"documents": ["Heat", "long " * 600]}, "documents[1] has 3000 characters"),
        ({"documents": ["long " * 100] * 5}, "5 documents have 2500 characters; this server takes 2400 in a request"),
        ({"documents": ["long " * 15] * 5}, "the query and 5 documents have"),
    ],
)
def test_a_request_beyond_a_limit_hears_which(body, says):
    app, fake = fake_app(documents=5, text_tokens=100, tokens=300)
    answer = ask(app, body=BODY | body)
    assert answer.status_code == 422
    assert says in answer.json()["message"]
    assert fake.batches == []
    assert ask(app, body=BODY).status_code == 200


def test_a_body_beyond_the_limit_is_not_read_to_its_end():
    app, _ = fake_app(body_mib=0.01)
    told, chunks = [], 0

    async def endless():
        nonlocal chunks
        while True:
            chunks += 1
            yield b" " * 4096

    for body in ({"content": b" " * 20_000}, {"content": endless()}):
        answer = ask(app, json=None, **body)
        told.append((answer.status_code, answer.json()["message"]))
    assert told == [(413, "the body is longer than 0.01 MiB, this server's limit")] * 2
    assert chunks < 60  # sixteen bodies, read so that the client sees its answer


def test_bodies_together_have_a_limit():
    import asyncio

    from served import client_of

    app, fake = fake_app(body_mib=0.01, held_mib=0.01)
    fake.gate.clear()

    async def both():
        async with client_of(app) as client:
            held = asyncio.create_task(client.post("/v1/rerank", json=BODY | {"documents": ["word " * 1500, "Heat"]}))
            await asyncio.to_thread(fake.begun.acquire)
            other = await client.post("/v1/rerank", json=BODY | {"documents": ["word " * 1500, "Heat"]})
            fake.gate.set()
            return other, await held, await client.post("/v1/rerank", json=BODY)

    other, held, later = asyncio.run(both())
    assert (other.status_code, other.headers["retry-after"]) == (429, "1")
    assert (held.status_code, later.status_code) == (200, 200)


# ---- keys ------------------------------------------------------------------------------------------------------------


KEYS = ["0123456789abcdef", "fedcba9876543210"]


@pytest.fixture(scope="module")
def closed(tmp_path_factory):
    file = tmp_path_factory.mktemp("keys") / "keys.txt"
    file.write_text(f"# two\n{KEYS[0]}\n\n  {KEYS[1]}\n")
    return fake_app(keys=read_keys(file))[0]


@pytest.mark.parametrize("path", [*ROUTES, "/metrics"])
def test_a_key_opens_what_ranks_and_counts(closed, path):
    method = "GET" if path == "/metrics" else "POST"

    def status(authorization):
        return asks(closed, [(method, path, {"json": BODY, "headers": authorization})])[0]

    given = {f"Bearer {key}": 200 for key in KEYS} | {f"bearer  {KEYS[0]}": 200, KEYS[0]: 401, f"Basic {KEYS[0]}": 401}
    given |= {f"Bearer {KEYS[0]}x": 401, f"Bearer {KEYS[0][:-1]}": 401, "Bearer": 401, "Bearer ä": 401}
    assert {each: status({"authorization": each.encode()}).status_code for each in given} == given
    answer = status({})
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")


@pytest.mark.parametrize("path", ["/health", "/ready", "/openapi.json", "/docs", "/"])
def test_what_says_nothing_of_anybody_is_open(closed, path):
    assert get(closed, path).status_code == 200


def test_every_key_is_compared_in_constant_time_whichever_fits(monkeypatch):
    compared = []

    def compare(one, other):
        compared.append((len(one), len(other)))
        return one == other

    monkeypatch.setenv(api_keys.ENVIRONMENT, ",".join(KEYS))
    keys = read_keys(None)
    monkeypatch.setattr(api_keys.hmac, "compare_digest", compare)
    for given in (*KEYS, "x", ""):
        compared.clear()
        assert keys.admits(f"Bearer {given}".encode()) == (given in KEYS)
        assert compared == [(32, 32)] * 2


def test_a_key_that_is_none_is_refused_and_not_repeated(tmp_path, monkeypatch):
    monkeypatch.delenv(api_keys.ENVIRONMENT, raising=False)
    file = tmp_path / "keys"
    for text, says in (("short\n", "keys:1"), (f"{KEYS[0]}\n0123456789 abcdefgh\n", "keys:2"), ("# none\n", "no key")):
        file.write_text(text)
        with pytest.raises(UserError, match=says) as error:
            read_keys(file)
        assert "short" not in str(error.value)
        assert "abcdefgh" not in str(error.value)
    assert read_keys(None) == Keys()
    monkeypatch.setenv(api_keys.ENVIRONMENT, "short")
    with pytest.raises(UserError, match="IRPO_API_KEYS"):
        read_keys(None)


# ---- what may be said ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status"),
    [(RuntimeError(f"{SECRET} in /home/somebody/x.py"), 500), (UserError(f"example {SECRET!r}: /home/x"), 422)],
)
def test_an_error_leaks_neither_text_nor_path(caplog, error, status):
    app, fake = fake_app()
    fake.fails = error
    with caplog.at_level(logging.DEBUG):
        answer = ask(app, body={"query": SECRET, "documents": [SECRET, f"{SECRET}!"]})
    told = answer.json()
    assert answer.status_code == status
    assert SECRET not in answer.text
    assert not re.search(r"/home|\.py|Traceback|Error", answer.text)
    assert SECRET not in caplog.text
    assert told["id"] in caplog.text
    assert status == 422 or (told["message"], told["detail"]) == ("internal error",) * 2
    fake.fails = None
    assert ask(app).status_code == 200  # the ranking thread lives


def test_no_request_is_logged_with_its_texts(app, caplog):
    wrong = {"query": SECRET, "documents": [SECRET, {SECRET: SECRET}], "top_n": SECRET, SECRET: SECRET}
    with caplog.at_level(logging.DEBUG):
        answers = [ask(app, path, wrong) for path in ROUTES] + [ask(app, f"/{SECRET}"), ask(app, f"/rerank?q={SECRET}")]
        answers += [ask(app, body=json.dumps(wrong) + "}")]
    assert SECRET not in caplog.text
    assert [SECRET in answer.text for answer in answers] == [False] * len(answers)


def test_figures_are_of_known_routes_and_hold_no_text():
    app, _ = fake_app()
    ask(app)
    ask(app, f"/{SECRET}")
    told = get(app, "/metrics").text
    assert 'irpo_requests_total{route="/v1/rerank",status="200"} 1.0' in told
    assert 'irpo_requests_total{route="other",status="404"} 1.0' in told
    assert "irpo_documents_total 4.0" in told
    assert "irpo_queue_requests 0.0" in told
    assert "irpo_batch_requests_count 1.0" in told
    assert SECRET not in told


def test_each_app_counts_for_itself():
    apps = [fake_app()[0] for _ in range(2)]
    ask(apps[0])
    assert "irpo_documents_total 0.0" in get(apps[1], "/metrics").text


def test_the_page_asks_nobody_else_and_its_rule_says_so():
    app, _ = fake_app()
    for path in ("/", "/docs"):
        answer = get(app, path)
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "http" not in answer.text.replace("http-equiv", "")
        assert "unsafe" not in answer.headers["content-security-policy"]
    assert "API key" not in get(app, "/").text
    assert "<select" not in get(app, "/").text


# ---- the command -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--queue", "0"], "queue"),
        (["--timeout", "0"], "timeout"),
        (["--max-body", "-1"], "body"),
        (["--mode", "best"], "unknown ranking mode"),
        (["--mode", "{name: window, size: 1}"], "size is 1"),
        (["--api-keys", "nowhere"], "nowhere"),
        (["--adapter", "films"], "NAME=PATH"),
        (["--adapter", "films=nowhere"], "no run"),
        (["--adapter", "embedded=nowhere"], "name"),
        (["--host", "no.such.host.invalid"], "--host"),
        (["--host", "a..b"], "--host a..b"),
        (["--port", "99999"], "port"),
    ],
)
def test_a_mistake_is_one_line(irpo, words, says):
    refused(irpo("serve", "--model", "embedded", *words), says)


def test_without_the_packages_it_says_which_to_install(irpo, monkeypatch):
    monkeypatch.setattr("irpo.server.find_spec", lambda name: None if name == "uvicorn" else name)
    refused(irpo("serve", "--model", "embedded"), "uvicorn", "pip install 'irpo[serve]'")


def test_an_address_that_is_taken_is_one_line(irpo):
    from irpo.server.addresses import listening

    with listening("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        refused(irpo("serve", "--model", "embedded", "--port", port), str(port))
