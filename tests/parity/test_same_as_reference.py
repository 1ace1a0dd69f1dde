"""Losses and gradients of independent code (../shared/reference/objectives.json; see its `about`)."""

import json
from pathlib import Path

import pytest
import torch

from irpo.objectives import OBJECTIVES, loss

FILE = Path(__file__).parents[3] / "shared" / "reference" / "objectives.json"
OPTIONS = {
    "precision": {"metric": {"name": "precision", "k": 5}},
    "edcg": {"metric": {"name": "edcg", "lam": 0.5}},
    "dpo": {"pairs": "first"},
    "sdpo": {"pairs": "first"},
}


def options(case):
    metric = case.get("metric")
    given = OPTIONS.get(metric, {"metric": metric}) if metric else OPTIONS.get(case["objective"], {})
    return {**given, "beta": case["beta"]}


@pytest.mark.skipif(not FILE.is_file(), reason=f"no {FILE.name} in ../shared/reference")
@pytest.mark.parametrize("name", ["irpo", "dpo", "sdpo"])
def test_same_as_reference(name):
    reference = json.loads(FILE.read_text())
    cases = [case for case in reference["cases"] if case["objective"] == name]
    assert name in OBJECTIVES
    assert len(cases) >= 30
    for case in cases:
        row = {
            key: torch.tensor([value], dtype=torch.float64)
            for key, value in reference["lists"][case["list"]].items()
            if key in ("policy", "reference", "relevance", "label")
        }
        policy = row["policy"].requires_grad_()
        value = loss(name, policy, row["reference"], row[case["labels"]], **options(case))
        (grad,) = torch.autograd.grad(value.sum(), policy)
        assert value.item() == pytest.approx(case["loss"], abs=1e-6)
        torch.testing.assert_close(grad[0], torch.tensor(case["grad_policy"], dtype=torch.float64), atol=1e-5, rtol=0)
