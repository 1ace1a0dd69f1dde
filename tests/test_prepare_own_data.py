"""`irpo prepare` on one's own files, as a user types it: what is written, counted and said."""

from __future__ import annotations

import json

import pytest
from handmade import build
from small_collection import write, write_beir, write_trec

from irpo.config.schema import load_config
from irpo.runs import anchored
from irpo.tasks import TASKS, Intake, build_lists
from irpo.tasks.preparing import Layout, prepare

TABLE = "query,text,label\n" + "".join(f"q{n},good {n},2\nq{n},bad {n},0\n" for n in range(30))


def test_a_csv_file_becomes_a_prepared_folder(irpo, tmp_path):
    write(tmp_path / "judged.csv", TABLE)
    code, _, err = irpo("prepare", "--task", "table", "--data", "judged.csv", "--out", "lists", "label=label")
    assert code == 0, err
    card = json.loads((tmp_path / "lists" / "card.json").read_text())
    assert card["splits"]["train"]["lists"] + card["splits"]["eval"]["lists"] == 30
    assert card["sources"]["judged.csv"]["rows"] == 60
    assert card["splits"]["train"]["labels"].keys() == {"0", "2"}


def test_a_columns_name_is_no_folder(irpo, tmp_path):
    write(tmp_path / "judged.csv", TABLE)
    code, _, err = irpo("prepare", "--task", "table", "--data", "judged.csv", "--out", "text/lists", "document=text")
    assert code == 0, err


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (
            ("--task", "table", "--data", "a.csv", "label=score"),
            "label=score: there is no such column; the columns are",
        ),
        (("--task", "table", "--data", "a.csv", "colour=x"), "unknown option 'colour'"),
        (("--task", "beir", "--data", "mine"), "no corpus.jsonl here"),
        (("--task", "beir", "--data", "hub"), "dataset says which one of the hub"),
        (
            ("--task", "jsonl", "--data", "mine"),
            "the task table reads CSV, TSV and Parquet files, trec reads TREC's, beir",
        ),
    ],
)
def test_a_mistake_is_one_line(irpo, tmp_path, words, problem):
    write(tmp_path / "a.csv", TABLE)
    write(tmp_path / "mine" / "a.csv", TABLE)
    code, _, err = irpo("prepare", *words, "--out", "lists")
    assert code == 2
    assert problem in " ".join(err.split())
    assert not (tmp_path / "lists").exists()


@pytest.mark.parametrize(("name", "make"), [("beir", write_beir), ("trec", write_trec)])
@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_what_was_prepared_are_the_tasks_lists(tmp_path, name, make, form):
    folder = make(tmp_path / "data")
    spec = {"name": name, "data": str(folder)} | ({"run": "first.run"} if name == "beir" else {})
    card = prepare(TASKS.build(spec), tmp_path / "out", task_spec=spec, layout=Layout(form))
    assert card["also_measured"] == ["LNDCG@10"]
    assert card["dropped"]["eval"] == {"query without a judged document": 1}
    assert "eval: 1 of 3 lists hold no relevant document; they count 0" in card["notes"]
    prepared = TASKS.build({"name": "prepared", "data": str(tmp_path / "out")})
    assert prepared.also_measured == ("LNDCG@10",)
    assert build_lists(prepared, Intake()) == build(
        **{"data": folder, **{k: v for k, v in spec.items() if k != "data"}}
    )


def test_a_run_keeps_the_whole_path_of_a_first_stage_that_lies_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_beir(tmp_path / "data")
    write(tmp_path / "apart.run", "x")
    layers = ["models/embedded.yaml", "tasks/beir.yaml", "methods/irpo.yaml"]
    kept = {
        name: anchored(load_config(layers, ["task.data=data", f"task.run={name}"]))
        for name in ("apart.run", "first.run", "none.run")
    }
    assert {name: config.task["run"] for name, config in kept.items()} == {
        "apart.run": str(tmp_path / "apart.run"),
        "first.run": "first.run",  # in the data, whose path is kept
        "none.run": "none.run",
    }
    assert all(config.task["data"] == str(tmp_path / "data") for config in kept.values())
