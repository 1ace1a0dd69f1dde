"""IRPO's options by hand, its slots, and the sampled estimate against the full gradient."""

import dataclasses
import math

import pytest
import torch

from irpo.lists import ScoredLists, ranks, slot_lists
from irpo.objectives import OBJECTIVES, loss
from irpo.objectives.irpo import log_odds
from irpo.types import UserError

DOUBLE = torch.float64
POLICY, REFERENCE = torch.tensor([[-1.0, -2.0, -4.0]], dtype=DOUBLE), torch.tensor([[-1.5, -1.0, -4.0]], dtype=DOUBLE)
RELEVANCE = torch.tensor([[1.0, 2.0, 0.0]], dtype=DOUBLE)
S = (0.5, -1.0, 0.0)  # implicit rewards at beta = 1
SECOND = 1 / math.log2(3)  # discount of rank 2


def z(i, others=(0, 1, 2)):
    return S[i] - math.log(sum(math.exp(S[j]) for j in others))


def log_sigmoid(x):
    return -math.log1p(math.exp(-x))


def irpo(**options):
    return loss("irpo", POLICY, REFERENCE, RELEVANCE, **options).item()


def test_a_cut_off_leaves_the_ranks_above_it():
    assert irpo(k=1) == pytest.approx(-3 * log_sigmoid(z(1)))
    assert irpo(k=2) == irpo(k=7) == irpo()


def test_normalized_is_divided_by_the_ideal_weights():
    assert irpo(normalize=True) == pytest.approx(irpo() / (3 + SECOND))
    assert irpo(normalize=True, k=1) == pytest.approx(-log_sigmoid(z(1)))
    assert loss("irpo", POLICY, REFERENCE, RELEVANCE * 0, normalize=True, tail_weight=0.1).item() == 0


def test_without_the_self_term_it_is_the_log_odds():
    expected = -(3 * log_sigmoid(z(1, (0, 2))) + SECOND * log_sigmoid(z(0, (1, 2))))
    assert irpo(self_term=False) == pytest.approx(expected)


def test_target_orders():
    # given: candidate 0 at rank 1, candidate 1 at rank 2; the policy's: 0, 2, 1
    assert irpo(target_order="given") == pytest.approx(-(log_sigmoid(z(0)) + 3 * SECOND * log_sigmoid(z(1))))
    assert irpo(target_order="policy") == pytest.approx(-(log_sigmoid(z(0)) + 3 / 2 * log_sigmoid(z(1))))
    # normalised by the ideal order all the same
    given = irpo(target_order="given", normalize=True)
    assert given == pytest.approx(irpo(target_order="given") / (3 + SECOND))


def test_a_tail_weight_adds_the_candidates_of_label_0():
    assert irpo(tail_weight=0.1) == pytest.approx(irpo() - 0.1 / 2 * log_sigmoid(z(2)))


def test_the_identity_link_is_weighted_cross_entropy():
    assert irpo(link="identity") == pytest.approx(-(3 * z(1) + SECOND * z(0)))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"link": "identity", "self_term": False}, "no lower bound without the self term"),
        ({"beta": 0.0}, "beta = 0.0; allowed is a number above 0"),
        ({"k": 0}, "k = 0; allowed is 1 and above"),
        ({"tail_weight": -1.0}, "tail_weight = -1.0; allowed is 0 and above"),
        ({"target_order": "gold"}, "target_order = 'gold'"),
    ],
)
def test_options_that_make_no_sense(options, said):
    with pytest.raises(UserError, match=said):
        OBJECTIVES.build("irpo", **options)


@pytest.mark.parametrize("scale", [1.0, 50.0, 1e4])
def test_log_odds_are_those_of_the_k_by_k_matrix(scale):
    generator = torch.Generator().manual_seed(0)
    scores = (torch.randn(20, 8, generator=generator, dtype=DOUBLE) * scale).requires_grad_()
    mask = torch.rand(20, 8, generator=generator) < 0.7
    others = mask[:, None] & ~torch.eye(8, dtype=torch.bool)
    literal = scores - torch.where(others, scores[:, None], -torch.inf).logsumexp(-1)
    used = mask & (mask.sum(-1, keepdim=True) > 1)
    torch.testing.assert_close(log_odds(scores, mask)[used], literal[used])
    assert (log_odds(scores, mask)[~used] == 0).all()
    weights = torch.rand(20, 8, generator=generator, dtype=DOUBLE)
    ours, theirs = (
        torch.autograd.grad((torch.where(used, x, 0.0) * weights).sum(), scores)[0]
        for x in (log_odds(scores, mask), torch.where(used, literal, 0.0).where(used, torch.zeros(())))
    )
    torch.testing.assert_close(ours[used], theirs[used])


def test_log_odds_of_ties_and_in_float32():
    scores = torch.zeros(1, 4)
    torch.testing.assert_close(log_odds(scores, scores == 0), torch.full((1, 4), -math.log(3)))
    sharp = torch.tensor([[30.0, 0.0, -3.0]])  # exp(30) + 1 is exp(30) in float32: nothing may cancel
    torch.testing.assert_close(log_odds(sharp, sharp == sharp), torch.tensor([[29.95141, -30.0, -33.0]]))


@pytest.mark.parametrize("self_term", [True, False])
def test_a_candidate_alone(self_term):
    """With the self term -w log sigmoid(0), without it no term."""
    value = loss("irpo", POLICY[:, :1], REFERENCE[:, :1], RELEVANCE[:, :1], self_term=self_term)
    assert value.item() == pytest.approx(math.log(2) if self_term else 0)


def random_lists(count=3, size=6, seed=0, labels=4) -> ScoredLists:
    generator = torch.Generator().manual_seed(seed)
    policy, reference = torch.randn(2, count, size, generator=generator, dtype=DOUBLE)
    relevance = torch.randint(0, labels, (count, size), generator=generator).to(DOUBLE)
    mask = torch.arange(size) < torch.tensor([[size], [size - 1], [size - 2]])[:count]
    noise = torch.rand(count, size, generator=generator, dtype=DOUBLE)
    return ScoredLists(policy.requires_grad_(), reference, relevance, mask, noise)


def slots(of: ScoredLists) -> ScoredLists:
    place = torch.arange(1, of.mask.shape[-1] + 1)[:, None]
    present = (ranks(of.relevance, of.mask)[:, None] >= place) & of.mask[:, None]
    tables = (t[:, None].expand(-1, of.mask.shape[-1], -1) for t in (of.policy, of.reference))
    return slot_lists(*tables, present, of.relevance, of.mask, of.noise)


class TestSlots:
    """A slot's item against the candidates still unplaced, weighted by its rank in the whole list."""

    @pytest.mark.parametrize("self_term", [True, False])
    def test_by_hand(self, self_term):
        rows = slots(ScoredLists(POLICY, REFERENCE, RELEVANCE, RELEVANCE >= 0, torch.zeros_like(POLICY)))
        value = rows.per_list(OBJECTIVES.build("irpo", self_term=self_term, tail_weight=0.1)(rows)).item()
        first, second = ((0, 1, 2), (0, 2)) if self_term else ((0, 2), (2,))
        last = 0.1 / 2 * math.log(2) if self_term else 0.0  # at the last slot nothing else is left
        expected = -(3 * log_sigmoid(z(1, first)) + SECOND * log_sigmoid(z(0, second))) + last
        assert value == pytest.approx(expected)

    def test_normalized_by_the_whole_list(self):
        rows = slots(random_lists())
        plain, normalized = (
            rows.per_list(OBJECTIVES.build("irpo", normalize=normalize)(rows)) for normalize in (False, True)
        )
        ideal = [
            sum((2**y - 1) / math.log2(1 + i) for i, y in enumerate(sorted(row[m].tolist(), reverse=True), start=1))
            for row, m in zip(rows.relevance[::6], rows.whole[::6], strict=True)
        ]
        torch.testing.assert_close(normalized, plain / torch.tensor(ideal, dtype=DOUBLE))

    def test_the_identity_link_with_equal_weights_is_plackett_luce(self):
        of = random_lists(labels=2)
        order = torch.stack([torch.randperm(6, generator=torch.Generator().manual_seed(i)) for i in range(3)])
        of = dataclasses.replace(of, relevance=1 + order.to(DOUBLE))  # all relevant, no ties
        rows = slots(of)
        equal = OBJECTIVES.build("irpo", link="identity", metric={"name": "precision", "k": 6})
        torch.testing.assert_close(rows.per_list(equal(rows)), OBJECTIVES.build("list_mle")(of))

    def test_policy_ranks_stand_behind_the_placed(self):
        """Where the policy agrees with the labels, its order gives the ideal weights in every slot."""
        of = dataclasses.replace(random_lists(), reference=torch.zeros(3, 6, dtype=DOUBLE))
        of = dataclasses.replace(of, relevance=ranks(-of.policy.detach(), of.mask).to(DOUBLE))
        rows = slots(of)
        ideal, policy = (OBJECTIVES.build("irpo", target_order=order)(rows) for order in ("ideal", "policy"))
        torch.testing.assert_close(policy, ideal)


class TestSampled:
    DRAWS = 4000

    @pytest.mark.parametrize("view", ["lists", "slots"])
    @pytest.mark.parametrize("options", [{"draws": 1}, {"draws": 3}, {"draws": 3, "normalize": True, "k": 2}])
    def test_mean_over_draws_is_the_full_gradient(self, options, view):
        of = random_lists(seed=3)
        view = slots if view == "slots" else (lambda lists: lists)
        generator = torch.Generator().manual_seed(1)
        sampled = OBJECTIVES.build("irpo_sampled", **options)
        exact = OBJECTIVES.build("irpo", **{key: value for key, value in options.items() if key != "draws"})
        (full,) = torch.autograd.grad(exact(view(of)).sum(), of.policy)
        # Each copy of the lists has noise of its own: one call is many draws.
        copies = {name: getattr(of, name).repeat(self.DRAWS, 1) for name in ("reference", "relevance", "mask")}
        policy = of.policy.detach().repeat(self.DRAWS, 1).requires_grad_()
        noise = torch.rand(policy.shape, generator=generator, dtype=DOUBLE)
        (grads,) = torch.autograd.grad(sampled(view(ScoredLists(policy, noise=noise, **copies))).sum(), policy)
        grads = grads.view(self.DRAWS, *full.shape)
        error = grads.std(0) / math.sqrt(self.DRAWS)
        assert error.max() > 0
        assert ((grads.mean(0) - full).abs() <= 4 * error + 1e-12).all()

    @pytest.mark.parametrize("draws", [1, 4, 100])
    def test_the_value_is_exact(self, draws):
        of = random_lists()
        value = OBJECTIVES.build("irpo_sampled", draws=draws, tail_weight=0.2)(of)
        assert torch.equal(value.detach(), OBJECTIVES.build("irpo", tail_weight=0.2)(of).detach())

    @pytest.mark.parametrize("draws", [1, 2, 100])
    def test_only_the_selected_have_a_gradient(self, draws):
        sampled, some = OBJECTIVES.build("irpo_sampled", draws=draws, metric="mrr", k=1), 0
        for seed in range(20):
            of = random_lists(seed=seed, size=12)
            (grad,) = torch.autograd.grad(sampled(of).sum(), of.policy)
            selected = sampled.select(of)
            assert (grad[~selected] == 0).all()
            assert not (selected & ~of.mask).any()
            assert selected.sum(-1).max() <= 1 + draws
            some += int((grad != 0).sum())
        assert some > 0

    def test_nothing_is_selected_where_nothing_weighs(self):
        of = dataclasses.replace(random_lists(), relevance=torch.zeros(3, 6, dtype=DOUBLE))
        assert not OBJECTIVES.build("irpo_sampled").select(of).any()

    def test_more_draws_than_candidates_are_as_many_as_candidates(self):
        of = random_lists()
        shares = OBJECTIVES.build("irpo_sampled", draws=100).shares(of, of.policy)
        torch.testing.assert_close(shares.sum(-1), torch.ones(3, dtype=DOUBLE))
        counts = shares * torch.tensor([[6], [5], [4]])
        torch.testing.assert_close(counts, counts.round())
        assert (shares[~of.mask] == 0).all()
