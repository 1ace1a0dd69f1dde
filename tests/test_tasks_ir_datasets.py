"""Datasets of `ir_datasets`, registered here and read through the package itself, without a network."""

from __future__ import annotations

import pytest
from handmade import build
from small_collection import DOCUMENTS, FIRST_STAGE, QRELS, write, write_beir, write_trec

from irpo.tasks import TASKS, Intake, build_lists
from irpo.types import UserError

ir_datasets = pytest.importorskip("ir_datasets")


@pytest.fixture(scope="module")
def registered(tmp_path_factory):
    """A small collection under the ids `small/test`, `small/train` and, with a first stage, `small/scored`."""
    folder = write_trec(tmp_path_factory.mktemp("trec"))
    topics = [line.split("\t") for line in (folder / "collection.tsv").read_text().splitlines()]
    assert len(topics) == len(DOCUMENTS)
    from small_collection import QUERIES

    write(folder / "queries.tsv", "".join(f"{q}\t{text}\n" for q, text in QUERIES.items()))
    local = ir_datasets.util.LocalDownload
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IR_DATASETS_HOME", str(tmp_path_factory.mktemp("home")))
        docs = ir_datasets.formats.TsvDocs(local(folder / "collection.tsv"))
        queries = ir_datasets.formats.TsvQueries(local(folder / "queries.tsv"))
        parts = {split: ir_datasets.formats.TrecQrels(local(folder / f"qrels.{split}.txt"), {}) for split in QRELS}
        scored = ir_datasets.formats.TrecScoredDocs(local(folder / "bm25.run"))
        best = "".join(f"{q} Q0 {docs[-1]} 9 99 tag\n" for q, docs in FIRST_STAGE.items())
        write(folder / "apart" / "twice.run", best + (folder / "bm25.run").read_text())
        twice = ir_datasets.formats.TrecScoredDocs(local(folder / "apart" / "twice.run"))
        made = {
            "small/test": (docs, queries, parts["test"]),
            "small/train": (docs, queries, parts["train"]),
            "small/scored": (docs, queries, parts["test"], scored),
            "small/scored-twice": (docs, queries, parts["test"], twice),
            "small/unjudged": (docs, queries),
            "other/test": (ir_datasets.formats.TsvDocs(local(folder / "none.tsv")), queries, parts["test"]),
        }
        for name, components in made.items():
            ir_datasets.registry.register(name, ir_datasets.Dataset(*components))
        yield folder
        for name in made:
            del ir_datasets.registry._registered[name]


def lists_of(intake: Intake | None = None, **options):
    return build_lists(TASKS.build("ir_datasets", **options), intake or Intake())


def ids(example):
    return [c.id for c in example.candidates]


def test_the_same_lists_as_from_the_files(registered):
    intake = Intake()
    lists = lists_of(intake, train="small/train", eval="small/test", run=str(registered / "bm25.run"))
    assert lists == build("trec", registered, topics="topics.txt", collection="collection.tsv")
    assert set(intake.sources) == {"ir_datasets:small/train", "ir_datasets:small/test", "bm25.run"}


def test_the_datasets_own_first_stage_comes_before_bm25(registered):
    found = {e.id: ids(e) for e in lists_of(eval="small/scored")["eval"]}
    assert found == {q: FIRST_STAGE[q] for q in QRELS["test"]}


def test_of_a_document_scored_twice_the_best_score_counts(registered):
    found = {e.id: ids(e) for e in lists_of(eval="small/scored-twice")["eval"]}
    assert found == {q: [FIRST_STAGE[q][-1], *FIRST_STAGE[q][:-1]] for q in QRELS["test"]}


def test_bm25_where_there_is_none(registered, tmp_path):
    ours, theirs = lists_of(eval="small/test", top_k=4)["eval"], build("beir", write_beir(tmp_path), top_k=4)["eval"]
    assert [(e.id, ids(e), e.unlisted) for e in ours] == [(e.id, ids(e), e.unlisted) for e in theirs]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({}, "give eval=ID or train=ID"),
        ({"eval": "no/such"}, "ir_datasets has no dataset 'no/such'"),
        ({"eval": "small/unjudged"}, "'small/unjudged' has no qrels; docs, queries and qrels are needed"),
        ({"eval": "other/test", "train": "small/train"}, "have not the same documents"),
        ({"eval": "other/test"}, r"ir_datasets: 'other/test' cannot be had: .*none.tsv"),
        ({"eval": "small/test", "top_k": 1}, "top_k is 1"),
    ],
)
def test_what_cannot_be_is_one_line(registered, options, problem):
    with pytest.raises(UserError, match=problem):
        lists_of(**options)


def test_without_the_package_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ir_datasets", None)
    with pytest.raises(UserError, match=r"pip install 'irpo\[ir_datasets\]'"):
        lists_of(eval="small/test")
