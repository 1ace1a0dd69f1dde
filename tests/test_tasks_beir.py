"""BEIR's layout as lists: the first stage's order, what it missed, and figures as BEIR reports them."""

from __future__ import annotations

import json

import pytest
import pytrec_eval
from handmade import build
from small_collection import DOCUMENTS, FIRST_STAGE, QRELS, QUERIES, json_lines, write, write_beir

from irpo.measures import per_query
from irpo.tasks import Intake
from irpo.tasks._retrieval import EMPTY, MISSING, NOBODY, SAME, TEXTLESS, TOO_FEW, UNFOUND
from irpo.types import Ranking, UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_beir(tmp_path_factory.mktemp("beir"))


def ids(example):
    return [c.id for c in example.candidates]


def test_evaluation_lists_are_the_run_in_its_order(folder):
    intake = Intake()
    lists = build("beir", folder, intake, run="first.run")
    assert {e.id: ids(e) for e in lists["eval"]} == {q: FIRST_STAGE[q] for q in QRELS["test"]}
    first = lists["eval"][0]
    assert first.query == QUERIES["1"]
    assert first.candidates[1].text == "Chain care " + DOCUMENTS["d-oil"][1]
    assert first.relevance == (0, 2, 0)
    assert first.unlisted == (("d-lube", 1.0),)
    assert [c.source for c in first.candidates] == ["first stage", "judged", "first stage"]
    assert intake.dropped["eval"][NOBODY] == 1
    assert "eval: candidates stand in the first stage's order; its figures are the row 'input order'" in intake.notes
    assert "eval: 1 of 3 lists hold no relevant document; they count 0" in intake.notes
    assert set(intake.sources) == {"corpus.jsonl", "queries.jsonl", "test.tsv", "train.tsv", "first.run"}


def test_training_lists_are_mixed_and_hold_something_to_learn(folder):
    intake = Intake()
    lists = build("beir", folder, intake, run="first.run")["train"]
    assert {e.id: sorted(ids(e)) for e in lists} == {"4": ["d-moss", "d-rake", "d-tea"], "6": ["d-soup", "d-tea"]}
    assert dict(lists[0].unlisted) == {}
    assert {c.id: c.relevance for c in lists[0].candidates} == {"d-moss": 2, "d-rake": 1, "d-tea": 0}  # -1 is 0
    assert intake.dropped["train"] == {UNFOUND: 1, MISSING: 1}
    in_order = build("beir", folder, run="first.run", shuffle="none")["train"]
    assert [ids(e) for e in in_order] == [["d-rake", "d-tea", "d-moss"], ["d-tea", "d-soup"]]
    orders = {tuple(ids(build("beir", folder, run="first.run", seed=n)["train"][0])) for n in range(8)}
    assert len(orders) > 2


def test_without_a_run_the_first_stage_is_bm25(folder):
    lists = build("beir", folder, top_k=4)
    found = {e.id: ids(e) for e in lists["eval"]}
    assert found["1"][0] == "d-oil"
    assert found["2"][0] == "d-bread"
    assert len(found["3"]) == 2  # no word of it occurs: two documents, so that the query counts
    assert [e.id for e in lists["eval"]] == ["1", "2", "3"]


def test_what_bm25_did_not_find_does_not_fill_its_list(tmp_path):
    """Two documents are the least of a list; those that fill it are not the relevant ones, whose rank is measured."""
    write_beir(tmp_path)
    write(tmp_path / "qrels" / "test.tsv", "query-id\tcorpus-id\tscore\n3\td-oil\t1\n3\td-brake\t2\n")
    (example,) = build("beir", tmp_path, top_k=4)["eval"]  # the corpus begins with d-oil, d-lube, d-brake, d-pump
    assert ids(example) == ["d-lube", "d-pump"]
    assert dict(example.unlisted) == {"d-oil": 1, "d-brake": 2}


def test_queries_of_one_document_are_told_of(tmp_path):
    write_beir(tmp_path)
    write(tmp_path / "first.run", "1 Q0 d-oil 1 1 x\n2 Q0 d-bread 1 2 x\n2 Q0 d-soup 2 1 x\n")
    intake = Intake()
    assert [e.id for e in build("beir", tmp_path, intake, run="first.run")["eval"]] == ["2"]
    told = (
        "eval: 1 queries for which the first stage has one document alone are left out; BEIR and trec_eval count them"
    )
    assert told in intake.notes


@pytest.mark.parametrize("blank", [" ", "\N{NO-BREAK SPACE}"])
def test_ids_of_judgements_may_hold_blanks(tmp_path, blank):
    docs = {f"doc{blank}{n}": text for n, text in enumerate(("oil for a chain", "a chain of shops", "tea"))}
    write(tmp_path / "corpus.jsonl", json_lines({"_id": id, "text": text} for id, text in docs.items()))
    write(tmp_path / "queries.jsonl", json_lines([{"_id": "q1", "text": "oil a chain"}]))
    write(tmp_path / "qrels" / "test.tsv", f"query-id\tcorpus-id\tscore\nq1\tdoc{blank}1\t2\n")
    (example,) = build("beir", tmp_path)["eval"]
    assert {c.id: c.relevance for c in example.candidates} == {f"doc{blank}0": 0, f"doc{blank}1": 2}
    assert example.unlisted == ()


def test_a_relevant_text_under_another_id_teaches_nothing(tmp_path):
    write_beir(tmp_path)
    texts = ("Rake the lawn", "rake  the lawn", "A lawn mower", "Tea", "Mow it", "mow it")
    docs = dict(zip("abcdef", texts, strict=True))
    write(tmp_path / "corpus.jsonl", json_lines({"_id": id, "text": text} for id, text in docs.items()))
    for split, query in (("test", 6), ("train", 4)):
        write(tmp_path / "qrels" / f"{split}.tsv", f"query-id\tcorpus-id\tscore\n{query}\tb\t1\n{query}\tf\t1\n")
    write(tmp_path / "first.run", "".join(f"{q} Q0 {id} {n} {9 - n} x\n" for q in "46" for n, id in enumerate("abcde")))
    intake = Intake()
    lists = build("beir", tmp_path, intake, run="first.run")
    assert sorted(ids(lists["train"][0])) == ["b", "c", "d"]
    assert intake.dropped["train"] == {SAME: 2}  # of b, and of f, which the first stage missed
    assert ids(lists["eval"][0]) == ["a", "b", "c", "d", "e"]  # as BEIR counts


def test_a_first_stage_of_our_own_searches_the_whole_corpus_once(folder):
    assert build("beir", folder, top_k=3) == build("beir", folder, top_k=3)
    assert all(len(e.candidates) <= 3 for lists in build("beir", folder, top_k=3).values() for e in lists)


def test_figures_are_those_that_beir_computes(folder):
    """BEIR evaluates a run by pytrec_eval over the qrels, and takes the mean over the queries of both."""
    lists = build("beir", folder, run="first.run")["eval"]
    rankings = {e.id: Ranking(tuple(reversed(range(len(e.candidates))))) for e in lists}
    ours = per_query(
        rankings, {e.id: e.relevance for e in lists}, ("LNDCG@10", "Recall@20"), missed={e.id: e.missed for e in lists}
    )
    reranked = {q: {doc: float(n) for n, doc in enumerate(FIRST_STAGE[q])} for q in QRELS["test"]}
    theirs = pytrec_eval.RelevanceEvaluator(QRELS["test"], {"ndcg_cut_10", "recall_20"}).evaluate(reranked)
    for query, values in theirs.items():
        assert ours["LNDCG@10"][query] == pytest.approx(values["ndcg_cut_10"], abs=1e-6)
        assert ours["Recall@20"][query] == pytest.approx(values["recall_20"], abs=1e-6)
    assert theirs.keys() == ours["LNDCG@10"].keys()


def test_a_query_of_which_all_is_judged_irrelevant_counts_as_trec_eval_counts_it(tmp_path):
    """With 0 in the mean: the query is in the qrels, and BEIR takes the mean over all of those that were ranked."""
    path = write_beir(tmp_path) / "qrels" / "test.tsv"
    path.write_text(path.read_text() + "5\td-brake\t0\n5\td-pump\t-1\n")
    lists = build("beir", tmp_path, top_k=4)["eval"]
    rankings = {e.id: Ranking(tuple(range(len(e.candidates)))) for e in lists}
    ours = per_query(
        rankings, {e.id: e.relevance for e in lists}, ("LNDCG@10",), missed={e.id: e.missed for e in lists}
    )["LNDCG@10"]
    run = {e.id: {doc: -float(n) for n, doc in enumerate(ids(e))} for e in lists}
    qrels = QRELS["test"] | {"5": {"d-brake": 0, "d-pump": -1}}
    theirs = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut_10"}).evaluate(run)
    assert ours == pytest.approx({query: values["ndcg_cut_10"] for query, values in theirs.items()}, abs=1e-6)
    assert ours["5"] == 0


def test_a_document_that_is_the_query_is_no_candidate(tmp_path):
    write_beir(tmp_path)
    corpus = [{"_id": q, "title": "", "text": text} for q, text in QUERIES.items()]
    path = tmp_path / "corpus.jsonl"
    path.write_text(path.read_text() + json_lines(corpus))
    assert all(e.id not in ids(e) for e in build("beir", tmp_path, top_k=3)["eval"])
    assert all(len(e.candidates) == 3 for e in build("beir", tmp_path, top_k=3)["eval"] if e.id == "1")
    assert ids(build("beir", tmp_path, ignore_identical_ids=False)["eval"][0])[0] == "1"


def test_a_run_of_one_splits_queries_makes_that_split(folder, tmp_path):
    run = write(
        tmp_path / "test.run",
        "".join(f"{q} Q0 {doc} 1 {-n} x\n" for q in QRELS["test"] for n, doc in enumerate(FIRST_STAGE[q])),
    )
    intake = Intake()
    assert list(build("beir", folder, intake, run=str(run))) == ["eval"]
    assert "train: the run ranks nothing for its queries; no lists are made of them" in intake.notes
    assert list(build("beir", folder, split="train")) == ["train"]


def test_the_length_of_training_lists(folder):
    lists = build("beir", folder, run="first.run", train_candidates=2)
    assert all(len(e.candidates) == 2 and e.labelled and not all(e.relevance) for e in lists["train"])
    assert len(lists["eval"][0].candidates) == 3


def test_what_is_missing_is_counted(tmp_path):
    write_beir(tmp_path)
    write(tmp_path / "qrels" / "test.tsv", "query-id\tcorpus-id\tscore\n1\td-oil\t1\n2\td-bread\t1\n9\td-tea\t1\n")
    write(tmp_path / "first.run", "1 Q0 d-oil 1 2 x\n1 Q0 d-blank 2 1 x\n1 Q0 d-tea 3 0 x\n2 Q0 d-bread 1 1 x\n")
    path = tmp_path / "corpus.jsonl"
    path.write_text(path.read_text() + json_lines([{"_id": "d-blank", "title": "", "text": " "}]))
    (tmp_path / "qrels" / "train.tsv").unlink()
    intake = Intake()
    assert [ids(e) for e in build("beir", tmp_path, intake, run="first.run")["eval"]] == [["d-oil", "d-tea"]]
    assert intake.dropped["eval"] == {NOBODY: 5, TEXTLESS: 1, TOO_FEW: 1, EMPTY: 1}


def hub(folder):
    """What `datasets` gives of the two repositories; ids of the judgements are numbers there."""
    texts = {
        name: [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
        for name in ("corpus", "queries")
    }
    qrels = {
        split: [
            {"query-id": int(q), "corpus-id": doc, "score": y}
            for q, docs in QRELS[split].items()
            for doc, y in docs.items()
        ]
        for split in QRELS
    }

    def load(name, config=None, **_):
        return qrels if name.endswith("-qrels") else {config: texts[config]}

    return load


def test_the_hubs_rows_make_the_same_lists(folder, monkeypatch):
    monkeypatch.setattr("datasets.load_dataset", hub(folder))
    assert build("beir", "hub", dataset="small", top_k=5) == build("beir", folder, top_k=5)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"top_k": 1}, "top_k is 1; a list has 2 to 10000"),
        ({"train_candidates": 1}, "train_candidates is 1; give 2 to top_k"),
        ({"dataset": "scifact"}, "dataset says which one of the hub"),
        ({"eval_split": "dev"}, "no judgements for dev; there are test, train"),
        ({"run": "no.run"}, "no.run: there is no such file"),
    ],
)
def test_options_that_cannot_be(folder, options, problem):
    with pytest.raises(UserError, match=problem):
        build("beir", folder, **options)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\n1\td-oil\n", r"test.tsv:2: 2 columns"),
        ("qrels/test.tsv", "1\td-oil\t1\t\n1\td-lube\t\t9999\n", r"test.tsv:2: the label is '9999'"),
        ("qrels/test.tsv", "1\td-oil\tgood\n", r"test.tsv:1: the label is 'good'"),
        ("qrels/test.tsv", "1\td-oil\t1\n1\td-oil\t2\n", r"test.tsv:2: document 'd-oil' is judged twice"),
        ("first.run", "1 Q0 d-oil 1 0.5 x\n1 Q0 d-oil 2 0.4 x\n", "first.run:2: document 'd-oil' is ranked twice"),
        ("first.run", "1 Q0 d-oil 1 high x\n", "first.run:1: the score 'high' is no number"),
        ("first.run", "q77 Q0 d-oil 1 1 x\n", "ranks nothing for any of the 6 judged queries"),
        ("queries.jsonl", '{"_id": "1", "text": ""}\n', "queries.jsonl:1: query '1' has no text"),
        (
            "queries.jsonl",
            '{"_id": "1", "text": "a"}\n{"_id": 1, "text": "b"}\n',
            "queries.jsonl:2: query '1' was there",
        ),
        ("corpus.jsonl", '{"_id": "1"}\n', "corpus.jsonl:1: the row has no 'text'"),
        ("corpus.jsonl", '{"_id": true, "text": "x"}\n', "corpus.jsonl:1: '_id' is True"),
    ],
)
def test_what_is_wrong_is_one_line_with_its_place(tmp_path, name, content, problem):
    write_beir(tmp_path)
    write(tmp_path / name, content)
    with pytest.raises(UserError, match=problem):
        build("beir", tmp_path, run="first.run")


def test_bad_rows_are_skipped_where_that_is_asked(tmp_path):
    write_beir(tmp_path)
    path = tmp_path / "qrels" / "test.tsv"
    path.write_text(path.read_text() + "1\td-tea\tbroken\n")
    intake = Intake(skip_bad_rows=True)
    assert len(build("beir", tmp_path, intake, run="first.run")["eval"]) == 3
    assert intake.bad_rows == ["test.tsv:7: the label is 'broken'; a label is a number up to 1000"]


def test_a_folder_that_is_none_of_beirs(tmp_path):
    with pytest.raises(UserError, match=r"no corpus\.jsonl here; BEIR's layout"):
        build("beir", tmp_path)
