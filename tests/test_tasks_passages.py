"""HotpotQA's and MuSiQue's rows, written by hand, as lists of passages."""

from __future__ import annotations

import pytest
from handmade import build, hotpot, hub_hotpot, musique, write_lines, write_list

from irpo.tasks import Intake
from irpo.types import UserError


def test_supporting_paragraphs_among_distractors(tmp_path):
    write_list(tmp_path / "hotpot_train.json", [hotpot("a", 12), hotpot("b", 2)])
    first, second = build("hotpotqa", tmp_path)["train"]
    assert len(first.candidates) == 10
    assert {c.id for c in first.candidates if c.relevance == 1} == {"p1", "p3"}
    assert "Town 1: Town 1 lies by river 1. Its mayor is number 1." in first.texts
    assert second.relevance == (1, 1)


def test_passages_are_cut(tmp_path):
    write_list(tmp_path / "hotpot_train.json", [hotpot()])
    assert all(len(t.split()) == 4 for t in build("hotpotqa", tmp_path, max_words=4)["train"][0].texts)
    assert all(len(t.split()) == 13 for t in build("hotpotqa", tmp_path, max_words=0)["train"][0].texts)


def test_both_hotpot_forms_make_the_same_lists(tmp_path):
    rows = [hotpot("a"), hotpot("b", 4)]
    ours = build("hotpotqa", write_list(tmp_path / "dev.json", rows))
    theirs = build("hotpotqa", write_lines(tmp_path / "hub_dev.json", map(hub_hotpot, rows)))
    assert ours == theirs


def test_the_level_is_of_training_rows_only(tmp_path):
    write_list(tmp_path / "hotpot_train.json", [hotpot("a", level="easy"), hotpot("b")])
    write_list(tmp_path / "hotpot_dev_fullwiki.json", [hotpot("x")])
    write_list(tmp_path / "hotpot_dev_distractor.json", [hotpot("c", level="easy")])
    intake = Intake()
    lists = build("hotpotqa", tmp_path, intake, level="hard")
    assert {split: [e.id for e in examples] for split, examples in lists.items()} == {"train": ["b"], "eval": ["c"]}
    assert intake.dropped["train"]["level is not hard"] == 1


def test_sentences_of_hotpot(tmp_path):
    row = hotpot()
    row["supporting_facts"].append(["Town 1", 9])
    write_list(tmp_path / "hotpot_train.json", [row])
    intake = Intake()
    example = build("hotpotqa", tmp_path, intake, unit="sentence")["train"][0]
    supporting = {c.id: c.text for c in example.candidates if c.relevance}
    assert supporting == {"p1s0": "Town 1: Town 1 lies by river 1.", "p3s1": "Town 3: Its mayor is number 3."}
    assert intake.dropped["train"] == {"supporting fact that is not in the context": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"context": [["Town"]]}, r"'context' holds \['Town'\]; a paragraph is \[title, \[sentence, ...\]\]"),
        ({"supporting_facts": [["Town 1", "0"]]}, "a fact is"),
        ({"context": {"title": ["a"], "sentences": []}}, "they must be as many"),
        ({"question": None}, "'question' is None; it must be a text"),
    ],
)
def test_a_bad_hotpot_row(tmp_path, change, message):
    path = write_list(tmp_path / "train.json", [hotpot("a"), hotpot("b") | change])
    with pytest.raises(UserError, match=f"train.json:2: .*{message}"):
        build("hotpotqa", path)


def test_musique_passages_are_their_idx(tmp_path):
    write_lines(tmp_path / "musique_ans_dev.jsonl", [musique(), musique("2hop__3_4", answerable=False)])
    write_lines(tmp_path / "musique_full_dev.jsonl", [musique("unread")])
    intake = Intake()
    (example,) = build("musique", tmp_path, intake)["eval"]
    assert len(example.candidates) == 10
    assert {c.id for c in example.candidates if c.relevance} == {"p2", "p7"}
    assert intake.dropped["eval"] == {"unanswerable": 1}


def test_sentences_of_musique(tmp_path):
    path = write_list(tmp_path / "dev.json", [musique()])
    (example,) = build("musique", path, unit="sentence")["eval"]
    supporting = {c.text for c in example.candidates if c.relevance}
    assert supporting == {"Ship 2: Ship number 2 was built in yard 2.", "Ship 7: Its owner was captain 7."}


def test_more_support_than_places_leaves_one_distractor(tmp_path):
    path = write_list(tmp_path / "dev.json", [musique()])
    intake = Intake()
    (example,) = build("musique", path, intake, list_size=2)["eval"]
    assert sorted(example.relevance) == [0, 1]
    assert intake.dropped["eval"] == {"supporting passage beyond the list's size": 1}
    with pytest.raises(UserError, match="list_size is 1; a list has at least 2"):
        build("musique", path, list_size=1)


def test_candidates_are_shuffled_by_seed_and_id(tmp_path):
    path = write_list(tmp_path / "train.json", [hotpot(f"q{i}") for i in range(200)])
    lists = build("hotpotqa", path)["train"]
    places = [[c.id for c in e.candidates].index("p1") for e in lists]
    assert all(5 <= places.count(place) <= 38 for place in range(10))
    assert build("hotpotqa", path)["train"] == lists
    assert build("hotpotqa", path, seed=1)["train"] != lists
    alone = build("hotpotqa", write_list(tmp_path / "one_train.json", [hotpot("q7")]))["train"]
    assert [e.candidates for e in alone] == [lists[7].candidates]
