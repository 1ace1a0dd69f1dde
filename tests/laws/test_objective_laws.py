"""What must hold of every objective that is registered."""

import math

import pytest
import torch

from irpo.lists import ScoredLists
from irpo.objectives import OBJECTIVES

NAMES = list(OBJECTIVES)


def lists(count=5, size=7, *, scale=1.0, seed=0, relevance=None, grad=True) -> ScoredLists:
    """Random lists of distinct labels (so that no tie depends on the order), in float64."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    if relevance is None:
        relevance = torch.stack([torch.randperm(size, generator=generator) for _ in range(count)]).double() / 2
    policy = (draw(count, size) * scale).requires_grad_(grad)
    noise = torch.rand(count, size, generator=generator, dtype=torch.float64)
    target = (-draw(count).abs()).requires_grad_(grad)
    return ScoredLists(policy, draw(count, size), relevance, torch.ones(count, size, dtype=torch.bool), noise, target)


def changed(of: ScoredLists, change) -> ScoredLists:
    table = (change(t) for t in (of.policy, of.reference, of.relevance, of.mask, of.noise))
    return ScoredLists(*table, of.target)


def padded(of: ScoredLists, extra: int) -> ScoredLists:
    """Padding columns full of numbers that must not matter."""

    def pad(table):
        fill = torch.full((len(table), extra), 0.9, dtype=torch.float64) * (7 if table is of.policy else 1)
        return torch.cat([table, fill.to(table.dtype) if table is not of.mask else fill < 0], -1)

    return changed(of, pad)


def gradients(objective, of: ScoredLists):
    loss = objective(of)
    grads = torch.autograd.grad(loss.sum(), [of.policy, of.target], allow_unused=True)
    return loss, [torch.zeros_like(x) if g is None else g for g, x in zip(grads, [of.policy, of.target], strict=True)]


@pytest.mark.parametrize("name", NAMES)
def test_one_loss_a_list(name):
    batch = lists()
    loss = OBJECTIVES.build(name)(batch)
    assert loss.shape == (5,)
    rows = [{k: v if v is None else v[i : i + 1] for k, v in vars(batch).items()} for i in range(len(loss))]
    alone = [OBJECTIVES.build(name)(ScoredLists(**row)) for row in rows]
    torch.testing.assert_close(torch.cat(alone), loss)


@pytest.mark.parametrize("name", NAMES)
def test_padding_changes_nothing(name):
    objective, batch = OBJECTIVES.build(name), lists()
    torch.testing.assert_close(objective(padded(batch, extra=3)), objective(batch))
    grad = gradients(objective, batch)[1][0]
    wide = padded(batch, extra=3)
    got = torch.autograd.grad(objective(wide).sum(), batch.policy, allow_unused=True)[0]
    torch.testing.assert_close(torch.zeros_like(grad) if got is None else got, grad)


@pytest.mark.parametrize("name", NAMES)
def test_candidate_order_changes_nothing(name):
    objective, batch = OBJECTIVES.build(name), lists()
    order = torch.randperm(7, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(objective(changed(batch, lambda t: t[:, order])), objective(batch))


@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize("name", NAMES)
def test_finite_at_any_margin(name, scale):
    loss, grads = gradients(OBJECTIVES.build(name), lists(scale=scale))
    assert loss.isfinite().all()
    assert all(g.isfinite().all() for g in grads)


@pytest.mark.parametrize("labels", ["tied", "none", "one", "all relevant"])
@pytest.mark.parametrize("name", NAMES)
def test_finite_for_any_labels(name, labels):
    relevance = {
        "tied": torch.full((5, 7), 2.0),
        "none": torch.zeros(5, 7),
        "one": torch.eye(7)[:5],
        "all relevant": torch.ones(5, 7),
    }[labels]
    loss, grads = gradients(OBJECTIVES.build(name), lists(relevance=relevance.double()))
    assert loss.isfinite().all()
    assert all(g.isfinite().all() for g in grads)


@pytest.mark.parametrize("name", [name for name in NAMES if OBJECTIVES.get(name).needs.scores])
def test_a_list_of_nothing_has_loss_0(name):
    batch = lists()
    objective = OBJECTIVES.build(name)
    empty = ScoredLists(batch.policy, batch.reference, batch.relevance, torch.zeros_like(batch.mask), batch.noise)
    loss = objective(empty)
    assert (loss == 0).all()
    assert torch.autograd.grad(loss.sum(), batch.policy)[0].eq(0).all()


@pytest.mark.parametrize("name", NAMES)
def test_gradient_step_lowers_the_loss(name):
    objective, batch = OBJECTIVES.build(name), lists(seed=3)
    loss, grads = gradients(objective, batch)
    with torch.no_grad():
        batch.policy.sub_(1e-4 * grads[0])
        batch.target.sub_(1e-4 * grads[1])
        assert objective(batch).sum() < loss.sum()


@pytest.mark.parametrize("size", [2, 5, 20])
def test_irpo_at_step_0(size):
    """Policy = reference: z_i = -log K, so the loss is log(1 + K) times the sum of weights."""
    batch = lists(count=1, size=size)
    start = ScoredLists(batch.policy, batch.policy.detach(), batch.relevance, batch.mask, batch.noise)
    order = batch.relevance[0].sort(descending=True).values.tolist()
    weights = sum((2**y - 1) / math.log2(1 + i) for i, y in enumerate(order, start=1))
    assert OBJECTIVES.build("irpo")(start).item() == pytest.approx(math.log(1 + size) * weights)
