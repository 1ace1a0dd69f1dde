"""What holds for every task; the user's own lists; multiple-choice rows, written by hand, as lists."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from handmade import a_list, build, by_source, hub_question, question, write_lines, write_list

from irpo.tasks import Intake, split_of
from irpo.tasks.jsonl import SCHEMA, list_as_json, parse_list
from irpo.types import UserError

QUESTIONS = ["sky", "grass", "coal", "leg", "bird", "fish"]


# ---- every task ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["arc", "commonsenseqa", "hotpotqa", "inspired", "jsonl", "musique", "redial"])
def test_what_is_not_there_is_one_clear_line(tmp_path, name):
    with pytest.raises(UserError, match="nowhere: there is no such file or folder"):
        build(name, tmp_path / "nowhere")
    with pytest.raises(UserError, match="no file here"):
        build(name, tmp_path)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("ARC-Challenge-Dev.jsonl", "dev"),
        ("hotpot_train_v1.1.json", "train"),
        ("distractor_validation.jsonl", "dev"),
        ("test.derived.jsonl", "test"),
        ("contest_restrained.jsonl", None),
        ("movies_with_mentions.csv", None),
    ],
)
def test_a_files_name_tells_its_split(name, split):
    assert split_of(Path(name)) == split


def test_a_folders_own_files_only(tmp_path):
    write_lines(tmp_path / "dev.jsonl", [question("sky")])
    write_lines(tmp_path / "copies" / "train.jsonl", [question("grass")])
    assert list(build("arc", tmp_path)) == ["eval"]


def test_an_id_that_is_evaluated_is_not_trained_on(tmp_path):
    write_lines(tmp_path / "train.jsonl", [question("sky"), question("grass"), question("grass")])
    write_lines(tmp_path / "dev.jsonl", [question("sky")])
    intake = Intake()
    lists = build("arc", tmp_path, intake)
    assert [e.id for e in lists["train"]] == ["grass"]
    assert intake.dropped["train"]["id is also in the evaluation split"] == 1
    assert intake.dropped["train"]["id was there before"] == 1


def test_bad_rows_are_errors_or_counted(tmp_path):
    path = tmp_path / "train.jsonl"
    write_lines(path, [question("sky"), question("grass") | {"answerKey": "Z"}, question("leg")])
    path.write_text(path.read_text() + "{broken\n")
    with pytest.raises(UserError, match=r"train.jsonl:2: 'answerKey' is 'Z'; it must be one of"):
        build("arc", tmp_path)
    intake = Intake(skip_bad_rows=True)
    assert [e.id for e in build("arc", tmp_path, intake)["train"]] == ["sky", "leg"]
    assert [row.split(": ")[0] for row in intake.bad_rows] == ["train.jsonl:2", "train.jsonl:4"]
    assert intake.sources["train.jsonl"]["rows"] == 4


def test_the_hubs_rows_through_datasets(monkeypatch):
    rows = {"train": [hub_question(question(n)) for n in QUESTIONS], "validation": [hub_question(question("sky"))]}
    asked = []
    monkeypatch.setattr("datasets.load_dataset", lambda *spec: asked.append(spec) or rows)
    intake = Intake()
    lists = build("arc", "hub", intake)
    assert asked == [("allenai/ai2_arc", "ARC-Challenge")]
    assert [e.id for e in lists["eval"]] == ["sky"]
    assert intake.sources["hub:allenai/ai2_arc/train"]["rows"] == 6


def test_a_hub_out_of_reach(monkeypatch):
    def fail(*spec):
        raise ConnectionError("no route\nat all")

    monkeypatch.setattr("datasets.load_dataset", fail)
    with pytest.raises(
        UserError, match=r"'tau/commonsense_qa' cannot be had from the hub \(it is not in the cache, and "
    ):
        build("commonsenseqa", "hub")


# ---- jsonl -----------------------------------------------------------------------------------------------------------


def test_jsonl_reads_lists_as_they_are(tmp_path):
    rows = [a_list("a", [0, 2.5, 1]), a_list("b", [1, 0])]
    rows[0]["candidates"][1]["source"] = "llm"
    write_lines(tmp_path / "train.jsonl", rows)
    write_lines(tmp_path / "eval.jsonl", [a_list("c")])
    lists = build("jsonl", tmp_path)
    assert lists["train"][0].relevance == (0, 2.5, 1)
    assert [c.source for c in lists["train"][0].candidates] == ["user", "llm", "user"]
    assert [e.id for e in lists["eval"]] == ["c"]
    assert [parse_list(list_as_json(e)) for e in lists["train"]] == lists["train"]


def test_jsonl_takes_a_single_file(tmp_path):
    path = write_lines(tmp_path / "mine.jsonl", [a_list()])
    assert list(build("jsonl", path)) == ["train"]
    assert list(build("jsonl", path, split="eval")) == ["eval"]
    assert list(build("jsonl", write_list(tmp_path / "eval.json", [a_list()]))) == ["eval"]
    with pytest.raises(UserError, match="is for a single file"):
        build("jsonl", tmp_path, split="eval")


def test_jsonl_shuffles_where_asked(tmp_path):
    rows = [a_list(f"q{i}", [1, 0, 0, 0]) for i in range(40)]
    path = write_lines(tmp_path / "train.jsonl", rows)
    intake = Intake()
    build("jsonl", path, intake)
    assert intake.notes == [
        "train: a best candidate stands first in 40 of 40 lists, which a model learns as a "
        "position; mix them with task.shuffle=true (train), shuffle=true (prepare, evaluate)"
    ]
    first = sum(e.relevance[0] == 1 for e in build("jsonl", path, shuffle=True)["train"])
    assert 2 <= first <= 18


def _changed(**change: Any) -> dict[str, Any]:
    return a_list() | change


def _candidate(**change: Any) -> dict[str, Any]:
    row = a_list()
    row["candidates"][1] |= change
    return row


BAD_LISTS = [
    (_candidate(relevance=-1), "candidate 2: 'relevance' is -1; a label is a number from 0 to 1000"),
    (_candidate(relevance=None), "candidate 2: 'relevance' is None; it must be"),
    (_candidate(relevance=True), "candidate 2: 'relevance' is True; it must be"),
    (_candidate(text="  "), "candidate 'c1' has an empty text"),
    (_candidate(id="c0"), "holds candidate id 'c0' twice"),
    (_candidate(score=1), "candidate 2: unknown key 'score'; the keys of a candidate are id, text, relevance, source"),
    (_changed(candidates=[{"id": "c", "text": "t", "relevance": 1}]), "has 1 candidate"),
    (_changed(candidates=["t", "u"]), "candidate 1 is 't'; it must be an object"),
    (_changed(candidates="t"), "'candidates' is 't'; it must be a list"),
    (_changed(query=" "), "'query' is empty"),
    (_changed(id=7), "'id' is 7; it must be a text"),
    (_changed(documents=[]), "unknown key 'documents'; the keys of a list are id, query, candidates"),
    (a_list(labels=[0, 0]), "no relevant candidate"),
    ({"id": "x", "query": "y"}, "the row has no 'candidates'; its keys are id, query"),
]


@pytest.mark.parametrize(("row", "message"), BAD_LISTS)
def test_a_bad_list_is_one_clear_line_with_its_place(tmp_path, row, message):
    path = write_lines(tmp_path / "train.jsonl", [a_list("fine"), row])
    with pytest.raises(UserError) as error:
        build("jsonl", path)
    assert str(error.value).startswith(f"{path}:2: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_nan_is_no_label(tmp_path):
    path = write_lines(tmp_path / "train.jsonl", [_candidate(relevance=float("nan"))])
    with pytest.raises(UserError, match="'relevance' is nan; a label is a number from 0"):
        build("jsonl", path)


def test_an_id_comes_once_in_a_split(tmp_path):
    path = write_lines(tmp_path / "train.jsonl", [a_list("a"), a_list("a")])
    with pytest.raises(UserError, match=r"jsonl:2: id 'a' stands in line 1 already"):
        build("jsonl", path)


def test_the_schema_says_what_the_reader_says():
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    assert validator.is_valid(a_list(labels=[0, 2.5]))
    for row, message in BAD_LISTS:
        if "twice" not in message:  # the one rule that a schema cannot say
            assert not validator.is_valid(row), message


# ---- arc, commonsenseqa ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["arc", "commonsenseqa"])
def test_a_question_is_filled_up_from_other_questions(tmp_path, task):
    write_lines(tmp_path / "train.jsonl", [question(n) for n in QUESTIONS])
    example = build(task, tmp_path)["train"][0]
    found = by_source(example)
    assert example.query == "Which colour does a cloudless sky have at noon?"
    assert found["ground_truth"] == ["blue"]
    assert sorted(found["own"]) == ["brown", "green", "purple"]
    # Of the wrong colours "Blue!" is the right answer re-spelt; two of each similar question come first.
    assert {"white", "orange", "silver", "pink"} <= set(found["mined"])
    assert "Blue!" not in example.texts
    assert len(example.candidates) == 10
    assert sum(example.relevance) == 1


def test_labels_are_matched_whatever_they_are(tmp_path):
    rows = [question("sky", "1234", 2), question("grass", "ABC", 1), question("leg", "EDCB", 3)]
    write_lines(tmp_path / "train.jsonl", rows)
    lists = build("arc", tmp_path, list_size=4)["train"]
    assert [by_source(e)["ground_truth"] for e in lists] == [["brown"], ["white"], ["ten"]]


def test_both_forms_make_the_same_lists(tmp_path):
    rows = [question(n) for n in QUESTIONS]
    ours = build("arc", write_lines(tmp_path / "a" / "train.jsonl", rows))
    theirs = build("arc", write_list(tmp_path / "b" / "train.jsonl", map(hub_question, rows)))
    assert ours == theirs


def test_evaluation_answers_are_not_mined_for_training(tmp_path):
    write_lines(tmp_path / "train.jsonl", [question(n) for n in ("sky", "leg", "bird")])
    write_lines(tmp_path / "dev.jsonl", [question(n) for n in ("grass", "coal", "fish")])
    lists = build("arc", tmp_path)
    evaluated = {"white", "orange", "black", "silver", "pink", "Blue!", "a whale", "a seal", "a newt"}
    for example in lists["train"]:
        assert not evaluated & set(example.texts)
    for example in lists["eval"]:
        found = by_source(example)
        assert set(found.get("mined", []) + found.get("random", [])) <= evaluated


def test_evaluation_mines_its_own_whether_or_not_there_is_a_training_split(tmp_path):
    write_lines(tmp_path / "dev.jsonl", [question(n) for n in QUESTIONS])
    intake = Intake()
    alone = build("arc", tmp_path, intake)["eval"]
    assert len(alone[0].candidates) == 10
    assert intake.notes == []
    write_lines(tmp_path / "train.jsonl", [question("sky") | {"id": "another"}])
    assert [e.candidates for e in build("arc", tmp_path)["eval"]] == [e.candidates for e in alone]


def test_evaluation_split_of_arc(tmp_path):
    write_lines(tmp_path / "dev.jsonl", [question(n) for n in ("sky", "leg")])
    write_lines(tmp_path / "test.jsonl", [question(n) for n in ("grass", "coal")])
    assert [e.id for e in build("arc", tmp_path)["eval"]] == ["sky", "leg"]
    assert [e.id for e in build("arc", tmp_path, eval_split="test")["eval"]] == ["grass", "coal"]


def test_a_question_without_answer_is_refused(tmp_path):
    rows = [question("sky"), question("grass"), question("leg") | {"answerKey": ""}]
    del rows[1]["answerKey"]
    write_lines(tmp_path / "dev.jsonl", rows)
    intake = Intake()
    assert [e.id for e in build("commonsenseqa", tmp_path, intake)["eval"]] == ["sky"]
    assert intake.dropped["eval"] == {"no answer (a test row)": 2}
    assert "fewer than 10 candidates" in intake.notes[0]
