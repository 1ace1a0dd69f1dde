"""Defects of data and lists that were found from outside; each test bears its point's name."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from blind import blind_tables
from handmade import a_list, build, musique, question, write_lines

from irpo.chance import in_test_split
from irpo.config.schema import load_config
from irpo.tasks import TASKS, Intake, build_lists, relevant_from
from irpo.tasks.mining import popularity
from irpo.tasks.preparing import prepare
from irpo.training.job import prepare_job, split_training
from irpo.types import RankingExample, UserError

DATA = Path(os.environ.get("IRPO_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")


def real_lists(task: str, size: str):
    folder = DATA / size / {"arc": "arc_challenge"}.get(task, task)
    if not folder.is_dir():
        pytest.skip(f"no data at {folder}")
    return build_lists(TASKS.build({"name": task, "data": str(folder)}), Intake())


# ---- W1: wrong answers that tell themselves --------------------------------------------------------------------------

# Not ReDial and INSPIRED, where popularity belongs to the paper's construction; not world, whose films recur by design.
BLIND = [
    *((task, size) for task in ("arc", "hotpotqa") for size in ("sample", "extended")),
    *((task, "sample") for task in ("commonsenseqa", "musique")),
    pytest.param("commonsenseqa", "extended", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("task", "size"), BLIND)
def test_w1_nothing_is_won_without_reading_the_query(task, size):
    lists = real_lists(task, size)
    held = {"eval": (lists["train"], lists["eval"])}
    for share in (0.1, 0.2):
        parts: dict[bool, list[RankingExample]] = {True: [], False: []}
        for example in lists["train"]:
            parts[in_test_split(example.unit, share)].append(example)
        held[f"validation {share}"] = (parts[False], parts[True])
    for name, (train, asked) in held.items():
        if len(asked) < 30:  # the mean's own error would be greater than what is asked
            continue
        best, chance = blind_tables(train, asked)
        assert best < chance + 0.05, name


@pytest.mark.parametrize("task", ["arc", "commonsenseqa"])
@pytest.mark.parametrize("share", [0.05, 0.1, 0.2])
def test_w1_no_list_holds_a_wrong_answer_that_training_shows_as_wrong(tmp_path, task, share):
    """Every answer is one question's own here, so that a shared one was mined."""
    names = ("sky", "leg", "bird", "coal")
    for split, count in (("train", 400), ("dev", 40)):
        rows = [question(names[i % 4]) | {"id": f"{split} {i}"} for i in range(count)]
        for i, row in enumerate(rows):
            choices = [{**choice, "text": f"{choice['text']} {split}{i}"} for choice in row["question"]["choices"]]
            row["question"] = {"stem": f"{row['question']['stem']} {split} {i}", "choices": choices}
        write_lines(tmp_path / f"{split}.jsonl", rows)
    lists = build(task, tmp_path)
    parts: dict[bool, set[str]] = {True: set(), False: set()}
    for example in lists["train"]:
        parts[in_test_split(example.unit, share)] |= set(example.texts)
    assert all(parts.values())
    assert not parts[True] & parts[False]
    assert not {text for e in lists["eval"] for text in e.texts} & (parts[True] | parts[False])
    assert any(c.source == "mined" for e in lists["eval"] for c in e.candidates)


@pytest.mark.parametrize(("share", "said"), [(0.1, False), (0.15, True), (0.0, False)])
def test_w1_a_share_that_parts_no_mines_is_said(tmp_path, capsys, share, said):
    rows = [question(("sky", "leg", "bird", "coal")[i % 4]) | {"id": f"q{i}"} for i in range(200)]
    for i, row in enumerate(rows):
        row["question"] = row["question"] | {"stem": f"{row['question']['stem']} {i}"}
    write_lines(tmp_path / "train.jsonl", rows)
    overrides = [f"task.data={tmp_path}", f"training.validation_fraction={share}"]
    prepare_job(load_config(["models/embedded.yaml", "tasks/arc.yaml", "methods/irpo.yaml"], overrides))
    assert ("take 0.05 or 0.1 or 0.2" in capsys.readouterr().err) is said


# ---- W3, W8: lists that depend on each other -------------------------------------------------------------------------


def test_w3_lists_of_one_wish_are_one_group():
    for examples in build_lists(TASKS.build("world", train_lists=60, eval_lists=60), Intake()).values():
        assert {e.group for e in examples} == {e.unit for e in examples}
        for example in examples:
            first, second = str(example.group).split(", rather ")
            assert first in example.query
            assert second in example.query


def test_w3_questions_that_are_asked_twice_are_one_group(tmp_path):
    rows = [question(n) for n in ("sky", "leg", "coal")] + [question("sky") | {"id": "again"}]
    write_lines(tmp_path / "train.jsonl", rows)
    one, leg, coal, again = build("commonsenseqa", tmp_path)["train"]
    assert one.unit == again.unit != one.id
    assert (leg.unit, coal.unit) == ("leg", "coal")


def test_w3_passages_and_responses_of_one_question_are_one_group(tmp_path):
    write_lines(
        tmp_path / "m" / "musique_ans_train.jsonl", [musique("a"), musique("b") | {"question": "Where?"}, musique("c")]
    )
    one, alone, again = build("musique", tmp_path / "m")["train"]
    assert one.unit == again.unit != alone.unit == "b"
    pairs = [{"prompt": p, "chosen": c, "rejected": "no"} for p, c in (("p", "yes"), ("p", "aye"), ("q", "yes"))]
    write_lines(tmp_path / "p" / "train.jsonl", pairs)
    one, again, alone = build("preferences", tmp_path / "p", eval_fraction=0)["train"]
    assert one.unit == again.unit != alone.unit


def test_w3_a_group_is_written_and_read_back(tmp_path):
    rows = [a_list("a") | {"group": "anna"}, a_list("b") | {"group": "anna"}, a_list("c")]
    write_lines(tmp_path / "in" / "train.jsonl", rows)
    spec = {"name": "jsonl", "data": str(tmp_path / "in")}
    card = prepare(TASKS.build(spec), tmp_path / "out", task_spec=spec)
    assert card["splits"]["train"]["groups"] == 2
    assert [e.unit for e in build("jsonl", tmp_path / "out")["train"]] == ["anna", "anna", "c"]


def test_w3_a_group_in_both_splits_is_said(tmp_path):
    write_lines(tmp_path / "train.jsonl", [a_list("a") | {"group": "anna"}, a_list("b")])
    write_lines(tmp_path / "eval.jsonl", [a_list("c") | {"group": "anna"}])
    intake = Intake()
    build("jsonl", tmp_path, intake)
    assert any("share 1 groups, such as 'anna'" in note for note in intake.notes)


def test_w3_no_group_is_split_apart():
    lists = build_lists(TASKS.build("world", train_lists=400, eval_lists=1), Intake())["train"]
    parts = split_training(lists, 0.1, 10**6)
    assert parts.validation
    assert not {e.group for e in parts.train} & {e.group for e in parts.validation}


def test_w8_an_id_is_not_cut_at_a_sign_of_its_own(tmp_path):
    write_lines(tmp_path / "train.jsonl", [a_list(f"q#{i}") for i in range(1000)])
    parts = split_training(build("jsonl", tmp_path)["train"], 0.1, 10**6)
    assert abs(len(parts.validation) - 100) < 48  # 5 standard deviations


# ---- W4, A4: what is relevant, what is popular -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "label"), [("redial", 2), ("inspired", 2), ("arc", 1), ("musique", 1), ("jsonl", 1), ("preferences", 1)]
)
def test_w4_a_task_says_from_which_label_an_item_is_relevant(task, label):
    assert relevant_from(TASKS.build(task, data="anywhere")) == label


def test_w4_the_users_own_lists_and_the_card_say_it_too(tmp_path):
    write_lines(tmp_path / "in" / "train.jsonl", [a_list("a", [2, 1, 0])])
    spec = {"name": "jsonl", "data": str(tmp_path / "in"), "relevant_from": 2}
    assert prepare(TASKS.build(spec), tmp_path / "out", task_spec=spec)["relevant_from"] == 2
    with pytest.raises(UserError, match="relevant_from is 0"):
        TASKS.build("jsonl", data="anywhere", relevant_from=0)


def test_w4_lists_that_were_prepared_with_another_label_say_so(tmp_path):
    write_lines(tmp_path / "train.jsonl", [a_list("a", [2, 1, 0])])
    (tmp_path / "card.json").write_text(json.dumps({"relevant_from": 2.0}))
    for label, said in ((1, True), (2, False)):
        intake = Intake()
        build("jsonl", tmp_path, intake, relevant_from=label)
        assert any("relevant_from=2" in note for note in intake.notes) is said


def test_a4_popularity_counts_relevant_texts_of_training_lists(tmp_path):
    rows = [a_list("a", [1, 0, 2]), a_list("b", [3, 0, 0])]
    rows[1]["candidates"][0]["text"] = "TEXT  0"
    write_lines(tmp_path / "train.jsonl", rows)
    assert popularity(build("jsonl", tmp_path)["train"]) == {"text 0": 2.0, "text 2": 1.0}


# ---- D2, D4, D5, T: what the hub holds -------------------------------------------------------------------------------

HH = {"chosen": "\n\nHuman: Hi.\n\nAssistant: Yes?\n\nHuman: A planet?\n\nAssistant: Mars.", "rejected": ""}
HH["rejected"] = HH["chosen"].replace("Mars", "No")
NECTAR = {
    "prompt": "\n\nHuman: A planet?\n\nAssistant: ",
    "answers": [{"answer": "Mars.", "rank": 1.0}, {"answer": "No.", "rank": 2.0}],
    "source": ["hand-written"],
}
HELPSTEER = {
    "context": [{"role": "user", "content": "A planet?"}],
    "response1": "Mars.",
    "response2": "No.",
    "overall_preference": -2,
}


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        (HH, "user: Hi.\n\nassistant: Yes?\n\nuser: A planet?"),
        (NECTAR, "A planet?"),
        (HELPSTEER, "A planet?"),
        (HELPSTEER | {"response1": "No.", "response2": "Mars.", "overall_preference": 3}, "A planet?"),
    ],
    ids=["hh-rlhf", "Nectar", "HelpSteer3", "HelpSteer3 the other way"],
)
def test_d2_rows_of_the_preference_sets(tmp_path, row, prompt):
    write_lines(tmp_path / "train.jsonl", [row])
    (example,) = build("preferences", tmp_path, eval_fraction=0)["train"]
    assert example.query == prompt
    assert {c.text: c.relevance for c in example.candidates} == {"Mars.": 1, "No.": 0}


def test_d2_rows_that_cannot_be_told_apart_are_counted(tmp_path):
    other = HH | {"rejected": HH["rejected"].replace("Hi.", "Hello.")}
    write_lines(tmp_path / "train.jsonl", [HH, other, HELPSTEER | {"overall_preference": 0}])
    intake = Intake()
    assert len(build("preferences", tmp_path, intake, eval_fraction=0)["train"]) == 1
    assert intake.dropped["train"] == {
        "the conversations differ before their last turn": 1,
        "all responses have the same score": 1,
    }


@pytest.fixture
def hub(monkeypatch):
    """The hub as a mapping: (id, config, revision) -> split -> rows."""
    monkeypatch.setattr("irpo.tasks._hub._answers", lambda name, revision: True)
    shelf = {}

    def load(name, config, revision=None):
        return shelf[name, config, revision]

    monkeypatch.setattr("datasets.load_dataset", load)
    return shelf


def pairs(*prompts):
    return [{"prompt": p, "chosen": "yes", "rejected": "no"} for p in prompts]


def test_d2_t_splits_of_several_words(hub):
    names = ("train_prefs", "train_sft", "test_prefs", "test_sft", "train_gen", "test_gen")
    hub["h4", None, None] = {name: pairs(name) for name in names}
    lists = build("preferences", "hub", hub="h4")
    assert {split: [e.query for e in found] for split, found in lists.items()} == {
        "train": ["train_prefs"],
        "eval": ["test_prefs"],
    }


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (("default", "extra"), "'x' has the splits default, extra, none of them train or test or dev"),
        (("train_a", "train_b"), "'x' has several splits for train: train_a, train_b"),
    ],
)
def test_t_a_hub_dataset_without_our_splits_is_one_line(hub, names, problem):
    hub["x", None, None] = {name: pairs("a") for name in names}
    with pytest.raises(UserError, match=problem):
        build("preferences", "hub", hub="x")


def test_t_preferences_without_training_rows_are_evaluated(hub):
    hub["x", "preference", None] = {"validation": pairs("a", "b")}
    assert sorted(build("preferences", "hub", hub="x", hub_config="preference")) == ["eval"]


def test_d4_inspired_on_the_hub_is_said_to_be_an_adaptation():
    with pytest.raises(UserError, match="the hub has INSPIRED in others' adaptations alone"):
        build("inspired", "hub")


def test_d5_a_revision_of_the_hub_can_be_pinned(hub):
    hub["x", None, "1a2b3c"] = {"train": pairs("pinned", "too"), "test": pairs("a")}
    lists = build("preferences", "hub@1a2b3c", hub="x")
    assert [e.query for e in lists["train"]] == ["pinned", "too"]
