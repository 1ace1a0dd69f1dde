"""The doors: what they import, and one line for each mistake that can be seen before a model is needed.

A test is named after the point of the list of defects that it holds shut.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import TRAIN, refused

from irpo import api, words
from irpo.config.schema import load_config
from irpo.evaluation.report import _told
from irpo.types import UserError

HEAVY = ("transformers.trainer", "peft", "bitsandbytes", "accelerate", "datasets", "torch._dynamo")


def in_a_fresh_python(*words: str, cwd: Path | None = None, **environment: str) -> tuple[set[str], str]:
    """What `irpo ...` imports of `HEAVY`, and what it prints on stderr."""
    code = (
        "import sys, atexit\n"
        f"atexit.register(lambda: print('IMPORTED', *[m for m in {HEAVY} if m in sys.modules], file=sys.stderr))\n"
        f"sys.argv = ['irpo', *{list(words)}]\n"
        "from irpo.cli import main\nmain()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=cwd, env=os.environ | environment
    )
    said, _, imported = done.stderr.rpartition("IMPORTED")
    return set(imported.split()), said


MISTAKES = {
    "prepare": ["prepare", "--task", "world", "--out", "lists", "train_lists=20", "eval_lists=5"],
    "list": ["list", "--json"],
    "an option in YAML": [*TRAIN, "method.objective.bta=1", "--out", "x"],
    "a model's name": [*TRAIN, "model.name=./nowhere", "--out", "x"],
    "rank with a wrong path": ["rank", "--model", "runs/nowhere", "query", "a", "b"],
    "evaluate with a wrong path": ["evaluate", "--model", "./nowhere", "--out", "x"],
    "an output folder": [*TRAIN, "--out", "taken/x"],
    "another's folder": [*TRAIN, "--out", "mine"],
    "a template": [*TRAIN, "prompt.template=nowhere.jinja", "--out", "x"],
    "a broken row": [*TRAIN, "task={name: jsonl, data: mine}", "--out", "x"],
}


@pytest.mark.parametrize("words", MISTAKES.values(), ids=MISTAKES)
def test_a1_what_needs_no_model_imports_no_training_stack(tmp_path, words):
    (tmp_path / "taken").write_text("a file")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "train.jsonl").write_text('{"id": \n')
    imported, said = in_a_fresh_python(*words, cwd=tmp_path)
    assert imported == set()
    assert "Traceback" not in said
    if words[0] not in ("prepare", "list"):
        assert len([line for line in said.splitlines() if line.startswith("error: ")]) == 1


def test_m2_a_missing_kernel_of_the_hub_is_nobodys_concern(caplog):
    import logging

    import irpo  # noqa: F401 - what is hushed is hushed on import

    for name, line in {
        "bitsandbytes.backends.cpu.ops": "Failed to load CPU gemm_4bit_forward from kernels-community: %s. Please",
        "transformers.trainer_utils": "mtime may not be reliable on this filesystem, falling back",
    }.items():
        with caplog.at_level("WARNING"):
            logging.getLogger(name).warning(line, "No module named 'kernels'")
            assert caplog.records == []
            logging.getLogger(name).warning("something of concern")
        assert len(caplog.records) == 1
        caplog.clear()


@pytest.mark.parametrize("command", ["train", "prepare", "evaluate", "quickstart"])
@pytest.mark.parametrize("out", ["file", "file/below", "x" * 300])
def test_u18_an_output_folder_that_cannot_be(irpo, tmp_path, command, out):
    (tmp_path / "file").write_text("mine")
    words = {
        "train": TRAIN,
        "prepare": ("prepare", "--task", "world"),
        "evaluate": ("evaluate", "--model", "embedded", "--task", "world"),
        "quickstart": ("quickstart",),
    }[command]
    refused(irpo(*words, "--out", out), "--out")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_u18_a_wrong_path_is_the_mistake_and_not_the_task(irpo):
    refused(irpo("evaluate", "--model", "runs/nowhere/1", "--out", "x"), "cannot load model 'runs/nowhere/1'")


@pytest.mark.parametrize(("query", "documents"), [("", ["a", "b"]), ("  ", ["a", "b"]), ("q", ["a", " "])])
def test_u18_nothing_is_not_ranked(irpo, query, documents):
    refused(irpo("rank", "--model", "embedded", query, *documents), "empty")


def test_u18_a_byte_order_mark_is_no_part_of_a_document(tmp_path):
    (tmp_path / "docs.txt").write_text("\ufeffa\nb\n", encoding="utf-8")
    assert words.lines(tmp_path / "docs.txt") == ["a", "b"]


def strangers(folder: Path) -> None:
    """Files that bear the names of installed packages."""
    for name in ("scipy", "numpy", "jinja2", "typer", "psutil", "dataclasses"):
        (folder / f"{name}.py").write_text("raise SystemExit('run by mistake')\n")


def test_s3_a_file_here_never_stands_in_for_a_package(tmp_path):
    strangers(tmp_path)
    (tmp_path / "my_own_metric.py").write_text("LOADED = True\n")
    _, said = in_a_fresh_python("list", "metrics", "--plugin", "my_own_metric", cwd=tmp_path, PYTHONSAFEPATH="1")
    assert said == ""


def test_s3_nor_under_python_m(tmp_path):
    strangers(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "irpo", "--help"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_s4_what_prepare_and_a_report_print_is_shown_and_not_obeyed(irpo, tmp_path):
    row = {"id": "a", "query": "q", "candidates": [{"id": c, "text": c, "relevance": 1} for c in "xy"]}
    (tmp_path / "train\x1b[2J.jsonl").write_text(f"{json.dumps(row)}\n7\n")
    code, out, err = irpo("prepare", "--task", "jsonl", "--data", "train\x1b[2J.jsonl", "--out", "o", "--skip-bad-rows")
    assert code == 0
    assert r"train\x1b[2J.jsonl:2" in out
    assert "\x1b" not in out + err
    assert _told("a\x9b2Jb") == r"a\x9b2Jb"


def test_l4_prepare_killed_while_it_replaces_leaves_no_card_over_other_lists(monkeypatch, tmp_path):
    class Killed(BaseException):
        pass

    def replaces(source, target):
        if Path(target).name == "train.jsonl" and Path(target).parent.name == "lists":
            raise Killed
        real(source, target)

    real = os.replace
    api.prepare({"name": "world", "train_lists": 20, "eval_lists": 5}, tmp_path / "lists")
    monkeypatch.setattr(os, "replace", replaces)
    with pytest.raises(Killed):
        api.prepare({"name": "world", "train_lists": 30, "eval_lists": 5}, tmp_path / "lists")
    assert not (tmp_path / "lists" / "card.json").exists()


@pytest.mark.parametrize(
    "words",
    [
        ("train", "{long}", "--out", "o"),
        ("rank", "--model", "{long}", "q", "a", "b"),
        ("rank", "--model", "embedded", "q", "--file", "{long}"),
        ("prepare", "--task", "jsonl", "--data", "{long}", "--out", "o"),
        ("evaluate", "--task", "world", "--model", "embedded", "--out", "o/{long}"),
    ],
)
def test_u18_a_name_that_no_file_can_have(irpo, words):
    refused(irpo(*(word.format(long="a" * 300) for word in words)), "File name too long")


@pytest.mark.parametrize("words", [("\udcff", "a", "b"), ("q", "a", "\udcff")])
def test_t_an_argument_that_is_not_utf_8(irpo, words):
    refused(irpo("rank", "--model", "embedded", *words), r"holds '\udcff', half of a surrogate pair")


def test_u3_a_document_of_a_file_ends_at_its_line_and_nowhere_else(tmp_path):
    (tmp_path / "docs.txt").write_bytes("a\u2028b\x0cc\r\nd\n".encode())
    assert words.lines(tmp_path / "docs.txt") == ["a\u2028b\x0cc", "d"]


def test_u14_prepare_prints_a_summary(irpo, tmp_path):
    code, out, err = irpo("prepare", "--task", "world", "--out", "lists", "train_lists=20", "eval_lists=5")
    assert code == 0, err
    assert len(out.splitlines()) < 12
    assert "20 lists" in out
    assert json.loads((tmp_path / "lists" / "card.json").read_text())["splits"]["train"]["lists"] == 20


def test_u13_a_hub_that_does_not_answer_is_asked_once(monkeypatch):
    import datasets
    from huggingface_hub import HfApi

    from irpo.tasks._hub import load_hub

    asked = []

    def silent(self, *args, **kwargs):
        asked.append(args)
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(HfApi, "dataset_info", silent)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)

    def load(*spec, **_):
        assert datasets.config.HF_HUB_OFFLINE  # so that the library tries nothing itself
        raise ConnectionError("not in the cache")

    monkeypatch.setattr("datasets.load_dataset", load)
    with pytest.raises(UserError, match=r"the hub cannot be reached .*; give the folder"):
        load_hub("hub", "allenai/ai2_arc", None)
    assert len(asked) == 1
    assert not datasets.config.HF_HUB_OFFLINE


def test_u2_a_second_quickstart_erases_nothing(tmp_path):
    from irpo.compare.comparing import OWN, require_suites

    out = tmp_path / "quickstart"
    require_suites(out)
    (out / "notes.txt").write_text("mine")
    (out / "cells").mkdir()
    require_suites(out)
    assert sorted(path.name for path in out.iterdir()) == ["cells", "notes.txt", OWN]


def test_u14_a_part_of_a_larger_job_names_no_folder_that_will_not_be_there(tmp_path, capsys):
    from irpo import pipeline

    layers = ["models/embedded.yaml", "tasks/world.yaml", "methods/sft.yaml"]
    small = ["task.train_lists=20", "task.eval_lists=2", "training.updates=1", "training.lists_per_update=1"]
    label = ["prompt.style=label", "model.lora.r=1", "model.lora.targets=[q_proj]", "training.max_validation_lists=2"]
    pipeline.train(load_config(layers, [*small, *label]), tmp_path / "part", advises=False)
    said = capsys.readouterr().err
    assert "validation NDCG@10" in said
    assert str(tmp_path) not in said
