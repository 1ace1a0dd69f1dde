"""Pairs, baselines, LiPO's, LarPO's and mixed objectives: values worked by hand."""

import math

import pytest
import torch

from irpo.config.schema import load_config
from irpo.lists import ScoredLists
from irpo.objectives import OBJECTIVES, Needs, loss
from irpo.objectives.mixture import Mixture
from irpo.types import UserError

DOUBLE = torch.float64
P = (-1.0, -2.0, -4.0, -3.0)
R = (-1.5, -1.0, -4.0, -5.0)
S = (0.5, -1.0, 0.0, 2.0)  # P - R
LABELS = (1.0, 2.0, 0.0, 0.0)  # positives 0 and 1, negatives 2 and 3


def row(values):
    return torch.tensor([values], dtype=DOUBLE)


def value(name, labels=LABELS, seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    return loss(name, row(P), row(R), row(labels), generator=generator, target=row(-7.5)[0], **options).item()


def values(name, seeds=200, **options):
    """What chance makes of it."""
    return {round(value(name, seed=seed, **options), 9) for seed in range(seeds)}


def near(*expected):
    return {round(x, 9) for x in expected}


def softplus(x):
    return math.log1p(math.exp(x))


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


PAIRS = [(0, 2), (0, 3), (1, 0), (1, 2), (1, 3)]  # all of different labels


def test_dpo_pairs():
    losses = {(w, x): softplus(S[x] - S[w]) for w, x in PAIRS}
    assert values("dpo") == near(*losses.values())
    assert values("dpo", pairs="first") == near(losses[1, 2])
    assert values("dpo", pairs="hardest") == near(losses[0, 3], losses[1, 3])  # 3 has the highest score
    assert value("dpo", pairs="all") == pytest.approx(sum(losses.values()))


def test_sdpo_positives_and_negatives():
    def term(w, others):
        return math.log1p(sum(math.exp(S[x] - S[w]) for x in others))

    assert values("sdpo") == near(term(0, (2, 3)), term(1, (0, 2, 3)))
    assert value("sdpo", positives="all") == pytest.approx(term(0, (2, 3)) + term(1, (0, 2, 3)))
    assert values("sdpo", negatives=1) == near(*(term(w, (x,)) for w, x in PAIRS))
    assert values("sdpo", pairs="first", negatives=1) == near(term(1, (2,)), term(1, (3,)))
    assert values("sdpo", pairs="first", negatives=5) == near(term(1, (2, 3)))


@pytest.mark.parametrize(
    ("name", "of"),
    [
        ("ipo", lambda w, x: ((S[w] - S[x]) - 5.0) ** 2),  # 1 / (2 * 0.1)
        ("simpo", lambda w, x: softplus(1.0 - 2.0 * (P[w] - P[x]))),
        ("cpo", lambda w, x: softplus(-0.1 * (P[w] - P[x])) - P[w]),
        ("slic", lambda w, x: max(0.0, 1.0 - (P[w] - P[x])) - 0.5 * P[w]),
    ],
)
def test_baselines_of_pairs(name, of):
    assert values(name) == near(*(of(w, x) for w, x in PAIRS))
    assert value(name, pairs="first") == pytest.approx(of(1, 2))


def test_the_likelihood_of_a_winner_counts_once():
    hinges = sum(max(0.0, 1.0 - (P[w] - P[x])) for w, x in PAIRS)
    assert value("slic", pairs="all", nll=0.5) == pytest.approx(hinges - 0.5 * (P[0] + P[1]))
    assert value("cpo", pairs="all", nll=2.0) == pytest.approx(value("cpo", pairs="all", nll=0.0) - 2 * (P[0] + P[1]))


def test_kto_by_hand():
    zero = 0.1 * sum(S) / 4
    good = sum(1 - sigmoid(0.1 * S[j] - zero) for j in (0, 1))
    bad = sum(1 - sigmoid(zero - 0.1 * S[j]) for j in (2, 3))
    assert value("kto") == pytest.approx(good + bad)
    assert value("kto", desirable=1.5, undesirable=0.5) == pytest.approx(1.5 * good + 0.5 * bad)
    only = value("kto", min_label=2.0)
    assert only == pytest.approx(good + bad - (1 - sigmoid(0.1 * S[0] - zero)) + sigmoid(0.1 * S[0] - zero))


def test_kto_takes_no_gradient_through_its_zero_point():
    policy = row(P).requires_grad_()
    (grad,) = torch.autograd.grad(loss("kto", policy, row(R), row(LABELS)).sum(), policy)
    zero = 0.1 * sum(S) / 4
    slope = [0.1 * sigmoid(0.1 * s - zero) * sigmoid(zero - 0.1 * s) for s in S]
    torch.testing.assert_close(grad, row((-slope[0], -slope[1], slope[2], slope[3])))


def test_rrhf_by_hand():
    # pairs (1, 0), (1, 2), (1, 3), (0, 2), (0, 3); only candidate 1 stands below one that it should beat
    assert value("rrhf") == pytest.approx((P[0] - P[1]) - P[1])
    assert value("rrhf", nll=0.0) == pytest.approx(1.0)


def test_sft_on_the_positives():
    assert value("sft", form="positives") == pytest.approx(-(P[0] + P[1]))
    assert OBJECTIVES.build("sft").needs == Needs(scores=False, reference=False, target=True)
    assert OBJECTIVES.build("sft", form="positives").needs == Needs(reference=False)


def test_lipo_lambda_and_its_ablations():
    place = (2, 4, 3, 1)  # by the current scores
    better = [(1, 0), (1, 2), (1, 3), (0, 2), (0, 3)]

    def weighted(gain=lambda i, j: 1.0, discount=lambda i, j: 1.0, pairs=better):
        return sum(gain(i, j) * discount(i, j) * softplus(S[j] - S[i]) for i, j in pairs)

    def gain(i, j):
        return 2 ** LABELS[i] - 2 ** LABELS[j]

    def discount(i, j):
        return abs(1 / math.log2(1 + place[i]) - 1 / math.log2(1 + place[j]))

    assert value("lipo_lambda") == pytest.approx(weighted(gain, discount))
    assert value("lipo_lambda", gain="constant") == pytest.approx(weighted(discount=discount))
    assert value("lipo_lambda", discount="constant") == pytest.approx(weighted(gain))
    assert value("lipo_lambda", weight="constant") == pytest.approx(weighted()) == value("pair_logistic")
    assert value("lipo_lambda", k=1) == pytest.approx(weighted(gain, discount, better[:3]))
    ideal = 3 + 1 / math.log2(3)
    assert value("lipo_lambda", normalize=True) == pytest.approx(weighted(gain, discount) / ideal)


def test_infonca_reads_labels_at_a_temperature():
    total = math.log(sum(math.exp(s) for s in S))
    shares = [math.exp(y / 0.5) / sum(math.exp(x / 0.5) for x in LABELS) for y in LABELS]
    expected = -sum(p * (s - total) for p, s in zip(shares, S, strict=True))
    assert value("infonca", alpha=0.5) == pytest.approx(expected)


def test_list_mle_draws_the_order_of_ties():
    def of(*order):
        return sum(math.log(sum(math.exp(S[j]) for j in order[i:])) - S[order[i]] for i in range(4))

    assert values("list_mle") == near(of(1, 0, 2, 3), of(1, 0, 3, 2))


def test_larpo_chooses_by_label_or_score():
    graded = (3.0, 2.0, 0.0, 1.0)

    def term(w, others):
        return math.log1p(sum(math.exp(S[x] - S[w]) for x in others))

    assert value("contrastive", graded) == pytest.approx(term(0, (1, 2, 3)))
    assert value("contrastive", graded, pool="lowest") == pytest.approx(term(0, (2,)))
    assert value("contrastive", graded, negatives=1) == pytest.approx(term(0, (2,)))
    assert value("contrastive", graded, negatives=1, choice="hardest") == pytest.approx(term(0, (3,)))
    assert value("contrastive", graded, positives=2) == pytest.approx(term(0, (2, 3)) + term(1, (2, 3)))
    drawn = {round(value("contrastive", graded, seed=s, negatives=1, choice="random"), 9) for s in range(100)}
    assert drawn == near(*(term(0, (x,)) for x in (1, 2, 3)))
    pairs = value("lambdarank", graded, positives=1, negatives=2, choice="hardest")
    # 0 against 3 and 2, the two of the highest scores below it, and 3 against 2
    assert pairs == pytest.approx(softplus(S[3] - S[0]) + softplus(S[2] - S[0]) + softplus(S[2] - S[3]))
    order = value("larpo_list_mle", graded, positives=1, negatives=1, choice="hardest")
    assert order == pytest.approx(softplus(S[3] - S[0]))


def test_with_all_candidates_larpo_is_ranknet_and_list_mle():
    graded = (3.0, 2.0, 0.0, 1.0)
    assert value("lambdarank", graded) == pytest.approx(value("pair_logistic", graded))
    assert value("larpo_list_mle", graded) == pytest.approx(value("list_mle", graded))


def test_point_sigmoid_reads_labels_as_probabilities():
    with pytest.raises(UserError, match=r"a label of 2; PointSigmoid uses labels from 0 to 1 \(its option max_label\)"):
        value("point_sigmoid")
    expected = sum(softplus(s) - y / 2 * s for s, y in zip(S, LABELS, strict=True))
    assert value("point_sigmoid", max_label=2.0) == pytest.approx(expected)
    assert OBJECTIVES.build("point_sigmoid", max_label=2.0).needs.max_label == 2.0


def test_padding_may_hold_any_label():
    mask = torch.tensor([[True, True, False, True]])
    assert loss("point_sigmoid", row(P), row(R), row((1.0, 0.0, 9.0, 0.5)), mask).isfinite()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": "sdpo", "negatives": 0}, "negatives = 0; allowed is 1 and above"),
        ({"name": "kto", "desirable": -1}, "desirable = -1"),
        ({"name": "ipo", "tau": 0}, "tau = 0.0; allowed is a number above 0"),
        ({"name": "simpo", "beta": float("nan")}, "beta = nan"),
        ({"name": "infonca", "alpha": 0}, "alpha = 0"),
        ({"name": "lipo_lambda", "gain": "cubic"}, "gain = 'cubic'"),
        ({"name": "contrastive", "positives": 0}, "positives = 0"),
        ({"name": "sft", "form": "negatives"}, "form = 'negatives'"),
    ],
)
def test_options_that_make_no_sense(options, said):
    with pytest.raises(UserError, match=said):
        OBJECTIVES.build(options)


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name != "reinforce"])  # reinforce: an online method
def test_every_objective_ships_with_a_configuration_that_fits_it(name):
    method = load_config(["models/embedded.yaml", "tasks/world.yaml", f"methods/{name}.yaml"]).method
    built = OBJECTIVES.build(method.objective)
    assert method.objective["name"] == name
    assert (method.reference == "none") == (not built.needs.reference)
    assert (method.length == "mean") == (name in ("simpo", "rrhf"))


class TestMixture:
    def test_a_weighted_sum_that_needs_what_its_parts_need(self):
        mixture = Mixture(((1.0, OBJECTIVES.build("irpo")), (0.1, OBJECTIVES.build("sft"))))
        assert mixture.needs == Needs(scores=True, reference=True, target=True, max_label=64)
        noise = torch.zeros(1, 4, dtype=DOUBLE)
        lists = ScoredLists(row(P), row(R), row(LABELS), row(LABELS) >= 0, noise, row((-7.5,))[0])
        assert mixture(lists).item() == pytest.approx(value("irpo") + 0.1 * 7.5)

    def test_each_part_reads_its_own_share_of_the_reference(self):
        free, half = (
            OBJECTIVES.build("irpo", reference_weight=0),
            OBJECTIVES.build("pair_logistic", reference_weight=0.5),
        )
        assert not Mixture(((1.0, free), (2.0, OBJECTIVES.build("pl_rank")))).needs.reference
        mixture = Mixture(((1.0, free), (2.0, half)))
        assert mixture.needs.reference
        expected = value("irpo", reference_weight=0) + 2 * value("pair_logistic", reference_weight=0.5)
        assert value(mixture) == pytest.approx(expected)
        assert expected != pytest.approx(value("irpo") + 2 * value("pair_logistic"))

    def test_labels_are_bounded_by_the_strictest(self):
        parts = ((1.0, OBJECTIVES.build("point_sigmoid")), (1.0, OBJECTIVES.build("point_mse")))
        assert Mixture(parts).needs.max_label == 1.0

    def test_nothing_and_negative_weights_are_refused(self):
        with pytest.raises(UserError, match="name at least one"):
            Mixture(())
        with pytest.raises(UserError, match="weight = 'a'; a weight is a number"):
            Mixture((("a", OBJECTIVES.build("irpo")),))
        with pytest.raises(UserError, match="irpo_sampled saves nothing"):
            Mixture(((1.0, OBJECTIVES.build("irpo_sampled")),))
        with pytest.raises(UserError, match="weight = -1"):
            Mixture(((-1.0, OBJECTIVES.build("irpo")),))
