"""The six datasets' own files, where they are at hand: lists as the paper counts them, in both forms."""

from __future__ import annotations

import os
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from irpo.sameness import parse_title, same_answer, same_film
from irpo.tasks import TASKS, Intake, build_lists
from irpo.tasks.preparing import prepare
from irpo.types import RankingExample

DATA = Path(os.environ.get("IRPO_DATA", Path(__file__).parents[2] / "shared" / "data"))
SAMPLE, EXTENDED = DATA / "sample", DATA / "extended"
FOLDERS = {
    "arc": "arc_challenge",
    "commonsenseqa": "commonsenseqa",
    "hotpotqa": "hotpotqa",
    "inspired": "inspired",
    "musique": "musique",
    "redial": "redial",
}

pytestmark = pytest.mark.skipif(not SAMPLE.is_dir(), reason="no real data: IRPO_DATA is the folder that has sample/")


@cache
def _built(name: str, folder: Path, **options: Any) -> tuple[dict[str, list[RankingExample]], Intake]:
    intake = Intake()
    return build_lists(TASKS.build(name, data=str(folder), **options), intake), intake


def _sample(name: str) -> dict[str, list[RankingExample]]:
    return _built(name, SAMPLE / FOLDERS[name])[0]


@pytest.mark.parametrize(
    ("name", "train", "evaluation", "size"),
    [
        ("arc", 400, 200, 10),
        ("commonsenseqa", 400, 200, 10),
        ("hotpotqa", 400, 200, 10),
        ("musique", 100, 100, 10),
        ("redial", 149, 58, 20),
        ("inspired", 76, 53, 20),
    ],
)
def test_every_sample_makes_its_lists(name, train, evaluation, size):
    lists = _sample(name)
    assert {split: len(examples) for split, examples in lists.items()} == {"train": train, "eval": evaluation}
    for example in lists["train"] + lists["eval"]:
        assert len(example.candidates) == size or name == "hotpotqa"
        assert max(example.relevance) > 0
        assert len({text.casefold() for text in example.texts}) == len(example.candidates)


@pytest.mark.parametrize("name", sorted(FOLDERS))
def test_position_tells_nothing(name):
    lists = _sample(name)
    examples = lists["train"] + lists["eval"]
    first = sum(e.relevance[0] == max(e.relevance) for e in examples)
    expected = sum(e.relevance.count(max(e.relevance)) / len(e.candidates) for e in examples)
    assert abs(first - expected) < 4 * expected**0.5


@pytest.mark.parametrize("name", ["arc", "commonsenseqa"])
def test_no_distractor_is_the_right_answer(name):
    for example in _sample(name)["train"] + _sample(name)["eval"]:
        (right,) = (c.text for c in example.candidates if c.relevance)
        assert not any(same_answer(c.text, right) for c in example.candidates if c.source in ("mined", "random"))


@pytest.mark.parametrize("name", ["redial", "inspired"])
def test_no_film_is_there_twice(name):
    for example in _sample(name)["train"] + _sample(name)["eval"]:
        titles = [parse_title(text) for text in example.texts]
        assert not any(same_film(a, b) for i, a in enumerate(titles) for b in titles[:i])
        assert example.query.startswith(("Seeker: ", "Recommender: "))
        assert "@" not in example.query or name == "inspired"


def test_inspired_has_its_suggestions():
    lists, intake = _built("inspired", SAMPLE / "inspired")
    sources = Counter(c.source for e in lists["eval"] for c in e.candidates)
    assert sources["llm"] >= 0.95 * 5 * len(lists["eval"])
    assert {(c.source, c.relevance) for e in lists["eval"] for c in e.candidates} == {
        ("ground_truth", 2.0), ("llm", 1.0), ("random", 0.0)
    }  # fmt: skip
    assert intake.dropped["eval"]["suggestion that is a ground truth"] >= 5


@pytest.mark.parametrize(
    ("name", "ours", "theirs"),
    [
        ("arc", "ARC-Challenge-Train.jsonl", "train.jsonl"),
        ("commonsenseqa", "dev_rand_split.jsonl", "validation.jsonl"),
        ("hotpotqa", "hotpot_dev_distractor_v1.json", "distractor_validation.jsonl"),
        ("redial", "test_data.jsonl", "test.derived.jsonl"),
    ],
)
def test_the_hubs_rows_ask_the_same(name, ours, theirs):
    folder = SAMPLE / FOLDERS[name]
    website = {e.id: e for e in next(iter(_built(name, folder / ours)[0].values()))}
    hub = next(iter(_built(name, folder / "hf_format" / theirs)[0].values()))
    assert len(hub) >= 15
    for example in hub:
        assert example.query == website[example.id].query
        relevant, others = ({c.text for c in e.candidates if c.relevance} for e in (example, website[example.id]))
        assert name == "redial" or relevant == others
    if name == "hotpotqa":
        assert all(example == website[example.id] for example in hub)


def test_unanswerable_questions_are_refused():
    lists, intake = _built("musique", SAMPLE / "musique" / "edge_cases_musique_full.jsonl")
    assert len(lists["train"]) + intake.dropped["train"]["unanswerable"] == 20
    assert intake.dropped["train"]["unanswerable"] >= 9


def test_odd_labels_of_arcs_test_file():
    lists, _ = _built("arc", SAMPLE / "arc_challenge", eval_split="test")
    assert len(lists["eval"]) == 40
    assert {sum(c.source in ("own", "ground_truth") for c in e.candidates) for e in lists["eval"]} == {3, 4, 5}


@pytest.mark.skipif(not EXTENDED.is_dir(), reason="no extended/ beside the sample")
def test_redial_makes_the_papers_share_of_lists():
    (lists, intake) = _built("redial", EXTENDED / "redial" / "test_data.jsonl")
    share = len(lists["eval"]) / intake.sources["test_data.jsonl"]["rows"]
    assert abs(share / (1319 / 1342) - 1) < 0.01


def test_inspired_makes_the_papers_share_of_lists():
    assert abs(len(_sample("inspired")["eval"]) / 60 - 88 / 99) < 0.02


def test_preparing_twice_writes_the_same(tmp_path):
    for out in ("a", "b"):
        task = TASKS.build("inspired", data=str(SAMPLE / "inspired"))
        prepare(task, tmp_path / out, task_spec={"name": "inspired", "data": str(SAMPLE / "inspired")})
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
        assert str(DATA).encode() not in path.read_bytes()
