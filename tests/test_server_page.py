"""The page in a browser: needs playwright and a Chromium, and is skipped where there is none."""

from __future__ import annotations

from html import escape

import pytest
from browser import HEARD
from served import FILMS, QUERY, FakeReranker, running

from irpo.server.app import create_app
from irpo.server.keys import Keys, _digest
from irpo.server.rankers import Rankers, Served

KEY = "0123456789abcdef"
HOSTILE = '<img src=x onerror="alert(1)"></textarea><script>alert(2)</script>'


@pytest.fixture(scope="module")
def fakes():
    return {"films": FakeReranker(), f"books {HOSTILE[:20]}": FakeReranker()}


@pytest.fixture(scope="module")
def here(fakes):
    app = create_app(Rankers(tuple(Served(*each) for each in fakes.items())), keys=Keys((_digest(KEY.encode()),)))
    with running(app) as server:
        yield server


@pytest.fixture
def page(chromium, here):
    """The page; when the test ends nobody else was asked for anything, and no rule was broken."""
    page = chromium.new_page()
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    page.add_init_script(HEARD)
    page.goto(here.url)
    yield page
    assert [url for url in requests if not url.startswith((here.url, "data:"))] == []
    assert page.evaluate("heard") == []
    page.close()


def told(page):
    """What the page says when it is done."""
    page.wait_for_selector("#rank:not([aria-disabled=true])")
    return page.locator("#status").inner_text()


def ranked(page):
    return page.locator("#ranking tbody tr td:nth-child(2)").all_inner_texts()


def filled(page, documents, query=QUERY, key=KEY):
    page.get_by_label("API key").fill(key)
    page.get_by_label("Query").fill(query)
    page.get_by_label("Documents").fill("\n".join(documents))


def test_documents_are_ranked_and_their_shares_shown(page):
    filled(page, [*FILMS, "", "  "])
    page.get_by_role("button", name="Rank").click()
    assert told(page).startswith("4 documents ranked by films in ")
    assert ranked(page) == [FILMS[j] for j in (2, 3, 1, 0)]
    assert page.locator("#ranking tbody tr td:nth-child(3)").all_inner_texts() == ["0.644", "0.237", "0.087", "0.032"]


def test_the_keyboard_is_enough(page):
    assert page.evaluate("document.activeElement.id") == "query"
    page.keyboard.type(QUERY)
    page.keyboard.press("Tab")
    page.keyboard.type("Heat\nSpaceballs")
    page.get_by_label("API key").fill(KEY)
    page.keyboard.press("Control+Enter")
    told(page)
    assert ranked(page) == ["Spaceballs", "Heat"]


def test_texts_stay_texts(page):
    filled(page, [HOSTILE, "Heat"], query=HOSTILE)
    page.get_by_role("button", name="Rank").click()
    told(page)
    assert ranked(page) == [HOSTILE, "Heat"]
    assert page.locator("img").count() == 0


def test_a_ranker_is_chosen_by_its_name_whatever_that_is(page, fakes):
    """Who has no key is told no name."""
    assert [name for name in fakes if escape(name) in page.content() or name in page.content()] == []
    filled(page, FILMS)
    page.get_by_label("Ranker").fill(list(fakes)[1])
    page.get_by_role("button", name="Rank").click()
    assert f"ranked by {list(fakes)[1]}" in told(page)


def test_without_keys_a_ranker_is_chosen_from_all(chromium, fakes):
    with running(create_app(Rankers(tuple(Served(*each) for each in fakes.items())))) as server:
        page = chromium.new_page()
        page.goto(server.url)
        assert page.get_by_label("Ranker").locator("option").all_inner_texts() == list(fakes)
        page.get_by_label("Query").fill(QUERY)
        page.get_by_label("Documents").fill("\n".join(FILMS))
        page.get_by_label("Ranker").select_option(index=1)
        page.get_by_role("button", name="Rank").click()
        assert f"ranked by {list(fakes)[1]}" in told(page)
        page.close()


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"documents": []}, "Write at least one document"),
        ({"documents": FILMS, "query": " "}, "Write what the documents"),
        ({"documents": FILMS, "key": "wrong"}, "Not ranked: this needs an API key"),
        ({"documents": ["word " * 40_000]}, "Not ranked: documents[0] has"),
    ],
)
def test_what_is_wrong_is_said_on_the_page(page, how, says):
    filled(page, **how)
    page.get_by_role("button", name="Rank").click()
    assert says in told(page)
    assert page.locator("#status").get_attribute("class") == "bad"
