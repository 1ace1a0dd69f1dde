"""D3: models that mix attention with other layers are scored in whole sequences, with the same numbers."""

import json
from dataclasses import replace

import pytest
import torch
from tiny import HYBRIDS, tiny_model
from training_lists import TOKENIZER, bumped, encoded, gradients, learned, method, trainer
from transformers import MptConfig, MptForCausalLM

from irpo.config.schema import load_config
from irpo.estimate.plan import shape_of
from irpo.pipeline import policy_model
from irpo.ranking import constrained_ranking
from irpo.ranking.decoding import Sampling, sample_text
from irpo.ranking.reranker import Reranker
from irpo.scorers import SCORERS, check_model
from irpo.scoring.batching import make_batch
from irpo.scoring.forward import score_batch, score_lists
from irpo.scoring.models import LoraOptions, add_lora
from irpo.scoring.whole import one_row, remember
from irpo.types import UserError, target_order

INDEPENDENT = SCORERS.build("independent")


def spoken(model, item, order):
    """log p of each candidate's tokens in the answer of this order, by the model's own logits over one sequence."""
    ids, spans = list(item.prompt), {}
    for rank, j in enumerate(order):
        ids += item.heads[rank]
        spans[j] = (len(ids), len(ids) + len(item.bodies[j]))
        ids += item.bodies[j]
    with torch.no_grad():
        logp = model(input_ids=torch.tensor([ids])).logits[0].float().log_softmax(-1)
    return {j: sum(float(logp[at - 1, ids[at]]) for at in range(*span)) for j, span in spans.items()}


@pytest.mark.parametrize("family", HYBRIDS)
def test_d3_a_hybrid_is_scored_as_by_its_own_logits(family):
    model, items = tiny_model(family), encoded(count=3)
    assert f"model family {family!r} is scored in whole sequences" in check_model(model)
    assert check_model(model) is None  # said once
    scores = score_batch(model, make_batch(items, INDEPENDENT, target=True))
    for item, row, target in zip(items, scores.first.tolist(), scores.target.tolist(), strict=True):
        alone = [spoken(model, item, [j])[j] for j in range(len(item.bodies))]
        assert row[: len(alone)] == pytest.approx(alone, abs=1e-3)
        order = target_order(item.relevance)
        whole = replace(item, bodies=(*item.bodies, item.answer(order)), heads=((),) * len(item.heads))
        assert target == pytest.approx(spoken(model, whole, [len(item.bodies)])[len(item.bodies)], abs=2e-3)


@pytest.mark.parametrize("family", ["lfm2", "granitemoehybrid"])
@pytest.mark.parametrize("scorer", ["independent", "list", "stepwise", "label"])
def test_d3_a_hybrid_trains_from_the_adapters_off(family, scorer, tmp_path):
    items = encoded("label" if scorer in ("label", "stepwise") else "text", count=4)
    model = add_lora(tiny_model(family), LoraOptions(r=4), seed=0)
    run = trainer(tmp_path, method("irpo", scorer, nll_weight=0.1), model=model, items=items, updates=1)
    before = learned(model)
    run.train()
    assert any(not torch.equal(value, before[name]) for name, value in learned(model).items())
    line = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[0])
    assert line["reward_margin"] == pytest.approx(0, abs=1e-4)  # the reference is the policy before anything is learnt


@pytest.mark.parametrize("family", HYBRIDS)
def test_d3_every_layer_of_a_hybrids_adapter_is_asked(family):
    """Kernels of state-space layers read some weights themselves, and so pass an adapter by."""
    model = bumped(add_lora(tiny_model(family), LoraOptions(r=4), seed=0))
    _, found = gradients(model, encoded(count=2))
    assert all(gradient.any() for gradient in found.values())
    mixers = {name for name, module in model.named_modules() if hasattr(module, "A_log") and hasattr(module, "D")}
    read = {f"{name}.{layer}" for name in mixers for layer in ("out_proj", "dt_proj")}
    assert not [name for name in found if name.rpartition(".lora_")[0] in read]


@pytest.mark.parametrize("scorer", ["independent", "list", "stepwise", "label"])
def test_d3_whole_sequences_give_the_scores_and_gradients_of_one_row(scorer, monkeypatch):
    monkeypatch.setattr("irpo.scoring.whole.COLUMNS", 100)  # several passes, each run anew in the backward pass
    items = encoded("label" if scorer in ("label", "stepwise") else "text", count=4)
    model = bumped(add_lora(tiny_model(), LoraOptions(r=4), seed=0))
    found = []
    for together in (True, False):
        remember(model, together)
        model.zero_grad()
        scores = score_batch(model, make_batch(items, SCORERS.build(scorer), target=True))
        (scores.table.square().sum() + scores.target.sum()).backward()
        grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}
        found.append((scores.table.detach(), scores.present, scores.target.detach(), grads))
    one, apart = found
    torch.testing.assert_close(apart[:3], one[:3], atol=1e-4, rtol=1e-4)
    for name, gradient in one[3].items():
        torch.testing.assert_close(apart[3][name], gradient, atol=1e-3 * float(gradient.abs().max()), rtol=1e-3)


@pytest.mark.parametrize("family", HYBRIDS)
def test_d3_a_hybrid_ranks_in_every_mode(family):
    model, items = tiny_model(family), encoded("label", count=2)
    first = [constrained_ranking(model, TOKENIZER, items, lists_per_batch=n) for n in (1, 2)]
    assert first[0] == first[1]
    for ranking, scores in zip(first[0], score_lists(model, TOKENIZER, items, SCORERS.build("label")), strict=True):
        assert ranking.order[0] == int(scores.argmax())
    drawn = sample_text(model, TOKENIZER, items, Sampling(samples=2), lists_per_batch=4, max_new_tokens=4)
    assert [len(answers) for answers in drawn] == [2, 2]


def test_d3_decisions_in_whole_sequences_are_those_of_the_cache():
    model, items = tiny_model(), encoded(count=6)
    expected = constrained_ranking(model, TOKENIZER, items, lists_per_batch=3)
    remember(model, False)
    assert constrained_ranking(model, TOKENIZER, items, lists_per_batch=3) == expected


def test_d3_the_way_is_said_when_a_model_is_loaded_to_train(tmp_path, capsys):
    tiny_model("lfm2").save_pretrained(tmp_path)
    layers = ["models/embedded.yaml", "tasks/jsonl.yaml", "methods/irpo.yaml"]
    policy_model(load_config(layers, [f"model.name={tmp_path}", "task.data=."]))
    assert "note: model family 'lfm2' is scored in whole sequences" in " ".join(capsys.readouterr().err.split())


def test_d3_what_trains_in_whole_sequences_ranks_in_them_too(tmp_path, capsys):
    """MPT counts positions by column: `irpo rank` scored it in one row, with other numbers than training's."""
    made = MptForCausalLM(MptConfig(d_model=64, n_heads=4, n_layers=2, vocab_size=len(TOKENIZER)))
    made.save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    ranker = Reranker.load(str(tmp_path))
    assert not one_row(ranker.model)
    assert "note: model family 'mpt' is scored in whole sequences" in " ".join(capsys.readouterr().err.split())


def test_d3_no_estimate_is_made_of_what_is_not_simulated(tmp_path):
    tiny_model("lfm2").save_pretrained(tmp_path)
    with pytest.raises(UserError, match="is scored in whole sequences"):
        shape_of(str(tmp_path))


def test_g2_no_memory_in_the_check_is_no_fault_of_the_family(monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr("irpo.scoring.forward.hidden_states", full)
    with pytest.raises(UserError, match="out of memory with the model alone"):
        check_model(tiny_model())
