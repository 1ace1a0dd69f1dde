"""A ranker inside the package mteb: its own evaluation of a small reranking task gives our figures."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from typing import Any

import pytest

mteb = pytest.importorskip("mteb")

from datasets import Dataset  # noqa: E402
from mteb.abstasks import AbsTaskRetrieval  # noqa: E402
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData  # noqa: E402
from mteb.abstasks.task_metadata import TaskMetadata  # noqa: E402
from mteb.models import SearchProtocol  # noqa: E402

from irpo.integrations.mteb import MtebReranker, _query, _scores  # noqa: E402
from irpo.measures import linear_gain, mean, ndcg, per_query  # noqa: E402
from irpo.ranking.reranker import Ranked  # noqa: E402
from irpo.tasks import TASKS, Intake, build_lists  # noqa: E402
from irpo.types import Ranking, UserError  # noqa: E402

METADATA = {
    "type": "Reranking",
    "name": "SmallWorldReranking",
    "main_score": "ndcg_at_10",
    "description": "Lists of a synthetic world.",
    "reference": None,
    "dataset": {"path": "NA", "revision": "NA"},
    "category": "t2t",
    "eval_splits": ["test"],
    "eval_langs": ["eng-Latn"],
    "date": ("2024-01-01", "2024-01-01"),
    "dialect": [],
    "domains": [],
    "task_subtypes": [],
    "license": "cc-by-4.0",
    "annotations_creators": "derived",
    "modalities": ["text"],
    "sample_creation": "created",
    "bibtex_citation": "",
}


@pytest.fixture(scope="module")
def lists():
    return build_lists(TASKS.build({"name": "world", "train_lists": 4, "eval_lists": 12}), Intake())["eval"]


@pytest.fixture(scope="module")
def reranker():
    return MtebReranker.load("embedded")


@pytest.fixture(scope="module")
def task(lists):
    class SmallWorldReranking(AbsTaskRetrieval):
        metadata = TaskMetadata(**METADATA)

        def load_data(self, num_proc: int | None = None, **_: Any) -> None:
            documents = [{"id": f"{e.id}/{c.id}", "title": "", "text": c.text} for e in lists for c in e.candidates]
            self.dataset = {
                "default": {
                    "test": RetrievalSplitData(
                        queries=Dataset.from_list([{"id": e.id, "text": e.query} for e in lists]),
                        corpus=Dataset.from_list(documents),
                        relevant_docs={e.id: {f"{e.id}/{c.id}": int(c.relevance) for c in e.candidates} for e in lists},
                        top_ranked={e.id: [f"{e.id}/{c.id}" for c in e.candidates] for e in lists},
                    )
                }
            }
            self.data_loaded = True

    return SmallWorldReranking()


def test_mtebs_own_evaluation_gives_our_ndcg(task, reranker, lists, tmp_path):
    assert isinstance(reranker, SearchProtocol)
    found = mteb.evaluate(reranker, task, cache=None, co2_tracker=False, show_progress_bar=False)
    (scores,) = found.task_results[0].scores["test"]
    rows = reranker.reranker.rank_many([(e.query, e.texts) for e in lists])
    order = {e.id: [row.index for row in own] for e, own in zip(lists, rows, strict=True)}
    ours = [ndcg(order[e.id], e.relevance, 10, gain=linear_gain) for e in lists]
    assert scores["ndcg_at_10"] == pytest.approx(sum(ours) / len(ours), abs=1e-5)
    labels = {e.id: e.relevance for e in lists}
    by_trec = per_query({id: Ranking(tuple(own)) for id, own in order.items()}, labels, ["LNDCG@10", "MAP"])
    assert scores["ndcg_at_10"] == pytest.approx(mean(by_trec["LNDCG@10"]), abs=1e-5)
    assert scores["map_at_1000"] == pytest.approx(mean(by_trec["MAP"]), abs=1e-5)
    assert 0.3 < scores["ndcg_at_10"] < 1  # a model of some skill, and not all alike


def test_results_are_kept_by_weights_and_prompt(reranker):
    meta = reranker.mteb_model_meta
    assert (meta.name, meta.model_type) == ("irpo/embedded", ["cross-encoder"])
    assert meta.revision == MtebReranker(reranker.reranker, "embedded").mteb_model_meta.revision
    other = MtebReranker(reranker.reranker, "embedded", "constrain")
    assert other.mteb_model_meta.revision != meta.revision
    ranker = reranker.reranker
    blocks = replace(ranker, builder=replace(ranker.builder, attention="block"))
    spoken = copy(ranker.builder.tokenizer)
    spoken.chat_template = "{% for m in messages %}<{{ m.role }}> {{ m.content }} {% endfor %}"
    marked = replace(ranker, builder=replace(ranker.builder, tokenizer=spoken))
    revisions = {MtebReranker(each, "embedded").mteb_model_meta.revision for each in (ranker, blocks, marked)}
    assert len(revisions) == 3


def test_titles_instructions_and_empty_texts(reranker):
    corpus = [
        {"id": "a", "title": "Spaceballs", "text": "a funny film"},
        {"id": "b", "title": "", "text": " "},
        {"id": "c", "title": None, "text": "a sad film"},
    ]
    reranker.index(Dataset.from_list(corpus))
    assert list(reranker._documents(["c", "a", "c", "b"])) == [
        ("c", "a sad film"),
        ("a", "Spaceballs a funny film"),
        ("b", ""),
    ]
    queries = Dataset.from_list([{"id": "q", "text": "space"}, {"id": "unasked", "text": "x"}])
    found = reranker.search(queries, top_k=10, top_ranked={"q": ["b", "a", "c"]})
    assert found["unasked"] == {}
    assert set(found["q"]) == {"a", "b", "c"}
    assert found["q"]["b"] < min(found["q"]["a"], found["q"]["c"])
    assert len(reranker.search(queries, top_k=1, top_ranked={"q": ["b", "a", "c"]})["q"]) == 1
    assert _query({"text": "space", "instruction": "films only"}) == "space films only"
    assert _query({"text": [{"role": "user", "content": "hi"}, {"role": "bot", "content": "yes"}]}) == (
        "user: hi; bot: yes"
    )
    with pytest.raises(UserError, match="top_ranked"):
        reranker.search(queries, top_k=10)


def test_scores_say_the_order():
    tied = [Ranked(1, 1, "x", 0.5, id="b"), Ranked(2, 0, "y", 0.5, id="a")]
    assert _scores(tied) == {"b": -1.0, "a": -2.0}
    apart = [Ranked(1, 1, "x", 0.5, id="b"), Ranked(2, 0, "y", 0.25, id="a")]
    assert _scores(apart) == {"b": 0.5, "a": 0.25}
