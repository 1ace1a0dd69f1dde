"""What the log shows of a loss's terms, and that looking at them changes nothing."""

import json
import math

import pytest
import torch
from tiny import tiny_model
from training_lists import encoded, learned, method, trainer

from irpo.objectives import OBJECTIVES
from irpo.objectives.mixture import Mixture
from irpo.scoring.models import LoraOptions, add_lora
from irpo.training import shares as module
from irpo.training.shares import gradient_shares, heavy_anchor

ONE = torch.tensor([3.0, 4.0], requires_grad=True)


def lines(run):
    return [json.loads(line) for line in run.log_file.read_text().splitlines()]


def test_the_shares_of_gradients_worked_by_hand():
    """d(a . x) = a: norms 5 and 15 of a graph that is walked twice; a term without a gradient has none."""
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    fixed = torch.tensor([1.0, 1.0])
    terms = {"one": x * ONE.detach(), "three": 3 * x * ONE.detach(), "constant": fixed}
    found = gradient_shares(lambda: terms, [x, fixed], warn=False)
    assert found == pytest.approx(
        {"one_gradient_share": 0.25, "three_gradient_share": 0.75, "constant_gradient_share": 0}
    )
    assert x.grad is None


def test_no_memory_is_no_share():
    def terms():
        raise torch.OutOfMemoryError("CUDA out of memory")

    assert gradient_shares(terms, [ONE], warn=True) == {}


@pytest.mark.parametrize(
    ("norms", "said"),
    [
        ({"objective": 1.0, "anchor": 12.0}, "12 times the objective's"),
        ({"objective": 0.0, "anchor": 1.0}, "all there is"),
        ({"IRPO": 0.5, "DPO": 0.5, "anchor": 10.0}, "10 times"),
        ({"objective": 1.0, "anchor": 9.0}, None),
        ({"IRPO": 0.1, "SFT": 9.0}, None),  # a mixture's parts are what was asked for
        ({}, None),
    ],
)
def test_an_anchor_of_ten_to_one_is_told(norms, said):
    note = heavy_anchor(norms)
    assert (note is None) == (said is None)
    assert said is None or said in note


def with_dropout(out, monkeypatch, every):
    """Three updates with a LoRA whose dropout draws anew at every pass."""
    monkeypatch.setattr("irpo.training.trainer.EVERY", every)
    model = add_lora(tiny_model(), LoraOptions(r=4, dropout=0.5), seed=0)
    torch.manual_seed(0)
    run = trainer(out, method("irpo", nll_weight=0.5), model=model, updates=3, tokens_per_batch=100)
    run.go(None)
    return run


def test_looking_at_gradients_changes_no_step(tmp_path, monkeypatch):
    often, seldom = (with_dropout(tmp_path / str(n), monkeypatch, n) for n in (1, 10))
    assert [("anchor_gradient_share" in line) for line in lines(often) if "loss" in line] == [True, True, True]
    assert [("anchor_gradient_share" in line) for line in lines(seldom) if "loss" in line] == [True, False, False]
    torch.testing.assert_close(learned(often.model), learned(seldom.model), atol=0, rtol=0)


def test_the_terms_of_a_line_and_their_shares(tmp_path):
    parts = tuple((weight, OBJECTIVES.build(name)) for weight, name in ((1.0, "irpo"), (0.5, "dpo"), (0.25, "dpo")))
    run = trainer(tmp_path, method(Mixture(parts), nll_weight=0.1), updates=1)
    run.go(None)
    line, names = lines(run)[0], ("IRPO", "DPO", "DPO 2", "anchor")
    assert sum(line[name] for name in names) == pytest.approx(line["loss"], rel=1e-5)
    assert line["DPO"] == pytest.approx(2 * line["DPO 2"], rel=1e-4)  # at step 0 either is log 2, times its weight
    assert line["DPO"] == pytest.approx(0.5 * math.log(2), rel=1e-4)
    for of in ("share", "gradient_share"):
        assert sum(line[f"{name}_{of}"] for name in names) == pytest.approx(1, abs=1e-5)
        assert all(line[f"{name}_{of}"] > 0 for name in names)


def test_one_term_has_no_share(tmp_path):
    run = trainer(tmp_path, method("irpo"), updates=1)
    run.go(None)
    assert not [key for key in lines(run)[0] if key.endswith("share")]


@pytest.mark.parametrize(("weight", "times"), [(1e4, 1), (1e-4, 0)])
def test_a_heavy_anchor_is_told_once(weight, times, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("irpo.training.trainer.EVERY", 1)
    run = trainer(tmp_path, method("dpo", nll_weight=weight), items=encoded(count=4), updates=2, learning_rate=1e-6)
    run.go(None)
    assert capsys.readouterr().err.count("note: the anchor's gradient is") == times
    assert module.EVERY > 1
