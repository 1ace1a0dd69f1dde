"""`irpo init`: a project of one's own that works as it stands."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess

import pytest
import typer
import yaml

from irpo import cli
from irpo.config.schema import RunConfig, load_config
from irpo.runs import log_lines


def test_a_project_is_a_configuration_twenty_lists_and_a_makefile(irpo, tmp_path):
    code, out, _ = irpo("init", "mine")
    assert (code, "cd mine && make check train evaluate" in out) == (0, True)
    names = {
        path.relative_to(tmp_path / "mine").as_posix() for path in (tmp_path / "mine").rglob("*") if path.is_file()
    }
    assert names == {"Makefile", "config.yaml", "lists/train.jsonl", "lists/eval.jsonl"}
    rows = [
        json.loads(line) for file in (tmp_path / "mine" / "lists").iterdir() for line in file.open(encoding="utf-8")
    ]
    assert len({row["id"] for row in rows}) == len(rows) == 20
    assert max(map(len, out.splitlines())) <= 100


def test_every_key_has_a_comment_and_all_of_them_make_a_run(irpo, tmp_path, monkeypatch):
    irpo("init", ".")
    text = (tmp_path / "config.yaml").read_text(encoding="utf-8")
    settings = [line for line in text.splitlines() if re.match(r"\s+\w+: ", line)]
    assert len(settings) > 20
    assert all("#" in line for line in settings)
    config = load_config(["config.yaml"])
    given = yaml.safe_load(text)
    assert {name for name in RunConfig.model_fields if name in given} == given.keys()
    assert config.task == {"name": "jsonl", "data": "lists", "shuffle": True}


@pytest.mark.parametrize("there", ["a file", "notes.txt", ".hidden"])
def test_what_is_there_is_never_written_over(irpo, tmp_path, there):
    place = tmp_path / "mine"
    if there == "a file":
        place.write_text("mine")
    else:
        place.mkdir()
        (place / there).write_text("mine")
    code, _, err = irpo("init", "mine")
    assert (code, err.count("\n")) == (2, 1)
    assert "not there yet" in err
    assert place.read_text() == "mine" if there == "a file" else [p.name for p in place.iterdir()] == [there]


def test_nothing_is_left_where_it_cannot_be_written(irpo, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("irpo.starting.shutil.copytree", full)
    code, _, err = irpo("init", "mine")
    assert (code, err.count("\n")) == (2, 1)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not shutil.which("make"), reason="no make here")
def test_its_makefile_says_commands_that_irpo_takes(irpo, tmp_path):
    irpo("init", ".")
    asked = ["make", "-n", "check", "train", "evaluate", "serve"]
    alone = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL")}  # of no make
    said = subprocess.run(asked, cwd=tmp_path, env=alone, capture_output=True, text=True, check=True)
    lines = [shlex.split(line) for line in said.stdout.splitlines()]
    assert [line[1] for line in lines] == ["prepare", "train", "evaluate", "evaluate", "diff", "serve"]
    for _, name, *words in lines:
        typer.main.get_command(cli.app).commands[name].make_context(name, words)


def test_it_trains_and_is_measured(irpo, tmp_path):
    irpo("init", ".")
    code, _, err = irpo(
        "train", "config.yaml", "training.updates=6", "ranking.strength=1", "--out", "runs/first", "--resume"
    )
    assert code == 0, err
    measured = [line["eval_NDCG@10"] for line in log_lines(tmp_path / "runs" / "first") if "eval_NDCG@10" in line]
    assert measured[-1] > measured[0] + 0.1  # the model knows these films, and learns what to go by
    assert irpo("prepare", "--task", "jsonl", "--data", "lists", "--check")[0] == 0
    assert irpo("evaluate", "--model", "runs/first", "--out", "found")[0] == 0
