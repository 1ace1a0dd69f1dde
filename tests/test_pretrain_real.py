"""The model for the real tasks: its script makes one that ranks, and reads no text that it must not know."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path

import handmade
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

from embedded_tokenizer import train_tokenizer
from real_corpus import UNREAD, RealCorpus, answered, read, tokenizer_texts, training_texts

from irpo.chance import in_test_split
from irpo.ranking.reranker import Reranker
from irpo.sameness import text_key
from irpo.tasks import TASKS, Intake, build_lists

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("IRPO_DATA", ROOT.parent / "shared" / "data")) / "sample"
SHARED = "Shared Town"  # a passage that a training and an evaluation question have
COUNT = 40  # training rows of a task


def _questions(folder: Path) -> None:
    stems = ("sky", "grass", "coal", "leg", "bird", "fish")

    def asked(split: str, count: int) -> list[handmade.Row]:
        rows = [handmade.question(stems[i % len(stems)]) for i in range(count)]
        for i, row in enumerate(rows):
            row["id"] = f"{split}{i}"
            row["question"]["stem"] = f"{split} number {i}: {row['question']['stem']}"
        return rows

    handmade.write_lines(folder / "train.jsonl", asked("train", COUNT))
    handmade.write_lines(folder / "dev.jsonl", asked("dev", 12))


def _passages(folder: Path) -> None:
    def asked(split: str, count: int) -> list[handmade.Row]:
        rows = [handmade.hotpot(f"{split}{i}", paragraphs=5) for i in range(count)]
        for i, row in enumerate(rows):
            row["question"] = f"Which {split} towns of {i}?"
            row["context"] = [[f"{title} of {split} {i}", sentences] for title, sentences in row["context"]]
            row["supporting_facts"] = [[f"{title} of {split} {i}", n] for title, n in row["supporting_facts"]]
        rows[0]["context"][-1] = [SHARED, [f"{SHARED} has more than a dozen words about its long river and old mill."]]
        return rows

    train = asked("train", COUNT)
    kept = next(i for i, row in enumerate(train) if read(row["_id"]))
    train[kept]["context"][-1] = train[0]["context"][-1]
    handmade.write_list(folder / "hotpot_train_v1.1.json", train)
    handmade.write_list(folder / "hotpot_dev_distractor_v1.json", asked("dev", 3))


def _dialogues(folder: Path) -> None:
    def said(split: str, i: int) -> handmade.Row:
        films = {"700": f"Wanted {split} {i} (1999)"}
        lines = [
            (handmade.SEEKER, f"{split} {i}: a film, please"),
            (handmade.RECOMMENDER, "try @700"),
            (handmade.SEEKER, f"thanks from {split} {i}"),
        ]
        return handmade.redial(f"{split}{i}", lines, films)

    train = [*handmade.crowd(), *(said("train", i) for i in range(COUNT))]
    handmade.write_lines(folder / "train_data.jsonl", train)
    handmade.write_lines(folder / "test_data.jsonl", [said("test", i) for i in range(5)])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    home = tmp_path_factory.mktemp("real")
    _questions(home / "arc_challenge")
    _questions(home / "commonsenseqa")
    _passages(home / "hotpotqa")
    _dialogues(home / "redial")
    return home


def test_the_script_makes_a_model_that_ranks(data, tmp_path):
    out, log = tmp_path / "model", tmp_path / "log.jsonl"
    size = ["--width", "128", "--layers", "2", "--vocabulary", "400"]
    where = ["--data", str(data), "--out", str(out), "--log", str(log)]
    script = ROOT / "benchmarks" / "pretrain_real.py"
    # A process of its own: rows come from a forked worker.
    subprocess.run(
        [sys.executable, str(script), *where, *size, "--steps", "3", "--batch-tokens", "400"],
        check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    assert lines[-1]["parameters"] > 0
    assert lines[-1]["lists"]["redial"] > 0
    ranked = Reranker.load(str(out)).rank("Which town?", ["Town 1", "Town 2", "Town 3"])
    assert sorted(row.text for row in ranked) == ["Town 1", "Town 2", "Town 3"]


def test_a_dialogue_is_read_to_its_end_only_where_it_is_answered(data):
    documents = training_texts(data).documents
    ends = {i: any(text.endswith(f": thanks from train {i}") for text in documents) for i in range(COUNT)}
    begins = {i: any(text.startswith(f"Seeker: train {i}:") for text in documents) for i in range(COUNT)}
    assert ends == {i: answered(f"train{i}") for i in range(COUNT)}
    assert begins == {i: read(f"train{i}") for i in range(COUNT)}
    assert 0 < sum(ends.values()) < sum(begins.values()) < COUNT


def test_a_question_has_its_answer_only_where_it_is_answered(data):
    documents = training_texts(data).documents
    asked = [i for i in range(COUNT) if any(text.startswith(f"train number {i}: ") for text in documents)]
    assert asked == [i for i in range(COUNT) if answered(f"train{i}")]


def test_what_validation_may_set_aside_and_what_evaluation_shows_is_not_read(data):
    texts = training_texts(data)
    told = "\n".join(texts.told())
    assert SHARED not in told
    for word in ("dev number", "dev towns", "test 0", "of dev"):
        assert word not in told
    lists = [e for examples in texts.lists.values() for e in examples]
    assert lists
    assert not any(in_test_split(e.unit, UNREAD) for e in lists)


def test_a_lists_row_says_every_candidate_once_in_an_order_that_tells_no_label(data):
    texts = training_texts(data)
    tokenizer = train_tokenizer(tokenizer_texts(texts, 0), 400)
    corpus = RealCorpus(tokenizer, texts, 0)
    first = 0
    for _ in range(200):
        prompt, answer = tokenizer.decode(corpus.list_row("commonsenseqa").ids).split("<|assistant|>")
        shown = [line[2:] for line in prompt.splitlines() if line.startswith("- ")]
        written = [line.partition(". ")[2] for line in answer.splitlines() if ". " in line]
        assert sorted(shown) == sorted(written)
        first += written[0] == shown[0]
    assert 10 <= first <= 80  # of 200, by chance about 1 in 3 to 10


def test_rows_come_in_all_kinds(data):
    texts = training_texts(data)
    corpus = RealCorpus(train_tokenizer(tokenizer_texts(texts, 0), 400), texts, 0)
    kinds = {row.kind for row in islice(corpus.rows(1), 200)}
    assert kinds == {"repeats", "text", "generic_text", *(f"list_{task}" for task in texts.lists)}


@pytest.mark.skipif(not DATA.is_dir(), reason="no real data: IRPO_DATA is the folder that has sample/")
def test_no_real_evaluation_text_is_in_the_corpus():
    texts = training_texts(DATA)
    told = {text_key(text) for text in texts.told()}
    whole = "\n".join(told)
    for task, folder in {"redial": "redial", "hotpotqa": "hotpotqa", "arc": "arc_challenge"}.items():
        options = {"max_words": 0} if task == "hotpotqa" else {}
        evaluated = build_lists(TASKS.build(task, data=str(DATA / folder), **options), Intake())["eval"]
        assert not told & {text_key(e.query) for e in evaluated}
        shown = [t for e in evaluated for t in (e.query, *(e.texts if task == "hotpotqa" else ()))]
        long = [text for text in shown if len(text.split()) > 15]
        assert long
        assert not [text for text in long if text_key(text) in whole]
