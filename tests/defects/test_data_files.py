"""Defects of reading and writing files that were found from outside; each test bears its point's name."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from handmade import RECOMMENDER, SEEKER, a_list, build, redial, write_lines

from irpo.evaluation.writing import require_free
from irpo.files import atomic_file, atomic_folder
from irpo.objectives import OBJECTIVES
from irpo.scorers import SCORERS
from irpo.scoring.tokens import EncodedList
from irpo.tasks import TASKS, Intake
from irpo.tasks.preparing import prepare, summary
from irpo.tasks.suggestions import Endpoint, Suggester
from irpo.training.method import Method
from irpo.types import UserError

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
from irpo.evaluation.writing import require_free
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
    assert told[0] == "fsync"
    assert told[-2:] == ["replace", "fsync"]


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


def test_t_a_long_key_is_shown_in_short(tmp_path):
    path = write_lines(tmp_path / "train.jsonl", [a_list("a") | {"k" * 5000: 1}])
    with pytest.raises(UserError) as raised:
        build("jsonl", path)
    assert len(str(raised.value)) < 500 + len(str(path))
    with pytest.raises(UserError) as raised:
        build("hotpotqa", path)
    assert len(str(raised.value)) < 500 + len(str(path))


def test_t_rows_of_films_in_forms_that_nobody_wrote(tmp_path):
    rows = [redial("1", [(SEEKER, "hi"), (RECOMMENDER, "see @1")], {"1": "A Film (1990)"}) | {"initiatorQuestions": 5}]
    with pytest.raises(UserError, match=r"train.jsonl:1: 'initiatorQuestions' is 5"):
        build("redial", write_lines(tmp_path / "train.jsonl", rows).parent)
    (tmp_path / "test.tsv").write_text("full_situation\tmovies\nUser: hi\t{[]: 1}\n")
    with pytest.raises(UserError, match=r"test.tsv:2: 'movies' is '\{\[\]: 1\}'"):
        build("inspired", tmp_path / "test.tsv")
    (tmp_path / "train.tsv").write_text("dialog_id\tutt_id\n")
    with pytest.raises(UserError, match="no list could be made for train"):
        build("inspired", tmp_path / "train.tsv")


def test_u18_a_label_that_the_objective_cannot_use_is_found_at_its_row(tmp_path):
    path = write_lines(tmp_path / "train.jsonl", [a_list("a"), a_list("b", [100, 0])])
    example = build("jsonl", path)["train"][1]
    item = EncodedList("b", (), ((), ()), ((), ()), (), example.relevance)
    with pytest.raises(UserError, match=r"train\.jsonl:2: list 'b' has a label of 100; IRPO uses labels from 0 to 64"):
        Method(OBJECTIVES.build("irpo"), SCORERS.build("independent")).require_labels([item], {"b": example.where})


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


# ---- U15: data in another form ---------------------------------------------------------------------------------------


def test_u15_a_folder_without_lists_says_what_is_read_and_where_to_read_on(tmp_path):
    (tmp_path / "judged.csv").write_text("query,text,label\n")
    with pytest.raises(UserError) as caught:
        build("jsonl", tmp_path)
    assert '{"id", "query", "candidates": [{"id", "text", "relevance"}, ...]}' in str(caught.value)
    assert "the task table reads CSV" in str(caught.value)


def test_u15_rows_in_another_form_say_so_too(tmp_path):
    write_lines(tmp_path / "train.jsonl", [{"query": "q", "positive": ["a"], "negative": ["b"]}])
    with pytest.raises(UserError, match=r"unknown key 'positive'; .* \(see \"Your own data\" in the README\)"):
        build("jsonl", tmp_path)


def test_u15_a_table_makes_lists(tmp_path):
    (tmp_path / "judged.csv").write_text("query,text,label\na,one,0\nb,two,1\na,three,2\nb,four,0\n")
    lists = {e.query: e for e in build("table", tmp_path / "judged.csv")["train"]}
    assert {q: dict(zip(e.texts, e.relevance, strict=True)) for q, e in lists.items()} == {
        "a": {"one": 0, "three": 2},
        "b": {"two": 1, "four": 0},
    }


def test_u1_files_that_nobody_here_wrote_are_not_replaced(tmp_path):
    """Not by `prepare` nor by `evaluate`, which have files of the same names: no card, or no results, lies beside."""
    write_lines(tmp_path / "data" / "train.jsonl", [a_list()])
    mine = tmp_path / "mine" / "train.jsonl"
    write_lines(mine, [{"of": "the user"}])
    task = TASKS.build("jsonl", data=str(tmp_path / "data"))
    with pytest.raises(UserError, match=r"train\.jsonl lies there, and no card\.json says"):
        prepare(task, mine.parent, task_spec={"name": "jsonl"})
    assert json.loads(mine.read_text()) == {"of": "the user"}
    (tmp_path / "trec").mkdir()
    (tmp_path / "trec" / "qrels.txt").write_text("mine")
    with pytest.raises(UserError, match=r"qrels\.txt lies there, and no results\.json says"):
        require_free(tmp_path / "trec")
    for _ in range(2):
        prepare(task, tmp_path / "lists", task_spec={"name": "jsonl"})
    assert sorted(path.name for path in (tmp_path / "lists").iterdir()) == ["card.json", "train.jsonl"]
