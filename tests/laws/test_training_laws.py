"""What must hold of training with every registered objective and scorer (design: the pitfalls of published codes)."""

import json
import math
from dataclasses import replace

import pytest
import torch
from tiny import tiny_model
from training_lists import TOKENIZER, encoded, learned, method, trainer

from irpo.objectives import OBJECTIVES
from irpo.objectives.mixture import Mixture
from irpo.scorers import SCORERS
from irpo.scoring.batching import make_batch
from irpo.scoring.forward import score_batch, score_lists
from irpo.scoring.models import LoraOptions, add_lora
from irpo.training.method import Method
from irpo.types import UserError, target_order

OBJECTIVE_NAMES, SCORER_NAMES = list(OBJECTIVES), list(SCORERS)
STYLE = {name: SCORERS.build(name).style or "text" for name in SCORER_NAMES}
LISTING = [name for name in SCORER_NAMES if STYLE[name] != "pointwise"]  # whose prompts are answered with a list


def lines(run):
    return [json.loads(line) for line in run.log_file.read_text().splitlines()]


@pytest.mark.parametrize("name", OBJECTIVE_NAMES)
def test_batching_changes_nothing(name, tmp_path):
    """Micro-batches of one, some and all lists of an update take the same steps, sampled pairs included."""
    weights = []
    for tokens in (1, 100, 10_000):
        run = trainer(tmp_path / str(tokens), method(name), tokens_per_batch=tokens, updates=3)
        run.train()
        weights.append(learned(run.model))
    for other in weights[1:]:
        torch.testing.assert_close(other, weights[0], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", OBJECTIVE_NAMES)
def test_only_the_adapter_learns(name, tmp_path):
    run = trainer(tmp_path, method(name), updates=2)
    before, frozen = learned(run.model), run.model.base_model.model.model.embed_tokens.weight.clone()
    run.train()
    after = learned(run.model)
    assert after
    assert all(".lora_" in key for key in after)
    assert any(not torch.equal(after[key], before[key]) for key in after)
    assert torch.equal(run.model.base_model.model.model.embed_tokens.weight, frozen)


@pytest.mark.parametrize("scorer", SCORER_NAMES)
def test_reference_is_adapters_off_is_the_base_model(scorer):
    base, items = tiny_model(), encoded(STYLE[scorer])
    built = SCORERS.build(scorer)
    expected = score_lists(base, TOKENIZER, items, built)
    adapted = add_lora(tiny_model(), LoraOptions(r=4), seed=0)
    with torch.no_grad():
        for parameter in learned_parameters(adapted):
            parameter.add_(0.1)
    changed = score_lists(adapted, TOKENIZER, items, built)
    with adapted.disable_adapter():
        reference = score_lists(adapted, TOKENIZER, items, built)
    torch.testing.assert_close(reference, expected, atol=1e-6, rtol=1e-6)
    assert not torch.allclose(changed[0], expected[0], atol=1e-2)


def learned_parameters(model):
    return [p for p in model.parameters() if p.requires_grad]


@pytest.mark.parametrize("reference", ["adapters_off", "precomputed"])
@pytest.mark.parametrize("scorer", SCORER_NAMES)
def test_step_0(scorer, reference, tmp_path):
    """Before the first step the policy is the reference: margins are exactly 0, the loss is the closed form."""
    of = method({"name": "irpo", "metric": "mrr"}, scorer, reference=reference)
    items = encoded(STYLE[scorer])[:4]
    run = trainer(tmp_path, of, items=items, updates=1)
    run.train()
    first = lines(run)[0]
    closed = 0.0
    for item in items:
        size = len(item.bodies)
        for rank in range(1, 1 + sum(y >= 1 for y in item.relevance)):
            others = size - rank + 1 if scorer == "stepwise" else size  # stepwise: what is still unplaced
            closed += math.log1p(others) / rank / len(items)
    margin = first["reward_margin"]
    assert margin == 0.0 if reference == "adapters_off" else margin == pytest.approx(0, abs=1e-5)
    assert first["loss"] == pytest.approx(closed, abs=1e-4)


@pytest.mark.parametrize("scorer", SCORER_NAMES)
def test_padding_changes_nothing(scorer):
    model, built, items = tiny_model(), SCORERS.build(scorer), encoded(STYLE[scorer])
    alone = [score_lists(model, TOKENIZER, [item], built)[0] for item in items]
    for left in (False, True):
        with torch.no_grad():
            together = score_batch(model, make_batch(items, built, left=left)).first
        for row, expected in zip(together, alone, strict=True):
            torch.testing.assert_close(row[: len(expected)], expected, atol=1e-5, rtol=1e-5)
            assert (row[len(expected) :] == 0).all()


@pytest.mark.parametrize("scorer", ["independent", "label"])
def test_candidate_order_of_a_prompt_changes_nothing(scorer):
    """The same prompt with its bodies laid out in another order."""
    model, built = tiny_model(), SCORERS.build(scorer)
    item = encoded(STYLE[scorer])[2]
    turned = replace(item, bodies=item.bodies[::-1])
    ours, theirs = score_lists(model, TOKENIZER, [item, turned], built)
    torch.testing.assert_close(ours, theirs.flip(0), atol=1e-5, rtol=1e-5)


def test_labels_cannot_reach_the_scores_of_an_evaluation():
    """The list scorer in target order would show the gold order; withheld labels make it the prompt's order."""
    model, items = tiny_model(), encoded()
    hidden = [item.without_labels() for item in items]
    target, given = (SCORERS.build({"name": "list", "order": order}) for order in ("target", "given"))
    torch.testing.assert_close(
        score_lists(model, TOKENIZER, hidden, target), score_lists(model, TOKENIZER, items, given)
    )


def test_a_sampled_step_has_the_gradient_of_the_whole_table(tmp_path, monkeypatch):
    """Backward through the selected candidates alone gives what backward through all of them would."""
    grads = []
    for whole in (False, True):
        of = method({"name": "irpo_sampled", "draws": 2})
        run = trainer(tmp_path / str(whole), of)
        batch = of.batch(encoded(), 0)
        if whole:
            monkeypatch.setattr(Method, "policy_scores", lambda self, model, batch, *_: score_batch(model, batch))
        torch.manual_seed(0)
        with torch.no_grad():
            for parameter in learned_parameters(run.model):
                parameter.add_(0.05 * torch.randn_like(parameter))
        loss = run.compute_loss(run.model, batch, num_items_in_batch=len(batch))
        grads.append([loss.detach(), *torch.autograd.grad(loss, learned_parameters(run.model))])
    torch.testing.assert_close(*grads, atol=1e-5, rtol=1e-4)


def test_a_sampled_objective_needs_scores_of_their_own():
    with pytest.raises(UserError, match="WholeList cannot"):
        method("irpo_sampled", "list")


def test_a_mixture_is_the_weighted_sum(tmp_path):
    parts = [(1.0, OBJECTIVES.build("irpo")), (0.1, OBJECTIVES.build("sft"))]
    losses = []
    for of in (method(Mixture(tuple(parts))), method("irpo"), method("sft")):
        run = trainer(tmp_path / str(len(losses)), of)
        losses.append(run.compute_loss(run.model, of.batch(encoded(), 0), num_items_in_batch=1))
    torch.testing.assert_close(losses[0], losses[1] + 0.1 * losses[2])


@pytest.mark.parametrize("scorer", LISTING)
def test_the_anchor_is_the_nll_by_token_of_each_list(scorer, tmp_path):
    """Of each list by its own tokens, however many lists and slots there are; and nothing else is added."""
    items, model = encoded(STYLE[scorer]), add_lora(tiny_model(), LoraOptions(r=4), seed=0)
    losses = {}
    for name, of in {
        "plain": method("irpo", scorer),
        "anchored": method("irpo", scorer, nll_weight=0.3),
        "sft": method("sft", scorer),
    }.items():
        run = trainer(tmp_path / name, of, model=model)
        losses[name] = [run.compute_loss(model, of.batch([i], 0), num_items_in_batch=1).item() for i in items]
        together = run.compute_loss(model, of.batch(items, 0), num_items_in_batch=1).item()
        assert together == pytest.approx(sum(losses[name]), rel=1e-5)
    tokens = [len(item.answer(target_order(item.relevance))) for item in items]
    assert len(set(tokens)) > 1
    expected = [plain + 0.3 * nll / n for plain, nll, n in zip(losses["plain"], losses["sft"], tokens, strict=True)]
    assert losses["anchored"] == pytest.approx(expected, rel=1e-5)
