"""What a client hears of its mistakes: one sentence in the words of the Python API."""

from __future__ import annotations

import json
import re

import pytest
from served import BODY, FILMS, QUERY, ask, fake_app


@pytest.fixture(scope="module")
def app():
    return fake_app()[0]


@pytest.mark.parametrize(
    ("path", "body", "says"),
    [
        ("/v1/rerank", {"query": "", "documents": FILMS}, "query: the text is empty"),
        ("/v1/rerank", {"query": 3, "documents": FILMS}, "query: it must be a text"),
        ("/v2/rerank", {"query": QUERY, "documents": ["Heat", ""]}, "documents[1]: the text is empty"),
        ("/rerank", {"query": QUERY, "documents": ["Heat", 3]}, "documents[1]: it is neither a text nor an object"),
        ("/rerank", {"query": QUERY, "texts": ["Heat", 3]}, "texts[1]: it is no text"),
        ("/rerank", {"query": QUERY, "texts": FILMS, "documents": FILMS}, "both documents and texts are given; .*"),
        ("/rerank", {"query": QUERY}, "documents is missing; .*texts.*"),
        ("/v1/rerank", {"documents": FILMS}, "query is missing; .*"),
        ("/v1/rerank", BODY | {"top_n": 0}, "top_n: give a number from 1"),
        ("/v1/rerank", BODY | {"rank_fields": ["text"] * 101}, "rank_fields: give at most 100"),
        ("/v1/rerank", ["Heat"], "the body must be a JSON object, .*"),
        ("/v1/rerank", None, "the body is no JSON: .*, at character 14"),
    ],
)
def test_a_mistake_is_one_sentence_of_ours(app, path, body, says):
    content = b'{"query": "q",, }' if body is None else json.dumps(body).encode()
    answer = ask(app, path, content=content, json=None, headers={"content-type": "application/json"})
    assert answer.status_code == 422
    plain = re.escape(says).replace(r"\.\*", ".*")
    assert re.fullmatch(plain, answer.json()["message"]), answer.json()
    assert answer.json()["detail"] == answer.json()["message"]


@pytest.mark.parametrize("name", ["documents", "texts"])
@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (["Heat", "long " * 60], "{}[1] has"),
        (["Heat", "long " * 600], "{}[1] has 3000 characters"),
        (["long " * 100] * 5, "5 {} have 2500 characters"),
        (["long " * 15] * 5, "the query and 5 {} have"),
    ],
)
def test_a_limit_names_the_field_that_was_given(name, texts, says):
    app, _ = fake_app(text_tokens=100, tokens=300)
    assert says.format(name) in ask(app, "/rerank", {"query": QUERY, name: texts}).json()["message"]
