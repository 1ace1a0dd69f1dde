"""Defects of models and scorers, each named after its point."""

import pytest
import torch
from tiny import tiny_model, tiny_tokenizer
from training_lists import TOKENIZER, encoded, learned

from irpo.models import LoadOptions, LoraOptions, add_lora, load_model
from irpo.reference import model_key
from irpo.scorers import SCORERS, make_batch, score_batch, score_lists

INDEPENDENT = SCORERS.build("independent")
NF4 = LoadOptions(quantization="nf4")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny Llama and its tokenizer as a user would have them on disk."""
    path = tmp_path_factory.mktemp("base")
    tiny_model("llama").save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


@pytest.fixture(params=[True, False], ids=["avx512bf16", "without"])
def cpu(request, monkeypatch):
    """Both kinds of CPU, as bitsandbytes asks for them."""
    for module in ("bitsandbytes.functional", "bitsandbytes.nn.modules"):
        monkeypatch.setattr(f"{module}.has_avx512bf16", lambda: request.param)


def gradients(model, items):
    """The policy's scores in training, and what they teach the adapter."""
    model.train().zero_grad()
    table = score_batch(model, make_batch(items, INDEPENDENT)).table
    table.square().sum().backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}
    model.eval()
    return table.detach(), found


@pytest.mark.usefixtures("cpu")
def test_m1_a_pass_without_gradients_changes_no_nf4_weight_score_or_gradient(folder):
    model = add_lora(load_model(str(folder), NF4), LoraOptions(r=4), seed=0)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.normal_(0, 0.1, generator=torch.Generator().manual_seed(1))
    items, key = encoded(count=3), model_key(model)
    weights = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    table, before = gradients(model, items)
    for row, scores in zip(table, score_lists(model, TOKENIZER, items, INDEPENDENT), strict=True):
        torch.testing.assert_close(row[0, : len(scores)], scores, atol=1e-4, rtol=1e-5)
    again, after = gradients(model, items)
    torch.testing.assert_close(again, table)
    torch.testing.assert_close(after, before)
    assert all(torch.equal(p, weights[name]) for name, p in model.named_parameters() if name in weights)
    assert model_key(model) == key


@pytest.mark.usefixtures("cpu")
def test_m1_layers_of_any_width_are_scored_in_nf4(tmp_path):
    """Packing asked for a multiple of 32 rows."""
    tiny_model(intermediate_size=80).save_pretrained(tmp_path)
    model = load_model(str(tmp_path), NF4)
    assert all(row.isfinite().all() for row in score_lists(model, TOKENIZER, encoded(count=2), INDEPENDENT))


def test_g9_a_loaded_model_is_frozen(folder):
    model = load_model(str(folder))
    assert not any(p.requires_grad for p in model.parameters())
    assert learned(add_lora(model, LoraOptions(r=4), seed=0))
