"""The measure as the objective: its gradient against all permutations, its draws, its slots; ranks made smooth."""

import dataclasses
import itertools
import math

import pytest
import torch
from test_objectives_irpo import slots
from tiny import tiny_model
from training_lists import bumped, encoded, method

from irpo.lists import ScoredLists, more_noise
from irpo.objectives import OBJECTIVES, loss
from irpo.objectives.direct import policy_gradient
from irpo.positional import POSITIONAL_METRICS
from irpo.scoring.models import LoraOptions, add_lora
from irpo.training.method import Noise, table_of
from irpo.types import UserError

DOUBLE = torch.float64
METRICS = [
    {},
    {"k": 2},
    {"k": None, "normalize": False},
    {"metric": "map", "normalize": False},
    {"metric": {"name": "precision", "k": 2}},
    {"metric": "mrr"},
    {"metric": "edcg", "k": 3},
]
metrics = pytest.mark.parametrize("options", METRICS, ids=str)


def one_list(size, seed=0, labels=None, scale=1.5) -> ScoredLists:
    """A list of graded, tied labels in random order, or of the given ones."""
    generator = torch.Generator().manual_seed(seed)
    policy = (torch.randn(1, size, generator=generator, dtype=DOUBLE) * scale).requires_grad_()
    order = torch.randperm(size, generator=generator)
    relevance = torch.tensor([labels or (2.0, 0.0, 1.0, 0.0, 3.0, 1.0)[:size]], dtype=DOUBLE)
    relevance = relevance if labels else relevance[:, order]
    noise = torch.rand(1, size, generator=generator, dtype=DOUBLE)
    return ScoredLists(policy, torch.zeros_like(policy).detach(), relevance, relevance >= 0, noise)


def permutations(size):
    """All of them, (P, K), by place."""
    return torch.tensor(list(itertools.permutations(range(size))))


def earned_by(options, labels, orders):
    """What rankings (P, K) of all candidates earn, (P,), over what the best of all earns where `normalize`."""
    metric, k = POSITIONAL_METRICS.build(options.get("metric", "ndcg")), options.get("k", 10)

    def earned(orders):
        rank = (orders.argsort(-1) + 1).to(DOUBLE)
        weights = metric(torch.tensor([labels], dtype=DOUBLE).expand(rank.shape), rank)
        return (weights if k is None else weights * (rank <= k)).sum(-1)

    return earned(orders) / (earned(permutations(len(labels))).max() if options.get("normalize", True) else 1)


def log_probs(scores, orders):
    """Of rankings (P, K) by Plackett-Luce of scores (K,), (P,)."""
    rest = [scores[orders[:, i:]].logsumexp(-1) for i in range(orders.shape[1])]
    return scores[orders].sum(-1) - torch.stack(rest).sum(0)


def exact(of, options, beta=1.0):
    """The expected regret by all permutations, differentiable."""
    orders = permutations(of.mask.shape[1])
    earned = earned_by(options, of.relevance[0].tolist(), orders)
    return earned.max() - (log_probs(beta * of.policy[0], orders).exp() * earned).sum()


def flat(options, labels):
    """Whether all rankings earn the same."""
    earned = earned_by(options, labels, permutations(len(labels)))
    return bool((earned.max() - earned.min()) < 1e-12)


@pytest.mark.parametrize("size", [2, 3, 4, 5])
@metrics
def test_the_estimators_expectation_is_the_exact_gradient(options, size):
    """Two draws at a time: over all pairs of permutations, each with its probability, nothing is left to chance."""
    of, pl_rank = one_list(size, seed=size), OBJECTIVES.build("pl_rank", samples=2, **options)
    orders = permutations(size)
    chances = log_probs(of.policy[0].detach(), orders)
    first, second = torch.cartesian_prod(torch.arange(len(orders)), torch.arange(len(orders))).unbind(1)
    pairs = orders[torch.stack([first, second])]
    table = {name: getattr(of, name).expand(len(first), -1) for name in ("reference", "relevance", "mask", "noise")}
    lists = ScoredLists(of.policy.expand(len(first), -1), **table)
    surrogate = policy_gradient(lists.policy, lists.mask, pairs, pl_rank.earned(lists, pairs))
    chance = (chances[first] + chances[second]).exp()
    assert chance.sum().item() == pytest.approx(1)
    (ours,) = torch.autograd.grad((chance * surrogate).sum(), of.policy)
    (expected,) = torch.autograd.grad(exact(of, options), of.policy)
    assert (expected.abs().max() > 1e-3) != flat(options, of.relevance[0].tolist())
    torch.testing.assert_close(ours, expected, atol=1e-10, rtol=1e-8)


def repeated(of, count, seed=1) -> ScoredLists:
    """The list many times, each with noise of its own."""
    generator = torch.Generator().manual_seed(seed)
    copies = {name: getattr(of, name).repeat(count, 1) for name in ("reference", "relevance", "mask")}
    noise = torch.rand(count, of.mask.shape[1], generator=generator)
    return ScoredLists(of.policy.detach().repeat(count, 1).requires_grad_(), noise=noise.to(DOUBLE), **copies)


@pytest.mark.parametrize("options", [{}, {"k": 2, "normalize": False}, {"metric": "mrr", "beta": 0.5}], ids=str)
def test_the_mean_of_many_draws_is_the_exact_value_and_gradient(options):
    of, count = one_list(5, seed=3), 3000
    copies = repeated(of, count)
    values = OBJECTIVES.build("pl_rank", samples=4, **options)(copies)
    (grads,) = torch.autograd.grad(values.sum(), copies.policy)
    value = exact(of, options, options.get("beta", 1.0))
    (expected,) = torch.autograd.grad(value, of.policy)
    for found, wanted in ((values.detach(), value.detach()), (grads, expected[0])):
        error = found.std(0) / math.sqrt(count)
        assert (error > 0).all()
        assert ((found.mean(0) - wanted).abs() <= 4 * error).all()  # 4 standard errors, a fixed seed


def test_more_draws_are_nearer():
    spread = []
    for samples in (2, 32):
        copies = repeated(one_list(5, seed=3), 200)
        values = OBJECTIVES.build("pl_rank", samples=samples)(copies)
        spread.append(torch.autograd.grad(values.sum(), copies.policy)[0].std(0).mean())
    assert spread[1] < spread[0] / 3  # sqrt(16) = 4, were the baseline the same


def test_a_step_along_the_gradient_lowers_the_exact_regret():
    of = one_list(5, seed=4)
    (grad,) = torch.autograd.grad(OBJECTIVES.build("pl_rank", samples=500)(of).sum(), of.policy)
    after = dataclasses.replace(of, policy=of.policy.detach() - 0.1 * grad)
    assert exact(after, {}) < exact(of, {})


@pytest.mark.parametrize("labels", [(0.0,) * 4, (2.0,) * 4])
def test_where_no_order_is_better_nothing_is_taught(labels):
    of = one_list(4, labels=labels)
    value = OBJECTIVES.build("pl_rank")(of)
    (grad,) = torch.autograd.grad(value.sum(), of.policy)
    assert value.item() == pytest.approx(0, abs=1e-12)
    assert grad.abs().max() < 1e-12


def test_what_is_drawn_depends_on_seed_epoch_and_list():
    of, pl_rank = one_list(6, scale=0.1), OBJECTIVES.build("pl_rank", samples=4)

    @dataclasses.dataclass
    class Item:
        id: str = "q"
        bodies: tuple = ((),) * 6

    def value(noise, id="q"):
        drawn = noise.of(Item(id))[None].to(DOUBLE)
        return pl_rank(dataclasses.replace(of, noise=drawn)).item()

    assert value(Noise(0, 0)) == value(Noise(0, 0))
    others = [Noise(seed, epoch) for seed in range(4) for epoch in range(4)]
    assert len({value(noise, id) for noise in others for id in ("q", "r")}) > 16  # of few draws some earn the same


def test_more_noise_is_uniform_and_of_the_list_alone():
    noise = torch.rand(3, 6, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(6) < torch.tensor([[6], [4], [5]])
    drawn = more_noise(noise, mask, 20_000)
    assert ((drawn > 0) & (drawn < 1)).all()
    real = drawn[:, mask].T
    counts = torch.stack([torch.histc(row, 10, 0, 1) for row in real])
    assert ((counts - 2000).square() / 2000).sum(-1).max() < 33.7  # chi-square of 9, one in 10,000
    assert torch.corrcoef(real).fill_diagonal_(0).abs().max() < 4.5 / math.sqrt(20_000)
    torch.testing.assert_close(more_noise(noise[1:2, :4], mask[1:2, :4], 7), drawn[:7, 1:2, :4], atol=0, rtol=0)
    turned = more_noise(noise.flip(-1), mask.flip(-1), 7)
    torch.testing.assert_close(turned[:, mask.flip(-1)].sort().values, drawn[:7][:, mask].sort().values, atol=0, rtol=0)


@pytest.mark.parametrize("seed", range(5))
@metrics
def test_the_regret_of_a_slots_choice_is_that_of_the_best_that_can_follow(options, seed):
    of = one_list(4, seed)
    rows, labels = slots(of), of.relevance[0].tolist()
    found = OBJECTIVES.build("pl_rank", **options).regrets(rows)
    placed: tuple[int, ...] = ()
    for row in range(4):
        left = [j for j in range(4) if rows.mask[row, j]]
        follow = {j: after((*placed, j), left, labels, options) for j in left}
        for j in left:
            assert found[row, j].item() == pytest.approx(max(follow.values()) - follow[j], abs=1e-12)
        placed = (*placed, int(rows.counted[row].nonzero()))
    assert (found.abs().max() > 1e-3) != flat(options, labels)


def after(placed, left, labels, options):
    """What the rankings earn that begin with those placed."""
    tails = itertools.permutations([j for j in left if j != placed[-1]])
    return earned_by(options, labels, torch.tensor([(*placed, *tail) for tail in tails])).max().item()


def test_a_slot_is_one_decision_of_the_policy():
    rows = slots(one_list(3, labels=(1.0, 2.0, 0.0)))
    s, second = rows.policy[0].tolist(), 1 / math.log2(3)
    top = [math.exp(x) / sum(map(math.exp, s)) for x in s]
    best = 3 + second  # of label 2 and label 1
    regrets = (best - (1 + 3 * second), 0.0, best - (3 * second + 1 / 2))
    # candidate 1 placed, 0 against 2 at rank 2
    last = math.exp(s[2]) / (math.exp(s[0]) + math.exp(s[2])) * (second - 1 / 2)
    expected = (sum(p * r for p, r in zip(top, regrets, strict=True)) + last) / best
    assert rows.per_list(OBJECTIVES.build("pl_rank")(rows)).item() == pytest.approx(expected)


@pytest.mark.parametrize("name", ["pl_rank", "approx_ndcg"])
@pytest.mark.parametrize("scorer", ["independent", "stepwise"])
def test_a_lists_loss_is_its_own_whoever_stands_in_its_batch(name, scorer):
    """Among lists of other lengths, and one without a label, which a walk does not walk."""
    of, model = method(name, scorer), bumped(add_lora(tiny_model(), LoraOptions(r=4), seed=0))
    items = encoded("label" if scorer == "stepwise" else "text", count=4)
    items[1] = items[1].without_labels()

    def losses(some):
        batch, noise = of.batch(some, 0, Noise()), Noise()
        reference = of.reference_scores(model, batch, noise, {})
        return of.loss(table_of(batch, of.policy_scores(model, batch, noise, reference), reference, noise)).tolist()

    with torch.no_grad():
        together, alone = losses(items), [losses([item])[0] for item in items]
    assert together == pytest.approx(alone, abs=1e-5)
    assert together[1] == 0
    assert min(together[0], together[2], together[3]) > 0.01


def test_approx_ndcg_by_hand():
    policy = torch.tensor([[1.0, 3.0, 0.0]], dtype=DOUBLE)
    ours = loss("approx_ndcg", policy, None, torch.tensor([[1.0, 0.0, 2.0]]), beta=2.0).item()

    def rank(i, others):
        return 1 + sum(1 / (1 + math.exp(-2 * (policy[0, j] - policy[0, i]).item())) for j in others)

    earned = 1 / math.log2(1 + rank(0, (1, 2))) + 3 / math.log2(1 + rank(2, (0, 1)))
    assert ours == pytest.approx(1 - earned / (3 + 1 / math.log2(3)))


def test_a_large_beta_makes_approx_ndcg_the_measure():
    for seed in range(5):
        of = one_list(5, seed)
        order = of.policy[0].argsort(descending=True)[None]
        expected = 1 - earned_by({"k": None}, of.relevance[0].tolist(), order).item()
        assert OBJECTIVES.build("approx_ndcg", beta=1e4)(of).item() == pytest.approx(expected)


def test_the_slots_of_approx_ndcg_know_what_is_placed():
    """At a large beta every slot but the policy's mistakes among the unplaced counts as in the ideal order."""
    rows = slots(one_list(3, labels=(1.0, 2.0, 0.0)))
    sharp = dataclasses.replace(rows, policy=torch.tensor([[0.0, 1.0, 2.0]], dtype=DOUBLE).expand(3, -1) * 1e4)
    best = 3 + 1 / math.log2(3)
    # slot 1: label 2 stands second of three; slot 2: label 1 stands second of the two behind it, at rank 3
    lost = 3 * (1 - 1 / math.log2(3)) + (1 / math.log2(3) - 1 / 2)
    assert rows.per_list(OBJECTIVES.build("approx_ndcg")(sharp)).item() == pytest.approx(lost / best)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": "pl_rank", "samples": 1}, "samples = 1; allowed is 2 and above"),
        ({"name": "pl_rank", "k": 0}, "k = 0; allowed is 1 and above"),
        ({"name": "approx_ndcg", "beta": 0.0}, "beta = 0.0; allowed is a number above 0"),
    ],
)
def test_options_that_make_no_sense(options, said):
    with pytest.raises(UserError, match=said):
        OBJECTIVES.build(options)
