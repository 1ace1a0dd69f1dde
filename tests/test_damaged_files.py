"""What damaged inputs showed of files as a whole: one bad row makes no other form of them, and no traceback."""

import json
import os

import pyarrow
import pyarrow.parquet
import pytest
from handmade import a_list, build, write_lines

from irpo import api
from irpo.rows import form_of
from irpo.tasks.shards import read_card
from irpo.types import UserError

OBJECT = '{"a": 1}'


@pytest.mark.parametrize(
    ("form", "lines"),
    [
        ("csv", ["a,b", "1,2", "{x,3", "4,5"]),
        ("tsv", ["a\tb", '{"a": {"a": 1\t1']),
        ("json lines", ["# Hello, world", OBJECT, OBJECT, OBJECT]),
        ("json lines", ["x", OBJECT]),
        ("json lines", ['[{"a": 1}]', OBJECT, OBJECT]),
        ("json lines", ["[5", OBJECT, OBJECT]),
        ("json list", ['[{"a": 1},', '{"a": 2}]']),
        ("json list", ["[", OBJECT, "]"]),
        ("json list", ["[]"]),
        ("json lines", [""]),
    ],
)
def test_a_broken_line_makes_no_other_form_of_a_file(tmp_path, form, lines):
    (tmp_path / "x").write_text("\n".join([*lines, ""]))
    assert form_of(tmp_path / "x") == form


def test_a_date_that_python_has_not(tmp_path):
    column = pyarrow.array([2**62]).cast(pyarrow.timestamp("us"))
    pyarrow.parquet.write_table(pyarrow.table({"id": column}), tmp_path / "train.parquet")
    with pytest.raises(UserError, match=r"train.parquet: broken parquet file: date value out of range"):
        build("arc", tmp_path)


@pytest.fixture
def prepared(tmp_path):
    """A prepared folder of two shards."""
    write_lines(tmp_path / "data" / "train.jsonl", [a_list(f"q{n}") for n in range(4)])
    spec = {"name": "jsonl", "data": str(tmp_path / "data")}
    api.prepare(spec, tmp_path / "lists", format="parquet", shard_lists=2)
    return tmp_path / "lists"


def test_a_card_that_forgot_a_shard_is_none(prepared):
    card = json.loads((prepared / "card.json").read_text())
    assert len(card["splits"]["train"]["files"]) == 2
    read_card(prepared)
    card["splits"]["train"]["files"].pop()
    (prepared / "card.json").write_text(json.dumps(card))
    with pytest.raises(UserError, match="this is no card"):
        read_card(prepared)


def test_a_card_of_endless_lists_is_none(prepared):
    card = json.loads((prepared / "card.json").read_text())
    card["splits"]["train"]["lists"] = float("inf")
    (prepared / "card.json").write_text(json.dumps(card))
    with pytest.raises(UserError, match="this is no card"):
        read_card(prepared)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes of that kind")
def test_a_card_that_is_a_pipe_is_no_file(prepared):
    (prepared / "card.json").unlink()
    os.mkfifo(prepared / "card.json")
    with pytest.raises(UserError, match="this is no file"):
        read_card(prepared)


def test_a_card_that_counts_backwards_is_no_card(tmp_path):
    api.prepare({"name": "world", "train_lists": 5, "eval_lists": 2}, tmp_path / "lists")
    card = json.loads((tmp_path / "lists/card.json").read_text())
    card["splits"]["train"]["lists"] = -5
    (tmp_path / "lists/card.json").write_text(json.dumps(card))
    with pytest.raises(UserError, match=r"card\.json: this is no card"):
        read_card(tmp_path / "lists")
