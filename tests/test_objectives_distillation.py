"""Learning from a teacher's scores: values worked by hand, literal loops, other packages' losses."""

import math

import pytest
import torch
from torch.nn.functional import kl_div

from irpo.config.schema import load_config
from irpo.lists import ScoredLists
from irpo.objectives import OBJECTIVES, loss
from irpo.objectives.mixture import Mixture
from irpo.types import UserError

DOUBLE = torch.float64
P = (-1.0, -2.0, -4.0)
R = (-1.5, -1.0, -4.0)
T = (3.0, 1.0, 2.0)  # ranks 1, 3, 2
S = (0.5, -1.0, 0.0)  # P - R


def row(values):
    return torch.tensor([values], dtype=DOUBLE)


def value(name, teacher=T, **options):
    return loss(name, row(P), row(R), row((0.0,) * 3), teacher=row(teacher), **options).item()


def softplus(x):
    return math.log1p(math.exp(x))


def test_kl_by_hand():
    aim = [math.exp(t) / sum(map(math.exp, T)) for t in T]
    ours = [math.exp(s) / sum(map(math.exp, P)) for s in P]
    assert value("kl") == pytest.approx(sum(p * math.log(p / q) for p, q in zip(aim, ours, strict=True)))
    assert value("kl", teacher=[p + 5 for p in P]) == pytest.approx(0)
    assert value("kl", teacher=[3 * s for s in S], temperature=3.0, reference_weight=1.0) == pytest.approx(0)


def test_margin_mse_by_hand():
    # Margins of P: 1, 3, 2; of T: 2, 1, -1.
    assert value("margin_mse") == pytest.approx((1 - 2) ** 2 + (3 - 1) ** 2 + (2 + 1) ** 2)
    # Margins of 2 S: 3, 1, -2.
    scaled = value("margin_mse", beta=2.0, reference_weight=1.0)
    assert scaled == pytest.approx((3 - 2) ** 2 + (1 - 1) ** 2 + (-2 + 1) ** 2)


def test_ranknet_by_hand():
    pairs = {(0, 2): softplus(-3.0), (0, 1): softplus(-1.0), (2, 1): softplus(2.0)}  # the teacher's order is 0, 2, 1
    assert value("ranknet") == pytest.approx(sum(pairs.values()))
    weighted = pairs[0, 2] / (1 + 2) + pairs[0, 1] / (1 + 3) + pairs[2, 1] / (2 + 3)
    assert value("ranknet", weights="first") == pytest.approx(weighted)
    assert value("ranknet", teacher=(-1, -3, -2), weights="first") == pytest.approx(weighted)  # minus the rank


def test_what_a_teacher_ties_has_no_term_and_the_best_of_its_ranks():
    tied = (2.0, 2.0, 1.0)
    first, second = softplus(-3.0), softplus(-2.0)  # each of the two over the third, whose rank is 3
    assert value("ranknet", teacher=tied, weights="first") == pytest.approx(first / 4 + second / 4)
    assert value("ranknet", teacher=(1.0, 1.0, 1.0)) == 0


def test_the_gradient_of_kl_is_the_difference_of_the_distributions():
    policy = row(P).requires_grad_()
    found = loss("kl", policy, None, row((0.0,) * 3), teacher=row(T), beta=2.0)
    (grad,) = torch.autograd.grad(found.sum(), policy)
    torch.testing.assert_close(grad, 2 * ((2 * row(P)).softmax(-1) - row(T).softmax(-1)))


def ragged(seed=0, count=20, size=8):
    generator = torch.Generator().manual_seed(seed)
    policy, teacher = torch.randn(2, count, size, generator=generator, dtype=DOUBLE) * 3
    mask = torch.arange(size) < torch.randint(1, size + 1, (count, 1), generator=generator)
    return policy, (teacher * 2).round() / 2, mask  # some ties


def by_loops(name, scores, teacher):
    """A list's loss, written out."""
    size = len(scores)
    pairs = [(i, j) for i in range(size) for j in range(size)]
    if name == "margin_mse":
        return sum((scores[i] - scores[j] - teacher[i] + teacher[j]) ** 2 for i, j in pairs if i < j)
    rank = [1 + sum(other > own for other in teacher) for own in teacher]
    weight = {"ranknet": lambda i, j: 1.0, "first": lambda i, j: 1 / (rank[i] + rank[j])}[name]
    return sum(weight(i, j) * softplus(scores[j] - scores[i]) for i, j in pairs if teacher[i] > teacher[j])


@pytest.mark.parametrize("name", ["margin_mse", "ranknet", "first"])
def test_same_as_loops(name):
    policy, teacher, mask = ragged()
    spec = {"name": "ranknet", "weights": "first"} if name == "first" else name
    ours = loss(spec, policy, None, torch.zeros_like(policy), mask, teacher=teacher)
    rows = zip(policy.tolist(), teacher.tolist(), mask.sum(-1).tolist(), strict=True)
    theirs = [by_loops(name, scores[:n], given[:n]) for scores, given, n in rows]
    torch.testing.assert_close(ours, torch.tensor(theirs, dtype=DOUBLE))


def test_same_as_torchs_kl_div():
    policy, teacher, mask = ragged(1)
    ours = loss("kl", policy, None, torch.zeros_like(policy), mask, teacher=teacher, temperature=2.0)
    for b, n in enumerate(mask.sum(-1).tolist()):
        student, aim = policy[b, :n].log_softmax(-1), (teacher[b, :n] / 2).softmax(-1)
        torch.testing.assert_close(ours[b], kl_div(student, aim, reduction="sum"))


@pytest.mark.parametrize("weights", ["none", "first"])
def test_same_as_binary_cross_entropy_of_the_pairs(weights):
    """As FIRST's code takes it, with the mean that it takes over pairs: https://github.com/gangiswag/llm-reranker."""
    policy, teacher, _ = ragged(2)
    policy.requires_grad_()
    teacher = torch.stack([torch.randperm(8, generator=torch.Generator().manual_seed(b)) for b in range(20)]).double()
    ours = loss("ranknet", policy, None, torch.zeros_like(teacher), teacher=teacher, weights=weights)
    margins, above = policy[:, :, None] - policy[:, None], teacher[:, :, None] > teacher[:, None]
    rank = 8 - teacher
    weight = 1 / (rank[:, :, None] + rank[:, None]) if weights == "first" else torch.ones_like(margins)
    entropy = torch.nn.BCEWithLogitsLoss(weight=weight[above])
    mean, count = entropy(margins[above], torch.ones_like(margins[above])), 8 * 7 / 2
    torch.testing.assert_close(ours.mean() / count, mean)
    theirs = torch.autograd.grad(mean, policy)[0]
    torch.testing.assert_close(torch.autograd.grad(ours.mean() / count, policy)[0], theirs)


def test_margin_mse_same_as_sentence_transformers():
    losses = pytest.importorskip(
        "sentence_transformers.sparse_encoder.losses", reason="pip install sentence-transformers"
    )
    generator = torch.Generator().manual_seed(3)
    scores, teacher = torch.randn(2, 16, 2, generator=generator)
    embeddings = [torch.ones(16, 1), scores[:, :1], scores[:, 1:]]  # query, positive, negative: products are the scores
    theirs = losses.SparseMarginMSELoss(model=None).compute_loss_from_embeddings(
        embeddings, teacher[:, :1] - teacher[:, 1:]
    )
    ours = loss("margin_mse", scores, None, torch.zeros_like(scores), teacher=teacher)
    torch.testing.assert_close(ours.mean(), theirs)


def test_a_teacher_is_asked_for_and_takes_no_gradient():
    with pytest.raises(UserError, match="objective KL needs a teacher's scores, not None"):
        loss("kl", row(P), None, row(T))
    with pytest.raises(ValueError, match=r"policy is \(1, 3\), teacher is \(1, 2\)"):
        ScoredLists(row(P), row(R), row(T), row(T) > 0, row(T), teacher=row(T[:2]))
    teacher = row(T).requires_grad_()
    assert not loss("kl", row(P), None, row(T), teacher=teacher).requires_grad


def test_a_mixture_with_one_that_needs_a_teacher_needs_it():
    labels, teacher = OBJECTIVES.build("pair_logistic"), OBJECTIVES.build("kl")
    assert Mixture(((1.0, labels), (0.5, teacher))).needs.teacher
    assert not Mixture(((1.0, labels),)).needs.teacher


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": "kl", "temperature": 0}, "temperature = 0.0; allowed is a number above 0"),
        ({"name": "margin_mse", "beta": -1}, "beta = -1"),
        ({"name": "ranknet", "weights": "last"}, "weights = 'last'"),
    ],
)
def test_options_that_make_no_sense(options, said):
    with pytest.raises(UserError, match=said):
        OBJECTIVES.build(options)


def test_first_ships_with_a_configuration():
    config = load_config(
        [
            "models/embedded.yaml",
            "tasks/jsonl.yaml",
            "methods/first.yaml",
        ],
        ["task.data=x"],
    )
    assert (config.prompt.style, config.method.scorer["name"]) == ("label", "label")
    assert OBJECTIVES.build(config.method.objective) == OBJECTIVES.build("ranknet", weights="first")
