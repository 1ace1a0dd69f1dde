"""Prepared lists: read back as they were, the same bytes everywhere, and a card that accounts for every row."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from handmade import a_list, hotpot, musique, question, write_lines, write_list

from irpo.disk import NoRoom, size
from irpo.tasks import TASKS, Intake, build_lists, preparing
from irpo.tasks.jsonl import SCHEMA
from irpo.tasks.preparing import prepare, read_lists
from irpo.types import UserError


def _prepare(name: str, data: Path, out: Path, **options):
    spec = {"name": name, "data": str(data), **options}
    skip = spec.pop("skip_bad_rows", False)
    return prepare(TASKS.build(spec), out, task_spec=spec, skip_bad_rows=skip)


def test_what_is_written_is_read_back(tmp_path):
    data = write_list(tmp_path / "in" / "hotpot_train.json", [hotpot("a"), hotpot("b", 4)]).parent
    write_list(data / "hotpot_dev_distractor.json", [hotpot("c")])
    _prepare("hotpotqa", data, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["card.json", "eval.jsonl", "train.jsonl"]
    built = build_lists(TASKS.build("hotpotqa", data=str(data)), Intake())
    assert build_lists(TASKS.build("jsonl", data=str(tmp_path / "out")), Intake()) == built
    assert read_lists(tmp_path / "out" / "eval.jsonl", split="eval") == built["eval"]
    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text()))
    for line in (tmp_path / "out" / "train.jsonl").read_text().splitlines():
        validator.validate(json.loads(line))


def test_the_card(tmp_path):
    rows = [musique("a"), musique("b", answerable=False), musique("c") | {"question": 3}]
    data = write_lines(tmp_path / "in" / "musique_ans_train.jsonl", rows).parent
    card = _prepare("musique", data, tmp_path / "out", list_size=5, skip_bad_rows=True)
    assert json.loads((tmp_path / "out" / "card.json").read_text()) == card
    assert card["task"] == {"name": "musique", "data": "in", "list_size": 5}
    assert card["options"] == {"data": "in", "seed": 0, "list_size": 5, "max_words": 50, "unit": "paragraph"}
    train = card["splits"]["train"]
    assert (train["lists"], train["candidates"], train["candidates_per_list"]) == (1, 5, {"5": 1})
    assert (train["labels"], train["relevant_per_list"]) == ({"0": 3, "1": 2}, {"2": 1})
    assert train["sources"] == {"distractor": 3, "ground_truth": 2}
    # "Ship 2: Ship number 2 was built in yard 2. Its owner was captain 2.": 15 words.
    assert train["candidate_words"] == {"min": 15, "median": 15, "p95": 15, "max": 15, "mean": 15.0}
    assert card["dropped"] == {"train": {"unanswerable": 1}}
    assert card["bad_rows"] == {
        "count": 1, "first": ["musique_ans_train.jsonl:3: 'question' is 3; it must be a text"]
    }  # fmt: skip
    assert card["sources"]["musique_ans_train.jsonl"]["rows"] == 3
    assert len(card["sources"]["musique_ans_train.jsonl"]["sha256"]) == 64


def test_the_same_bytes_from_another_folder_and_another_process(tmp_path):
    names = ["sky", "grass", "coal", "leg", "bird", "fish"]
    outputs = []
    for place, seed in (("here", "1"), ("over/there", "2")):
        folder = tmp_path / place
        write_lines(folder / "arc" / "train.jsonl", [question(n) for n in names])
        write_lines(folder / "arc" / "dev.jsonl", [question(n) | {"id": f"dev {n}"} for n in names])
        program = (
            "from pathlib import Path; from irpo.tasks import TASKS; from irpo.tasks.preparing import prepare;"
            f"data = {'arc' if seed == '1' else str(folder / 'arc')!r};"
            "prepare(TASKS.build('arc', data=data), Path('lists'), task_spec={'name': 'arc', 'data': data})"
        )
        paths = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": paths}
        subprocess.run([sys.executable, "-c", program], cwd=folder, env=environment, check=True)
        outputs.append({path.name: path.read_bytes() for path in (folder / "lists").iterdir()})
        assert str(tmp_path).encode() not in b"".join(outputs[-1].values())
    assert outputs[0] == outputs[1]
    assert sorted(outputs[0]) == ["card.json", "eval.jsonl", "train.jsonl"]


def test_an_error_leaves_nothing_behind(tmp_path):
    data = write_lines(tmp_path / "in" / "train.jsonl", [a_list("a"), a_list("b", [0, 0])])
    with pytest.raises(UserError, match=r"train.jsonl:2: example 'b' has no relevant candidate"):
        _prepare("jsonl", data, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_second_run_replaces_the_first(tmp_path):
    both = write_lines(tmp_path / "both" / "train.jsonl", [a_list("a")]).parent
    write_lines(both / "eval.jsonl", [a_list("b")])
    one = write_lines(tmp_path / "one" / "train.jsonl", [a_list("c")])
    _prepare("jsonl", both, tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    _prepare("jsonl", one, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["card.json", "notes.txt", "train.jsonl"]
    assert [e.id for e in read_lists(tmp_path / "out" / "train.jsonl")] == ["c"]


def test_texts_of_every_kind_survive(tmp_path):
    row = a_list("naïve \u2028 \U0001f600 \0")
    data = write_lines(tmp_path / "in" / "train.jsonl", [row])
    _prepare("jsonl", data, tmp_path / "out")
    assert read_lists(tmp_path / "out" / "train.jsonl") == read_lists(data)


def test_a_disk_without_room_is_refused_before_anything_is_written(tmp_path, monkeypatch, capsys):
    data = write_lines(tmp_path / "in" / "train.jsonl", [a_list("a")])
    for free, input_bytes in ((999_999, 1), (2_000_000, 200_000_100)):
        monkeypatch.setattr(preparing, "free_at", lambda _, free=free: free)
        monkeypatch.setattr(preparing, "_size_of_input", lambda _, size=input_bytes: size)
        with pytest.raises(NoRoom, match=rf"out: the disk is full: {size(max(10**6, input_bytes // 100))} needed"):
            _prepare("jsonl", data, tmp_path / "out")
        assert [path.name for path in tmp_path.iterdir()] == ["in"]
    monkeypatch.setattr(preparing, "free_at", lambda _: 2_000_001)
    _prepare("jsonl", data, tmp_path / "out")
    assert "200 MB are read and 2.0 MB are free" in capsys.readouterr().err


def test_a_file_deep_in_the_data_is_part_of_what_is_done(tmp_path):
    """Work that was stopped is not gone on with where any file below the folder has changed."""
    deep = write_lines(tmp_path / "in" / "a" / "b.jsonl", [a_list("a")])
    before = preparing._state(tmp_path / "in")
    write_lines(deep, [a_list("a"), a_list("b")])
    after = preparing._state(tmp_path / "in")
    assert before != after
    deep.rename(tmp_path / "in" / "b.jsonl")
    assert preparing._state(tmp_path / "in") != after


def test_nothing_to_prepare(tmp_path):
    data = write_lines(tmp_path / "dev.jsonl", [question("sky") | {"answerKey": ""}])
    with pytest.raises(UserError, match=r"no list could be made for eval from dev.jsonl: 1 x no answer"):
        _prepare("arc", data, tmp_path / "out")
    empty = write_lines(tmp_path / "train.jsonl", [])
    with pytest.raises(UserError, match="there are no rows"):
        _prepare("jsonl", empty, tmp_path / "out")
    assert not (tmp_path / "out").exists()
