"""What `irpo mine` does with a teacher's scores, and what its card accounts for."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest
from handmade import write_lines
from test_mine import mined

from irpo.types import RankingExample

TOWNS = ["Basel", "Ulm", "Bonn", "Graz"]


def taught(town: str, *scores: float) -> dict:
    """A list with an answer and three other texts, scored by a teacher."""
    texts = [f"{town} lies on a river.", f"Nobody swims in {town}.", f"{town} has a mayor.", f"{town} is old."]
    candidates = [
        {"id": f"{town}{n}", "text": text, "relevance": int(n == 0), "teacher": score}
        for n, (text, score) in enumerate(zip(texts, scores or (2.5, -1, 0.5, -3), strict=True))
    ]
    return {"id": town, "query": f"Which river does {town} lie on?", "candidates": candidates}


def untaught(card: dict) -> list[str]:
    return [note for note in card["notes"] if "teacher" in note]


def write_run(path: Path, *documents: str) -> Path:
    path.write_text("\n".join(f"Basel Q0 {id} {n} {9 - n} x" for n, id in enumerate(documents)) + "\n")
    return path


def by_id(example: RankingExample) -> dict[str, float | None]:
    return {c.id: c.teacher for c in example.candidates}


def test_lists_whose_negatives_no_teacher_scored_go_without_its_scores(tmp_path):
    card, lists = mined(tmp_path, [taught(town) for town in TOWNS], negatives=8, margin=None)
    assert [example.teacher for example in lists["train"]] == [None] * 4
    assert all(example.labelled for example in lists["train"])
    said = "lists go without the teacher's scores that they came with: what was found has none"
    assert untaught(card) == [f"train: 4 {said}"]


def test_a_list_that_is_mined_from_its_own_texts_keeps_the_teachers_scores(tmp_path):
    """The pool is one list's candidates, so that all that is found was scored."""
    card, lists = mined(tmp_path, [taught("Basel")], negatives=3, margin=None)
    assert by_id(lists["train"][0]) == {"Basel0": 2.5, "Basel1": -1, "Basel2": 0.5, "Basel3": -3}
    assert untaught(card) == []


@pytest.mark.parametrize(
    ("ranked", "kept"),
    [
        (["Basel2", "Basel0"], {"Basel2": 0.5, "Basel0": 2.5}),
        (["Basel2", "Basel0", "d1"], {"Basel2": None, "Basel0": None, "d1": None}),
        (["d1", "d2", "d3"], {"d1": None, "d2": None, "Basel0": None}),  # the answer stands in for the last
    ],
)
def test_lists_of_a_run_keep_the_teachers_scores_where_all_documents_have_one(tmp_path, ranked, kept):
    corpus = write_lines(tmp_path / "corpus.jsonl", [{"id": f"d{n}", "text": f"Text {n}."} for n in range(1, 4)])
    run = write_run(tmp_path / "first.run", *ranked)
    card, lists = mined(tmp_path, [taught("Basel")], run=run, corpus=str(corpus))
    assert by_id(lists["train"][0]) == kept
    assert len(untaught(card)) == (None in kept.values())


def test_the_card_of_a_run_names_its_file(tmp_path):
    """As other tasks name a run: by its bytes, and how many documents were taken of it."""
    run = write_run(tmp_path / "first.run", "Basel2", "Basel0", "Basel1")
    card, _ = mined(tmp_path, [taught("Basel")], run=run, top_k=2)
    assert card["sources"]["first.run"] == {"sha256": sha256(run.read_bytes()).hexdigest(), "rows": 2}
    assert "train.jsonl" in card["sources"]
