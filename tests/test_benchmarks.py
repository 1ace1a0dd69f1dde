"""The benchmarks compare the same things: losses agree, and every peer runs."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

from peers import expanded_loss, limit, trl_pairs
from setting import Case, our_step, our_trainer, show, step_of

CASE = Case("8m", prompt=12, candidates=4, tokens=3, lists=2)


def test_whole_sequences_with_full_logits_have_our_loss():
    model, items = CASE.model(), CASE.items()
    trainer = our_trainer(model, items, "adapters_off")
    with torch.no_grad():
        ours = trainer.compute_loss(model, trainer.method.batch(items, 0), num_items_in_batch=len(items))
        theirs = expanded_loss(model, items)
    assert float(ours) == pytest.approx(float(theirs), abs=1e-4)


def test_the_limit_runs_as_many_tokens_and_head_places():
    model, items = CASE.model(), CASE.items()
    limit(model, items)()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("defaults", [False, True])
def test_trl_takes_a_step_on_our_pair(defaults):
    pytest.importorskip("trl")
    model, items = CASE.model(), CASE.items()
    loss = step_of(model, trl_pairs(model, items[0], 1, defaults=defaults))()
    assert loss > 0
    assert our_step(CASE.model(), items, "precomputed")() > 0


def test_a_line_is_json_with_a_ratio_above_1_where_we_are_better(capsys):
    show("throughput", "case", "limit", (0.5, 1.0), "s/step")
    expected = '{"benchmark": "throughput", "case": "case", "against": "limit", "ours": 0.5, "theirs": 1.0, '
    assert capsys.readouterr().out == expected + '"unit": "s/step", "ratio": 2.0}\n'
