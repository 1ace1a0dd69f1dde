"""Losses of a pair against TRL's own code, run on log-probabilities: no trainer is built, only its loss is called."""

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from irpo.lists import ScoredLists
from irpo.objectives import OBJECTIVES, loss
from irpo.scorers import SCORERS
from irpo.training.method import Method

trl = pytest.importorskip("trl", reason="a development dependency: pip install trl")

BETA = 0.3


class Accelerator:
    device = torch.device("cpu")

    def gather(self, tensor):
        return tensor

    gather_for_metrics = gather


def random_pairs(count=50):
    """Policy and reference (B, 2), the winner first."""
    generator = torch.Generator().manual_seed(0)
    policy, reference = torch.randn(2, count, 2, generator=generator, dtype=torch.float64) * 4 - 10
    return policy.requires_grad_(), reference, torch.tensor([[1.0, 0.0]]).expand(count, 2)


def trl_dpo(loss_type, policy, reference):
    """TRL's loss of pairs of answers of one token."""
    rows = policy.T.reshape(-1, 1)  # TRL's batch: all chosen, then all rejected
    return trl_loss([loss_type], [1.0], rows, torch.tensor([[0, 1]]).expand(len(rows), 2), reference)


def trl_loss(loss_types, weights, rows, mask, reference):
    """Mean loss of `DPOTrainer._compute_loss` on answers whose tokens' log-probabilities are given."""
    zeros = torch.zeros_like(rows)
    outputs = SimpleNamespace(log_probs=rows, entropy=zeros, mean_logits=zeros, is_top1=zeros > 1)
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=True),
        accelerator=Accelerator(),
        aux_loss_enabled=False,
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        loss_types=loss_types,
        loss_weights=weights,
        beta=BETA,
        label_smoothing=0.0,
        use_weighting=False,
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
    )
    inputs = {
        "input_ids": torch.zeros_like(mask),
        "attention_mask": torch.ones_like(mask),
        "completion_mask": mask,
        "ref_chosen_logps": reference[:, 0],
        "ref_rejected_logps": reference[:, 1],
    }
    return trl.DPOTrainer._compute_loss(trainer, lambda **_: outputs, inputs, return_outputs=False)


def assert_same(ours, theirs, policy):
    torch.testing.assert_close(ours, theirs)
    gradients = [torch.autograd.grad(value, policy)[0] for value in (ours, theirs)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    ("name", "options", "loss_type"),
    [
        ("dpo", {"beta": BETA}, "sigmoid"),
        ("sdpo", {"beta": BETA}, "sigmoid"),
        ("pair_logistic", {"beta": BETA}, "sigmoid"),
        ("contrastive", {"beta": BETA}, "sigmoid"),
        ("pair_hinge", {"beta": BETA}, "hinge"),
        ("ipo", {"tau": BETA}, "ipo"),
    ],
)
def test_same_as_trls_dpo(name, options, loss_type):
    policy, reference, relevance = random_pairs()
    ours = loss(name, policy, reference, relevance, **options).mean()
    assert_same(ours, trl_dpo(loss_type, policy, reference), policy)


def test_the_anchor_is_trls_sft_loss():
    """TRL's `loss_type: [sigmoid, sft]` (its former `rpo_alpha`) on one pair of answers of several tokens."""
    generator = torch.Generator().manual_seed(0)
    tokens = (torch.randn(2, 5, generator=generator, dtype=torch.float64) - 3).requires_grad_()  # the winner first
    mask = torch.tensor([[0, 1, 1, 1, 0, 0], [0, 1, 1, 1, 1, 1]])  # 3 tokens and 5
    reference = torch.tensor([[-8.0, -14.0]], dtype=torch.float64)
    theirs = trl_loss(["sigmoid", "sft"], [1.0, 0.7], tokens * mask[:, 1:], mask, reference)

    policy = (tokens * mask[:, 1:]).sum(-1)[None]
    table = (policy, reference, torch.tensor([[1.0, 0.0]]), policy < 0, torch.zeros(1, 2))
    counted = {"target": policy[:, 0], "target_tokens": torch.tensor([3.0])}
    ours = Method(OBJECTIVES.build("dpo", beta=BETA), SCORERS.build("independent"), nll_weight=0.7)
    assert_same(ours.loss(ScoredLists(*table, **counted)).sum(), theirs, tokens)


@pytest.mark.filterwarnings("ignore:.*experimental")
@pytest.mark.parametrize(
    ("name", "options", "loss_type"),
    [
        ("simpo", {"beta": BETA, "gamma": 0.7}, "simpo"),
        ("cpo", {"beta": BETA, "nll": 0.0}, "sigmoid"),
        ("slic", {"delta": 1.0, "nll": 0.0}, "hinge"),
    ],
)
def test_same_as_trls_cpo(name, options, loss_type, monkeypatch):
    """TRL's hinge is SLiC's at beta 1; its likelihood term is a mean over tokens and comes from elsewhere: left out."""
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    cpo = pytest.importorskip("trl.experimental.cpo")
    policy, _, relevance = random_pairs()
    beta = options.get("beta", 1.0)
    trainer = SimpleNamespace(
        alpha=0.0, accelerator=Accelerator(), loss_type=loss_type, simpo_gamma=0.7, beta=beta, label_smoothing=0.0
    )
    theirs, _, _ = cpo.CPOTrainer.cpo_loss(trainer, policy[:, 0], policy[:, 1])
    assert_same(loss(name, policy, None, relevance, **options).mean(), theirs.mean(), policy)
