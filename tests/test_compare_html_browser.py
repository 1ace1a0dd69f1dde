"""The report in a browser: needs playwright and a Chromium, and is skipped where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser import HEARD
from compare_reports import HOSTILE, hostile, report, viewed

from irpo.compare.writing.html import write_html

pytestmark = pytest.mark.slow
READY = "html[data-viewer=ready]"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("reports")
    write_html(out / "plain.html", report(), viewed())
    write_html(out / "hostile.html", *hostile("".join(HOSTILE)))
    return out


@pytest.fixture
def opened(chromium, folder):
    """Opens one of the reports; when the test ends nothing was asked for and nothing was heard."""
    page = chromium.new_page()
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    page.add_init_script(HEARD)

    def go(name: str):
        page.goto((folder / name).as_uri())
        page.wait_for_selector(READY, state="attached")
        return page

    yield go
    assert [url for url in requests if not url.endswith(".html")] == []
    assert page.evaluate("heard") == []
    page.close()


def column(page, place: int) -> list[str]:
    """A column's figures in the first model's group, as they stand now."""
    body = page.locator("table.results").first.locator("tbody").nth(1)
    return body.locator(f"tr td:nth-child({place + 1}) .value").all_inner_texts()


def test_a_header_sorts_within_the_groups_down_up_and_back(opened):
    page = opened("plain.html")
    header = page.locator("table.results th[aria-sort]").nth(3)
    given = column(page, 3)
    header.locator("button").focus()
    page.keyboard.press("Enter")
    assert header.get_attribute("aria-sort") == "descending"
    assert column(page, 3) == sorted(given, reverse=True) != given
    page.keyboard.press("Enter")
    assert column(page, 3) == sorted(given)
    page.keyboard.press("Enter")
    assert column(page, 3) == given
    assert header.get_attribute("aria-sort") == "none"


def test_what_is_not_measured_stands_last_whichever_way(opened):
    page = opened("plain.html")
    button = page.locator("table.results th[aria-sort]").nth(1).locator("button")
    for _ in range(2):
        button.click()
        assert (
            "not measured" in page.locator("table.results tbody").nth(1).locator("tr td:nth-child(2)").last.inner_text()
        )


def test_a_figure_opens_its_tests_and_leads_to_its_cells(opened):
    page = opened("plain.html")
    cell = page.locator("td:has(sup) a.value").first
    cell.click()
    told = page.locator("#detail")
    assert "deviation between seeds" in told.inner_text()
    assert told.locator("tbody tr").count() == 2
    told.locator("a").click()
    assert not told.is_visible()
    assert page.url.endswith(cell.get_attribute("href"))


def test_intervals_and_colours_switch(opened):
    page = opened("plain.html")
    interval = page.locator(".interval").first
    assert not interval.is_visible()
    page.get_by_label("show 95 % intervals").check()
    assert interval.is_visible()
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    page.get_by_label("Colours").select_option("dark")
    assert page.evaluate(ground) != light


def test_the_lists_are_filtered_searched_and_walked_by_keys(opened):
    page = opened("plain.html")
    count = page.locator("#count")
    assert count.inner_text() == "24 of 24 lists; 5 more are not in this page"
    page.locator("#by-task").select_option("inspired")
    assert count.inner_text().startswith("12 of 24 lists")
    page.locator("#by-kind").select_option("problems")
    assert count.inner_text().startswith("3 of 24 lists")  # 1, 5 and 9
    page.locator("#rows").focus()
    page.keyboard.press("j")
    assert page.locator("#list h3").inner_text() == "inspired inspired-5"
    assert "parse problem: unknown label 9" in page.locator("#list").inner_text()
    assert page.locator("#rows").get_attribute("aria-activedescendant") == "row-1"
    page.keyboard.press("ArrowUp")
    page.keyboard.press("k")
    assert page.locator("#list h3").inner_text() == "inspired inspired-1"
    page.keyboard.press("/")
    page.keyboard.type("FILM 9")
    page.get_by_text("1 of 24 lists").wait_for()
    assert page.locator("#list h3").inner_text() == "inspired inspired-9"


def test_a_beats_b_holds_the_lists_on_which_it_does(opened):
    page = opened("plain.html")
    ours, theirs = viewed()[0].rankers[3], viewed()[0].rankers[1]
    page.locator("#by-task").select_option("redial")
    page.locator("#by-kind").select_option("beats")
    page.locator("#ranker-a").select_option(f"{ours.name} · {ours.model}")
    page.locator("#ranker-b").select_option(f"{theirs.name} · {theirs.model}")
    better = sum(a > b for a, b in zip(ours.values, theirs.values, strict=True))
    assert 0 < better < 12
    assert page.locator("#count").inner_text().startswith(f"{better} of 24 lists")


def test_hostile_texts_do_nothing_and_can_be_read(opened):
    page = opened("hostile.html")
    page.locator("td:has(sup) a.value").first.click()
    assert "<script>alert(1)</script>" in page.locator("#detail h3").inner_text()
    page.keyboard.press("Escape")
    page.locator("#rows").focus()
    for _ in range(12):
        page.keyboard.press("j")
    assert "<img src=x onerror=alert(3)>" in page.locator("#list blockquote").inner_text()
    assert page.locator("img, iframe, main script:not([type]), [onerror], [onload], [onfocus]").count() == 0


@pytest.mark.parametrize("name", ["plain.html", "hostile.html"])
def test_a_phone_does_not_scroll_sideways(opened, name):
    page = opened(name)
    page.set_viewport_size({"width": 390, "height": 844})
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
