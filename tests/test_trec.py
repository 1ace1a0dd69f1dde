"""Run files of other rankers: trec_eval's order and figures, and everything that does not match is counted."""

from __future__ import annotations

import gzip
import hashlib
import random

import pytest
import pytrec_eval

from irpo.evaluation import Evaluation, write_results
from irpo.evaluation.results import RankerResult
from irpo.evaluation.trec import read_run
from irpo.types import Candidate, Ranking, RankingExample, UserError


def example(id="q", documents=("a", "b", "c"), labels=(0, 1, 0)):
    both = zip(documents, labels, strict=True)
    return RankingExample(id, "query", tuple(Candidate(d, f"text of {d}", y) for d, y in both))


@pytest.fixture
def run(tmp_path):
    def _run(text, examples=None, name="other.run"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_run(path, examples or [example()])

    return _run


def order(found, id="q"):
    return found.result.rankings[id].order


def test_order_is_by_score_and_the_rank_column_says_nothing(run):
    found = run("q Q0 a 1 0.5 x\nq\tQ0\tb\t2\t3e0\tx\r\n\nq  Q0  c 3 -1 x\n")
    assert order(found) == (1, 0, 2)
    assert found.notes == ()
    assert found.result.name == "other"
    assert found.result.baseline


def test_equal_scores_go_by_document_id_descending_and_are_counted(run):
    found = run("q Q0 a 1 2 x\nq Q0 c 2 2 x\nq Q0 b 3 2.00000001 x\n")  # the last is 2 in 32 bits
    assert order(found) == (2, 1, 0)
    assert found.tied == found.result.tied_lists == 1
    assert found.notes == (
        "other: 1 lists have equal scores, put in order by document id, descending, as trec_eval does",
    )


def test_what_does_not_match_is_counted_and_said(run):
    lists = (example("q"), example("absent"), example("strange"))
    found = run("q Q0 b 1 1 x\nq Q0 zzz 2 9 x\nnew Q0 a 1 1 x\nstrange Q0 y 1 1 x\n", lists)
    assert (order(found), order(found, "absent"), order(found, "strange")) == ((1,), (), ())
    counts = (found.missing_queries, found.unknown_queries, found.unknown_documents, found.unranked, found.tied)
    assert counts == (1, 1, 2, 2 + 3, 0)
    assert [note.split()[1] for note in found.notes] == ["1", "1", "2", "5"]


def test_a_missing_query_counts_0_and_a_candidate_left_out_earns_nothing(run):
    lists = (example("q"), example("absent"))
    row = run("q Q0 b 1 1 x\n", lists).result
    values = Evaluation(lists, (row,), ("NDCG@10", "MRR")).values["other"]
    assert values == {"NDCG@10": {"q": 1.0, "absent": 0.0}, "MRR": {"q": 1.0, "absent": 0.0}}
    left_out = run("q Q0 a 1 1 x\n", lists).result
    assert Evaluation(lists, (left_out,), ("MRR",)).values["other"]["MRR"] == {"q": 0.0, "absent": 0.0}


def test_what_we_write_is_read_back_whatever_the_ids(tmp_path):
    lists = (example("q 1%"), example("caf\u00e9\u00a0", documents=("a b", "a%20b", "\u4e00")))
    rankings = {lists[0].id: Ranking((2, 0, 1)), lists[1].id: Ranking((1, 2))}
    write_results(tmp_path, Evaluation(lists, (RankerResult("mine", rankings),), ("MRR",)))
    assert dict(read_run(tmp_path / "mine.run", lists).result.rankings) == rankings


def test_gzip_is_seen_by_its_bytes_and_the_digest_is_of_the_file(run):
    packed = gzip.compress(b"q Q0 b 1 1 x\n")
    found = run(packed, name="bm25.run.gz")
    assert (order(found), found.result.name) == ((1,), "bm25")
    assert found.sha256 == hashlib.sha256(packed).hexdigest()
    assert order(run(packed, name="no-suffix")) == (1,)
    with pytest.raises(UserError, match="broken gzip"):
        run(packed[:-9])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("q Q0 a 1 0.5", "5 columns"),
        ("q Q0 a 1 0.5 x y", "7 columns"),
        ("q Q0 a 1 high x", "the score 'high' is no number"),
        ("q Q0 a 1 nan x", "the score 'nan' is no number"),
        ("q Q0 b 9 0.5 x", "document 'b' is ranked twice for query 'q'"),
    ],
)
def test_a_broken_line_is_named(run, line, said):
    with pytest.raises(UserError, match=rf"other\.run:2: {said}"):
        run(f"q Q0 b 1 1 x\n{line}\n")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="there is no such file"):
        read_run(tmp_path / "no.run", [example()])


def test_same_figures_as_trec_eval(run):
    """Random runs with ties, strangers and gaps: pytrec_eval on the file's own scores, ours on what was read of it."""
    rng = random.Random(0)
    documents = [f"d{j}" for j in range(12)]
    lists = [example(f"q{i}", documents, [rng.randrange(2) for _ in documents]) for i in range(40)]
    scores = {
        x.id: {d: rng.choice((-1.0, 0.5, 0.5 + 1e-9, 2.0)) for d in documents if rng.random() < 0.7} for x in lists
    }
    qrels = {x.id: {c.id: int(c.relevance) for c in x.candidates} for x in lists}
    theirs = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut_10", "recip_rank", "map"}).evaluate(scores)
    text = "".join(f"{q} Q0 {d} 0 {s!r} t\n" for q, of in scores.items() for d, s in of.items())
    read = run(text, lists)
    ours = Evaluation(tuple(lists), (read.result,), ("NDCG@10", "MRR", "MAP")).values[read.result.name]
    for query in scores:
        for name, key in (("NDCG@10", "ndcg_cut_10"), ("MRR", "recip_rank"), ("MAP", "map")):
            assert ours[name][query] == pytest.approx(theirs[query][key], abs=1e-6)
    assert read.tied > 10
