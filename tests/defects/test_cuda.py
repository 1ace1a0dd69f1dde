"""Section G of the defects: the CUDA path, held by what a machine without a card can show."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from tiny import tiny_model
from training_lists import encoded, method, trainer

from irpo import doctor
from irpo.config.schema import load_config
from irpo.estimate.cards import card_of
from irpo.estimate.memory import Build, Passes, simulate
from irpo.estimate.plan import Sample, build_of, estimate, plan_of, usage_of
from irpo.pipeline import method_of
from irpo.progress import forget_peak
from irpo.scorers import SCORERS
from irpo.scoring.attention import PART_COLUMNS, borders, parts_on, use_split_attention
from irpo.scoring.batching import make_batch, pack
from irpo.scoring.models import LoadOptions, LoraOptions, add_lora, load_model, use_checkpointing
from irpo.training.job import computes_mixed


def test_g1_cudnn_attention_is_off_where_a_model_is_made_ready():
    """It gives NaN gradients with a mask at some lengths and plans a second for each new shape."""
    torch.backends.cuda.enable_cudnn_sdp(True)
    use_split_attention(tiny_model())
    assert not torch.backends.cuda.cudnn_sdp_enabled()


@pytest.mark.parametrize(("device", "parts"), [("cpu", 6), ("meta", 2)])
def test_g4_parts_are_wider_where_a_kernel_costs_a_launch(device, parts):
    """A device that is no CPU counts as a card: 1,024 columns in 6 parts here, in 2 there."""
    assert len(borders([0] * 1024, parts_on(device))) == parts
    assert PART_COLUMNS["cuda"] >= 512


def test_g4_a_card_takes_padding_for_narrower_rows(monkeypatch):
    """Five lists of 1,080 to 1,335 tokens stay in rows of their own, where a CPU takes one row of 5,865."""
    lengths = [1335, 1200, 1150, 1100, 1080]
    narrow = [pack(lengths)]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    narrow.append(pack(lengths))
    assert [len(rows) for rows in narrow] == [1, 5]
    for rows in narrow:
        width = max(sum(lengths[i] for i in row) for row in rows)
        assert 1 - sum(lengths) / (len(rows) * width) < 0.15


def test_g10_an_estimate_holds_for_the_batch_of_the_widest_rows():
    """Lists of unlike length share rows, whose dense mask grows with the square of their width."""
    files = ["models/embedded.yaml", "tasks/jsonl.yaml", "methods/irpo.yaml"]
    settings = ["training.validation_fraction=0", "training.lists_per_update=3", "training.tokens_per_batch=4096"]
    run = load_config(files, ["task.data=nowhere", "method.nll_weight=0", *settings])
    (item, *_) = encoded(count=1)
    items = tuple(replace(item, prompt=(5,) * length) for length in (700, 600, 330, 710, 710, 710))
    of, build = method_of(run), Build(attention="eager", lora=LoraOptions(r=4))
    plan = plan_of(run, of, Sample(items, "ragged"))
    (real,) = of.batches(items[:3], 0, 4096)
    assert real.ids.shape[1] > plan.passes.live[0].ids.shape[1]
    shape = tiny_model().config
    found = usage_of(shape, build, plan)
    assert found.peak >= simulate(shape, build, Passes((real,), adapters_off=real)).peak
    assert found.peak > 1.2 * simulate(shape, build, plan.passes).peak


def test_g10_a_t4_computes_as_in_float32():
    """Its 65 TFLOP/s are of float16, which training refuses."""
    card = card_of("T4")
    assert card.tflops < 10
    files = ["models/embedded.yaml", "tasks/jsonl.yaml", "methods/irpo.yaml"]
    assert any("T4" in note for note in estimate(load_config(files, ["task.data=nowhere"]), card).notes)


def test_g14_doctor_tries_masked_attention_in_bfloat16():
    """What a card runs in training; at a length that is no multiple of 8, where kernels were seen to fail."""
    (check,) = [check for check in doctor.examine() if check.topic == "attention bf16, masked"]
    assert check.state == "ok"
    assert "finite gradients" in check.detail


@pytest.mark.parametrize(
    ("device", "dtype", "override", "mixed"),
    [
        ("cuda", torch.bfloat16, "model.dtype=bfloat16", True),  # an adapter's float32 weights
        ("cuda", torch.float32, "model.dtype=float32", False),  # as it was asked for
        ("cpu", torch.bfloat16, "model.dtype=bfloat16", False),
    ],
)
def test_g3_an_adapter_beside_bfloat16_weights_is_computed_in_bfloat16_on_a_card(device, dtype, override, mixed):
    config = load_config(["models/embedded.yaml", "tasks/world.yaml", "methods/irpo.yaml"], [override])
    model = SimpleNamespace(device=torch.device(device), dtype=dtype)
    assert computes_mixed(config, model) is mixed
    if device == "cuda":
        assert build_of(config, card_of("RTX 4090")).mixed is mixed


def test_g3_that_saves_traffic_and_memory():
    """The same step of a bfloat16 model, simulated: fewer bytes are kept for the backward pass."""
    passes = Passes((make_batch(encoded(), SCORERS.build("independent")),))
    wide, narrow = (
        simulate(tiny_model().config, Build(torch.bfloat16, lora=LoraOptions(r=4), mixed=mixed, gpu=True), passes)
        for mixed in (False, True)
    )
    assert narrow.peak < wide.peak


def test_g14_operations_count_a_4_bit_weight_whole(tmp_path):
    """Two of them share a byte: counted by bytes, NF4 weights were half as many."""
    tiny_model().save_pretrained(tmp_path)

    def operations(kind):
        model = add_lora(load_model(str(tmp_path), LoadOptions(quantization=kind)), LoraOptions(r=4), seed=0)
        return trainer(tmp_path / kind, method("dpo"), model=model).floating_point_ops(encoded(count=3))

    assert operations("nf4") == operations("none")


def test_g14_the_peak_of_training_leaves_loading_out(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: told.append("anew"))
    forget_peak()
    assert told == ["anew"]
    monkeypatch.undo()
    run = trainer(tmp_path, method("dpo"), updates=1)
    monkeypatch.setattr("irpo.training.trainer.forget_peak", lambda: told.append("before training"))
    run.go(None)
    assert told[1:] == ["before training"]


def test_g14_checkpointing_is_asked_for_by_its_present_name(recwarn):
    use_checkpointing(add_lora(tiny_model(), LoraOptions(r=4), seed=0))
    assert not [w for w in recwarn if "gradient_checkpointing" in str(w.message)]
