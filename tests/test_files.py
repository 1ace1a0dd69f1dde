"""Rows with their places, forms by content, and writing that is whole or not there."""

from __future__ import annotations

import contextlib
import hashlib
import json
import tracemalloc
from pathlib import Path

import pytest

from irpo import rows
from irpo.files import atomic_file, atomic_folder, sha256_of
from irpo.rows import Row, form_of, need, read_rows
from irpo.types import UserError

ROWS = [{"a": "x", "b": 1}, {"a": "y\u2028z", "b": 2}]


def _file(folder: Path, content: str | bytes, name: str = "rows") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("content", "form"),
    [
        ('  [{"a": 1}]', "json list"),
        ('\ufeff{"a": 1}\n', "json lines"),
        ('oops\n{"a": 1}\n', "json lines"),
        ("", "json lines"),
        ("a\tb\r\n1\t2\r\n", "tsv"),
        ('a,b\n"1\n2",3\n', "csv"),
    ],
)
def test_form_is_found_by_content(tmp_path, content, form):
    assert form_of(_file(tmp_path, content, "named.wrongly.parquet")) == form


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_every_json_form_gives_the_same_rows_with_their_lines(tmp_path, end):
    texts = [json.dumps(row, ensure_ascii=False) for row in ROWS]
    lines = list(read_rows(_file(tmp_path, end.join([texts[0], "", texts[1], ""]))))
    listed = list(read_rows(_file(tmp_path, f"[{texts[0]},{end}{end}{texts[1]}]{end}")))
    assert [row.value for row in lines] == [row.value for row in listed] == ROWS
    assert [row.line for row in lines] == [row.line for row in listed] == [1, 3]


def test_tables(tmp_path):
    tsv = list(read_rows(_file(tmp_path, 'a\tb\r\n"1\t2\r\n\r\n3\t\r\n')))
    assert [(row.value, row.line) for row in tsv] == [({"a": '"1', "b": "2"}, 2), ({"a": "3", "b": ""}, 4)]
    table = list(read_rows(_file(tmp_path, ',b\n"1\n2",3\n4,5\n')))
    assert [(row.value, row.line) for row in table] == [({"": "1\n2", "b": "3"}, 2), ({"": "4", "b": "5"}, 4)]


def test_parquet(tmp_path):
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "rows.json")
    assert [row.value for row in read_rows(tmp_path / "rows.json")] == ROWS


@pytest.mark.parametrize(
    ("content", "line", "problem"),
    [
        ('{"a": 1}\n{"a": \n', 2, "broken JSON"),
        ('{"a": 1}\n[1]\n', 2, "a row is a JSON object"),
        ('[{"a": 1},\n {"a": }]', 2, "broken JSON list"),
        ('[{"a": 1}\n {"a": 2}]', 1, "no ',' or ']'"),
        ('[{"a": 1}', 1, "no ',' or ']'"),
        ("a\tb\n1\n", 2, "1 cells; the header has 2"),
    ],
)
def test_a_broken_place_is_told(tmp_path, content, line, problem):
    broken = [row for row in read_rows(_file(tmp_path, content)) if row.problem]
    assert [row.line for row in broken] == [line]
    assert problem in broken[0].problem


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1}\n{"a": "\xff"}', r"rows:2: byte 0xff is not UTF-8"),
        (b"just words\n", r"rows:1: .* is no table header; a file is a JSON list"),
        (b'a,b\n"1', r"rows:2: broken CSV"),
        (b"PAR1 not really", r"rows: broken parquet"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_clear_line(tmp_path, content, message):
    with pytest.raises(UserError, match=message) as error:
        list(read_rows(_file(tmp_path, content)))
    assert "\n" not in str(error.value)


def test_what_is_not_there(tmp_path):
    with pytest.raises(UserError, match="nowhere: there is no such file"):
        read_rows(tmp_path / "nowhere")
    with pytest.raises(UserError, match="this is a folder"):
        read_rows(tmp_path)


def test_places_are_named_in_full_and_in_short(tmp_path):
    row = Row({}, str(tmp_path / "x.jsonl"), 7)
    assert (row.where, row.short) == (f"{tmp_path / 'x.jsonl'}:7", "x.jsonl:7")


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        ({}, str, "no 'k'; its keys are none"),
        ({"k": None}, str, "'k' is None; it must be a text"),
        ({"k": True}, (int, float), "'k' is True; it must be a number$"),
    ],
)
def test_need_says_what_was_given_and_what_is_allowed(value, kind, message):
    with pytest.raises(UserError, match=message):
        need(value, "k", kind)


def test_need_takes_a_default_only_for_an_absent_key():
    assert need({}, "k", str, "d") == "d"
    with pytest.raises(UserError):
        need({"k": 1}, "k", str, "d")


def test_a_folder_is_written_whole_or_not_at_all(tmp_path):
    out = tmp_path / "deep" / "out"
    with contextlib.suppress(KeyboardInterrupt), atomic_folder(out, owned=("a", "b")) as work:
        (work / "a").write_text("half")
        raise KeyboardInterrupt
    assert list((tmp_path / "deep").iterdir()) == []
    out.mkdir()
    (out / "b").write_text("of an older run")
    (out / "mine").write_text("kept")
    with atomic_folder(out, owned=("a", "b")) as work:
        (work / "a").write_text("whole")
    assert {path.name: path.read_text() for path in out.iterdir()} == {"a": "whole", "mine": "kept"}
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_a_folder_whose_name_is_taken(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(UserError, match="taken by a file"), atomic_folder(tmp_path / "out"):
        pass


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    with contextlib.suppress(KeyboardInterrupt), atomic_file(tmp_path / "f") as file:
        file.write("half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    with atomic_file(tmp_path / "f") as file:
        file.write("one\ntwo \ud83d\n")
    assert (tmp_path / "f").read_bytes() == b"one\ntwo \\ud83d\n"


@pytest.mark.parametrize("block", [1, 7, 2**18])
def test_rows_do_not_depend_on_how_much_is_read_at_once(tmp_path, monkeypatch, block):
    monkeypatch.setattr(rows, "_BLOCK", block)
    values = [{"a": 'é\u2028\n"' * 9, "b": [1, -2.5e3, {"c": None}]}, {"d": [[]] * 20}, {"e": 12345}]
    pretty = _file(tmp_path, "\ufeff" + json.dumps(values, indent=2, ensure_ascii=False))
    assert [(row.value, row.line) for row in read_rows(pretty)] == [(values[0], 2), (values[1], 12), (values[2], 36)]
    lines = _file(tmp_path, "\n".join(["\ufeff", *(json.dumps(v, ensure_ascii=False) for v in values)]), "lines")
    assert [(row.value, row.line) for row in read_rows(lines)] == [(v, n) for n, v in enumerate(values, start=2)]
    broken = _file(tmp_path, json.dumps(values[2:]).replace("]", ", {\n"), "broken")
    assert [(row.line, row.problem) for row in read_rows(broken)][1] == (
        2,
        "broken JSON list (Expecting property name enclosed in double quotes at column 1); "
        "the rest of the file is not read",
    )


@pytest.mark.parametrize("form", ["list", "lines", "csv", "tsv", "parquet"])
def test_the_whole_file_is_hashed_on_the_way(tmp_path, form):
    import pyarrow
    import pyarrow.parquet

    texts = {"list": '[{"a": 1}] x', "lines": '{"a": 1}\n\n', "csv": 'a,b\n1,"2\n"\n', "tsv": "a\tb\n1\t2"}
    path = _file(tmp_path, texts.get(form, ""))
    if form == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    digest = hashlib.sha256()
    chunks = list(rows.read_chunks(path, digest))
    assert digest.hexdigest() == sha256_of(path)
    assert sum(chunk.count for chunk in chunks) == len(list(read_rows(path)))


def test_a_long_file_is_not_held(tmp_path):
    path = tmp_path / "long.json"
    with path.open("w") as file:
        file.write("[\n" + ",\n".join([json.dumps({"a": "x" * 20_000})] * 600) + "\n]")  # 12 MB
    tracemalloc.start()
    assert sum(1 for _ in read_rows(path)) == 600
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000
