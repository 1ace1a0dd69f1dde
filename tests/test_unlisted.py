"""Relevant documents that the first stage missed: known to measures alone, and figures are those over full qrels."""

from __future__ import annotations

import json
import random

import jsonschema
import pytest
import pytrec_eval
import torch
from hypothesis import given
from hypothesis import strategies as st
from training_lists import TEMPLATE, TOKENIZER

from irpo.evaluation import Evaluation, write_results
from irpo.evaluation.results import RankerResult
from irpo.evaluation.writing import trec_id
from irpo.export.rescoring import _mean_ndcg
from irpo.measures import ndcg, per_query
from irpo.online.rewards import Labels
from irpo.prompting.prompts import PromptBuilder
from irpo.scorers import Independent
from irpo.scoring.tokens import _blind, prompted
from irpo.tasks import TASKS, Intake, build_lists
from irpo.tasks.jsonl import SCHEMA, Jsonl, list_as_json, parse_list
from irpo.tasks.preparing import Layout, prepare
from irpo.training.validation import Validation
from irpo.types import Candidate, Ranking, RankingExample, UserError

MEASURES = ("NDCG@3", "LNDCG@3", "LNDCG@10", "Recall@5", "P@5", "MRR", "MAP")
THEIRS = {
    "LNDCG@3": "ndcg_cut_3",
    "LNDCG@10": "ndcg_cut_10",
    "Recall@5": "recall_5",
    "P@5": "P_5",
    "MRR": "recip_rank",
    "MAP": "map",
}


def an_example(name: str = "q", labels: tuple[float, ...] = (0, 1), missed: tuple[float, ...] = (2,)) -> RankingExample:
    candidates = tuple(Candidate(f"d{i}", f"text {i}", float(y)) for i, y in enumerate(labels))
    return RankingExample(
        name, "question", candidates, unlisted=tuple((f"m{i}", float(y)) for i, y in enumerate(missed))
    )


def judged_queries() -> list[RankingExample]:
    """Random judgments; a query with no relevant candidate and one that has no relevant document at all."""
    draw = random.Random(0)
    found = [an_example("none found", (0, 0, 0), (1, 3)), an_example("none at all", (0, 0), ())]
    for n in range(40):
        labels = tuple(float(draw.choice([0, 0, 0, 1, 2, 3])) for _ in range(draw.randint(2, 12)))
        missed = tuple(float(draw.choice([1, 2, 3])) for _ in range(draw.randint(0, 6)))
        found.append(an_example(f"q{n}", labels, missed))
    return found


def full_qrels(examples: list[RankingExample]) -> dict[str, dict[str, int]]:
    return {e.id: {c.id: int(c.relevance) for c in e.candidates} | {i: int(y) for i, y in e.unlisted} for e in examples}


def test_a_missed_document_lowers_the_figure_by_hand():
    # The candidate of label 1 stands first; the best ranking would have label 2 before it.
    found = per_query({"q": Ranking((1, 0))}, {"q": (0, 1)}, ("LNDCG@10", "NDCG@10", "Recall@5"), missed={"q": (2,)})
    discount = 0.6309297535714575  # 1 / log2(3)
    assert found["LNDCG@10"]["q"] == pytest.approx(1 / (2 + 1 * discount), abs=1e-6)
    assert found["NDCG@10"]["q"] == pytest.approx(1 / (3 + 1 * discount), abs=1e-6)
    assert found["Recall@5"]["q"] == 1 / 2
    assert ndcg((1, 0), (0, 1), 10, missed=(2,)) == pytest.approx(1 / (3 + discount))


def test_figures_are_trec_evals_over_full_qrels():
    examples = judged_queries()
    draw = random.Random(1)
    rankings = {e.id: Ranking(tuple(draw.sample(range(len(e.candidates)), len(e.candidates)))) for e in examples}
    run = {e.id: {e.candidates[j].id: -float(r) for r, j in enumerate(rankings[e.id].order)} for e in examples}
    theirs = pytrec_eval.RelevanceEvaluator(full_qrels(examples), set(THEIRS.values())).evaluate(run)
    ours = per_query(
        rankings, {e.id: e.relevance for e in examples}, MEASURES, missed={e.id: e.missed for e in examples}
    )
    assert theirs.keys() == {e.id for e in examples}  # lists without a relevant candidate count, with 0
    for ours_name, name in THEIRS.items():
        for query, values in theirs.items():
            assert ours[ours_name][query] == pytest.approx(values[name], abs=1e-6), (ours_name, query)


def test_labels_that_are_not_whole_have_the_same_ideal():
    args = ({"q": Ranking((1, 0))}, {"q": (0.0, 1.0)})
    whole = per_query(*args, ("LNDCG@10", "NDCG@10"), missed={"q": (2.0,)})
    nearly = per_query(*args, ("LNDCG@10", "NDCG@10"), missed={"q": (2.0 + 1e-9,)})
    for name in whole:
        assert nearly[name]["q"] == pytest.approx(whole[name]["q"], abs=1e-6)


def test_no_prompt_knows_of_it():
    assert _blind(an_example()).unlisted == ()
    assert _blind(an_example()) == _blind(an_example(missed=()))


def test_every_ndcg_of_a_list_counts_it():
    """Validation, a re-scored export and the reward of an answer say what `irpo evaluate` does."""
    example = an_example("q", (0, 1, 0), (2,))
    ranking = Ranking((0, 1, 2))
    wanted = per_query({"q": ranking}, {"q": example.relevance}, ["NDCG@10"], missed={"q": example.missed})
    (asked,) = prompted(PromptBuilder(TOKENIZER, TEMPLATE), [example], labels=True)
    found = [
        *Validation([asked.tokens], Independent())._measured([torch.tensor([3.0, 2.0, 1.0])]).values(),
        _mean_ndcg([example], [ranking.order]),
        *Labels()(asked, [asked.prompt.form.write(asked.prompt.names)]),
    ]
    assert found == pytest.approx([wanted["NDCG@10"]["q"]] * 3, abs=1e-6)
    assert asked.tokens.without_labels().missed == ()


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_it_survives_what_is_prepared(tmp_path, form):
    examples = [an_example(f"q{n}", (0.0, n % 2), (2.0, 1.0)[: n + 1]) for n in range(3)]
    lines = [json.dumps(list_as_json(e)) for e in examples]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "eval.jsonl").write_text("\n".join(lines) + "\n")
    jsonschema.validate(json.loads(lines[0]), json.loads(SCHEMA.read_text()))
    prepare(Jsonl(str(tmp_path / "in")), tmp_path / "out", task_spec={"name": "jsonl"}, layout=Layout(form))
    again = build_lists(TASKS.build({"name": "prepared", "data": str(tmp_path / "out")}), Intake())
    assert again["eval"] == examples


@pytest.mark.parametrize(
    ("unlisted", "problem"),
    [
        ([{"id": "d0", "relevance": 1}], "an id that is there already"),
        ([{"id": "m", "relevance": 0}], "it is above 0"),
        ([{"id": "m", "relevance": 10**400}], "it is above 0"),
        ([{"id": "m"}], "'relevance'"),
        (["m"], "must be an object"),
        ("m", "must be a list"),
        ([{"id": "m", "relevance": 1, "text": "x"}], "unknown key"),
    ],
)
def test_what_is_no_such_document_is_one_line(unlisted, problem):
    with pytest.raises(UserError, match=problem):
        parse_list(list_as_json(an_example()) | {"unlisted": unlisted})


def test_a_training_list_still_needs_a_relevant_candidate(tmp_path):
    (tmp_path / "train.jsonl").write_text(json.dumps(list_as_json(an_example(labels=(0, 0)))) + "\n")
    with pytest.raises(UserError, match="no relevant candidate"):
        build_lists(Jsonl(str(tmp_path)), Intake())


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_a_list_of_nothing_relevant_can_be_read_again(tmp_path, form):
    """Of a query whose judgements are all 0: the row says so by an empty `unlisted`; forgotten labels stay an error."""
    examples = [an_example("none at all", (0, 0), ()), an_example("some")]
    rows = [list_as_json(e) for e in examples]
    assert rows[0]["unlisted"] == []
    jsonschema.validate(rows[0], json.loads(SCHEMA.read_text()))
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "eval.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepare(Jsonl(str(tmp_path / "in")), tmp_path / "out", task_spec={"name": "jsonl"}, layout=Layout(form))
    for spec in ({"name": "jsonl"},) * (form == "jsonl") + ({"name": "prepared"},):
        assert build_lists(TASKS.build(spec | {"data": str(tmp_path / "out")}), Intake())["eval"] == examples
    del rows[0]["unlisted"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match=r"eval\.jsonl:1: example 'none at all' has no relevant candidate"):
        build_lists(Jsonl(str(tmp_path / "in")), Intake())


@given(st.lists(st.text(alphabet=" %20A9\t\u3000x", max_size=6), min_size=2, unique=True))
def test_ids_stay_apart_and_have_no_blank(ids):
    written = [trec_id(id) for id in ids]
    assert len(set(written)) == len(ids)
    assert all(id.split() in ([], [id]) for id in written)


def test_an_evaluations_own_files_give_trec_eval_the_same_figures(tmp_path):
    examples = judged_queries()
    rankings = {e.id: Ranking(tuple(range(len(e.candidates)))) for e in examples}
    written = write_results(tmp_path / "out", Evaluation(tuple(examples), (RankerResult("given", rankings),), MEASURES))
    qrels: dict[str, dict[str, int]] = {}
    for line in (tmp_path / "out" / "qrels.txt").read_text().splitlines():
        query, _, document, label = line.split(" ")
        qrels.setdefault(query, {})[document] = int(label)
    run: dict[str, dict[str, float]] = {}
    for line in (tmp_path / "out" / "given.run").read_text().splitlines():
        query, _, document, _, score, _ = line.split(" ")
        run.setdefault(query, {})[document] = float(score)
    found = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut_10"}).evaluate(run)
    mean = sum(values["ndcg_cut_10"] for values in found.values()) / len(found)
    assert written.rows[0].measures["LNDCG@10"] == pytest.approx(mean, abs=1e-6)
