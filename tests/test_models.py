"""Loading, 4 bits, adapters; QLoRA end to end on the CPU through bitsandbytes."""

import pytest
import torch
from tiny import tiny_model, tiny_tokenizer
from training_lists import TOKENIZER, encoded, learned, method, trainer

from irpo.runs import load_weights
from irpo.scorers import SCORERS, check_model
from irpo.scoring.attention import SPLIT
from irpo.scoring.forward import score_lists
from irpo.scoring.models import (
    LoadOptions,
    LoraOptions,
    add_lora,
    four_bit_layers,
    load_adapter,
    load_model,
    load_tokenizer,
    require_four_bit,
    trainable_parameters,
    use_checkpointing,
)
from irpo.scoring.whole import one_row
from irpo.types import UserError

INDEPENDENT = SCORERS.build("independent")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny Llama and its tokenizer as a user would have them on disk."""
    path = tmp_path_factory.mktemp("base")
    tiny_model("llama").save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


def frozen(model):
    return {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}


def test_qlora_trains_and_comes_back(folder, tmp_path):
    options = LoadOptions(quantization="nf4")
    base = load_model(str(folder), options)
    assert four_bit_layers(base) == 14  # 7 linear layers in each of 2 blocks; the head stays as it is
    items = encoded()
    start = score_lists(base, TOKENIZER, items, INDEPENDENT)
    model = add_lora(base, LoraOptions(r=4), seed=0)
    before, adapter = frozen(model), learned(model)
    run = trainer(tmp_path / "run", method("irpo"), model=model, updates=3)
    run.train()
    after = frozen(run.model)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert any(not torch.equal(value, adapter[name]) for name, value in learned(run.model).items())
    trained = score_lists(run.model, TOKENIZER, items, INDEPENDENT)
    assert not torch.allclose(trained[0], start[0], atol=1e-3)
    run.model.save_pretrained(tmp_path / "adapter")
    again = load_adapter(load_model(str(folder), options), tmp_path / "adapter").eval()
    torch.testing.assert_close(score_lists(again, TOKENIZER, items, INDEPENDENT), trained, atol=1e-6, rtol=1e-6)
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()


def test_four_bits_that_are_not_on_are_an_error():
    with pytest.raises(UserError, match="'nf4' but no layer is in 4 bits"):
        require_four_bit(tiny_model())


def test_a_4_bit_weight_counts_as_what_it_stands_for(folder):
    whole = trainable_parameters(tiny_model("llama"))[1]
    assert trainable_parameters(load_model(str(folder), LoadOptions(quantization="nf4")))[1] == whole


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradient_checkpointing_changes_nothing(folder, dtype, tmp_path):
    weights = []
    for on in (False, True):
        model = add_lora(load_model(str(folder), LoadOptions(dtype=dtype)), LoraOptions(r=4), seed=0)
        if on:
            use_checkpointing(model)
        run = trainer(tmp_path / str(on), method("irpo"), model=model)
        run.train()
        weights.append(learned(run.model))
    torch.testing.assert_close(*weights)
    assert all(w.dtype == torch.float32 for w in weights[0].values())


def test_same_seed_same_adapter():
    models = [add_lora(tiny_model(), LoraOptions(r=4), seed=seed) for seed in (1, 1, 2)]
    first, same, other = (learned(m) for m in models)
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_tokenizer_is_ready_to_batch(folder):
    tokenizer = load_tokenizer(str(folder))
    assert tokenizer.pad_token is not None
    assert tokenizer.padding_side == "left"


@pytest.mark.parametrize("load", [load_model, load_tokenizer])
def test_a_model_that_is_not_there_is_one_clear_line(load):
    with pytest.raises(UserError, match="load model 'no/such-model': there is no such folder; it is not in the cache"):
        load("no/such-model")


def test_lora_targets_that_match_nothing():
    with pytest.raises(UserError, match=r"model.lora.targets = \['nothing'\]"):
        add_lora(tiny_model(), LoraOptions(targets=("nothing",)), seed=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3", "phi3", "qwen3", "mistral"])
def test_check_model_passes(family, dtype):
    assert check_model(tiny_model(family).to(dtype)) is None  # in one row, and nothing to say


def test_check_model_finds_an_unknown_last_step():
    model = tiny_model("gemma2")
    cap = model.config.final_logit_softcapping
    check_model(model)
    model.config.final_logit_softcapping = None
    forward = model.forward

    def capped(*args, **kwargs):
        out = forward(*args, **kwargs)
        out.logits = torch.tanh(out.logits / cap) * cap
        return out

    model.forward = capped
    with pytest.raises(UserError, match="'gemma2' cannot be scored: in one pass a candidate got"):
        check_model(model)


def test_label_scores_do_not_tie_in_bfloat16():
    """The head computes in float32: with logits of about 20, bfloat16 has steps of 0.125."""
    model = tiny_model().to(torch.bfloat16)
    with torch.no_grad():
        model.lm_head.weight.mul_(8)
    for row in score_lists(model, TOKENIZER, encoded("label"), SCORERS.build("label")):
        assert len(set(row.tolist())) == len(row)


def test_check_model_finds_positions_counted_by_column():
    """MPT's ALiBi counts columns, so that branches behind one another would be pushed away: not in one row."""
    from transformers import MptConfig, MptForCausalLM

    model = MptForCausalLM(MptConfig(d_model=64, n_heads=4, n_layers=2, vocab_size=320)).eval()
    assert "'mpt' is scored in whole sequences" in check_model(model)
    assert not one_row(model)


@pytest.mark.skipif(torch.cuda.is_available(), reason="FlexAttention runs there")
def test_flex_attention_without_a_gpu_is_replaced_aloud(capsys):
    model = load_weights("embedded", LoadOptions(attention="flex_attention"))
    assert model.config._attn_implementation == "eager"
    assert "flex_attention needs a GPU" in capsys.readouterr().err


def test_sdpa_is_split_at_the_trunk():
    assert load_weights("embedded").config._attn_implementation == SPLIT
    assert load_weights("embedded", LoadOptions(attention="eager")).config._attn_implementation == "eager"
