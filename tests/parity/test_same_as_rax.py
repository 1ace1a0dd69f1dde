"""LiPO's family against RAX (google/rax) through JAX, on fresh random lists: values and gradients."""

import pytest
import torch

from irpo.objectives import loss

jax = pytest.importorskip("jax", reason="RAX runs on JAX: pip install jax rax==0.4.0")
rax = pytest.importorskip("rax", reason="the oracle: pip install rax==0.4.0")

SIZE, BETA = 9, 0.3


@pytest.fixture(autouse=True)
def _double_precision():
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


def shares(labels, where):
    del where
    return labels / labels.sum(-1, keepdims=True)


def dcg(**options):
    """RAX scales these weights by the padded size of the list, to which no formula refers; here they are not."""

    def weights(*tables, **masks):
        return rax.dcg_lambdaweight(*tables, **masks, **options) / SIZE

    return weights


def approx_ndcg(scores, labels, *, where, reduce_fn):
    """What RAX's NDCG of smooth ranks lacks of 1 (its loss is the negative); 0 for a list without a relevant item."""
    some = jax.numpy.where(where, labels, 0).max(-1) > 0
    return some - rax.ndcg_metric(scores, labels, where=where, reduce_fn=reduce_fn, rank_fn=rax.utils.approx_ranks)


SAME = {
    "approx_ndcg": ({"reference_weight": 1.0}, approx_ndcg, {}),
    "point_mse": ({}, rax.pointwise_mse_loss, {}),
    "point_sigmoid": ({"max_label": 4.0}, rax.pointwise_sigmoid_loss, {}),
    "pair_logistic": ({}, rax.pairwise_logistic_loss, {}),
    "pair_hinge": ({}, rax.pairwise_hinge_loss, {}),
    "list_mle": ({}, rax.listmle_loss, {}),
    "softmax": ({}, rax.softmax_loss, {"label_fn": shares}),
    "lipo_lambda": ({}, rax.pairwise_logistic_loss, {"lambdaweight_fn": dcg()}),
    "lipo_lambda normalize": (
        {"normalize": True},
        rax.pairwise_logistic_loss,
        {"lambdaweight_fn": dcg(normalize=True)},
    ),
    "lipo_lambda linear gain": (
        {"gain": "linear"},
        rax.pairwise_logistic_loss,
        {"lambdaweight_fn": dcg(gain_fn=lambda labels: labels)},
    ),
    "lipo_lambda linear gain, constant discount": (
        {"gain": "linear", "discount": "constant"},
        rax.pairwise_logistic_loss,
        {"lambdaweight_fn": rax.labeldiff_lambdaweight},
    ),
    "lipo_lambda constant weight": ({"weight": "constant"}, rax.pairwise_logistic_loss, {}),
    "lambdarank": ({}, rax.pairwise_logistic_loss, {}),
    "larpo_list_mle": ({}, rax.listmle_loss, {}),
    "ranknet": ({"reference_weight": 1.0}, rax.pairwise_logistic_loss, {}),  # the labels are its teacher
}


def random_lists(seed, count=20, size=SIZE, *, ties):
    generator = torch.Generator().manual_seed(seed)
    policy, reference = torch.randn(2, count, size, generator=generator, dtype=torch.float64) * 5
    labels = torch.stack([torch.randperm(size, generator=generator) for _ in range(count)]).double() / 2
    if ties:
        labels = labels.round().clamp(max=3)
    mask = torch.arange(size) < torch.randint(2, size + 1, (count, 1), generator=generator)
    return policy.requires_grad_(), reference, labels, mask


@pytest.mark.parametrize("case", SAME)
def test_same_as_rax(case):
    options, theirs, settings = SAME[case]
    tied = case.split()[0] not in ("list_mle", "larpo_list_mle")  # RAX and we break ties by chance
    policy, reference, labels, mask = random_lists(len(case), ties=tied)
    ours = loss(case.split()[0], policy, reference, labels, mask, beta=BETA, teacher=labels, **options)
    (grad,) = torch.autograd.grad(ours.sum(), policy)

    scale = options.get("max_label", 1.0)
    arrays = [jax.numpy.asarray(t.detach().numpy()) for t in (reference, labels / scale, mask)]

    def of(logprobs):
        base, given, where = arrays
        given = jax.numpy.where(where, given, 0.0)
        per_list = theirs(BETA * (logprobs - base), given, where=where, reduce_fn=None, **settings)
        return per_list.sum(-1) if per_list.ndim == 2 else per_list  # pointwise losses come per candidate

    start = jax.numpy.asarray(policy.detach().numpy())
    expected, expected_grad = of(start), jax.grad(lambda x: of(x).sum())(start)
    torch.testing.assert_close(ours.detach(), torch.tensor(expected.tolist(), dtype=torch.float64))
    torch.testing.assert_close(grad, torch.tensor(expected_grad.tolist(), dtype=torch.float64))
