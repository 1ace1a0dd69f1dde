"""Defects of models and scorers, each named after its point."""

import json
import shutil
import sys
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import pytest
import torch
from tiny import tiny_model, tiny_tokenizer
from training_lists import TOKENIZER, bumped, encoded, gradients, learned

from irpo.config.schema import load_config, to_yaml
from irpo.pipeline import train
from irpo.runs import base_name, load_weights
from irpo.scorers import SCORERS, score
from irpo.scoring.batching import make_batch
from irpo.scoring.forward import score_lists
from irpo.scoring.masks import attention_masks
from irpo.scoring.models import (
    LoadOptions,
    LoraOptions,
    adapter_off,
    add_lora,
    load_adapter,
    load_model,
    load_tokenizer,
)
from irpo.training.arguments import training_arguments
from irpo.training.reference import model_key
from irpo.types import UserError

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


@pytest.mark.usefixtures("cpu")
def test_m1_a_pass_without_gradients_changes_no_nf4_weight_score_or_gradient(folder):
    model = add_lora(load_model(str(folder), NF4), LoraOptions(r=4), seed=0)
    bumped(model)
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


def test_w9_alpha_is_part_of_a_models_key():
    keys = {
        alpha: model_key(bumped(add_lora(tiny_model(), LoraOptions(r=4, alpha=alpha), seed=0))) for alpha in (4, 32)
    }
    assert keys[4] != keys[32]
    fresh = [model_key(add_lora(tiny_model(), LoraOptions(r=4, alpha=alpha), seed=0)) for alpha in (4, 32)]
    assert fresh[0] == fresh[1] == model_key(tiny_model())  # an adapter that is idle is no other model


def test_g5_an_adapter_is_off_and_on_again():
    model = bumped(add_lora(tiny_model(), LoraOptions(r=4), seed=0))
    items, plain = encoded(count=3), tiny_model()

    def scores(of):
        return torch.cat(score_lists(of, TOKENIZER, items, INDEPENDENT))

    def fail():
        with adapter_off(model), adapter_off(model):
            raise KeyError

    trained, base = scores(model), scores(plain)
    with adapter_off(model):
        assert torch.equal(scores(model), base)
        with adapter_off(model):
            assert torch.equal(scores(model), base)
        assert torch.equal(scores(model), base)
    assert torch.equal(scores(model), trained)
    with pytest.raises(KeyError):
        fail()
    assert torch.equal(scores(model), trained)
    assert all(p.requires_grad == ("lora_" in name) for name, p in model.named_parameters())


def test_g5_turning_an_adapter_off_is_a_tenth_of_the_work():
    """Counted in calls of functions, of which `disable_adapter` makes 22 ms in a model of 28 blocks."""
    with torch.device("meta"):
        model = add_lora(tiny_model(num_hidden_layers=28), LoraOptions(r=4), seed=0)
    assert _calls_of(partial(adapter_off, model)) < _calls_of(model.disable_adapter) / 10


def _calls_of(way):
    """Functions of Python and C that are called on the way in and out."""
    calls = []
    sys.setprofile(lambda frame, event, argument: calls.append(event) if event in ("call", "c_call") else None)
    try:
        with way():
            pass
    finally:
        sys.setprofile(None)
    return len(calls)


@pytest.fixture(scope="module")
def adapter(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "adapter"
    bumped(add_lora(tiny_model(), LoraOptions(r=4), seed=0)).save_pretrained(path)
    return path


def _torn_tensors(path, _):
    data = (path / "adapter_model.safetensors").read_bytes()
    (path / "adapter_model.safetensors").write_bytes(data[: len(data) // 2])


def _torn_config(path, _):
    text = (path / "adapter_config.json").read_text()
    (path / "adapter_config.json").write_text(text[: len(text) // 2])


def _no_tensors(path, _):
    (path / "adapter_model.safetensors").unlink()


def _foreign_config(path, _):
    (path / "adapter_config.json").write_text("[]")


def _of_other(**config):
    def damage(path, _):
        by_name = LoraOptions(r=4, targets=("down_proj", "o_proj"))
        bumped(add_lora(tiny_model(**config), by_name, seed=0)).save_pretrained(path)

    return damage


DAMAGES = {
    "half the tensors": _torn_tensors,
    "half the config": _torn_config,
    "no tensors": _no_tensors,
    "another config": _foreign_config,
    "a wider model's": _of_other(hidden_size=128),
    "a deeper model's": _of_other(num_hidden_layers=3),
    "a shallower model's": _of_other(num_hidden_layers=1),
    "another family's": _of_other(family="gemma2", head_dim=32),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_t_a_torn_or_foreign_adapter_is_one_line(damage, adapter, tmp_path):
    path = tmp_path / "adapter"
    shutil.copytree(adapter, path)
    DAMAGES[damage](path, adapter)
    with pytest.raises(UserError, match="is damaged, or was made for another model") as caught:
        load_adapter(tiny_model(), path)
    assert "\n" not in str(caught.value)


def _half(file):
    def damage(path):
        data = (path / file).read_bytes()
        (path / file).write_bytes(data[: len(data) // 2])

    return damage


def _config(**changed):
    def damage(path):
        config = json.loads((path / "config.json").read_text()) | changed
        (path / "config.json").write_text(json.dumps(config))

    return damage


WEIGHTS = {
    "half the weights": _half("model.safetensors"),
    "half the config": _half("config.json"),
    "a wider config": _config(hidden_size=128),
    "a deeper config": _config(num_hidden_layers=3),
    "another family's config": _config(architectures=["BertModel"], model_type="bert"),
    "no number": _config(num_attention_heads="x"),
}


@pytest.mark.parametrize("damage", WEIGHTS)
def test_t_a_torn_or_mixed_up_model_is_one_line(damage, folder, tmp_path):
    """Layers that the files do not hold were random, and nothing was said."""
    path = tmp_path / "model"
    shutil.copytree(folder, path)
    WEIGHTS[damage](path)
    with pytest.raises(UserError, match="cannot load model") as caught:
        load_model(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"model": 1}'])
def test_t_a_torn_tokenizer_is_one_line(content, folder, tmp_path):
    path = tmp_path / "model"
    shutil.copytree(folder, path)
    (path / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match="cannot load model"):
        load_tokenizer(str(path))


def test_t_a_sound_adapter_comes_back(adapter):
    assert load_adapter(tiny_model(), adapter) is not None


def test_t_a_run_that_names_itself_is_one_line(tmp_path):
    for run, names in (("a", "a"), ("b", "c"), ("c", "b")):
        (tmp_path / run / "adapter").mkdir(parents=True)
        config = load_config(
            ["models/embedded.yaml", "tasks/jsonl.yaml", "methods/irpo.yaml"],
            [f"model.name={tmp_path / names}", "task.data=."],
        )
        (tmp_path / run / "config.yaml").write_text(to_yaml(config))
    for run in ("a", "b"):
        for load in (base_name, load_weights):
            with pytest.raises(UserError, match="the run names itself"):
                load(str(tmp_path / run))


@dataclass(frozen=True)
class LastLabel:
    """A user's own scorer: labels, read behind one more token."""

    separable: ClassVar[bool] = True
    style: ClassVar[str] = "label"
    as_given: ClassVar[bool] = False

    def layout(self, item):
        return SCORERS.build("label").layout(item)


def test_b8_a_scorer_says_its_style_and_order():
    """Nobody asks for its class, so that a user's own is put as it wants to be."""
    names = ["Heat (1995)", "Alien (1979)", "Aliens (1986)"]
    model, prompt = tiny_model(), "best?\n"
    mine, shipped = (score(model, TOKENIZER, prompt, names, scorer) for scorer in (LastLabel(), "label"))
    assert torch.equal(mine, shipped)
    given = {name: SCORERS.build(name).as_given for name in SCORERS}
    assert not any(given.values())
    assert SCORERS.build({"name": "list", "order": "given"}).as_given


@pytest.mark.parametrize("count", [2, 6])
def test_g14_rows_of_a_mask_begin_at_a_multiple_of_8(count, monkeypatch):
    monkeypatch.setattr("irpo.scoring.attention.PART_COLUMNS", {"cpu": 10})  # some masks in parts
    batch = make_batch(encoded(count=count), INDEPENDENT)
    for family in ("llama", "gemma2"):
        model = tiny_model(family)
        masks = attention_masks(model.config, batch, torch.float32)
        for mask in masks.values() if isinstance(masks, dict) else [masks]:
            for part in [mask, *(part.mask for part in getattr(mask, "parts", []))]:
                assert all(stride % 8 == 0 for stride in part.stride()[:-1])


def test_optimizer_in_pages_is_refused_without_a_gpu(tmp_path, monkeypatch):
    layers = ["models/embedded.yaml", "tasks/world.yaml", "methods/irpo.yaml"]
    config = load_config(layers, ["training.optimizer=paged_adamw_8bit"])
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UserError, match=r"training.optimizer 'paged_adamw_8bit' needs a GPU"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    arguments = training_arguments(config.training, tmp_path, lists=8, validates=False, seed=0)
    assert arguments.optim == "paged_adamw_8bit"
