"""What a user asks of `Reranker`: documents in every form, the best few, many requests at once."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ranked_lists import FILMS, LONG, TOKENIZER
from tiny import tiny_model

from irpo import words
from irpo.prompting.prompts import PromptBuilder, Template
from irpo.ranking.documents import Document, read_request
from irpo.ranking.modes import RANKING_MODES
from irpo.ranking.reranker import Ranked, Reranker, notes_on
from irpo.scorers import Independent
from irpo.scoring import forward
from irpo.types import UserError

TEXT = Template("{{ query }}\n{% for c in candidates %}{{ c.text }}\n{% endfor %}")
LABEL = Template("{{ query }}\n{% for c in candidates %}[{{ c.name }}] {{ c.text }}\n{% endfor %}")
MODEL = tiny_model()
TEXTS = Reranker(MODEL, TOKENIZER, PromptBuilder(TOKENIZER, TEXT), Independent(), temperature=20.0)
LABELS = Reranker(MODEL, TOKENIZER, PromptBuilder(TOKENIZER, LABEL, "label"), Independent())
REQUESTS = [
    ("a film", FILMS),
    ("one alone", ["Alien"]),
    ("space", [*FILMS[2:], LONG[0]]),
    ("none", []),
    ("ids", [{"text": text, "id": f"d{j}"} for j, text in enumerate(FILMS[:3])]),
    ("a film", FILMS),
]


def ranker_for(mode):
    """The reranker of the style that the mode works with."""
    for ranker in (TEXTS, LABELS):
        try:
            ranker.rank("a film", FILMS[:2], mode)
        except UserError:
            continue
        return ranker
    raise AssertionError(f"mode {mode} works with no style")


# ---- documents -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "documents",
    [
        FILMS,
        iter(FILMS),
        [{"text": text} for text in FILMS],
        [{"text": text, "id": None} for text in FILMS],
        [(f"id {j}", text) for j, text in enumerate(FILMS)],
        [{"text": text, "id": f"id {j}"} for j, text in enumerate(FILMS)],
        [Document(text, f"id {j}") for j, text in enumerate(FILMS)],
    ],
)
def test_documents_of_every_form_are_ranked_alike(documents):
    given = list(documents)
    rows = TEXTS.rank("a film", iter(given))
    assert [(r.index, r.text, r.score) for r in rows] == [
        (r.index, r.text, r.score) for r in TEXTS.rank("a film", FILMS)
    ]
    has_ids = (
        not isinstance(given[0], str) and given[0] != {"text": FILMS[0]} and given[0] != {"text": FILMS[0], "id": None}
    )
    assert [r.id for r in rows] == [f"id {r.index}" if has_ids else None for r in rows]


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        (None, "documents is None; give a list"),
        ("Alien", "documents is 'Alien'; give a list"),
        (b"Alien", "documents is b'Alien'; give a list"),
        ({"text": "Alien"}, "documents is {'text': 'Alien'}; give a list"),
        (5, "documents is 5; give a list"),
        (["a", None], r"documents\[1\]: it is None; give a text"),
        (["a", 5], r"documents\[1\]: it is 5; give"),
        (["a", b"b"], r"documents\[1\]: it is b'b'; give"),
        (["a", ["id", "text"]], r"documents\[1\]: it is \['id', 'text'\]; give"),
        (["a", ("id", "b", "c")], r"documents\[1\]: it is \('id', 'b', 'c'\); give"),
        (["a", "b", " \n"], r"documents\[2\]: text is empty"),
        ([""], r"documents\[0\]: text is empty"),
        (["a", "\ud800b"], r"documents\[1\]: text holds '\\ud800', half of a surrogate pair"),
        (["a", {"id": "x"}], r"documents\[1\]: text is None; it must be a text"),
        (["a", {"text": ["b"]}], r"documents\[1\]: text is \['b'\]; it must be a text"),
        (["a", {"text": "b", "title": "c"}], r"documents\[1\]: unknown key 'title'; a document has 'text' and"),
        (["a", {"text": "b", "id": 5}], r"documents\[1\]: id is 5; it must be a text"),
        (["a", (None, "b")], r"documents\[1\]: id is None; it must be a text"),
        (["a", ("", "b")], r"documents\[1\]: id is empty"),
        ([("x", "a"), "b", {"text": "c", "id": "x"}], r"documents\[2\]: id 'x' is that of documents\[0\] too"),
    ],
)
def test_u16_what_is_no_document_is_one_line_with_its_index(documents, message):
    with pytest.raises(UserError, match=f"^{message}"):
        TEXTS.rank("a film", documents)
    with pytest.raises(UserError, match=rf"^requests\[1\]: {message}"):
        TEXTS.rank_many([("a film", FILMS), ("a film", documents)])


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (["a", "b"], r"query is \['a', 'b'\]; give one text \(rank_many takes many\)"),
        (None, "query is None; give one text"),
        (b"a", "query is b'a'; give one text"),
        ("", "query is empty"),
        (" \t\n", "query is empty"),
        ("\udfff", r"query holds '\\udfff', half of a surrogate pair"),
    ],
)
def test_u16_a_query_is_one_text(query, message):
    with pytest.raises(UserError, match=f"^{message}"):
        TEXTS.rank(query, FILMS)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ('{"text": "a", "id": "x"}\n{"text": "b", "id": "x"}', r":2: id 'x' is that of .*:1 too"),
        ('{"text": "a"}\n\n{"text": " "}', ":3: text is empty"),
        ('{"text": "a"}\n{"title": "b"}', ":2: unknown key 'title'; a document has 'text'"),
        ('{"text": "a"}\n{"text', ":2: broken JSON"),
    ],
)
def test_a_file_of_documents_says_which_line_is_none(tmp_path, rows, message):
    (tmp_path / "docs.jsonl").write_text(rows)
    with pytest.raises(UserError, match=f"docs.jsonl{message}"):
        words.documents(["c"], tmp_path / "docs.jsonl")


ANYTHING = st.recursive(
    st.none() | st.integers() | st.binary() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.sampled_from(["text", "id", "other"]), inner, max_size=3)
    ),
)


@settings(max_examples=50)
@given(ANYTHING, ANYTHING)
def test_u16_whatever_is_given_is_read_or_refused(query, documents):
    problem = ""
    try:
        read = read_request(query, documents)
        assert (read.query, len(read.documents)) == (query, len(documents))
        assert all(document.text.strip() for document in read.documents)
    except UserError as error:
        problem = str(error)
    assert re.match(r"$|(query|documents(\[\d\])?)(:| is| holds) ", problem)


@pytest.mark.parametrize(
    ("requests", "message"),
    [
        (None, "requests is None; give a list of pairs"),
        ("a film", "requests is 'a film'; give a list of pairs"),
        ({"a film": FILMS}, "requests is {'a film': .*; give a list of pairs"),
        (["ab"], r"requests\[0\] is 'ab'; give a pair"),
        ([("a film", FILMS), ("a film", FILMS, 3)], r"requests\[1\] is .*; give a pair"),
        ([("a film", FILMS), (" ", FILMS)], r"requests\[1\]: query is empty"),
    ],
)
def test_a_request_is_a_query_and_its_documents(requests, message):
    with pytest.raises(UserError, match=f"^{message}"):
        TEXTS.rank_many(requests)


def test_documents_that_do_not_fit_name_their_request():
    tight = Reranker(MODEL, TOKENIZER, PromptBuilder(TOKENIZER, TEXT, max_tokens=120), Independent())
    with pytest.raises(UserError, match=r"requests\[1\]: 30 candidates need at least \d+ tokens"):
        tight.rank_many([("a film", FILMS[:2]), ("a film", LONG[:1] * 30)])


def test_of_one_document_and_of_none_no_model_is_asked():
    unasked = Reranker(SimpleNamespace(), None, TEXTS.builder, Independent())
    assert unasked.rank("a film", []) == []
    assert unasked.rank("a film", [("x", "Alien")]) == [Ranked(1, 0, "Alien", by="alone", id="x")]
    assert unasked.rank_many([("a", []), ("b", ["Heat"])]) == [[], [Ranked(1, 0, "Heat", by="alone")]]
    assert unasked.rank_many([]) == []


# ---- the best few ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("top_n", [1, 3, len(FILMS), 100])
def test_top_n_gives_the_first_of_the_whole_ranking(top_n):
    whole = TEXTS.rank("a film", FILMS)
    assert TEXTS.rank("a film", FILMS, top_n=top_n) == whole[:top_n]
    assert sum(row.probability for row in whole) == pytest.approx(1)
    assert [len(found) for found in TEXTS.rank_many(REQUESTS, top_n=top_n)] == [
        min(top_n, len(documents)) for _, documents in REQUESTS
    ]


@pytest.mark.parametrize("top_n", [0, -1, True, False, 1.0, "3"])
def test_top_n_is_a_number_from_one(top_n):
    with pytest.raises(UserError, match=f"top_n is {top_n!r}; give a whole number from 1, or None"):
        TEXTS.rank("a film", FILMS, top_n=top_n)


def test_what_was_cut_is_said_of_the_rows_that_are_left():
    tight = Reranker(MODEL, TOKENIZER, PromptBuilder(TOKENIZER, TEXT, max_tokens=200), Independent())
    whole = tight.rank("a film", LONG)
    best = tight.rank("a film", LONG, top_n=2)
    assert [row.cut for row in best] == [row.cut for row in whole[:2]]
    assert best[0].cut > 0


def test_a_query_that_was_cut_is_said_of_documents_that_were_not():
    tight = Reranker(MODEL, TOKENIZER, PromptBuilder(TOKENIZER, TEXT, max_tokens=200), Independent())
    rows = tight.rank("a film about the moon " * 60, ["Heat", "Alien"])
    assert [row.cut for row in rows] == [0, 0]
    assert rows[0].query_cut == rows[1].query_cut > 100
    (note,) = notes_on(rows, 200)
    assert note.startswith(f"the query was cut to fit 200 tokens: its first {rows[0].query_cut} tokens are left out; ")
    assert notes_on(tight.rank("a film about the moon", ["Heat", "Alien"]), 200) == []


# ---- many at once ----------------------------------------------------------------------------------------------------


def close(one, other):
    """Whether two numbers are one up to the last bits of float32 sums (worth 3e-5 at 400 nats), or both None."""
    return one == other or math.isclose(one, other, abs_tol=1e-5, rel_tol=2e-7)


@pytest.mark.parametrize("mode", list(RANKING_MODES))
def test_many_requests_are_ranked_as_each_alone(mode):
    ranker = ranker_for(mode)
    together = ranker.rank_many(REQUESTS, mode)
    for (query, documents), found in zip(REQUESTS, together, strict=True):
        alone = ranker.rank(query, documents, mode)
        for one, other in zip(found, alone, strict=True):
            assert replace(one, score=None, probability=None) == replace(other, score=None, probability=None)
            assert close(one.score, other.score)
            assert close(one.probability, other.probability)
    assert [row.text for row in together[0]] == [row.text for row in together[-1]]


def test_many_requests_go_through_the_model_together(monkeypatch):

    asked, own = [], forward.score_lists
    monkeypatch.setattr(
        forward, "score_lists", lambda m, t, items, *a, **k: asked.append(len(items)) or own(m, t, items, *a, **k)
    )
    TEXTS.rank_many([("a film", FILMS)] * 12)
    assert sum(asked) == 12
    assert len(asked) < 6


def test_each_row_says_who_put_it_there():
    rows = TEXTS.rank("a film", FILMS, "generate")
    by = [row.by for row in rows]
    assert by == sorted(by, key=["model", "chance"].index)
    assert by[-1] == "chance"  # a model of random weights names hardly any
    assert [row.named for row in rows] == [one == "model" for one in by]
    assert rows[-1].note == "not named by the model"
    assert {row.by for row in TEXTS.rank("a film", FILMS)} == {"model"}
