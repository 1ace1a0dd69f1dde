"""Training on several processes is training on one: the same updates, curve, choice and weights."""

import json

import pytest
import torch
from several import on_processes
from tiny import tiny_model
from training_lists import encoded, learned, method, trainer

from irpo.scoring.models import LoraOptions, add_lora
from irpo.scoring.sharding import shard, whole
from irpo.training.trainer import Loop

SETTINGS = {"updates": 5, "lists_per_update": 3, "evaluate_every": 2}


def fitted(out, objective, scorer, sharded, full, options):
    """The log and the weights of a small run; 8 lists of which 3 validate, an odd number to an update."""
    items = encoded()
    model = tiny_model()
    model = model.requires_grad_(True) if full else add_lora(model, LoraOptions(r=4), seed=0)
    if sharded:
        shard(model)
    of = method(objective, scorer, **options)
    made = trainer(out, of, items=items[:5], validation=items[5:], model=model, loop=Loop(60), **SETTINGS)
    made.go(None)
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    weights = {name: whole(value) for name, value in learned(model).items()}
    return [(line["update"], line.get("loss"), line.get("eval_NDCG@10"), line.get("grad_norm")) for line in lines], weights


def same(one, several):
    (log, weights), (other_log, other_weights) = one, several
    for a, b in zip(log, other_log, strict=True):
        assert a == pytest.approx(b, abs=1e-4), (a, b)
    assert weights.keys() == other_weights.keys()
    for name, value in weights.items():
        torch.testing.assert_close(value, other_weights[name], atol=1e-4, rtol=0, msg=name)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize(
    ("objective", "scorer", "sharded", "full", "options"),
    [
        ("irpo", "independent", False, False, {"nll_weight": 0.5}),
        ("irpo", "independent", True, False, {"nll_weight": 0.5}),
        ("sdpo", "independent", True, True, {"reference": "precomputed"}),
        ("irpo_sampled", "independent", True, False, {}),
    ],
)
def test_several_processes_train_as_one(tmp_path, count, objective, scorer, sharded, full, options):
    one = fitted(tmp_path / "one" / "run", objective, scorer, False, full, options)
    out = tmp_path / "several" / "run"
    found = on_processes(count, fitted, out, objective, scorer, sharded, full, options)
    for each in found:
        same(one, each)
