"""A report as Markdown, LaTeX and CSV: worked by hand, read back by other readers, and under texts that break out."""

from __future__ import annotations

import csv as table_file
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from compare_reports import HOSTILE, hostile, report
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from irpo.compare.page import Cell, Column, Plain, Report, Table, TableRow
from irpo.compare.page import Test as Paired
from irpo.compare.writing import wording
from irpo.compare.writing.csvs import csv, stems
from irpo.compare.writing.latex import MOST_ROWS, document, latex
from irpo.compare.writing.markdown import markdown
from irpo.compare.writing.reading import read_report
from irpo.compare.writing.texts import write_texts
from irpo.types import UserError

SETTINGS = settings(max_examples=60, deadline=None)
TEXTS = st.one_of(
    st.sampled_from(HOSTILE),
    st.text(alphabet=st.sampled_from("ab \\`*_{}[]()<>#+-.!|~&$%^\"'=@:/0\n\t\r\u202eéΩ中ש👍"), max_size=12),
    st.text(max_size=8),
)

BEST = Cell(0.9756, 0.951, 0.989, 0.0041, 3, best=True, printed=0.482, tests=(), keys=("ab12", "cd34"))
LOWER = Cell(0.5, tests=(Paired("IRPO", -0.4756, -0.5, -0.4, 0.001, 0.004, -0.9),), second=True)
SMALL = Table(
    "arc",
    "Reasoning",
    (Column("arc", "NDCG@1"), Column("musique", "MRR")),
    (
        TableRow("random", "", (Cell(0.3), Cell(None)), "baseline"),
        TableRow("IRPO", "Llama", (BEST, Cell(1.0, best=True))),
        TableRow("SFT", "Llama", (LOWER, Cell(0.0)), strength="auto", marks=("2 of 3 seeds",)),
    ),
    ("10 candidates.",),
)


def named(text: str) -> Report:
    """A report in which every name and sentence is the text."""
    cells = (replace(BEST, tests=(Paired(text, 0.1, 0.0, 0.2, 0.01, 0.02, 0.5),)),)
    table = Table(text, text, (Column(text, text),), (TableRow(text, f"Llama {text}", cells, marks=(text,)),), (text,))
    plain = Plain(text, text, (text, text), ((text, 1.0), (text, text)), (text,))
    return Report(text, text, text, (table,), (plain,), notes=(text,))


def test_markdown_of_a_small_table():
    text = markdown(Report("Title", "About.", "Found.", (SMALL,)))

    assert text.split("\n")[:17] == [
        "# Title",
        "",
        "**Found.**",
        "",
        "About.",
        "",
        "## Reasoning",
        "",
        "| model | ranker | arc NDCG@1 | musique MRR |",
        "| --- | --- | ---: | ---: |",
        "|  | random | 0.300 | - |",
        "| Llama | IRPO | **0.976**<br><sub>0.951 to 0.989 ± 0.004</sub><br><sub>[paper: 0.482]</sub> | **1.000** |",
        "| Llama | SFT, strength auto <sup>1</sup> | <u>0.500</u> <sup>-</sup> | 0.000 |",
        "",
        "- <sup>1</sup> 2 of 3 seeds",
        "- bold: best of a column among the rows of one model; underlined: second best",
        "- + higher, - lower than IRPO (paired permutation test by group, q &lt; .05 after Benjamini-Hochberg, and a "
        "95 % interval over seeds and groups without 0)",
    ]


def test_latex_of_a_small_table():
    lines = latex(SMALL).split("\n")

    assert lines[lines.index(r"\toprule") : lines.index(r"\bottomrule")] == [
        r"\toprule",
        r" & \multicolumn{2}{c}{arc} & \multicolumn{2}{c}{musique} \\",
        r"\cmidrule(lr){2-3} \cmidrule(lr){4-5}",
        r" & \multicolumn{2}{c}{NDCG@1} & \multicolumn{2}{c}{MRR} \\",
        r"\midrule",
        r"random & 30.0 &  & - &  \\",
        r"\midrule",
        r"\multicolumn{5}{l}{\textit{Llama}} \\",
        r"\quad IRPO & \textbf{97.6} & {\scriptsize\,\textpm{} 0.4} & \textbf{100.0} &  \\",
        r"\quad \quad {\footnotesize\itshape paper} & {\footnotesize\itshape 48.2} & &  &  \\",
        r"\quad SFT, strength auto\textsuperscript{1} & \underline{50.0} & \textsuperscript{$-$} & 0.0 &  \\",
    ]


def test_csv_of_a_small_table():
    rows = list(table_file.DictReader(io.StringIO(csv(Report("", "", "", (SMALL,)))["arc.csv"])))

    assert len(rows) == 3 * 2
    assert [row["method"] for row in rows] == ["random", "random", "IRPO", "IRPO", "SFT", "SFT"]
    best, lower = rows[2], rows[4]
    assert (best["model"], best["task"], best["measure"], best["rank"]) == ("Llama", "arc", "NDCG@1", "best")
    assert (best["value"], best["low"], best["deviation"], best["printed"]) == ("0.9756", "0.951", "0.0041", "0.482")
    assert (best["keys"], best["q_against_IRPO"]) == ("ab12 cd34", "")
    assert (lower["strength"], lower["marks"], lower["star_against_IRPO"]) == ("auto", "2 of 3 seeds", "lower")
    assert (float(lower["difference_against_IRPO"]), float(lower["q_against_IRPO"])) == (0.5 - 0.9756, 0.004)
    assert rows[1]["value"] == ""


def test_formats_round_alike():
    for thousandths in range(10_000):
        value = thousandths / 10_000
        assert round(float(wording.number(value)) * 100, 1) == float(wording.number(value, percent=True))


def test_signs_tell_several_methods_apart():
    tests = (Paired("SFT", 0.1, 0.05, 0.2, 0.01, 0.02, 1), Paired("DPO", 0.1, 0.05, 0.2, 0.04, 0.06, 1))
    cell = Cell(0.5, tests=(*tests, Paired("IRPO", -0.1, -0.2, -0.05, 0.001, 0.002, -1)))

    assert wording.signs(cell, ("SFT", "DPO", "IRPO")) == "+a-c"
    assert Paired("SFT", 0.1, -0.01, 0.2, 0.01, 0.02, 1).star == ""  # other seeds might say otherwise
    many = tuple(f"m{i}" for i in range(60))
    assert len(set(wording.letters_of(many).values())) == 60


def test_a_report_comes_back_from_its_json():
    assert read_report(json.loads(json.dumps(report().as_dict()))) == report()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tables": [{"id": "a"}]}, r"report\.tables\[0\]: columns, rows, title missing or unknown"),
        ({"colour": 1}, "report: colour missing or unknown"),
        ({"notes": "text"}, r"report\.notes: this is no list"),
        ({"tables": [3]}, r"report\.tables\[0\]: this is no object"),
    ],
)
def test_a_damaged_report_is_refused(change, message):
    with pytest.raises(UserError, match=message):
        read_report(report().as_dict() | change)


class _Page(HTMLParser):
    """The cells of every table, and which elements there are."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.elements: set[str] = set()
        self.within = False  # a cell
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.elements.add(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self.within = True

    def handle_endtag(self, tag: str) -> None:
        self.within &= tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self.within:
            self.tables[-1][-1][-1] += data


READER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
OURS = {"h1", "h2", "p", "ul", "li", "strong", "u", "br", "sub", "sup", "details", "summary"}
OURS |= {"table", "thead", "tbody", "tr", "th", "td"}


@SETTINGS
@given(TEXTS)
def test_any_text_stands_in_markdown_as_it_is(text):
    page = _Page(READER.render(markdown(named(text))))

    # A heading or emphasis of nothing is no element, but one of ours or text.
    assert page.elements <= OURS | {"hr"}
    ranked, plain = page.tables
    name = wording.line(text)
    assert [len(row) for row in ranked] == [3, 3]
    assert ranked[1][:2] == [f"Llama {name}".strip(), f"{name} 1".strip()]
    assert [len(row) for row in plain] == [2, 2, 2]
    assert plain[1:] == [[name, "1.000"], [name, wording.plain(text)]]


@SETTINGS
@given(TEXTS)
def test_any_text_comes_back_from_csv(text):
    ranked, plain = (list(table_file.reader(io.StringIO(content))) for content in csv(named(text)).values())

    name = wording.line(text)
    assert ranked[1][1] in (name, f"'{name}")
    assert {len(row) for row in ranked} == {len(ranked[0])}
    assert {len(row) for row in plain} == {2}
    for value in (value for row in (*ranked, *plain) for value in row):
        assert value[:1] not in ("=", "+", "-", "@", "\t", "\r") or re.fullmatch(
            r"[-+]?[\d.]*(e[-+]?\d+)?", value, re.I
        )


@SETTINGS
@given(TEXTS)
def test_any_text_is_inert_in_latex(text):
    source = document(named(text))

    assert "\0" not in source
    body = source[source.index(r"\begin{document}") :]
    ours = {"begin", "end", "section", "medskip", "noindent", "textbf", "caption", "label", "centering", "setlength"}
    ours |= {"belowcaptionskip", "tabcolsep", "resizebox", "ifdim", "width", "linewidth", "else", "fi", "toprule"}
    ours |= {"midrule", "bottomrule", "cmidrule", "multicolumn", "textit", "quad", "scriptsize", "footnotesize"}
    ours |= {"itshape", "textsuperscript", "textpm", "par", "smallskip", "parbox", "raggedright", "clearpage", "item"}
    ours |= {"irpotext", "irpoleft", "char", "textless", "textgreater", "textbar", "textbackslash", "textasciitilde"}
    ours |= {"textasciicircum", "textasciigrave"}
    assert set(re.findall(r"\\([A-Za-z]+)", body)) <= ours
    assert set(re.findall(r"\\([^A-Za-z])", body)) <= set("{}$&#_%\\,")
    bare = re.sub(r"\\.", "", body, flags=re.DOTALL)
    assert bare.count("{") == bare.count("}")
    assert not {"#", "_", "~", "^"} & set(bare)
    assert _environments(body) == []
    wide = [line for line in bare.split("\n") if "&" in line]
    assert {line.count("&") for line in wide} <= {1, 2}  # the two tables have three and two columns


def _environments(source: str) -> list[str]:
    """What was begun and not ended."""
    begun: list[str] = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", source):
        if kind == "begin":
            begun.append(name)
        else:
            assert begun.pop() == name
    return begun


def test_letters_beyond_latin_come_with_their_code_points():
    table = Plain("p", "Café αβ", ("中",), (("👍\u200d\ufe0f",), ("ab שלום עולם cd",)))

    text = latex(table)

    assert r"Café \irpotext{αβ}{03B1,03B2}" in text
    assert r"\irpotext{中}{4E2D}" in text
    assert "{1F44D}" in text  # joiners are in no font
    assert r"ab \irpotext{\irpoleft{שלום עולם}}{05E9,05DC,05D5,05DD,05E2,05D5,05DC,05DD} cd" in text


def test_a_long_table_goes_on_over_several_pages():
    rows = tuple(TableRow(f"m{i}", "Llama", (Cell(0.5),)) for i in range(2 * MOST_ROWS + 1))

    text = latex(Table("t", "Title", (Column("arc", "MRR"),), rows))

    assert text.count(r"\begin{tabular}") == text.count(r"\multicolumn{3}{l}{\textit{Llama}}") == 3
    assert text.count(r"\caption{Title (continued)}") == 2
    assert text.count(r"\label{tab:t}") == text.count("In percent.") == 1
    assert [f"m{i} " in text for i in range(len(rows))] == [True] * len(rows)


def test_file_names_are_safe_and_distinct():
    ids = ["../../etc/passwd", "a/b", "a b", "A-B", "", "..", "report", "nul", "\u202e", "x" * 300, "a-b-2", "a\0b"]

    found = stems(ids)

    assert len({name.lower() for name in found}) == len(ids)
    assert all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,90}", name) for name in found)
    assert not {"report", "nul"} & set(found)


def test_all_texts_are_written(tmp_path):
    paths = write_texts(tmp_path, report())

    names = ["recommendation", "corners", "cost", "orders"]
    wanted = ["report.md", "tables/report.tex", *(f"tables/{name}.{kind}" for kind in ("tex", "csv") for name in names)]
    assert sorted(str(path.relative_to(tmp_path)) for path in paths) == sorted(wanted)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(paths)
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == markdown(report())


@pytest.mark.parametrize("text", HOSTILE)
def test_a_whole_report_holds_against_hostile_texts(text, tmp_path):
    tainted, _ = hostile(text)
    write_texts(tmp_path, tainted)

    page = _Page(READER.render((tmp_path / "report.md").read_text(encoding="utf-8")))
    assert not page.elements & {"script", "img", "svg", "b", "a"}
    plain = _Page(READER.render(markdown(report())))
    assert [len(table) for table in page.tables] == [len(table) for table in plain.tables]
    assert all(len({len(row) for row in table}) == 1 for table in page.tables)
    assert _environments((tmp_path / "tables" / "report.tex").read_text(encoding="utf-8")) == []


def test_what_a_report_tells_is_in_its_markdown():
    text = markdown(report())

    for source in report().sources:
        assert f"| {source.name} | {source.state}" in text
        assert source.key in text
    assert "failed: CUDA out of memory. Tried to allocate 2.00 GiB" in text
    assert "- commit: 0123456789abcdef" in text
    assert "Two panels, redial and inspired: all methods rise" in text
    assert "All its points are in report.json." in text  # of the scattered one
    assert "|  | 0 | 50 | 100 | 150 | 200 | 250 | 300 | 350 |" in text
    assert "Power: 500 groups and 3 seeds" in text
