"""What a table's cells spell, and which column is which."""

from __future__ import annotations

import pytest

from irpo.tasks._cells import MAX_CELL, list_cell
from irpo.tasks._columns import columns_of
from irpo.types import UserError


@pytest.mark.parametrize(
    ("cell", "found"),
    [
        ("[]", []),
        ("['a', 'b',]", ["a", "b"]),
        ("['it\\'s', \"x\\ty\"]", ["it's", "x\ty"]),
        ('["caf\\u00e9", "a\\/b"]', ["café", "a/b"]),
        ("[1, -2.5, 'x', None, nan]", [1, -2.5, "x", None, None]),
        ("['None, nan]', 'b']", ["None, nan]", "b"]),
        ("['null', null]", ["null", None]),
        ("['a',\n 'b']", ["a", "b"]),
    ],
)
def test_cells_that_spell_lists(cell, found):
    assert list_cell(cell) == found


@pytest.mark.parametrize(
    ("cell", "problem"),
    [
        ("['a' 'b']", "no comma before \"'b'\" at character 6"),
        ("[['a']]", "a list within a list at character 2"),
        ("[" * 100_000, "a list within a list at character 2"),
        ("['a'", "the list has no end"),
        ("['a", "at character 2 is nothing that a list"),
        ("['a']; print(1)", "';.*at character 6 is nothing"),
        ("['a'] + ['b']", "is nothing that a list of texts holds"),
        ("[__import__('os')]", "at character 2 is nothing that a list of texts holds"),
        ("['a'], 'b'", "stands behind the end"),
        ("['a', , 'b']", "a comma at character 7 with nothing before"),
        ("[f'a']", "is nothing that a list of texts holds"),
        ("[1.2.3]", "a list that cannot be read"),
        ("['\\x']", "a list that cannot be read"),
        ("[" + "1," * MAX_CELL + "1]", "at most 1000000 are read"),
        ("[" + "9" * 5000 + "]", "a list that cannot be read"),
    ],
)
def test_cells_that_do_not_are_one_line(cell, problem):
    with pytest.raises(UserError, match=problem) as raised:
        list_cell(cell)
    assert len(str(raised.value).splitlines()) == 1
    assert len(str(raised.value)) < 300


# ---- which column is which -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "given", "problem"),
    [
        ("query,doc,text,label", {}, "which column is the document, 'doc' or 'text'. give document=COLUMN"),
        (
            "a,b,c",
            {},
            "the columns are 'a', 'b', 'c': neither form is found in them; give query=COLUMN and document=COLUMN",
        ),
        ("a,b,c", {"document": "b", "label": "c"}, "the query. give query=COLUMN; the columns are 'a'"),
        ("query,text,label", {"label": "score"}, "label=score: there is no such column; the columns are 'query', 't"),
        ("query,text, label ", {"label": "lab"}, "label=lab: there is no such column; .* 'text', ' label '$"),
        ("query,text, y,y ", {"label": "y"}, "label=y: several columns are so named: ' y', 'y '$"),
        ("query,text,label,positives,negatives", {}, "either form is found in them"),
        ("query,text,positives", {"document": "text", "positives": "positives"}, "give the columns of one form"),
        ("query,positives,x", {"positives": "positives"}, "which column is the negatives?"),
    ],
)
def test_columns_that_cannot_be_told_are_listed(header, given, problem):
    with pytest.raises(UserError, match=problem):
        columns_of(given, header.split(","))


def test_columns_are_known_by_common_names():
    assert columns_of({}, ["Query-ID", "Search Query", "Doc_ID", "Passage", "Relevance", "notes"]) == {
        "query": "Search Query",
        "document": "Passage",
        "label": "Relevance",
        "query_id": "Query-ID",
        "document_id": "Doc_ID",
    }
    assert columns_of({"document": "text"}, ["query", "doc", "text", "label"])["document"] == "text"
