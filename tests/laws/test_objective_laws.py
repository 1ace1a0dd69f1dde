"""What must hold of every objective that is registered, as it comes and with the options that change its course."""

import dataclasses
import math

import pytest
import torch

from irpo.lists import ScoredLists, ranks, slot_lists
from irpo.objectives import OBJECTIVES
from irpo.types import UserError

VARIANTS = [
    {"name": "irpo", "self_term": False},
    {"name": "irpo", "normalize": True, "k": 3, "tail_weight": 0.1},
    {"name": "irpo", "link": "identity", "metric": "mrr"},
    {"name": "irpo", "target_order": "policy"},
    {"name": "irpo_sampled", "draws": 50},
    *({"name": name, "pairs": pairs} for name in ("dpo", "ipo", "cpo") for pairs in ("first", "hardest", "all")),
    {"name": "sdpo", "positives": "all"},
    {"name": "sdpo", "negatives": 2},
    {"name": "lipo_lambda", "normalize": True, "k": 2},
    {"name": "lipo_lambda", "gain": "linear", "discount": "constant"},
    *({"name": name, "positives": 2, "negatives": 2, "choice": "hardest"} for name in ("contrastive", "lambdarank")),
    {"name": "larpo_list_mle", "positives": 3, "negatives": 1, "choice": "random"},
    {"name": "sft", "form": "positives"},
    {"name": "pl_rank", "metric": "map", "k": None, "normalize": False, "samples": 3},
    {"name": "pl_rank", "reference_weight": 1.0},
    {"name": "kl", "temperature": 3.0, "reference_weight": 1.0},
    {"name": "ranknet", "weights": "first"},
]
SPECS = [{"name": name} for name in OBJECTIVES] + VARIANTS
SCORED = [spec for spec in SPECS if OBJECTIVES.build(spec).needs.scores]
REFERENCED = [spec for spec in SPECS if "reference_weight" in OBJECTIVES.options(spec["name"])]
EXACT = [spec for spec in SCORED if spec["name"] not in ("irpo_sampled", "pl_rank")]


def each(specs):
    return pytest.mark.parametrize("spec", specs, ids=lambda spec: ",".join(map(str, spec.values())))


every, every_scored = each(SPECS), each(SCORED)


def lists(spec=None, count=5, size=7, *, scale=1.0, seed=0, relevance=None) -> ScoredLists:
    """Random lists of distinct labels (so that no tie depends on the order), in float64, labels as the spec can use."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    if relevance is None:
        relevance = torch.stack([torch.randperm(size, generator=generator) for _ in range(count)]).double() / 2
    highest = OBJECTIVES.build(spec).needs.max_label if spec else math.inf
    relevance = relevance * min(1.0, highest / max(relevance.max().item(), 1.0))
    policy = (draw(count, size) * scale).requires_grad_()
    noise = torch.rand(count, size, generator=generator, dtype=torch.float64)
    target = (-draw(count).abs()).requires_grad_()
    reference, mask = draw(count, size), torch.ones(count, size, dtype=torch.bool)
    return ScoredLists(policy, reference, relevance, mask, noise, target, teacher=draw(count, size))


TABLES = ("policy", "reference", "relevance", "mask", "noise", "teacher")


def changed(of: ScoredLists, change) -> ScoredLists:
    table = {name: change(getattr(of, name)) for name in TABLES}
    return dataclasses.replace(of, **table)


def padded(of: ScoredLists, extra: int) -> ScoredLists:
    """Padding columns full of numbers that must not matter."""

    def pad(table):
        fill = torch.full((len(table), extra), 0.9, dtype=torch.float64) * (7 if table is of.policy else 1)
        return torch.cat([table, fill.to(table.dtype) if table is not of.mask else fill < 0], -1)

    return changed(of, pad)


def slots(of: ScoredLists, scores=None) -> ScoredLists:
    """The lists as their slots, in label order; scores (B, I, K), or in every slot those of the list."""
    scores = of.policy[:, None].expand(-1, of.mask.shape[-1], -1) if scores is None else scores
    place = torch.arange(1, scores.shape[1] + 1)[:, None]
    present = (ranks(of.relevance, of.mask)[:, None] >= place) & of.mask[:, None]
    reference = of.reference[:, None].expand_as(scores)
    rows = slot_lists(scores, reference, present, of.relevance, of.mask, of.noise)
    return dataclasses.replace(rows, teacher=of.teacher.repeat_interleave(scores.shape[1], 0))


def gradients(objective, of: ScoredLists):
    loss = objective(of)
    grads = torch.autograd.grad(loss.sum(), [of.policy, of.target], allow_unused=True)
    return loss, [torch.zeros_like(x) if g is None else g for g, x in zip(grads, [of.policy, of.target], strict=True)]


def at_weight(spec, weight):
    return OBJECTIVES.build({**spec, "reference_weight": weight})


@each(SCORED)
def test_whoever_reads_a_reference_says_how_much_of_it_counts(spec):
    objective = OBJECTIVES.build(spec)
    assert not objective.needs.reference or hasattr(objective, "reference_weight")


@each(REFERENCED)
def test_at_weight_0_the_reference_changes_nothing_and_is_not_asked_for(spec):
    batch, objective = lists(spec), at_weight(spec, 0)
    assert not objective.needs.reference
    assert dataclasses.replace(objective.needs, reference=True) == at_weight(spec, 1).needs
    unknown = dataclasses.replace(batch, reference=torch.full_like(batch.reference, math.nan))
    nothing = dataclasses.replace(batch, reference=torch.zeros_like(batch.reference))
    for ours, theirs in zip(gradients(objective, unknown), gradients(at_weight(spec, 1), nothing), strict=True):
        torch.testing.assert_close(ours, theirs, atol=0, rtol=0)


@each(REFERENCED)
def test_a_part_of_the_reference_is_a_reference_of_its_own(spec):
    batch = lists(spec)
    part = dataclasses.replace(batch, reference=0.25 * batch.reference)
    for ours, theirs in zip(gradients(at_weight(spec, 0.25), batch), gradients(at_weight(spec, 1), part), strict=True):
        torch.testing.assert_close(ours, theirs, atol=0, rtol=0)


@pytest.mark.parametrize("weight", [-0.1, 1.5, math.nan])
@each(REFERENCED)
def test_a_weight_outside_0_and_1_is_refused(spec, weight):
    with pytest.raises(UserError, match=r"reference_weight = .*; allowed is a number from 0 to 1"):
        at_weight(spec, weight)


@every
def test_one_loss_a_list(spec):
    batch, objective = lists(spec), OBJECTIVES.build(spec)
    loss = objective(batch)
    assert loss.shape == (5,)
    alone = [
        objective(dataclasses.replace(changed(batch, lambda t, i=i: t[i : i + 1]), target=batch.target[i : i + 1]))
        for i in range(5)
    ]
    torch.testing.assert_close(torch.cat(alone), loss)


@every
def test_padding_changes_nothing(spec):
    objective, batch = OBJECTIVES.build(spec), lists(spec)
    torch.testing.assert_close(objective(padded(batch, extra=3)), objective(batch))
    grad = gradients(objective, batch)[1][0]
    wide = padded(batch, extra=3)
    got = torch.autograd.grad(objective(wide).sum(), batch.policy, allow_unused=True)[0]
    torch.testing.assert_close(torch.zeros_like(grad) if got is None else got, grad)


@every
def test_candidate_order_changes_nothing(spec):
    objective, batch = OBJECTIVES.build(spec), lists(spec)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(1))
    turned = changed(batch, lambda t: t[:, order])
    torch.testing.assert_close(objective(turned), objective(batch))
    grad = gradients(objective, batch)[1][0]
    got = torch.autograd.grad(objective(turned).sum(), batch.policy, allow_unused=True)[0]
    torch.testing.assert_close(torch.zeros_like(grad) if got is None else got, grad)


@every_scored
def test_candidate_order_changes_nothing_before_the_first_step(spec):
    """Where all scores tie, no rank by score may come from the given order."""
    batch = lists(spec)
    start = dataclasses.replace(batch, policy=torch.zeros_like(batch.policy), reference=torch.zeros_like(batch.policy))
    order = torch.randperm(7, generator=torch.Generator().manual_seed(1))
    objective = OBJECTIVES.build(spec)
    torch.testing.assert_close(objective(changed(start, lambda t: t[:, order])), objective(start))


@pytest.mark.parametrize("scale", [1.0, 1e4])
@every
def test_finite_at_any_margin(spec, scale):
    loss, grads = gradients(OBJECTIVES.build(spec), lists(spec, scale=scale))
    assert loss.isfinite().all()
    assert all(g.isfinite().all() for g in grads)


@pytest.mark.parametrize("labels", ["tied", "none", "one", "all relevant"])
@every
def test_finite_for_any_labels(spec, labels):
    relevance = {
        "tied": torch.full((5, 7), 2.0),
        "none": torch.zeros(5, 7),
        "one": torch.eye(7)[:5],
        "all relevant": torch.ones(5, 7),
    }[labels]
    loss, grads = gradients(OBJECTIVES.build(spec), lists(spec, relevance=relevance.double()))
    assert loss.isfinite().all()
    assert all(g.isfinite().all() for g in grads)


COMPARED = "contrastive cpo dpo ipo lambdarank larpo_list_mle lipo_lambda pair_hinge pair_logistic rrhf sdpo simpo slic"


@pytest.mark.parametrize("name", COMPARED.split())
def test_a_list_of_equals_teaches_a_comparison_nothing(name):
    batch = lists(relevance=torch.full((5, 7), 1.0, dtype=torch.float64))
    loss, grads = gradients(OBJECTIVES.build(name), batch)
    assert (loss == 0).all()
    assert (grads[0] == 0).all()


@every_scored
def test_a_list_of_nothing_has_loss_0(spec):
    batch = lists(spec)
    empty = dataclasses.replace(batch, mask=torch.zeros_like(batch.mask))
    loss = OBJECTIVES.build(spec)(empty)
    assert (loss == 0).all()
    assert torch.autograd.grad(loss.sum(), batch.policy)[0].eq(0).all()


@every_scored
def test_a_candidate_alone_is_finite(spec):
    batch = changed(lists(spec), lambda t: t[:, :1])
    loss = OBJECTIVES.build(spec)(batch)
    assert loss.isfinite().all()
    assert torch.autograd.grad(loss.sum(), batch.policy)[0].isfinite().all()


@each([spec for spec in SPECS if spec["name"] != "pl_rank"])  # its value is that of a few drawn rankings
def test_gradient_step_lowers_the_loss(spec):
    objective, batch = OBJECTIVES.build(spec), lists(spec, seed=3)
    loss, grads = gradients(objective, batch)
    with torch.no_grad():
        batch.policy.sub_(1e-4 * grads[0])
        batch.target.sub_(1e-4 * grads[1])
        assert objective(batch).sum() < loss.sum()


@each(EXACT)
def test_gradients_are_those_of_the_value(spec):
    """By finite differences; sampled estimates have tests of their own (test_objectives_irpo.py and _direct.py)."""
    objective, batch = OBJECTIVES.build(spec), lists(spec, count=2, size=4, seed=5)
    assert torch.autograd.gradcheck(lambda policy: objective(dataclasses.replace(batch, policy=policy)), batch.policy)


@every_scored
def test_slots_are_finite_and_sum_to_their_lists(spec):
    generator = torch.Generator().manual_seed(2)
    scores = (torch.randn(5, 7, 7, generator=generator, dtype=torch.float64) * 100).requires_grad_()
    rows = slots(lists(spec), scores)
    losses = OBJECTIVES.build(spec)(rows)
    (grad,) = torch.autograd.grad(losses.sum(), scores)
    assert losses.shape == (35,)
    assert grad.isfinite().all()
    torch.testing.assert_close(rows.per_list(losses), losses.view(5, 7).sum(-1))


TAUGHT = [spec for spec in SPECS if OBJECTIVES.build(spec).needs.teacher]


@each(TAUGHT)
def test_who_learns_from_a_teacher_reads_no_label(spec):
    objective, batch = OBJECTIVES.build(spec), lists(spec)
    without = dataclasses.replace(batch, relevance=torch.full_like(batch.relevance, math.nan))
    torch.testing.assert_close(objective(without), objective(batch), atol=0, rtol=0)
    with pytest.raises(ValueError, match="no teacher"):
        objective(dataclasses.replace(batch, teacher=None))


@each([spec for spec in SPECS if spec not in TAUGHT])
def test_who_does_not_learn_from_a_teacher_reads_none(spec):
    objective, batch = OBJECTIVES.build(spec), lists(spec)
    unknown = dataclasses.replace(batch, teacher=torch.full_like(batch.policy, math.nan))
    torch.testing.assert_close(objective(unknown), objective(batch), atol=0, rtol=0)


@each(TAUGHT)
def test_a_teachers_level_changes_nothing(spec):
    objective, batch = OBJECTIVES.build(spec), lists(spec)
    torch.testing.assert_close(objective(dataclasses.replace(batch, teacher=batch.teacher - 7)), objective(batch))


# Objectives whose terms compare an item with those behind it alone, so that slots of equal scores are the list itself.
SEPARABLE = [
    *({"name": n} for n in ("point_mse", "point_sigmoid", "pair_logistic", "pair_hinge", "list_mle", "rrhf")),
    *({"name": n} for n in ("contrastive", "lambdarank", "larpo_list_mle")),
    *({"name": n, "pairs": "all"} for n in ("dpo", "ipo", "simpo", "cpo", "slic")),
    {"name": "sdpo", "positives": "all"},
    {"name": "sft", "form": "positives"},
    {"name": "lipo_lambda", "discount": "constant", "normalize": True, "k": 3},
    *({"name": n} for n in ("margin_mse", "ranknet")),
    {"name": "ranknet", "weights": "first"},
]


@each(SEPARABLE)
def test_slots_of_equal_scores_are_the_list(spec):
    batch, objective = lists(spec), OBJECTIVES.build(spec)
    rows = slots(batch)
    torch.testing.assert_close(rows.per_list(objective(rows)), objective(batch))


@pytest.mark.parametrize("size", [2, 5, 20])
def test_irpo_at_step_0(size):
    """Policy = reference: z_i = -log K, so the loss is log(1 + K) times the sum of weights."""
    batch = lists(count=1, size=size)
    start = ScoredLists(batch.policy, batch.policy.detach(), batch.relevance, batch.mask, batch.noise)
    order = batch.relevance[0].sort(descending=True).values.tolist()
    weights = sum((2**y - 1) / math.log2(1 + i) for i, y in enumerate(order, start=1))
    assert OBJECTIVES.build("irpo")(start).item() == pytest.approx(math.log(1 + size) * weights)
