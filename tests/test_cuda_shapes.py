"""The CUDA path without a GPU: shapes, dtypes and devices of a step, a reference pass, scoring and every mode.

Nothing is computed; an operation whose operands stand on two devices, or whose dtypes no kernel of a card takes,
fails here and not on the day there is a card.
"""

from __future__ import annotations

import pytest
import torch
from cuda_without_gpu import CUDA, moved, pretended_cuda
from tiny import tiny_model
from training_lists import TOKENIZER, encoded, method, trainer

from irpo.ranking import Sampling, constrained_ranking, generate_text, sample_text
from irpo.scorers import SCORERS
from irpo.scoring.forward import score_lists
from irpo.scoring.models import LoraOptions, add_lora, use_checkpointing
from irpo.training.arguments import Loop
from irpo.training.reference import reference_tables

FAMILIES = ("llama", "gemma2", "phi3")
METHODS = {
    "irpo": {"nll_weight": 1.0},
    "irpo_sampled": {"objective": {"name": "irpo_sampled", "draws": 2}},
    "sft": {"objective": "sft"},
    "stepwise": {"scorer": "stepwise"},
}


STYLE = {"stepwise": "label"}


def policy(family, dtype=torch.bfloat16):
    return add_lora(tiny_model(family).to(dtype), LoraOptions(r=4), seed=0)


def step(monkeypatch, tmp_path, model, of=None, *, style="text", checkpointing=False, mixed=False):
    """One update of two micro-batches and AdamW, on the pretended card; returns where it read something back."""
    items = encoded(style)
    made = trainer(tmp_path, of or method("irpo"), items=items, model=model, loop=Loop(400))
    if checkpointing:
        use_checkpointing(model)
    made.args.bf16 = mixed
    monkeypatch.setattr(type(made.args), "device", CUDA)
    with pretended_cuda(monkeypatch) as answers:
        moved(model)
        loss = made.training_step(model, items)
        learn = [p for p in model.parameters() if p.requires_grad]
        assert all(p.grad is not None and p.grad.device == CUDA and p.grad.dtype == p.dtype for p in learn)
        torch.optim.AdamW(learn, fused=False).step()
        assert (loss.device, loss.dtype) == (CUDA, torch.float32)
    return answers.stops


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_step(family, checkpointing, monkeypatch, tmp_path):
    model = policy(family)
    step(monkeypatch, tmp_path, model, checkpointing=checkpointing)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {torch.bfloat16}


@pytest.mark.parametrize("name", METHODS)
def test_every_kind_of_method(name, monkeypatch, tmp_path):
    step(monkeypatch, tmp_path, policy("llama"), method(**METHODS[name]), style=STYLE.get(name, "text"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_to_bfloat16(dtype, monkeypatch, tmp_path):
    """Of float32 weights, and of an adapter in float32 on bfloat16 ones."""
    step(monkeypatch, tmp_path, policy("llama", dtype), mixed=True)


@pytest.mark.parametrize("name", ["independent", "label", "list", "stepwise"])
@pytest.mark.parametrize("family", FAMILIES)
def test_scoring(family, name, monkeypatch):
    model, items = policy(family).eval(), encoded("text" if name in ("independent", "list") else "label")
    with pretended_cuda(monkeypatch):
        rows = score_lists(moved(model), TOKENIZER, items, SCORERS.build(name))
    assert [row.shape for row in rows] == [(len(item.bodies),) for item in items]
    assert {(row.device.type, row.dtype) for row in rows} == {("cpu", torch.float32)}


@pytest.mark.parametrize("family", FAMILIES)
def test_reference_tables(family, monkeypatch):
    model = policy(family)
    with pretended_cuda(monkeypatch):
        found = reference_tables(
            moved(model),
            encoded(),
            SCORERS.build("independent"),
            length="sum",
            pad_id=0,
            tokens_per_batch=400,
            cache=None,
        )
    assert {table.device.type for table in found.values()} == {"cpu"}


@pytest.mark.parametrize("style", ["text", "label"])
@pytest.mark.parametrize("family", FAMILIES)
def test_constrained_decoding(family, style, monkeypatch):
    model, items = policy(family), encoded(style)
    with pretended_cuda(monkeypatch) as answers:
        found = constrained_ranking(moved(model), TOKENIZER, items, lists_per_batch=4)
    assert [sorted(ranking.order) for ranking in found] == [list(range(len(item.bodies))) for item in items]
    assert {stop.split(".")[0] for stop in answers.stops} <= {"guided"}  # decoding stops at its decisions alone


@pytest.mark.parametrize("family", FAMILIES)
def test_free_generation(family, monkeypatch):
    model = policy(family)
    with pretended_cuda(monkeypatch):
        texts = generate_text(moved(model), TOKENIZER, encoded(), lists_per_batch=4, max_new_tokens=3)
    assert len(texts) == 8


def test_drawn_answers(monkeypatch):
    model = policy("llama")
    with pretended_cuda(monkeypatch):
        drawn = sample_text(
            moved(model), TOKENIZER, encoded(), Sampling(samples=2), lists_per_batch=4, max_new_tokens=3
        )
    assert [len(texts) for texts in drawn] == [2] * 8


def test_operands_on_two_devices_are_found(monkeypatch):
    """The pretence itself: what a card would refuse is refused."""
    with pretended_cuda(monkeypatch):
        here, there = torch.zeros(3), torch.zeros(3, device="cuda")
        with pytest.raises(RuntimeError, match="two devices"):
            here + there
        with pytest.raises(RuntimeError, match="dtype"):
            torch.zeros(2, 3, device="cuda", dtype=torch.bfloat16) @ torch.zeros(3, 2, device="cuda")
    assert not torch.cuda.is_initialized()
