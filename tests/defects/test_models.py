"""Defects of models and scorers, each named after its point."""

import json
import shutil
import timeit
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import pytest
import torch
from tiny import HYBRIDS, tiny_model, tiny_tokenizer
from training_lists import TOKENIZER, encoded, learned, method, trainer

from irpo.config import load_config, to_yaml
from irpo.generation import constrained_ranking
from irpo.generation.decoding import Sampling, sample_text
from irpo.models import LoadOptions, LoraOptions, adapter_off, add_lora, load_adapter, load_model
from irpo.pipeline import policy_model, train
from irpo.reference import model_key
from irpo.reranker import base_name, load_weights
from irpo.scorers import SCORERS, attention_masks, check_model, make_batch, score, score_batch, score_lists
from irpo.training import training_arguments
from irpo.types import UserError, target_order
from irpo.whole import remember

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


def bumped(model, by=0.1):
    """An adapter that has learnt something."""
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.normal_(0, by, generator=torch.Generator().manual_seed(1))
    return model


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


def test_g5_turning_an_adapter_off_takes_no_time():
    """In units of `disable_adapter`, which this machine takes 22 ms for in a model of 28 blocks."""
    with torch.device("meta"):
        model = add_lora(tiny_model(num_hidden_layers=28), LoraOptions(r=4), seed=0)
    own, theirs = (
        min(timeit.repeat(partial(_enter, way), number=1, repeat=5))
        for way in (partial(adapter_off, model), model.disable_adapter)
    )
    assert own < theirs / 5


def _enter(way):
    with way():
        pass


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
            with pytest.raises(UserError, match="leads back to the run itself"):
                load(str(tmp_path / run))


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
    monkeypatch.setattr("irpo.whole.COLUMNS", 100)  # several passes, each run anew in the backward pass
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


def test_g2_no_memory_in_the_check_is_no_fault_of_the_family(monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr("irpo.scorers.hidden_states", full)
    with pytest.raises(UserError, match="out of memory with the model alone"):
        check_model(tiny_model())


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
    monkeypatch.setattr("irpo.attention.COLUMNS", 10)  # some masks in parts
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
