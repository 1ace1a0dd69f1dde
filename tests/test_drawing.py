"""Answers drawn along walks: how often each comes, what it is scored by, and what that teaches."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from dataclasses import replace

import pytest
import torch
from scipy import stats
from tiny import tiny_model
from training_lists import TEMPLATE, TOKENIZER, bumped, examples

from irpo.config.schema import load_config
from irpo.lists import ScoredLists
from irpo.objectives import OBJECTIVES
from irpo.online.iterative import whole_lists
from irpo.online.policy import as_answers
from irpo.online.rounds import Job, require_sound, run_rounds
from irpo.prompting.prompts import PromptBuilder
from irpo.ranking import Drawn, Sampling, draw_whole, path_of
from irpo.scorers import SCORERS
from irpo.scoring.batching import make_batch
from irpo.scoring.forward import score_batch
from irpo.scoring.models import LoraOptions, add_lora
from irpo.scoring.tokens import EncodedList, prompted
from irpo.training.job import method_of
from irpo.training.reference import list_key
from irpo.types import UserError

GIVEN = SCORERS.build({"name": "list", "order": "given"})
ALONE = SCORERS.build("independent")
STYLES = ("text", "label")


def ask(style, number=1, size=None):
    """A list of up to four candidates, as a question."""
    example = examples(number + 1)[number]
    example = replace(example, candidates=example.candidates[:size])
    return prompted(PromptBuilder(TOKENIZER, TEMPLATE, style), [example], labels=True)[0]


def orders(item):
    return list(itertools.permutations(range(len(item.bodies))))


def in_orders(question):
    """The complete answers to a question as iterative IRPO trains on them."""
    answers = [Drawn(question.tokens.answer(order), "") for order in orders(question.tokens)]
    return whole_lists([question], [answers])


def as_branches(item):
    """The same answers as REINFORCE trains on them."""
    answers = [item.answer(order) for order in orders(item)]
    choices = tuple(path_of(item, answer).of_answer for answer in answers)
    return as_answers(item, answers, [0.0] * len(answers), choices)


def enumerated(model, item, temperature=1.0):
    """log p of every permutation, by whole sequences and the prefixes that the complete answers share; with gradient.

    Nothing of walks or layouts: a token's probability is among those with which any complete answer goes on.
    """
    answers = [item.answer(order) for order in orders(item)]
    ids = torch.tensor([[*item.prompt, *answer] for answer in answers])
    logits = model(input_ids=ids).logits[:, len(item.prompt) - 1 : -1] / temperature
    found = []
    for row, answer in zip(logits, answers, strict=True):
        terms = [row.new_zeros(())]
        for at, token in enumerate(answer):
            allowed = sorted({other[at] for other in answers if other[:at] == answer[:at]})
            terms.append(row[at, token] - row[at, allowed].logsumexp(0))
        found.append(torch.stack(terms).sum())
    return torch.stack(found)


def test_choices_of_a_walk_by_hand():
    item = EncodedList("x", (1,), ((9,), (10, 9), (10, 9)), ((5, 6), (5, 7), (8,)), (11,), (0.0, 0.0, 0.0))
    path = path_of(item, item.answer((1, 2, 0)))
    assert item.answer((1, 2, 0)) == (9, 5, 7, 10, 9, 8, 10, 9, 5, 6, 11)
    assert path.order == (1, 2, 0)
    assert path.choices == ((1, 0, (5, 8)), (2, 0, (6, 7)), (5, 1, (5, 8)))  # the last candidate is no choice
    assert path.of_answer == ((1, (5, 8)), (2, (6, 7)), (5, (5, 8)))
    assert path.of_candidates(item) == (((0, (5, 8)), (1, (6, 7))), ((0, (5, 8)),), ())
    with pytest.raises(ValueError, match="'x'"):
        path_of(item, item.answer((1, 2, 0))[:-1])


@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen3_next"])  # a cap on logits; layers that are not attention
@pytest.mark.parametrize("style", STYLES)
def test_the_probabilities_of_all_permutations_are_those_of_enumeration_and_sum_to_1(style, family):
    question, model = ask(style), tiny_model(family)
    with torch.no_grad():
        wanted = enumerated(model, question.tokens)
        by_candidate = score_batch(model, make_batch(in_orders(question), GIVEN)).first
        whole = score_batch(model, make_batch([as_branches(question.tokens)], ALONE)).first[0]
    assert len(wanted) == 4 * 3 * 2
    torch.testing.assert_close(by_candidate.sum(-1), wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(whole, wanted, rtol=1e-4, atol=1e-4)
    assert by_candidate.sum(-1).exp().sum().item() == pytest.approx(1, abs=1e-4)
    assert (by_candidate[:, -1] == 0).all()  # what is left is certain


@pytest.mark.parametrize(("style", "temperature"), [("text", 1.0), ("label", 1.0), ("text", 2.5)])
def test_answers_are_drawn_as_often_as_they_are_likely(style, temperature):
    """Pearson's chi-square of 600 draws of 24 permutations, below its 99.9 % quantile."""
    item, model = ask(style).tokens, tiny_model()
    with torch.no_grad():
        likely = enumerated(model, item, temperature).exp().tolist()
    (drawn,) = draw_whole(model, TOKENIZER, [item], Sampling(temperature, 600, seed=1), answers_per_batch=300)
    counts = Counter(answer.tokens for answer in drawn)
    wanted = [600 * p for p in likely]
    seen = [counts.pop(item.answer(order)) if item.answer(order) in counts else 0 for order in orders(item)]
    assert not counts  # nothing but permutations
    distance = sum((n - w) ** 2 / w for n, w in zip(seen, wanted, strict=True))
    assert distance < stats.chi2.ppf(0.999, 23)
    assert sum((n - 25) ** 2 / 25 for n in seen) > stats.chi2.ppf(0.999, 23)  # which all alike would not be


def test_a_draw_depends_on_seed_list_and_number_alone():
    items = [ask("text", number).tokens for number in range(3)]
    model = tiny_model()
    together = draw_whole(model, TOKENIZER, items, Sampling(samples=4, seed=2))
    apart = [draw_whole(model, TOKENIZER, [i], Sampling(samples=4, seed=2), answers_per_batch=1)[0] for i in items]
    assert together == apart
    assert draw_whole(model, TOKENIZER, items, Sampling(samples=2, seed=2)) == [some[:2] for some in together]
    assert draw_whole(model, TOKENIZER, items, Sampling(samples=4, seed=3)) != together
    for item, answers in zip(items, together, strict=True):
        assert len({answer.tokens for answer in answers}) > 1
        for answer in answers:
            assert answer.tokens == item.answer(path_of(item, answer.tokens).order)
            assert TOKENIZER.decode(answer.tokens, skip_special_tokens=True) == answer.text


def test_answers_to_one_prompt_share_its_pass(monkeypatch):
    model = tiny_model()
    widths = []
    decoder = model.get_decoder()
    forward = decoder.forward

    def counted(*args, **options):
        widths.append(tuple(options["input_ids"].shape))
        return forward(*args, **options)

    monkeypatch.setattr(decoder, "forward", counted)
    items = [ask("label", number).tokens for number in (0, 1)]
    draw_whole(model, TOKENIZER, items, Sampling(samples=5))
    assert widths[0][0] == 2
    assert [rows for rows, _ in widths[1:]] == [10, 5]  # of three and of four candidates


# --- what is learnt ---------------------------------------------------------------------------------------------------


def adapted():
    """A frozen base and head under an adapter that has learnt something, as a run trains."""
    return bumped(add_lora(tiny_model(), LoraOptions(r=4), seed=0))


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("make", [adapted, lambda: tiny_model().requires_grad_(True)], ids=["adapter", "full"])
def test_the_gradient_of_each_log_probability_is_that_of_enumeration(make, style):
    model, question = make(), ask(style, size=3)
    weights = [p for p in model.parameters() if p.requires_grad]
    lists, whole = make_batch(in_orders(question), GIVEN), make_batch([as_branches(question.tokens)], ALONE)
    for number in (0, 4):
        wanted = torch.autograd.grad(enumerated(model, question.tokens)[number], weights, allow_unused=True)
        for logp in (score_batch(model, lists).first.sum(-1), score_batch(model, whole).first[0]):
            found = torch.autograd.grad(logp[number], weights, allow_unused=True)
            assert any(slope is not None and slope.abs().max() > 1e-3 for slope in found)
            for one, other, weight in zip(found, wanted, weights, strict=True):
                one, other = (torch.zeros_like(weight) if slope is None else slope for slope in (one, other))
                torch.testing.assert_close(one, other, rtol=1e-3, atol=2e-5)


def test_reinforce_has_the_gradient_of_the_expected_reward_over_permutations():
    """All pairs of drawn permutations, each as likely as it is drawn: the estimator's expectation, exactly."""
    model, item = adapted(), ask("text", size=3).tokens
    weights = [p for p in model.parameters() if p.requires_grad]
    rewards = torch.tensor([1.0, 0.25, 0.5, 0.0, 0.75, 0.125])
    wanted = torch.autograd.grad(-(enumerated(model, item).exp() * rewards).sum(), weights)
    table = score_batch(model, make_batch([as_branches(item)], ALONE)).first[0]
    pairs = torch.tensor(list(itertools.product(range(6), repeat=2)))
    mask, zeros = torch.ones(pairs.shape, dtype=torch.bool), torch.zeros(pairs.shape)
    lists = ScoredLists(table[pairs], zeros, rewards[pairs], mask, zeros)
    likely = table.detach()[pairs].sum(-1).exp()
    found = torch.autograd.grad((likely * OBJECTIVES.build("reinforce")(lists)).sum(), weights)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_candidates_of_the_same_text_leave_no_choice_and_no_gradient():
    example = examples(1)[0]
    twins = tuple(replace(c, text="Heat") for c in example.candidates)
    question = prompted(PromptBuilder(TOKENIZER, TEMPLATE, "text"), [replace(example, candidates=twins)], labels=True)[
        0
    ]
    model = adapted()
    ((answer, _),) = draw_whole(model, TOKENIZER, [question.tokens], Sampling(samples=2))
    (item,) = whole_lists([question], [[answer]])
    scores = score_batch(model, make_batch([item], GIVEN)).first
    assert scores.tolist() == [[0.0] * 3]
    scores.sum().backward()  # an update of such lists alone
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_a_precomputed_reference_tells_drawn_lists_from_given_ones():
    drawn = in_orders(ask("label"))[0]
    given = replace(drawn, choices=())
    assert list_key(GIVEN.layout(drawn), "sum") != list_key(GIVEN.layout(given), "sum")


# --- rounds -----------------------------------------------------------------------------------------------------------

BASE = ["models/embedded.yaml", "tasks/world.yaml"]
SMALL = [
    "training.lists_per_update=4", "training.learning_rate=0.01", "online.draw=constrained",
    "online.rounds=1", "online.updates_per_round=2", "online.samples=3",
]  # fmt: skip


@pytest.mark.parametrize(
    ("method", "style", "reference"),
    [("iterative_irpo", "text", "first"), ("iterative_irpo", "label", "previous"), ("reinforce", "text", "first")],
)
def test_rounds_lose_no_answer(method, style, reference, tmp_path):
    """A random model writes no list freely; along walks it writes nothing else."""
    config = load_config([*BASE, f"methods/{method}.yaml"], [*SMALL, f"online.reference={reference}"])
    require_sound(config, method_of(config))
    model = add_lora(tiny_model(), LoraOptions(r=4), seed=0)
    builder = PromptBuilder(TOKENIZER, TEMPLATE, style)
    run_rounds(Job(config, model, builder, method_of(config), examples(8), examples(11)[9:]), tmp_path, lambda _: None)
    states = [json.loads(line) for line in (tmp_path / "rounds.jsonl").read_text().splitlines()]
    assert [state["round"] for state in states] == [0, 1]
    for state in states[1:] if method == "iterative_irpo" else ():
        assert state["drawn"] == {"answers": 9, "kept": 9, "dropped": {}}
        assert state["lists"] == 9
    log = [json.loads(line) for line in (tmp_path / "rounds/001/log.jsonl").read_text().splitlines()]
    assert any(line.get("grad_norm", 0) > 0 for line in log)


@pytest.mark.parametrize(
    ("method", "overrides", "said"),
    [
        ("larpo", (), "'larpo' trains on free answers; set it to free"),
        (
            "iterative_irpo",
            ("online.sampler=vllm",),
            "sampler 'vllm' draws free answers; set online.sampler=transformers",
        ),
        ("iterative_irpo", ("online.max_response_tokens=9",), "max_response_tokens, which cuts them, must be null"),
        ("iterative_irpo", ("method.length=mean",), "method.length is sum"),
        (
            "iterative_irpo",
            ("method.scorer=independent", "method.objective.target_order=given"),
            r"set method.scorer=\{name: list, order: given\}",
        ),
    ],
)
def test_what_cannot_be_drawn_whole_is_refused(method, overrides, said):
    config = load_config([*BASE, f"methods/{method}.yaml"], [*SMALL, *overrides])
    with pytest.raises(UserError, match=said):
        require_sound(config, method_of(config))


def test_a_scorer_that_reads_whole_bodies_is_refused():
    config = load_config([*BASE, "methods/iterative_irpo.yaml"], SMALL)

    class Deaf:
        separable, style, as_given = False, None, True

        def layout(self, item):
            return GIVEN.layout(replace(item, choices=()))

    with pytest.raises(UserError, match="scorer Deaf does not score the choices of a walk"):
        require_sound(config, replace(method_of(config), scorer=Deaf()))
