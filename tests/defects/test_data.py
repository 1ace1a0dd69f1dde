"""Defects of data and lists that were found from outside; each test bears its point's name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from blind import blind_tables
from handmade import a_list, build, question, write_lines

from irpo.candidates import popularity
from irpo.chance import in_test_split
from irpo.encoding import EncodedList
from irpo.files import atomic_file, atomic_folder
from irpo.llm import Endpoint, Suggester
from irpo.method import Method
from irpo.objectives import OBJECTIVES
from irpo.pipeline import split_training
from irpo.preparing import prepare, summary
from irpo.scorers import SCORERS
from irpo.tasks import TASKS, Intake, build_lists, relevant_from
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


# ---- W3, W8: lists that depend on each other -------------------------------------------------------------------------


def test_w3_lists_of_one_wish_are_one_group():
    for examples in build_lists(TASKS.build("world", train_lists=60, eval_lists=60), Intake()).values():
        assert {e.group for e in examples} == {e.unit for e in examples}
        for example in examples:
            genre, country = str(example.group).split(" from ")
            assert genre in example.query
            assert country in example.query


def test_w3_questions_that_are_asked_twice_are_one_group(tmp_path):
    rows = [question(n) for n in ("sky", "leg", "coal")] + [question("sky") | {"id": "again"}]
    write_lines(tmp_path / "train.jsonl", rows)
    one, leg, coal, again = build("commonsenseqa", tmp_path)["train"]
    assert one.unit == again.unit != one.id
    assert (leg.unit, coal.unit) == ("leg", "coal")


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


# ---- U1: what is read is never written -------------------------------------------------------------------------------


@pytest.mark.parametrize("out", ["data", "data/prepared", "data/../data", "link"])
def test_u1_prepare_never_writes_where_it_reads(tmp_path, out):
    path = write_lines(tmp_path / "data" / "train.jsonl", [a_list("a"), {"id": "torn"}])
    (tmp_path / "link").symlink_to("data")
    before = path.read_bytes()
    spec = {"name": "jsonl", "data": str(tmp_path / "data")}
    with pytest.raises(UserError, match=r"--out .* would write where data .* is read"):
        prepare(TASKS.build(spec), tmp_path / out, task_spec=spec, skip_bad_rows=True)
    assert path.read_bytes() == before
    assert sorted(p.name for p in path.parent.iterdir()) == ["train.jsonl"]


def test_u1_a_single_file_is_not_written_over_either(tmp_path):
    path = write_lines(tmp_path / "train.jsonl", [a_list("a")])
    spec = {"name": "jsonl", "data": str(path)}
    with pytest.raises(UserError, match="would write where data"):
        prepare(TASKS.build(spec), tmp_path, task_spec=spec)
    assert prepare(TASKS.build(spec), tmp_path / "out", task_spec=spec)["splits"]["train"]["lists"] == 1


# ---- L10, L12, L14: what dead processes leave, what is no file, what a power cut may lose ----------------------------

WRITER = """
import os, sys
from pathlib import Path
from irpo.files import atomic_file, atomic_folder
out = Path(sys.argv[1])
with atomic_folder(out / "folder") as work, atomic_file(out / "file") as file:
    (work / "part").write_text("half")
    file.write("half")
    file.flush()
    os.kill(os.getpid(), 9)
"""


def test_l10_what_a_dead_process_left_goes_with_the_next_write(tmp_path):
    subprocess.run([sys.executable, "-c", WRITER, str(tmp_path)], check=False)
    assert len(list(tmp_path.iterdir())) == 2
    with atomic_file(tmp_path / "file") as ours, atomic_file(tmp_path / "file") as other:  # a living one's stays
        ours.write("whole")
        other.write("whole")
    with atomic_folder(tmp_path / "folder") as work:
        (work / "part").write_text("whole")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == (tmp_path / "folder" / "part").read_text() == "whole"


@pytest.mark.parametrize("kind", ["a folder", "a link to nothing"])
def test_l12_a_split_that_is_no_file_is_an_error(tmp_path, kind):
    write_lines(tmp_path / "eval.jsonl", [a_list("a")])
    path = tmp_path / "train.jsonl"
    path.mkdir() if kind == "a folder" else path.symlink_to("nowhere.jsonl")
    with pytest.raises(UserError, match=rf"train\.jsonl: this is {kind}"):
        build("jsonl", tmp_path)


def test_l12_inspired_takes_no_other_file_for_one_that_is_missing(tmp_path):
    (tmp_path / "train.tsv").symlink_to("nowhere.tsv")
    (tmp_path / "instructLF_inspired_train.csv").write_text("full_situation,movies\n")
    with pytest.raises(UserError, match=r"train\.tsv: this is a link to nothing"):
        build("inspired", tmp_path)


def test_l14_a_file_is_on_the_disk_before_it_bears_its_name(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(os, "fsync", lambda handle: told.append("fsync"))
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (told.append("replace"), replace(a, b))[1])
    with atomic_file(tmp_path / "file") as file:
        file.write("x")
    assert told == ["fsync", "replace", "fsync"]
    told.clear()
    with atomic_folder(tmp_path / "folder") as work:
        (work / "one").write_text("x")
    assert told == ["fsync", "replace", "fsync"]


# ---- T, U18: rows that Python's JSON reader takes, or refuses with a traceback ---------------------------------------


def changed(**keys):
    return json.dumps(a_list("b") | keys)


def labelled(label):
    return json.dumps(a_list("b", [label, 0]))


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (changed(query="?").replace('"?"', "[" * 3000 + "]" * 3000), "broken JSON (it is nested too deeply)"),
        (labelled(1).replace('"relevance": 1', '"relevance": ' + "9" * 5000), "a number of more than 4300 digits"),
        (labelled(10**400), "candidate 1: 'relevance' is 1000"),
        (labelled(1e6), "candidate 1: 'relevance' is 1000000.0; a label is a number from 0 to 1000"),
        (changed(query="\ud800"), "it holds '\\ud800', half of a surrogate pair"),
        (changed(id="\udfff"), "it holds '\\udfff', half of a surrogate pair"),
        ('{"id": "\0"}', "broken JSON (Invalid control character at column 9)"),
    ],
    ids=["nested", "digits", "10**400", "1e6", "surrogate", "surrogate in the id", "NUL"],
)
@pytest.mark.parametrize("form", ["lines", "list"])
def test_t_u18_a_row_that_cannot_be_used_is_one_line(tmp_path, row, problem, form):
    path = tmp_path / "train.jsonl"
    rows = [json.dumps(a_list("a")), row]
    path.write_text("\n".join(rows) if form == "lines" else "[" + ",\n".join(rows) + "]")
    with pytest.raises(UserError) as caught:
        build("jsonl", path)
    assert str(caught.value).startswith(f"{path}:2: ")
    assert problem.replace("broken JSON (", "") in str(caught.value)
    assert len(str(caught.value).removeprefix(str(path))) < 200


def test_t_a_row_that_cannot_be_used_is_counted_where_that_is_asked_for(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join([json.dumps(a_list("a")), "[" * 3000, labelled(10**400), changed(query="\ud800")]))
    intake = Intake(skip_bad_rows=True)
    assert [e.id for e in build("jsonl", path, intake)["train"]] == ["a"]
    assert len(intake.bad_rows) == 3


def test_u18_a_label_that_the_objective_cannot_use_is_found_at_its_row(tmp_path):
    path = write_lines(tmp_path / "train.jsonl", [a_list("a"), a_list("b", [100, 0])])
    example = build("jsonl", path)["train"][1]
    item = EncodedList("b", (), ((), ()), ((), ()), (), example.relevance)
    with pytest.raises(UserError, match=r"train\.jsonl:2: list 'b' has a label of 100; IRPO uses labels from 0 to 64"):
        Method(OBJECTIVES.build("irpo"), SCORERS.build("independent")).require_labels([item], {"b": example.where})


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


# ---- L11: a cache whose last line was torn ---------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [1, 9, 60, "in a letter", "all but the line's end"])
def test_l11_a_torn_last_answer_is_asked_again(tmp_path, monkeypatch, kept):
    place = Endpoint("http://nowhere", "m", tmp_path / "cache.jsonl")
    asked = []
    monkeypatch.setattr(Suggester, "_ask", lambda self, prompt: asked.append(prompt) or "Amélie (2001)")
    assert [Suggester(place).suggest(context) for context in ("one", "two")] == [["Amélie (2001)"]] * 2
    whole = place.cache.read_bytes()
    first, second = whole.splitlines(keepends=True)
    cut = {"in a letter": second.index("é".encode()) + 1, "all but the line's end": len(second) - 1}.get(kept, kept)
    place.cache.write_bytes(first + second[:cut])
    asked.clear()
    assert [Suggester(place).suggest(context) for context in ("one", "two")] == [["Amélie (2001)"]] * 2
    assert len(asked) == (cut < len(second) - 1)
    assert place.cache.read_bytes() == whole


def test_l11_another_file_is_not_cut(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("line\nno cache of ours")
    with pytest.raises(UserError):
        Suggester(Endpoint("http://nowhere", "m", path))
    assert path.read_text() == "line\nno cache of ours"


# ---- U14: prepare says what it made, in short ------------------------------------------------------------------------


def test_u14_a_card_in_short(tmp_path):
    rows = [a_list("a", [2, 1, 0]) | {"group": "g"}, a_list("b") | {"group": "g"}, {"id": "torn"}]
    write_lines(tmp_path / "in" / "train.jsonl", rows)
    spec = {"name": "jsonl", "data": str(tmp_path / "in"), "relevant_from": 2}
    card = prepare(TASKS.build(spec), tmp_path / "out", task_spec=spec, skip_bad_rows=True)
    text = summary(card)
    assert "train: 2 lists in 1 group, 2 to 3 candidates each, labels 0 (2), 1 (2), 2 (1)" in text
    assert "relevant from label 2" in text
    assert "1 bad row left out: train.jsonl:3: " in text
    assert len(text.splitlines()) < 10
