"""A server of the embedded model as others ask it: Cohere's client, its own OpenAPI, and the same in Python."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance
from served import FILMS, QUERY, fake_app, get, running, until

from irpo.ranking.reranker import Reranker
from irpo.server.answers import relevance
from irpo.server.app import create_app
from irpo.server.keys import Keys, _digest
from irpo.server.rankers import load_rankers

cohere = pytest.importorskip("cohere", reason="cohere is not installed")
MIXED = [(f"{QUERY} {n}", [f"{FILMS[j % 4]} {n + j}" for j in range(1 + n % 13)]) for n in range(20)]
# What a request may be refused for that no schema can say.
_NOT_IN_SCHEMA = re.compile("rank_fields|both documents|characters; this server|tokens; this server|do not fit")


@pytest.fixture(scope="module")
def rankers():
    return load_rankers("embedded", {})


@pytest.fixture(scope="module")
def offline():
    return Reranker.load("embedded")


@pytest.fixture(scope="module")
def here(rankers):
    with running(create_app(rankers)) as server:
        yield server


# ---- the same as in Python -------------------------------------------------------------------------------------------


def test_every_answer_is_that_of_the_reranker_however_many_ask_at_once(here, offline):
    def asked(request):
        query, documents = request
        body = {"query": query, "documents": documents}
        return httpx.post(f"{here.url}/v2/rerank", json=body, timeout=60).json()["results"]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(asked, MIXED))
    for (query, documents), answer in zip(MIXED, answers, strict=True):
        rows = offline.rank(query, documents)
        assert [row["index"] for row in answer] == [row.index for row in rows]
        assert [row["relevance_score"] for row in answer] == pytest.approx(relevance(rows), abs=1e-5)


def test_a_mode_is_the_rerankers_too(offline):
    served = load_rankers("embedded", {}, "constrain").find(None)
    ((*rows,),) = served.rank([(QUERY, FILMS)])
    assert rows == offline.rank(QUERY, FILMS, "constrain")
    assert relevance(rows) == [1, 1 / 2, 1 / 3, 1 / 4]


def test_too_many_documents_for_the_prompt_are_the_clients_to_mend(here):
    body = {"query": QUERY, "documents": [f"a film of the year {year}" for year in range(400)]}
    answer = httpx.post(f"{here.url}/v1/rerank", json=body, timeout=60)
    assert (answer.status_code, answer.json()["message"]) == (
        *(422, "400 documents do not fit this model's prompt of 1024 tokens; send fewer"),
    )


# ---- Cohere's client -------------------------------------------------------------------------------------------------


def test_coheres_second_client_ranks(here, offline):
    client = cohere.ClientV2(api_key="none", base_url=here.url)
    answer = client.rerank(model="embedded", query=QUERY, documents=FILMS, top_n=3)
    rows = offline.rank(QUERY, FILMS)
    assert [result.index for result in answer.results] == [row.index for row in rows[:3]]
    assert [result.relevance_score for result in answer.results] == pytest.approx(relevance(rows)[:3], abs=1e-5)
    assert (answer.meta.api_version.version, answer.meta.warnings) == ("2", None)
    assert answer.meta.tokens.input_tokens > 0


def test_coheres_first_client_ranks_objects_and_gets_them_back(here, offline):
    client = cohere.Client(api_key="none", base_url=here.url)
    films = [{"text": film, "year": "1995"} for film in FILMS]
    answer = client.rerank(model="embedded", query=QUERY, documents=films, return_documents=True)
    rows = offline.rank(QUERY, FILMS)
    assert [result.document.text for result in answer.results] == [row.text for row in rows]
    assert answer.results[0].document.year == "1995"


def test_coheres_client_sends_a_key_and_understands_what_is_refused():
    app, _ = fake_app(keys=Keys((_digest(b"0123456789abcdef"),)))
    with running(app) as closed:
        right, wrong = (cohere.ClientV2(api_key=key, base_url=closed.url) for key in ("0123456789abcdef", "wrong"))
        assert len(right.rerank(model="fake", query=QUERY, documents=FILMS).results) == 4
        with pytest.raises(cohere.errors.UnauthorizedError):
            wrong.rerank(model="fake", query=QUERY, documents=FILMS)
        with pytest.raises(cohere.errors.NotFoundError) as error:
            right.rerank(model="rerank-v3.5", query=QUERY, documents=FILMS)
        assert error.value.body["message"] == "there is no model of this name; choose from fake"
        with pytest.raises(cohere.errors.UnprocessableEntityError):
            right.rerank(model="fake", query=QUERY, documents=[])


def test_coheres_client_comes_again_when_there_is_no_place():
    app, fake = fake_app(queue=1)
    fake.gate.clear()
    with running(app) as full, ThreadPoolExecutor(3) as pool:
        client = cohere.ClientV2(api_key="none", base_url=full.url)
        asked = [pool.submit(client.rerank, model="fake", query=QUERY, documents=FILMS) for _ in range(3)]
        until(lambda: 'status="429"' in httpx.get(f"{full.url}/metrics").text)
        fake.gate.set()
        assert [len(each.result().results) for each in asked] == [4] * 3  # one heard 429, and Retry-After


# ---- its own OpenAPI -------------------------------------------------------------------------------------------------

schema = schemathesis.openapi.from_asgi("/openapi.json", fake_app()[0])


@schema.parametrize()
@settings(
    max_examples=15,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_what_is_answered_is_what_its_openapi_says(case):
    answer = case.call()
    case.validate_response(answer, excluded_checks=[positive_data_acceptance])
    if case.meta.generation.mode == GenerationMode.POSITIVE and answer.status_code == 422:
        assert _NOT_IN_SCHEMA.search(answer.json()["message"])


def test_the_openapi_names_every_route_and_the_docs_show_it():
    app, _ = fake_app()
    told = get(app, "/openapi.json").json()
    assert list(told["paths"]) == ["/v1/rerank", "/v2/rerank", "/rerank", "/health", "/ready", "/metrics"]
    shown = get(app, "/docs")
    for name in (*told["paths"], "max_tokens_per_doc", "raw_scores", "is no measure across requests"):
        assert name in shown.text
    assert not re.search(r"<script|src=|https?://", shown.text)
