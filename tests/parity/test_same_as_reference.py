"""Losses and gradients of independent code (../shared/reference/objectives.json; see its `about`)."""

import json
from pathlib import Path

import pytest
import torch

from irpo.objectives import OBJECTIVES, loss

FILE = Path(__file__).parents[3] / "shared" / "reference" / "objectives.json"
METRICS = {"precision": {"name": "precision", "k": 5}, "edcg": {"name": "edcg", "lam": 0.5}}
OPTIONS = {  # the file's conventions, where they are not our defaults
    "dpo": {"pairs": "first"},
    "sdpo": {"pairs": "first"},
    "contrastive": {"pool": "lowest", "ties": "first"},
}
NAMES = [
    "contrastive",
    "dpo",
    "infonca",
    "irpo",
    "lipo_lambda",
    "list_mle",
    "pair_hinge",
    "pair_logistic",
    "point_mse",
    "point_sigmoid",
    "sdpo",
    "softmax",
]


def options(case):
    given = {key: case[key] for key in ("beta", "alpha") if key in case}
    if "metric" in case:
        given["metric"] = METRICS.get(case["metric"], case["metric"])
    return {**OPTIONS.get(case["objective"], {}), **given}


@pytest.fixture(scope="module")
def reference():
    if not FILE.is_file():
        pytest.skip(f"no {FILE.name} in ../shared/reference")
    return json.loads(FILE.read_text())


def test_every_case_is_tested(reference):
    assert {case["objective"] for case in reference["cases"]} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_same_as_reference(name, reference):
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
