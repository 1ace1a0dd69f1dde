"""One's own tables as lists: both forms, and what is wrong in which line."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
from handmade import build
from small_collection import write

from irpo.tasks import Intake
from irpo.tasks._columns import columns_of
from irpo.tasks.table import AGAIN, ALIKE, TOO_FEW, UNLABELLED
from irpo.types import UserError

LONG = '''query_id,query,document_id,document,label
q1,"a lamp, for reading",a,"A lamp on a clamp,
for the edge of a desk",2
q1,"a lamp, for reading",b,"A candle called ""Moon""",0.5
q1,"a lamp, for reading",c,A rug,0
q2,a chair,d,A stool of beech,1
q2,a chair,c,A rug,0
'''
WIDE = """query,positives,negatives
a warm coat,"['A parka', ""A coat of boiled wool""]","['A cap', 'A ""thin"" scarf']"
boots,"[""Hiking boots""]","[""Slippers"", ""Socks"", null]"
"""


def labels(example):
    return {c.text: c.relevance for c in example.candidates}


def everything(name: str, data: Path | str, intake: Intake | None = None, **options):
    """Lists by id of one file as an evaluation split."""
    return {e.id: e for e in build(name, data, intake, split="eval", **options)["eval"]}


# ---- a row for each document -----------------------------------------------------------------------------------------


def test_rows_of_one_query_are_one_list(tmp_path):
    lists = everything("table", write(tmp_path / "judged.csv", "\ufeff" + LONG))
    assert list(lists) == ["q1", "q2"]
    assert lists["q1"].query == "a lamp, for reading"
    found = {c.id: (c.text, c.relevance) for c in lists["q1"].candidates}
    assert found == {
        "a": ("A lamp on a clamp,\nfor the edge of a desk", 2),
        "b": ('A candle called "Moon"', 0.5),
        "c": ("A rug", 0),
    }


def test_the_same_lists_from_every_form(tmp_path):
    lines = ("query,text,rating", "pens,A quill,3", "pens,A brush,0", "ink,Soot,1", "ink,Tea,0")
    rows = [line.split(",") for line in lines]
    expected = everything("table", write(tmp_path / "a.csv", "".join(",".join(r) + "\n" for r in rows)))
    assert [labels(e) for e in expected.values()] == [{"A quill": 3, "A brush": 0}, {"Soot": 1, "Tea": 0}]
    for name, between in (("b.csv", ";"), ("c.csv", "|"), ("d.tsv", "\t")):
        assert everything("table", write(tmp_path / name, "".join(between.join(r) + "\r\n" for r in rows))) == expected
    table = pa.table({name: [row[i] for row in rows[1:]] for i, name in enumerate(rows[0])})
    pyarrow.parquet.write_table(table, tmp_path / "e.parquet")
    assert everything("table", tmp_path / "e.parquet") == expected


def test_a_tsv_that_pandas_wrote_is_read_as_it_was(tmp_path):
    pandas = pytest.importorskip("pandas")
    texts = ['He said "hi"', "Ocean's Eleven", '"Heat"', '""', "plain"]
    long = pandas.DataFrame({"query": "q", "text": texts, "label": range(5)})
    wide = pandas.DataFrame({"query": ["q"], "positives": [texts[:3]], "negatives": [texts[4:]]})
    for frame in (long, wide):
        frame.to_csv(tmp_path / "a.tsv", sep="\t", index=False)
        frame.to_csv(tmp_path / "a.csv", index=False)
        (one,), (other,) = (everything("table", tmp_path / name).values() for name in ("a.tsv", "a.csv"))
        assert labels(one) == labels(other)
        assert labels(one).keys() >= {*texts[:3], "plain"}
    plain = write(tmp_path / "plain.tsv", 'query\ttext\tlabel\nq\t"Heat" and "Alien"\t1\nq\t"Up"\t0\n')
    (example,) = everything("table", plain).values()
    assert labels(example) == {'"Heat" and "Alien"': 1, '"Up"': 0}


def test_cells_that_hold_nothing_are_no_texts(tmp_path):
    content = "query,pos,neg\nq,['x'],nan\nq,['x'],None\nr,['x'],\"['y', 'z']\"\n"
    (example,) = everything("table", write(tmp_path / "t.csv", content)).values()
    assert labels(example) == {"x": 1, "y": 0, "z": 0}


def test_the_group_of_most_rows_is_a_lists(tmp_path):
    intake = Intake(skip_bad_rows=True)
    path = write(tmp_path / "t.csv", "query,text,label,group\nq,x,1,u1\nq,y,0,u2\nq,z,1,u2\n")
    (example,) = everything("table", path, intake).values()
    assert (example.group, labels(example)) == ("u2", {"y": 0, "z": 1})
    assert len(intake.bad_rows) == 1


@pytest.mark.parametrize("text", ['("Heat") is a film', '{"a": 1}', '{"name": "x"} as JSON', "(Heat)"])
def test_a_text_that_only_looks_like_a_tuple_is_a_text(tmp_path, text):
    table = pa.table({"query": ["q"], "positives": [text], "negatives": ["other"]})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    (example,) = everything("table", tmp_path / "t.parquet").values()
    assert labels(example) == {text: 1, "other": 0}


def test_bytes_are_no_text(tmp_path):
    table = pa.table({"query": [b"q", b"q"], "text": [b"x", b"y"], "label": [1, 0]})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(UserError, match=r"t\.parquet:1: 'query' is b'q'; it must be a text"):
        everything("table", tmp_path / "t.parquet")


def test_rows_that_stand_apart_are_gathered(tmp_path):
    header, *rows = LONG.replace(",\nfor", " for").splitlines()
    apart = "\n".join([header, rows[0], rows[3], rows[1], rows[4], rows[2]]) + "\n"
    together = write(tmp_path / "a.csv", "\n".join([header, *rows]) + "\n")
    assert everything("table", write(tmp_path / "b.csv", apart), shuffle=False) == everything(
        "table", together, shuffle=False
    )


def test_without_ids_texts_are_their_own_names(tmp_path):
    rows = "why,because,1\nwhy,perhaps,0\nwho,because,0\nwho,she,1\n"
    path = write(tmp_path / "a.csv", "question,passage,relevance\n" + rows)
    lists = list(everything("table", path).values())
    names = [{c.text: c.id for c in e.candidates} for e in lists]
    assert names[0]["because"] == names[1]["because"] != names[0]["perhaps"]
    assert len({e.id for e in lists}) == len({e.unit for e in lists}) == 2


def test_what_makes_no_list_is_counted(tmp_path):
    rows = ["one,a,1", "none,a,0", "none,b,0", "same,a,1", "same,b,1", "good,a,1", "good,a,1", "good,b,0"]
    intake = Intake()
    lists = everything("table", write(tmp_path / "a.csv", "query,text,label\n" + "\n".join(rows) + "\n"), intake)
    assert [e.query for e in lists.values()] == ["good"]
    assert intake.dropped["eval"] == {TOO_FEW: 1, UNLABELLED: 1, ALIKE: 1, AGAIN: 1}


def test_parts_are_set_aside_by_a_hash(tmp_path):
    rows = "".join(f"query {n},good {n},1\nquery {n},bad {n},0\n" for n in range(60))
    path = write(tmp_path / "all.csv", "query,text,label\n" + rows + "broken,x,y\n")
    intake = Intake(skip_bad_rows=True)
    lists = build("table", path, intake, eval_fraction=0.3)
    train, held = ({e.query for e in lists[split]} for split in ("train", "eval"))
    assert len(train) + len(held) == 60
    assert not train & held
    assert 8 < len(held) < 30
    assert intake.bad_count == 1
    assert intake.notes == ["no evaluation split in the data: 0.3 of the queries set aside, by a hash"]
    assert list(build("table", path, Intake(skip_bad_rows=True), eval_fraction=0)) == ["train"]
    write(tmp_path / "two" / "train.csv", "query,text,label\n" + rows)
    write(tmp_path / "two" / "test.csv", "query,text,label\nnew,a,1\nnew,b,0\n")
    assert {split: len(found) for split, found in build("table", tmp_path / "two").items()} == {"train": 60, "eval": 1}


# ---- a row for each query --------------------------------------------------------------------------------------------


def test_lists_in_cells(tmp_path):
    path = write(tmp_path / "a.csv", WIDE)
    coats, boots = everything("table", path).values()
    assert labels(coats) == {"A parka": 1, "A coat of boiled wool": 1, "A cap": 0, 'A "thin" scarf': 0}
    assert labels(boots) == {"Hiking boots": 1, "Slippers": 0, "Socks": 0}
    columns = {"query": ["boots"], "positives": [["Hiking boots"]], "negatives": [["Slippers", "Socks", None]]}
    pyarrow.parquet.write_table(pa.table(columns), tmp_path / "a.parquet")
    assert list(everything("table", tmp_path / "a.parquet").values()) == [boots]


def test_the_official_codes_columns_and_others_need_no_option(tmp_path):
    rows = "full_situation,preferred,rejected\nQuestion: What floats?,['A cork'],\"['A nail', 'A brick']\"\n"
    (only,) = everything("table", write(tmp_path / "a.csv", rows)).values()
    assert labels(only) == {"A cork": 1, "A nail": 0, "A brick": 0}
    films = ",movies,full_situation,suggested\n0,\"['Film A']\",a wish,\"['Film B', 'film  b']\"\n"
    intake = Intake()
    named = {"positives": "movies", "negatives": "suggested"}
    (only,) = everything("table", write(tmp_path / "b.csv", films), intake, **named).values()
    assert labels(only) == {"Film A": 1, "Film B": 0}
    assert intake.dropped["eval"] == {"candidate with the text of another one in its list": 1}
    triplets = "anchor,positive,negative\nwhat floats,a cork,a nail\n"
    (only,) = everything("table", write(tmp_path / "c.csv", triplets)).values()
    assert labels(only) == {"a cork": 1, "a nail": 0}


TRIPLES = "qid,query,positive,negative\n"


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (0, 4, 1, 2, 3)], ids=["together", "apart"])
def test_rows_of_one_query_id_are_one_list(tmp_path, order):
    rows = ("1,lamps,a lamp,a rug", "1,lamps,a lamp,a chair", "1,lamps,a torch,A  Rug", "1,lamps,a lamp,a rug")
    rows = (*rows, "2,chairs,a stool,a rug")
    intake = Intake()
    lists = everything("table", write(tmp_path / "a.csv", TRIPLES + "\n".join(rows[n] for n in order)), intake)
    assert {name: labels(e) for name, e in lists.items()} == {
        "1": {"a lamp": 1, "a torch": 1, "a rug": 0, "a chair": 0},
        "2": {"a stool": 1, "a rug": 0},
    }
    assert intake.dropped["eval"] == {AGAIN: 1}


def test_sides_in_rows_of_their_own_are_one_list(tmp_path):
    path = write(tmp_path / "a.csv", TRIPLES + "1,lamps,a lamp,\n1,lamps,,a rug\n2,chairs,a stool,\n")
    intake = Intake()
    (lamps,) = everything("table", path, intake).values()
    assert labels(lamps) == {"a lamp": 1, "a rug": 0}
    assert intake.dropped["eval"] == {TOO_FEW: 1}


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("1,lamps,A RUG,a chair", "t.csv:3: 'A RUG' has label 1 here and 0 in line 2"),
        ("1,chairs,a stool,a rug", "t.csv:3: query id '1' stands for another query in line 2"),
        (r"""1,lamps,"['\udfff']",a chair""", "t.csv:3: 'positive': item 1 holds '.+', half of a surrogate pair"),
    ],
)
def test_rows_of_one_query_id_that_contradict_each_other_are_bad(tmp_path, row, problem):
    path = write(tmp_path / "t.csv", f"{TRIPLES}1,lamps,a lamp,a rug\n{row}\n1,lamps,a torch,a rug\n")
    with pytest.raises(UserError, match=problem):
        everything("table", path)
    intake = Intake(skip_bad_rows=True)
    (lamps,) = everything("table", path, intake).values()
    assert labels(lamps) == {"a lamp": 1, "a torch": 1, "a rug": 0}
    assert intake.bad_count == 1


def test_position_tells_nothing_unless_it_is_asked_to(tmp_path):
    rows = "".join(f"q{n},\"['good']\",\"['b1', 'b2', 'b3']\"\n" for n in range(40))
    path = write(tmp_path / "a.csv", "query,positives,negatives\n" + rows)
    first = [e.candidates[0].relevance for e in everything("table", path).values()]
    assert 2 < sum(first) < 20
    assert all(e.candidates[0].relevance for e in everything("table", path, shuffle=False).values())


def test_blanks_around_a_columns_name_need_not_be_given(tmp_path):
    given = {"query": "asked", "document": " shown", "label": "worth"}
    header = ["asked ", " shown", "worth", " worth"]
    assert columns_of(given, header) == {"query": "asked ", "document": " shown", "label": "worth"}
    path = write(tmp_path / "a.csv", " asked, shown , worth\nq,a,1\nq,b,0\n")
    (only,) = everything("table", path, query="asked", document="shown", label="worth").values()
    assert labels(only) == {"a": 1, "b": 0}


# ---- what is wrong ---------------------------------------------------------------------------------------------------

HEAD = "query,document_id,document,label\n"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (HEAD + 'q,a,"two\nlines",1\nq,b,x,high\n', r"t.csv:4: 'label' is 'high'; a label is a number from 0 to 1000"),
        (HEAD + "q,a,x,\n", r"t.csv:2: 'label' is empty; a label is a number"),
        (HEAD + "q,a,x,-1\n", r"t.csv:2: 'label' is '-1'; a label is a number from 0"),
        (HEAD + "q,a,x,nan\n", r"t.csv:2: 'label' is 'nan'"),
        (HEAD + "q,a,x,1e400\n", r"t.csv:2: 'label' is '1e400'"),
        (HEAD + "q,a, ,1\n", r"t.csv:2: 'document' is empty"),
        (HEAD + ",a,x,1\n", r"t.csv:2: 'query' is empty"),
        (HEAD + "q,a,x\n", r"t.csv:2: the row has 3 cells; the header has 4"),
        (HEAD + "q,a,x,1\nq,a,y,1\n", r"t.csv:3: document 'a' stands for the same query in line 2 with another text"),
        (HEAD + "q,a,x,1\nq,a,x,2\n", r"t.csv:3: 'x' has label 2 here and 1 in line 2"),
        ("query,text,label\nq,Doc A,0\nq,doc  a,2\n", r"t.csv:3: 'doc  a' has label 2 here and 0 in line 2"),
        (
            "query,pos,neg\nq,['x'],['y']\nr,\"['x', 'Doc A']\",\"['y', 'doc a']\"\n",
            r"t.csv:3: 'Doc A' is in 'pos' and in 'neg'; it has one label",
        ),
        ("qid,query,text,label\n1,a,x,1\n1,b,y,0\n", r"t.csv:3: query id '1' stands for another query in line 2"),
        (
            "query,text,label,group\nq,x,1,u1\nq,y,0,u2\n",
            r"t.csv:3: group 'u2'; line 2, of the same query, has 'u1' \(lists of",
        ),
        ("query,text,label\nq,x,1_0\n", r"t.csv:2: 'label' is '1_0'"),
        ("query,pos,neg\nq,\"('x', 'y')\",['z']\n", r"t.csv:2: 'pos' is .* a list stands in square brackets"),
        (HEAD + 'q,a,"x,1\n', r"t.csv:2: broken CSV"),
        ("query,positives,negatives\nq,['a' 'b'],['c']\n", r"t.csv:2: 'positives': no comma before"),
        ("just some words\nmore words\n", r"t.csv:1: .* is no table header"),
        ("a,b\n1,2\n", r"t.csv: the columns are 'a', 'b': neither form"),
    ],
)
def test_what_is_wrong_is_one_line_with_its_place(tmp_path, content, problem):
    with pytest.raises(UserError, match=problem) as raised:
        everything("table", write(tmp_path / "t.csv", content))
    assert len(str(raised.value).splitlines()) == 1


def test_bad_rows_are_skipped_where_that_is_asked(tmp_path):
    path = write(tmp_path / "t.csv", HEAD + "q,a,x,1\nq,b,y,0\nq,c,z,?\nq,a,other,1\n")
    intake = Intake(skip_bad_rows=True)
    (only,) = everything("table", path, intake).values()
    assert labels(only) == {"x": 1, "y": 0}
    assert [row.split(": ")[0] for row in intake.bad_rows] == ["t.csv:4", "t.csv:5"]


def test_rows_that_differ_in_case_and_blanks_are_one_row(tmp_path):
    intake = Intake()
    path = write(tmp_path / "t.csv", "query,text,label\nq,Doc A,2\nq,doc  a,2\nq,b,0\nq,DOC A ,2.0\n")
    (only,) = everything("table", path, intake).values()
    assert labels(only) == {"Doc A": 2, "b": 0}
    assert intake.dropped["eval"] == {AGAIN: 2}


@pytest.mark.parametrize("content", ["query,text,label\nq,a,1\nq,b,0\nq,A,0\n", "query,pos,neg\nq,a,b\nr,a,A\n"])
def test_a_contradiction_is_a_bad_row_in_both_forms(tmp_path, content):
    intake = Intake(skip_bad_rows=True)
    (only,) = everything("table", write(tmp_path / "t.csv", content), intake).values()
    assert labels(only) == {"a": 1, "b": 0}
    assert (intake.bad_count, not intake.dropped) == (1, True)


def test_of_contradicting_queries_most_rows_are_right(tmp_path):
    path = write(tmp_path / "t.csv", "qid,query,text,label\n1,other,x,1\n1,a,y,0\n1,a,z,1\n")
    with pytest.raises(UserError, match=r"t.csv:2: query id '1' stands for another query in line 3"):
        everything("table", path)


def test_a_parquet_files_own_types(tmp_path):
    columns = {"query": ["q", "q", "r"], "text": ["x", "7", None], "label": [True, False, True]}
    path = tmp_path / "t.parquet"
    pyarrow.parquet.write_table(pa.table(columns), path)
    with pytest.raises(UserError, match=r"t.parquet:3: 'text' is empty"):
        everything("table", path)
    (only,) = everything("table", path, Intake(skip_bad_rows=True)).values()
    assert labels(only) == {"x": 1, "7": 0}
    nested = {"query": ["q"], "positives": [[{"text": "x"}]], "negatives": [["y"]]}
    pyarrow.parquet.write_table(pa.table(nested), path)
    with pytest.raises(UserError, match=r"t.parquet:1: 'positives': item 1 is \{'text': 'x'\}; it must be a text"):
        everything("table", path)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"eval_fraction": 1}, "eval_fraction is 1.0; it is a share"),
        ({"relevant_from": 0}, "relevant_from is 0.0; it is a label above 0"),
    ],
)
def test_options_that_cannot_be(tmp_path, options, problem):
    with pytest.raises(UserError, match=problem):
        build("table", tmp_path, **options)


def test_a_list_that_was_made_can_be_read_by_anything(tmp_path):
    from irpo.tasks.jsonl import list_as_json

    for example in everything("table", write(tmp_path / "a.csv", WIDE)).values():
        json.dumps(list_as_json(example), allow_nan=False)
