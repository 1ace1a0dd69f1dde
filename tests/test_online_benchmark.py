"""The on-policy comparison: an equal budget of drawn answers, an equal search, and tables of what is there."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import online
from online import CELLS, QUICK, Plan, best_rate, finished, report, row_of, run

from irpo.online.policy import Policy
from irpo.types import UserError

PLAN = replace(QUICK, rates=(1e-3, 1e-2), seeds=2)
BASE = {"wishes": {"a": 2, "b": 1}, "wishes_read": {"a": 1, "b": 1}}


def rows(value, strengths=("1", "2")):
    """A row a mode and strength, the same value for every wish."""
    common = {"by": "logits", "ndcg": dict.fromkeys(("1", "5", "10"), value), "by_wish": [round(1e4 * value)] * 2}
    wanted = [(mode, strength) for strength in strengths for mode in ("score", "constrain")] + [("generate", "1")]
    return [common | {"mode": mode, "strength": strength, "coverage": 0.5} for mode, strength in wanted]


@pytest.fixture
def told(monkeypatch):
    """The pieces that were worked on; 1e-3 is the best rate, and a longer name has a higher value."""
    asked = []

    def searched(cell, plan, rate):
        asked.append(cell.key(rate, online.SEARCH_SEED))
        return {"round": 1, "value": 1 - rate}

    def followed(cell, plan, rate, seed):
        asked.append(cell.key(rate, seed))
        value = 0.5 + len(cell.name) / 1000
        kept = {} if cell.method == "reinforce" else {"kept": 3}
        return {"rounds": [{"drawn": kept, "auto": "2", "rows": rows(value)}]}

    monkeypatch.setattr(online, "searched", searched)
    monkeypatch.setattr(online, "followed", followed)
    monkeypatch.setattr(
        online, "_bench", lambda *_: SimpleNamespace(base=lambda style: BASE | {"rows": rows(0.4, "1")})
    )
    return asked


def test_a_run_goes_on_where_it_was_and_shards_share_the_methods(told, tmp_path):
    run(PLAN, tmp_path, "0/2")
    first = list(told)
    assert len(first) == 3 * (2 + 2)
    run(PLAN, tmp_path, "0/2")
    assert told == first
    run(PLAN, tmp_path, "1/2")
    assert sorted(told) == sorted({cell.key(rate, online.SEARCH_SEED) for cell in CELLS for rate in PLAN.rates}
                                  | {cell.key(1e-3, seed) for cell in CELLS for seed in range(2)})  # fmt: skip
    assert len(finished(tmp_path, PLAN)) == len(told) + 1
    assert not finished(tmp_path, replace(PLAN, answers=8))  # of another budget


def test_the_rate_is_taken_by_what_is_reported_and_not_by_how_far_it_got():
    cell = CELLS[0]
    lines = {1e-3: {"round": 2, "value": 0.2}, 1e-2: {"round": 1, "value": 0.9}}
    done = {cell.key(rate, online.SEARCH_SEED): line for rate, line in lines.items()}
    assert best_rate(cell, PLAN, done) == 1e-2
    assert best_rate(cell, replace(PLAN, rates=(1e-3, 1e-2, 1.0)), done) is None


def test_the_table_has_what_is_there_and_a_word_for_each_test(told, tmp_path):
    run(PLAN, tmp_path, "0/1")
    text = report(PLAN, finished(tmp_path, PLAN), tmp_path)
    for cell in CELLS:
        lists = "4 of 4" if cell.method == "reinforce" else "3 of 4"
        mean = f".{500 + len(cell.name)}"
        assert f"| {cell.name} | 0.001 | 2 | 1 1 | {lists} | 2 2 | {mean} [{mean}, {mean}] |" in text
    assert text.count("no difference shown") == 7  # two wishes show nothing
    assert (tmp_path / "online.png").read_bytes().startswith(b"\x89PNG")
    assert "|" not in report(PLAN, {}, tmp_path)


def test_auto_stands_for_the_strength_that_was_chosen():
    found = {"auto": "2", "rows": rows(0.5)}
    assert row_of(found, "score", "auto")["strength"] == "2"
    assert row_of(found, "score", "1")["strength"] == "1"


@pytest.mark.slow
@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_every_method_draws_its_budget_and_no_more(cell, monkeypatch):
    plan = replace(QUICK, rounds=2, updates=2)
    drawn = []
    draw = Policy.draw

    def counted(self, questions, key, **options):
        found = draw(self, questions, key, **options)
        drawn.extend(answer for answers in found for answer in answers)
        return found

    monkeypatch.setattr(Policy, "draw", counted)
    rounds = list(online.trained(cell.config(plan, 1e-4, 0), plan))
    states = [state for state, _, _ in rounds]
    assert plan.budget == 2 * 2 * 4
    if (cell.draw, cell.method) in {("free", "iterative"), ("free", "iterative, anchored")}:
        tried = min(2, len({state["round"] for state in states}) + 1)  # too few whole answers end a run
        assert len(drawn) == tried * 2 * 4
        return
    assert len(drawn) == plan.budget
    assert [(state["round"], last) for state, _, last in rounds] == [(1, False), (2, True)]
    if cell.draw == "constrained" and cell.method != "reinforce":
        assert all(state["drawn"]["kept"] == state["drawn"]["answers"] == 8 for state in states)


@pytest.mark.slow
def test_a_round_that_cannot_be_trained_ends_the_run_with_the_one_before(monkeypatch):
    plan = replace(QUICK, rounds=3)
    rounds = online.run_rounds

    def fails(job, out, say):
        if job.options.rounds == 2:
            next(p for p in job.model.parameters() if p.requires_grad).data.fill_(float("nan"))
            raise UserError("the loss is nan")
        return rounds(job, out, say)

    monkeypatch.setattr(online, "run_rounds", fails)
    found = [
        (state["round"], last, all(p.isfinite().all() for p in model.parameters()))
        for state, model, last in online.trained(CELLS[-1].config(plan, 1e-3, 0), plan)
    ]
    assert found == [(1, False, True), (1, True, True)]


@pytest.mark.slow
def test_a_trained_model_ends_in_rows():
    ((_, model, _),) = online.trained(CELLS[-1].config(QUICK, 1e-3, 0), QUICK)
    found = json.loads(json.dumps(online.measured(model, QUICK, "eval", policy=True)))
    for mode, strength in online.MEANS:
        assert 0 <= row_of(found, mode, strength)["ndcg"]["10"] <= 1
    assert row_of(online.measured(model, QUICK, "validation", policy=False), "constrain", "auto")


def test_the_budget_is_what_the_text_says():
    assert Plan().budget == 400
    assert "400 answers, 4 to a prompt" in online.__doc__
