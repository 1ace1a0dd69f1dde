"""`irpo evaluate --task beir`: figures as BEIR reports them, files that trec_eval reads with the dataset's qrels."""

from __future__ import annotations

import json

import pytest
import pytrec_eval
from handmade import build
from small_collection import FIRST_STAGE, QRELS, write_beir

from irpo.config.schema import EvaluationConfig
from irpo.pipeline import evaluate


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """The embedded model over a first stage's lists; the results' folder, and what results.json holds."""
    folder = tmp_path_factory.mktemp("evaluated")
    spec = {"name": "beir", "data": str(write_beir(folder / "data")), "run": "first.run"}
    settings = EvaluationConfig(modes=({"name": "score"},), measures=("NDCG@10", "Recall@5"))
    evaluate("embedded", spec, folder / "out", settings)
    return folder / "out", json.loads((folder / "out" / "results.json").read_text())


def as_beir(run):
    """NDCG@10 of BEIR's evaluation: the mean over the queries that run and qrels share."""
    found = pytrec_eval.RelevanceEvaluator(QRELS["test"], {"ndcg_cut_10", "recall_5"}).evaluate(run)
    return {name: sum(of[name] for of in found.values()) / len(found) for name in ("ndcg_cut_10", "recall_5")}


def row(results, name):
    return next(row for row in results["rows"] if row["name"] == name)["measures"]


def test_the_first_stage_is_a_row_with_the_figures_of_its_run(evaluated):
    run = {q: {doc: -float(n) for n, doc in enumerate(docs)} for q, docs in FIRST_STAGE.items()}
    expected = as_beir(run)
    found = row(evaluated[1], "input order")
    assert found["LNDCG@10"] == pytest.approx(expected["ndcg_cut_10"], abs=1e-6)
    assert found["Recall@5"] == pytest.approx(expected["recall_5"], abs=1e-6)
    assert 0 < found["LNDCG@10"] < 1
    assert found["LNDCG@10"] != pytest.approx(found["NDCG@10"], abs=1e-3)  # labels are graded


@pytest.mark.parametrize("name", ["score", "random", "BM25"])
def test_run_files_bear_the_datasets_own_ids(evaluated, name):
    folder, results = evaluated
    run: dict[str, dict[str, float]] = {}
    for line in (folder / f"{name.lower()}.run").read_text().splitlines():
        query, _, document, _, score, _ = line.split(" ")
        run.setdefault(query, {})[document] = float(score)
    assert {q: set(docs) for q, docs in run.items()} == {q: set(FIRST_STAGE[q]) for q in QRELS["test"]}
    expected = as_beir(run)
    assert row(results, name)["LNDCG@10"] == pytest.approx(expected["ndcg_cut_10"], abs=1e-6)
    assert row(results, name)["Recall@5"] == pytest.approx(expected["recall_5"], abs=1e-6)


def test_a_run_that_was_written_is_a_first_stage_again(evaluated, tmp_path):
    folder, _ = evaluated
    again = build("beir", write_beir(tmp_path), run=str(folder / "score.run"))["eval"]
    ranked = [line.split(" ")[2] for line in (folder / "score.run").read_text().splitlines()]
    assert [c.id for e in again for c in e.candidates] == ranked


def test_the_report_says_what_the_measure_is(evaluated):
    report = (evaluated[0] / "report.md").read_text()
    assert "LNDCG@10" in report
    assert "LNDCG has the gain y: it is trec_eval's, BEIR's and MTEB's nDCG" in report
    assert evaluated[1]["measures"] == ["NDCG@10", "Recall@5", "LNDCG@10"]
    assert evaluated[1]["main_measure"] == "NDCG@10"
