"""Values worked by hand."""

import math
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from irpo.lists import ScoredLists, ranks
from irpo.objectives import OBJECTIVES, Needs, loss
from irpo.positional import POSITIONAL_METRICS
from irpo.scorers import SCORERS
from irpo.training.method import Method
from irpo.types import UnknownName, UserError

DOUBLE = torch.float64


def table(*rows):
    return torch.tensor(rows, dtype=DOUBLE)


POLICY, REFERENCE, RELEVANCE = table([-1.0, -2.0, -4.0]), table([-1.5, -1.0, -4.0]), table([1.0, 2.0, 0.0])
S = (0.5, -1.0, 0.0)  # implicit rewards at beta = 1


def log_softmax(i):
    return S[i] - math.log(sum(math.exp(s) for s in S))


def log_sigmoid(x):
    return -math.log1p(math.exp(-x))


def test_irpo_by_hand():
    # target order: candidate 1 (label 2, rank 1), candidate 0 (label 1, rank 2), candidate 2 (label 0)
    expected = -(3 / math.log2(2) * log_sigmoid(log_softmax(1)) + 1 / math.log2(3) * log_sigmoid(log_softmax(0)))
    assert loss("irpo", POLICY, REFERENCE, RELEVANCE).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("metric", "weights"),
    [
        ("ndcg", [1 / math.log2(3), 3.0, 0.0]),
        ("map", [1 / 2, 3 / 2, 0.0]),
        ("mrr", [1 / 2, 1.0, 0.0]),
        ({"name": "precision", "k": 1}, [0.0, 1.0, 0.0]),
        ({"name": "edcg", "lam": 0.5}, [math.exp(-1.0), 3 * math.exp(-0.5), 0.0]),
    ],
)
def test_positional_weights_by_hand(metric, weights):
    rank = ranks(RELEVANCE, torch.ones_like(RELEVANCE, dtype=torch.bool)).to(DOUBLE)
    torch.testing.assert_close(POSITIONAL_METRICS.build(metric)(RELEVANCE, rank), table(weights))


def test_dpo_by_hand():
    # first with the top label: candidate 1; first with the lowest: candidate 2
    expected = -log_sigmoid(0.1 * (S[1] - S[2]))
    assert loss("dpo", POLICY, REFERENCE, RELEVANCE, beta=0.1, pairs="first").item() == pytest.approx(expected)


def test_sdpo_by_hand():
    relevance = table([0.0, 1.0, 0.0])
    expected = -log_sigmoid(-math.log(math.exp(S[0] - S[1]) + math.exp(S[2] - S[1])))
    assert loss("sdpo", POLICY, REFERENCE, relevance).item() == pytest.approx(expected)


def test_sft_is_the_target_lists_nll():
    target = torch.tensor([-7.5], dtype=DOUBLE)
    assert loss("sft", POLICY, None, RELEVANCE, target=target).item() == 7.5
    with pytest.raises(UserError, match="target"):
        loss("sft", POLICY, None, RELEVANCE)


def test_a_reference_that_is_needed_is_not_made_up():
    policy, relevance = table([0.0, 1.0]), table([1.0, 0.0])
    with pytest.raises(UserError, match="IRPO needs a reference"):
        loss("irpo", policy, None, relevance)
    assert loss("simpo", policy, None, relevance).isfinite()


def test_random_pairs_draw_every_pair():
    relevance = table([1.0, 1.0, 0.0, 0.0])
    policy = table([0.0, 1.0, 4.0, 16.0])
    generator = torch.Generator().manual_seed(0)
    drawn = {round(loss("dpo", policy, 0 * policy, relevance, generator=generator).item(), 4) for _ in range(100)}
    expected = {round(-log_sigmoid(w - l), 4) for w in (0.0, 1.0) for l in (4.0, 16.0)}  # noqa: E741
    assert drawn == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "irpoo"}, "unknown objective 'irpoo'; choose from"),
        (
            {"name": "irpo", "gamma": 1},
            "unknown option 'gamma' of objective 'irpo'; its options are: beta, reference_weight, metric",
        ),
        ({"name": "irpo", "metric": "ndgc"}, "unknown positional metric 'ndgc'"),
        ({"name": "dpo", "pairs": "last"}, "pairs = 'last'"),
        ({"name": "irpo", "metric": {"name": "precision", "k": 0}}, "k = 0"),
    ],
)
def test_unknown_names_say_what_is_allowed(options, message):
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        OBJECTIVES.build(options)
    if "unknown" in message:
        with pytest.raises(UnknownName):
            OBJECTIVES.build(options)


def test_an_objective_that_gives_one_loss_for_all_lists_is_refused():
    @dataclass(frozen=True)
    class Careless:
        needs: ClassVar[Needs] = Needs()

        def __call__(self, lists):
            return lists.policy.mean()

    zeros = torch.zeros(2, 3)
    lists = ScoredLists(zeros, zeros, zeros, zeros == 0, zeros)
    with pytest.raises(UserError, match=r"Careless gave losses of shape \(\) for 2 lists"):
        Method(Careless(), SCORERS.build("independent")).loss(lists)
