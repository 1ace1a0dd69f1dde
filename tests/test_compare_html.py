"""The report as one HTML file: what it holds, what it does not load, and texts that try to become a part of it."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import pytest
from compare_reports import HOSTILE, hostile, report, viewed

from irpo.compare.page import Report
from irpo.compare.writing import plots
from irpo.compare.writing.html import page, seen, write_html
from irpo.compare.writing.wording import line
from irpo.resources import report_dir

NAMED = ("aria-labelledby", "aria-describedby", "for")  # attributes that hold ids
VOID = {"meta", "input", "br", "hr", "img", "link"}


class Element:
    """A tag with what stands in it."""

    def __init__(self, tag: str, attributes: dict[str, str | None], parent: Element | None) -> None:
        self.tag, self.attributes, self.parent = tag, attributes, parent
        self.children: list[Element | str] = []

    def all(self, tag: str = "", **wanted: str) -> list[Element]:
        """The elements below, in order, of a tag and with certain attributes (`class_` for one of the classes)."""
        return [e for e in self._below() if tag in ("", e.tag) and all(e.has(*pair) for pair in wanted.items())]

    def has(self, name: str, value: str) -> bool:
        found = self.attributes.get(name.rstrip("_").replace("_", "-"))
        return value in (found or "").split() if name == "class_" else found == value

    def _below(self):
        for child in self.children:
            if isinstance(child, Element):
                yield child
                yield from child._below()

    @property
    def text(self) -> str:
        return "".join(child if isinstance(child, str) else child.text for child in self.children)

    @property
    def within(self) -> list[str]:
        return [self.tag, *(self.parent.within if self.parent else [])]


class Tree(HTMLParser):
    """A page as elements; a tag that is closed in the wrong place fails."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.root = self.at = Element("", {}, None)
        self.feed(text)
        self.close()
        assert self.at is self.root, f"<{self.at.tag}> is never closed"

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), f"<{tag}> has an attribute twice: {attrs}"
        element = Element(tag, dict(attrs), self.at)
        self.at.children.append(element)
        if tag not in VOID:
            self.at = element

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert tag == self.at.tag, f"</{tag}> closes <{self.at.tag}>"
        self.at = self.at.parent

    def handle_data(self, data):
        self.at.children.append(data)


@cache
def plain() -> str:
    return page(report(), viewed())


@cache
def root() -> Element:
    return Tree(plain()).root


def by_id(id: str) -> Element:
    (found,) = root().all(id=id)
    return found


def cell_of(row_name: str, column: int, table: int = 0) -> Element:
    rows = root().all("table", class_="results")[table].all("tr")
    row = next(r for r in rows if r.all("th", scope="row") and r.all("th", scope="row")[0].text.startswith(row_name))
    return row.all("td")[column]


def unpacked(block: Element):
    return json.loads(gzip.decompress(base64.b64decode(block.text)))


def test_it_loads_nothing_from_elsewhere():
    for element in root().all():
        assert element.tag not in ("link", "iframe", "img", "object", "embed", "base", "form") or "filters" in str(
            element.attributes.get("class")
        )
        for name, value in element.attributes.items():
            assert name not in ("src", "srcset", "data", "action", "poster", "style") or element.tag in SVG
            if name.endswith("href"):
                assert value.startswith("#")
    (style,) = root().all("style")
    assert "@import" not in style.text
    assert "url(" not in style.text


def test_its_own_rule_lets_no_other_script_run_and_nothing_be_asked_for():
    (rule,) = root().all("meta", http_equiv="Content-Security-Policy")
    (script,) = [s for s in root().all("script") if not s.attributes]
    digest = base64.b64encode(hashlib.sha256(script.text.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in rule.attributes["content"]
    assert "default-src 'none'" in rule.attributes["content"]
    assert {s.attributes.get("type") for s in root().all("script")} == {None, "text/plain"}


def test_every_link_leads_to_an_id_and_every_id_is_there_once():
    ids = [element.attributes["id"] for element in root().all() if "id" in element.attributes]
    assert len(ids) == len(set(ids))
    used = [v for e in root().all() for n, v in e.attributes.items() if n.endswith("href")]
    used += [f"#{v}" for e in root().all() for n in NAMED for v in (e.attributes.get(n) or "").split()]
    used.remove("#detail-title")  # of the dialog, which is filled when it opens
    assert {target.removeprefix("#") for target in used} <= set(ids)


def test_the_parts_stand_in_order_as_landmarks():
    assert [e.tag for e in root().all() if e.tag in ("header", "nav", "main", "footer")] == [
        "header",
        "nav",
        "main",
        "footer",
    ]
    (header,) = root().all("header")
    assert header.all("h1")[0].text == report().title
    assert header.all("p", class_="found")[0].text == report().found
    sections = [s.attributes["id"] for s in root().all("section")]
    assert sections == ["tables", "figures", "lists", "data", "provenance", "notes"]
    assert all(note in by_id("notes").text for note in report().notes)
    assert root().all("a")[0].attributes == {"class": "skip", "href": "#main"}


def test_tables_have_captions_scopes_and_headers_that_sort():
    for table in by_id("tables").all("table"):
        assert len(table.all("caption")) == 1
        assert all(th.attributes.get("scope") for th in table.all("th"))
        sortable = [th for th in table.all("th") if "aria-sort" in th.attributes]
        width = len(next(tr for tr in table.all("tr") if tr.all("td")).children) - 1
        assert len(sortable) == len([th for th in table.all("th") if th.attributes["scope"] == "col"])
        assert all(len(th.all("button")) == 1 and th.attributes["aria-sort"] == "none" for th in sortable)
        assert width
        assert table.parent.has("class_", "scroll")
        assert table.parent.attributes["tabindex"] == "0"


def test_the_header_has_tasks_above_measures():
    table = root().all("table", class_="results")[0]
    tasks = [(th.text, th.attributes["colspan"]) for th in table.all("th", scope="colgroup")]
    assert tasks == [("redial", "3"), ("inspired", "3")]
    measures = [th.all("button")[0].text for th in table.all("th", scope="col")]
    assert measures == ["Method", *("NDCG@1", "NDCG@5", "NDCG@10") * 2]


def test_rows_stand_by_model_and_baselines_apart():
    table = root().all("table", class_="results")[0]
    groups = [body.all("th", scope="rowgroup")[0].text for body in table.all("tbody")]
    assert groups == ["Baselines", "Llama-3.2-3B-Instruct", "Gemma-2-2B-it", "Other rankers"]
    assert [len(body.all("tr")) - 1 for body in table.all("tbody")] == [3, 7, 7, 1]


def test_a_cell_says_its_figure_its_interval_its_tests_and_the_papers_figure():
    cell = cell_of("DPO", 0)
    told = report().tables[0].rows[6].cells[0]
    (link,) = cell.all("a", class_="value")
    assert link.text == f"{told.value:.3f}"
    assert f"95 % interval {told.low:.3f} to {told.high:.3f}" in link.attributes["title"]
    assert cell.all("span", class_="interval")[0].text == f"{told.low:.3f}\u2013{told.high:.3f}"
    assert cell.all("span", class_="paper")[0].text == f"paper {told.printed:.3f}"
    assert cell.all("sup")[0].text == "+a\u2212b"
    assert "significantly above SFT; significantly below IRPO" in cell.text
    assert float(cell.attributes["data-value"]) == told.value


def test_best_and_second_are_said_and_shown():
    rows = {row.name: row for row in report().tables[1].rows}
    assert rows["lowest"].cells[1].best
    best, second = cell_of("lowest", 1, table=1), cell_of("half known", 0, table=1)
    assert best.all("a", class_="best")[0].text == "1.000"
    assert "best" in best.text
    assert second.all("a", class_="second")[0].text == "0.125"
    missing = cell_of("half known", 1, table=1)
    assert missing.text.split() == ["\u2013not", "measured"]
    assert missing.attributes["data-value"] == ""


def test_marks_are_footnotes():
    table = root().all("table", class_="results")[0]
    name = next(th for th in table.all("th", scope="row") if th.text.startswith("SFT"))
    notes = [by_id(a.attributes["href"][1:]).text for a in name.all("a")]
    assert notes == ["2 of 3 seeds", "failed on redial: CUDA out of memory"]


def test_every_figure_leads_to_the_cells_that_it_comes_from():
    for outer, table in enumerate(report().tables):
        for place, row in enumerate(table.rows):
            for column, cell in enumerate(row.cells):
                if cell.value is None:
                    continue
                (link,) = root().all("a", data_at=f"{outer},{place},{column}")
                body = by_id(link.attributes["href"][1:])
                assert link.text == f"{cell.value:.3f}"
                assert all(key in body.text for key in cell.keys)


def test_every_source_is_described_once_with_what_made_it():
    rows = {row.all("th")[0].text: row for row in by_id("provenance").all("tr") if len(row.all("td")) == 4}
    assert len(rows) == len(report().sources)
    for source in report().sources:
        row = rows[source.key]
        assert source.name in row.text
        assert source.state in row.text
        assert source.error in row.text
    seeds = {json.loads(rows[s.key].all("pre")[0].text)["seed"] for s in report().sources if "seed" in s.made}
    assert seeds == {0, 1, 2}  # what they have in common is said once, above
    assert "0123456789abcdef" in by_id("provenance").all("dl")[0].text


SVG = {"svg", "g", "path", "defs", "use", "text", "tspan", "clippath", "rect", "pattern"}


def test_every_panel_has_words_and_a_table_in_its_stead():
    drawn = root().all("figure")
    assert len(drawn) == len(report().figures)
    for element, figure in zip(drawn, report().figures, strict=True):
        images = element.all(role="img")
        assert len(images) == len(figure.panels)
        for image, panel in zip(images, figure.panels, strict=True):
            assert figure.title in image.attributes["aria-label"]
            assert panel.title in image.attributes["aria-label"]
            assert by_id(image.attributes["aria-describedby"]).text == figure.alt
        assert all(len(image.all("svg")) == 1 for image in images)
        points = sum(len(series.points) for panel in figure.panels for series in panel.series)
        assert len(element.all("details")[0].all("tbody")[0].all("tr")) == points
        names = {series.name for panel in figure.panels for series in panel.series}
        assert {item.text.strip() for item in element.all("ul", class_="legend")[0].all("li")} == names


def test_drawings_take_their_colours_from_the_page():
    drawings = [e for figure in root().all("figure") for e in figure.all() if "svg" in e.within]
    assert {e.tag for e in drawings} <= SVG
    attributes = " ".join(str(v) for e in drawings for v in e.attributes.values())
    assert "var(--series-0)" in attributes
    assert not re.search(r"#[0-9a-f]{6}\b", attributes.replace("url(#", "").replace("#figure", ""))


def test_a_series_looks_the_same_in_every_figure_and_unlike_the_others():
    names = plots.names_of(report().figures)
    assert list(names) == ["SFT", "DPO", "IRPO", "base"]
    for kind in ("line", "scatter"):
        looks = [re.sub('id="[^"]+"|#x[^)"]+', "", plots.swatch(kind, number, "x")) for number in range(40)]
        assert len(set(looks)) == 40
        assert len({re.sub(r"var\(--series-\d\)", "", look) for look in looks}) > 4  # not by colour alone


def test_equal_reports_give_equal_bytes_in_another_process():
    imports = "from compare_reports import *; from irpo.compare.writing.html import page"
    code = f"{imports}; print(page(report(), viewed()), end='')"
    tests = Path(__file__).parent
    env = os.environ | {"PYTHONHASHSEED": "7", "PYTHONUTF8": "1", "PYTHONPATH": f"{tests.parent}{os.pathsep}{tests}"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, encoding="utf-8")
    assert done.stdout == plain(), done.stderr


def test_the_lists_travel_whole():
    blocks = root().all("script", class_="lists")
    for block, task in zip(blocks, viewed(), strict=True):
        told = unpacked(block)
        assert told["queries"] == list(task.queries)
        assert told["texts"] == [list(texts) for texts in task.texts]
        assert told["relevance"] == [list(labels) for labels in task.relevance]
        assert told["left_out"] == task.left_out
        for one, ranker in zip(told["rankers"], task.rankers, strict=True):
            assert one["orders"] == [list(order) for order in ranker.orders]
            assert one["values"] == list(ranker.values)
            assert {int(at): text for at, text in one["problems"].items()} == ranker.problems


def test_a_report_of_nothing_is_a_page(tmp_path):
    empty = Report("Nothing", "", "Nothing was measured.", ())
    write_html(tmp_path / "report.html", empty, ())
    tree = Tree((tmp_path / "report.html").read_text(encoding="utf-8")).root
    assert "No figures were made." in tree.text
    assert "No lists were kept" in tree.text
    assert not tree.all(id="viewer")


def shape(tree: Element) -> list[tuple[str, tuple[str, ...]]]:
    """Every element outside of drawings with the names of its attributes."""
    return [(e.tag, tuple(sorted(e.attributes))) for e in tree.all() if "svg" not in e.within]


def test_hostile_texts_add_no_element_and_no_attribute():
    text = "".join(HOSTILE)
    tree = Tree(page(*hostile(text))).root
    assert shape(tree) == shape(Tree(page(*hostile(" harmless"))).root)
    assert {e.tag for e in tree.all() if "svg" in e.within} <= SVG
    assert not [n for e in tree.all() for n in e.attributes if n.startswith("on")]
    shown = seen(text)
    assert tree.all("h1")[0].text == report().title + shown
    assert f"IRPO{shown}" in tree.text
    assert unpacked(tree.all("script", class_="lists")[0])["queries"][0] == viewed()[0].queries[0] + shown


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_name_is_words_in_a_drawing(text):
    figure, _ = hostile(text)[0].figures[1:]
    named = replace(figure.panels[0], title=text)
    svg = plots.panel_svg(figure, named, plots.names_of([figure]), "x")
    tree = Tree(svg).root
    assert {e.tag for e in tree.all()} <= SVG
    assert line(text) in [e.text for e in tree.all("text")]


@pytest.mark.parametrize("text", HOSTILE)
def test_what_cannot_be_seen_is_shown_as_a_sign(text):
    assert all(c == "\n" or c == "\t" or (c.isprintable() and not "\u202a" <= c <= "\u2069") for c in seen(text))


def luminance(colour: str) -> float:
    """Of sRGB (WCAG 2.2, relative luminance)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


PAIRS = [(name, ground) for name in ("ink", "muted", "link", "bad") for ground in ("paper", "raised")]
PAIRS += [("good-ink", "good"), ("some-ink", "some"), ("ink", "some")]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_colours_stand_out(scheme):
    css = (report_dir() / "report.css").read_text(encoding="utf-8")
    colours = {name: pair.split(", ")[scheme] for name, pair in re.findall(r"--([\w-]+): light-dark\((.+?)\)", css)}
    assert contrast("#000000", "#ffffff") == 21
    assert all(contrast(colours[a], colours[b]) >= 4.5 for a, b in PAIRS)  # WCAG AA, text
    assert all(contrast(colours[f"series-{i}"], colours["paper"]) >= 3 for i in range(len(plots.SERIES)))  # drawings
    if scheme == 0:
        assert [colours[f"series-{i}"] for i in range(len(plots.SERIES))] == list(plots.SERIES)
