"""Evaluation: no label reaches the model, rows are what they say, files are whole or absent."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from math import log, log2

import ir_measures
import pytest
from ir_measures import AP, RR
from tiny import tiny_model, tiny_tokenizer

from irpo.config.schema import EvaluationConfig
from irpo.evaluation import Evaluation, EvaluationOptions, evaluate, write_results
from irpo.evaluation.baselines import bm25_scores
from irpo.evaluation.results import results_of
from irpo.evaluation.writing import trec_id
from irpo.measures import ndcg
from irpo.pipeline import measure
from irpo.prompting.prompts import STYLES, PromptBuilder, Template
from irpo.ranking.modes import ParsedAnswer, RankedList, by_score
from irpo.ranking.reranker import Reranker
from irpo.scorers import Independent, Label
from irpo.scoring.layout import Layout
from irpo.scoring.tokens import EncodedList
from irpo.types import Candidate, Missing, Ranking, RankingExample, Repeated, Unknown, UnknownName, UserError

TOKENIZER = tiny_tokenizer()
TEMPLATE = Template("{{ query }}\n{% for c in candidates %}[{{ c.name }}] {{ c.text }}\n{% endfor %}")
FILMS = ("Alien", "Aliens", "Heat", "The Matrix", "The Godfather")
MODEL = tiny_model()


def examples(count=6, labels=(2, 0, 1, 0, 0)):
    return [
        RankingExample(
            f"q {i}",
            "Heat " * (1 + i % 3),
            tuple(Candidate(f"d{j}", FILMS[(i + j) % 5], labels[j]) for j in range(3 + i % 3)),
        )
        for i in range(count)
    ]


def builder(style="text"):
    return PromptBuilder(TOKENIZER, TEMPLATE, style)


def rankings(evaluation):
    return {row.name: dict(row.rankings) for row in evaluation.rows}


@pytest.mark.parametrize("style", STYLES)
def test_every_mode_and_no_label_reaches_the_model(style):
    scorer = Independent() if style == "text" else Label()
    options = EvaluationOptions(lists_per_batch=4)
    found = evaluate(examples(), builder(style), MODEL, scorer, options)
    names = ["score", "generate strict", "generate repaired", "constrain", "random", "input order", "BM25"]
    assert [row.name for row in found.rows] == names
    for row in found.rows:
        if row.name != "generate strict":
            for example in examples():
                assert sorted(row.rankings[example.id].order) == list(range(len(example.candidates)))
    other = evaluate(examples(labels=(0, 3, 0, 5, 1)), builder(style), MODEL, scorer, options)
    assert rankings(other) == rankings(found)
    assert other.values != found.values


def test_a_scorer_that_looks_for_labels_finds_none():
    seen = []

    @dataclass(frozen=True)
    class Peeking:
        def layout(self, item: EncodedList) -> Layout:
            seen.append(item.relevance)
            return Independent().layout(item)

    evaluate(examples(2), builder(), MODEL, Peeking(), EvaluationOptions(modes=("score",)))
    assert sorted(seen) == [(0.0,) * 3, (0.0,) * 4]


def test_values_are_the_measures_of_the_rankings():
    options = EvaluationOptions(modes=("score",), measures=("NDCG@1", "NDCG@10"))
    found = evaluate(examples(), builder(), MODEL, Independent(), options)
    summary = found.summary
    for row, told in zip(found.rows, summary.rows, strict=True):
        values = [ndcg(row.rankings[e.id].order, e.relevance, 10) for e in examples()]
        assert told.measures["NDCG@10"] == pytest.approx(sum(values) / len(values))
        low, high = told.interval
        assert low - 1e-12 <= told.measures["NDCG@10"] <= high + 1e-12
    given = next(row for row in summary.rows if row.name == "input order")
    # The label 2 stands first in every list, the label 1 third.
    assert given.measures["NDCG@10"] == pytest.approx((3 + 1 / log2(4)) / (3 + 1 / log2(3)))


def test_the_seed_decides_what_chance_decides():
    options = EvaluationOptions(modes=("score",))
    first, again = (evaluate(examples(), builder(), MODEL, Independent(), options) for _ in range(2))
    other = evaluate(examples(), builder(), MODEL, Independent(), replace(options, seed=1))
    assert rankings(first) == rankings(again)
    assert rankings(first)["random"] != rankings(other)["random"]
    assert rankings(first)["score"] == rankings(other)["score"]


def test_equal_scores_never_follow_the_input():
    orders = [by_score([1.0, 1.0, 2.0, float("nan")], f"q{i}", 0) for i in range(200)]
    assert all(tied and order.order[0] == 2 and order.order[3] == 3 for order, tied in orders)
    assert 70 < sum(order.order[1] == 0 for order, _ in orders) < 130  # a fair coin: 100, standard deviation 7
    assert by_score([1.0, 3.0, 2.0], "q", 0) == (Ranking((1, 2, 0)), False)


def test_bm25_on_one_list():
    example = RankingExample("q", "heat, the MATRIX", tuple(Candidate(t, t) for t in FILMS))

    def part(containing: int, words: int) -> float:
        """Lucene's idf times its saturated count, of a word that is once in a text; 7 words in 5 texts."""
        return log(1 + (5 - containing + 0.5) / (containing + 0.5)) / (1 + 1.5 * (0.25 + 0.75 * words / (7 / 5)))

    expected = [0, 0, part(1, 1), part(2, 2) + part(1, 2), part(2, 2)]
    assert bm25_scores(example) == pytest.approx(expected)
    nothing = replace(example, query="?!")
    assert bm25_scores(nothing) == [0.0] * 5
    assert bm25_scores(replace(example, query="Xyzzy")) == [0.0] * 5


def handmade():
    """Two lists, one of them answered badly."""
    first, second = (
        RankingExample(
            f"q {i}", "?", tuple(Candidate(f"d {j}", FILMS[j], float(y)) for j, y in enumerate((2, 0, 1, 0)))
        )
        for i in range(2)
    )
    bad = ParsedAnswer("1. Alien\n2. Zork\n1. Alien", Ranking((0,)), (Unknown("Zork"), Repeated(0), Missing(1)))
    good = ParsedAnswer("...", Ranking((0, 2, 1, 3)))
    lists = [
        RankedList("q 0", Ranking((0, 1, 2, 3)), answer=bad),
        RankedList("q 1", Ranking((0, 2, 1, 3)), answer=good),
    ]
    strict, _ = results_of("generate", lists, seconds=0.5)
    return Evaluation((first, second), (strict,), ("NDCG@1", "NDCG@10", "MRR", "MAP"), about={"model": "hand"})


def test_coverage_and_problems():
    (row,) = handmade().summary.rows
    assert row.answers.coverage == pytest.approx((1 / 4 + 4 / 4) / 2)
    assert row.answers.exact_permutations == 1 / 2
    assert row.answers.problems == {"missing": 1, "repeated": 1, "unknown": 1, "unparseable": 0}
    assert row.measures["NDCG@10"] == pytest.approx((3 / (3 + 1 / log2(3)) + 1) / 2)
    assert row.lists_per_second == 2 / 0.5


def test_files(tmp_path):
    evaluation = handmade()
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("kept")
    (out / "results.json").write_text("{}")
    (out / "bm25.run").write_text("of the earlier evaluation")
    summary = write_results(out, evaluation)
    written = {path.name for path in out.iterdir()}
    files = {"results.json", "report.md", "per_query.jsonl", "generations.jsonl", "qrels.txt", "generate-strict.run"}
    assert written == {"mine.txt", *files}
    assert json.loads((out / "results.json").read_text()) == json.loads(json.dumps(summary.as_dict()))
    lines = [json.loads(line) for line in (out / "per_query.jsonl").read_text().splitlines()]
    assert lines[0]["rows"]["generate strict"]["order"] == ["d 0"]
    answer = json.loads((out / "generations.jsonl").read_text().splitlines()[0])
    assert answer["problems"] == [
        {"kind": "unknown", "text": "Zork"},
        {"kind": "repeated", "candidate": "d 0"},
        {"kind": "missing", "candidate": "d 1"},
    ]
    assert "# Evaluation" in (out / "report.md").read_text()


def test_other_tools_read_the_trec_files(tmp_path):
    summary = write_results(tmp_path, handmade())
    qrels = list(ir_measures.read_trec_qrels(str(tmp_path / "qrels.txt")))
    run = list(ir_measures.read_trec_run(str(tmp_path / "generate-strict.run")))
    assert {q.query_id for q in qrels} == {"q%200", "q%201"}
    measured = ir_measures.calc_aggregate([AP, RR], qrels, run)
    (row,) = summary.rows
    assert measured[AP] == pytest.approx(row.measures["MAP"])
    assert measured[RR] == pytest.approx(row.measures["MRR"])


def test_nothing_half_written(tmp_path, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setattr("irpo.evaluation.writing._qrels", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_results(out, handmade())
    assert list(tmp_path.iterdir()) == []


def test_ids_without_blanks_stay_apart():
    ids = ["a b", "a%20b", "a\tb", "a\u00a0b", "ab", "a%b"]
    written = [trec_id(text) for text in ids]
    assert len(set(written)) == len(ids)
    assert not any(c.isspace() for text in written for c in text)


def test_mistakes_are_named():
    with pytest.raises(UserError, match="no list to evaluate"):
        evaluate([], builder(), MODEL, Independent())
    with pytest.raises(UserError, match="two lists have the id 'q 0'"):
        evaluate(examples(1) * 2, builder(), MODEL, Independent())
    with pytest.raises(
        UnknownName, match="choose from constrain, generate, generate_strengthened, label, score, setwise"
    ):
        EvaluationOptions(modes=("guess",))


def test_w4_popularity_counts_from_the_label_that_the_task_says(monkeypatch):
    """ReDial's and INSPIRED's suggestions by an LLM have label 1: they are not what is right there."""
    seen = {}
    monkeypatch.setattr("irpo.pipeline.run_evaluation", lambda *_, popularity: seen.update(popularity))
    monkeypatch.setattr("irpo.pipeline.check_model", lambda _: None)
    texts = {"Heat": 1.0, "Alien": 2.0, "Up": 0.0}
    train = [RankingExample("t", "films", tuple(Candidate(text, text, label) for text, label in texts.items()))]
    ranker = Reranker(None, None, None, Independent())
    measure(ranker, train, EvaluationConfig(), task={"name": "redial", "data": "."}, train=train)
    assert seen == {"alien": 1.0}
