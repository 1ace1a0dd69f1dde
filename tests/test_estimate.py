"""What `irpo estimate` says against what tensors really take."""

from __future__ import annotations

import json

import blocks
import pytest
import torch
from tiny import FAMILIES, tiny_model
from training_lists import encoded

from irpo import cli
from irpo.config.schema import load_config
from irpo.estimate.cards import card_of
from irpo.estimate.ledger import KEPT, LEARNING, PASSING, WEIGHTS, History
from irpo.estimate.memory import Build, FourBit, Passes, build_model, simulate
from irpo.estimate.plan import LISTS_READ, estimate, plan_of, sample_of, shape_of
from irpo.estimate.terminal import table
from irpo.scorers import Independent
from irpo.scoring.batching import make_batch
from irpo.scoring.forward import score_batch
from irpo.scoring.models import LoadOptions, LoraOptions, add_lora, four_bit_layers, load_model
from irpo.training.job import method_of
from irpo.types import UserError

WORLD = ["models/embedded.yaml", "tasks/world.yaml", "methods/irpo.yaml"]
FILES = ["models/embedded.yaml", "tasks/jsonl.yaml", "methods/irpo.yaml"]
NO_DATA = ["task.data=nowhere"]
LORA = LoraOptions(r=4)


def batch(count=8):
    return make_batch(encoded(count=count), Independent())


def in_blocks():
    """Two lists whose candidates, in blocks, share calls of attention; each scored behind the prompt."""
    return make_batch(blocks.encoded(blocks.example(26), blocks.example(9, 1), style="text"), Independent())


def tensors(model):
    return {t.untyped_storage().data_ptr(): t for t in (*model.parameters(), *model.buffers())}.values()


def test_the_highest_moment_by_hand():
    history = History([(0, 100), (1, 10), (2, 50), (2, -50), (3, 30), (3, -30), (1, -10)], {0: WEIGHTS, 1: KEPT})
    assert history.at_peak() == {WEIGHTS: 100, LEARNING: 0, KEPT: 10, PASSING: 50}


@pytest.mark.parametrize("tied", [False, True])
def test_weights_and_adapter_are_the_real_tensors(tied):
    model = tiny_model(tie_word_embeddings=tied)
    used = simulate(model.config, Build(lora=LORA), Passes((batch(),)))
    base = sum(t.nbytes for t in tensors(model))
    adapter = [p for p in add_lora(model, LORA, seed=0).parameters() if p.requires_grad]
    assert used.at_rest == used.bytes[WEIGHTS] == base
    assert used.trainable == sum(p.numel() for p in adapter)
    assert used.parameters == sum(t.numel() for t in model.parameters())
    again = simulate(
        tiny_model(tie_word_embeddings=tied).config, Build(lora=LORA), Passes((batch(),), accumulates=True)
    )
    assert again.bytes[LEARNING] == 4 * sum(p.nbytes for p in adapter)  # itself, its gradient, AdamW's two states


def really_kept(model, batch):
    """Bytes that autograd saves for the backward pass, the model's own tensors aside."""
    own = {t.untyped_storage().data_ptr() for t in tensors(model)}
    saved = {}

    def pack(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = score_batch(model, batch).table.sum()
    assert loss.requires_grad
    return sum(t.untyped_storage().nbytes() for key, t in saved.items() if key not in own)


@pytest.mark.parametrize("make", [batch, in_blocks])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_kept_is_what_autograd_really_saves(family, make):
    real = really_kept(add_lora(tiny_model(family), LORA, seed=0).train(), make())
    used = simulate(tiny_model(family).config, Build(lora=LORA), Passes((make(),)))
    assert used.bytes[KEPT] == pytest.approx(real, rel=0.2)  # some of it may be gone at the highest moment


def test_four_bit_weights_have_their_true_bytes(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    model = load_model(str(tmp_path), LoadOptions(quantization="nf4"), torch.device("cpu"))
    states = [p.quant_state for p in model.parameters() if hasattr(p, "quant_state")]
    constants = [t for s in states for t in (s.absmax, s.code, s.offset, s.state2.absmax, s.state2.code)]
    real = sum(t.nbytes for t in tensors(model)) + sum(t.nbytes for t in constants)
    used = simulate(tiny_model().config, Build(nf4=True, lora=LORA), Passes((batch(),)))
    assert used.at_rest == pytest.approx(real, rel=0.01)
    built, _, _ = build_model(tiny_model().config, Build(nf4=True, lora=LORA))
    assert sum(isinstance(m, FourBit) for m in built.modules()) == four_bit_layers(model) > 0
    assert used.parameters == simulate(tiny_model().config, Build(lora=LORA), Passes((batch(),))).parameters
    assert used.bytes[KEPT] == pytest.approx(really_kept(add_lora(model, LORA, seed=0).train(), batch()), rel=0.2)


def test_checkpointing_keeps_less_and_computes_more():
    plain, less = (
        simulate(tiny_model().config, Build(lora=LORA, checkpointing=on), Passes((batch(),))) for on in (False, True)
    )
    assert less.bytes[KEPT] < 0.5 * plain.bytes[KEPT]
    assert plain.operations < less.operations < 1.6 * plain.operations


def test_operations_are_those_of_the_matrix_products():
    model = tiny_model(tie_word_embeddings=False)
    one = batch()
    used = simulate(model.config, Build(), Passes((one,)))
    layers = sum(p.numel() for name, p in model.named_parameters() if "proj" in name)
    rows, width = one.ids.shape
    head = 6 * 64 * 320 * len(one.cells)
    pairs = one.trunk**2 + (width - one.trunk) * width  # of columns: the trunk's, and the others with all
    attention = 2 * 14 * rows * pairs * 64  # in 2 layers: 2 products forward, 5 backward, 2 operations each
    assert used.operations == pytest.approx(6 * layers * one.ids.numel() + head + attention, rel=0.02)


def test_the_reference_adds_a_forward_pass_and_no_kept_memory():
    alone = simulate(tiny_model().config, Build(lora=LORA), Passes((batch(),)))
    both = simulate(tiny_model().config, Build(lora=LORA), Passes((batch(),), adapters_off=batch()))
    assert both.bytes[KEPT] == alone.bytes[KEPT]
    assert 1.2 * alone.operations < both.operations < 1.6 * alone.operations


def config(*overrides):
    return load_config(FILES, [*NO_DATA, *overrides])


@pytest.mark.parametrize("anchor", [0, 1])
def test_smaller_batches_keep_less_in_proportion_to_their_tokens(anchor):
    kept = {}
    for budget in (4096, 2048):
        run = config(
            f"training.tokens_per_batch={budget}",
            "training.lists_per_update=16",
            "training.validation_fraction=0",
            f"method.nll_weight={anchor}",
        )
        plan = plan_of(run, method_of(run), sample_of(run))
        (live,) = plan.passes.live
        tokens = live.ids.numel()
        assert tokens <= budget
        kept[tokens] = simulate(shape_of("embedded"), Build(lora=LORA), plan.passes).bytes[KEPT]
    (large, most), (small, least) = kept.items()
    assert small <= 0.6 * large
    assert least / most == pytest.approx(small / large, rel=0.15)


@pytest.mark.parametrize("style", ["text", "label", "response", "pointwise"])
def test_lists_that_cannot_be_read_are_assumed_and_said_so(style):
    run = config(f"prompt.style={style}")
    sample = sample_of(run)
    assert sample.source.startswith("assumed, 20 candidates")
    assert "nowhere" in sample.source
    assert len(sample.items) == LISTS_READ
    item = sample.items[0]
    assert len(item.prompt) + len(item.answer(range(20)) if item.tail else item.bodies[0]) == 512
    make_batch(sample.items[:1], Independent())


@pytest.mark.parametrize("name", ["irpo_sampled", "sft", "larpo", "simpo"])
def test_every_kind_of_method_has_an_estimate(name):
    found = estimate(load_config([*FILES[:2], f"methods/{name}.yaml"], NO_DATA), card_of("L4"))
    assert found.fits
    assert 0 < found.seconds_per_update < 60


@pytest.mark.parametrize("given", ["RTX 4090", "rtx4090", "NVIDIA GeForce RTX 4090"])
def test_a_card_goes_by_its_name(given):
    assert card_of(given).gib == 24


def test_a_card_goes_by_its_size():
    assert card_of("16").gib == card_of("16 GiB").gib == card_of("16GB").gib == 16


def test_the_machine_itself_is_a_card():
    assert card_of(None).gib > 0.1


@pytest.mark.parametrize("given", ["RTX 9999", "0", "-3", ""])
def test_an_unknown_card_names_the_known_ones(given):
    with pytest.raises(UserError, match=r"unknown card .*choose from T4, .*H100.* or give a number of GiB"):
        card_of(given)


@pytest.fixture
def run(monkeypatch, capsys):
    def command(*arguments):
        monkeypatch.setattr("sys.argv", ["irpo", "estimate", *arguments])
        monkeypatch.setenv("COLUMNS", "100")
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, *capsys.readouterr()

    return command


def test_a_run_that_does_not_fit_says_what_to_change(run):
    code, out, _ = run(*FILES, *NO_DATA, "--card", "0.5")
    assert code == 0
    assert "does not fit" in out
    assert "model.gradient_checkpointing=true" in out
    assert "training.tokens_per_batch=4096" in out
    assert "model.quantization=nf4" in out


def test_lists_that_can_be_read_are_and_json_says_so(run):
    code, out, _ = run(*WORLD, "--card", "H100", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["fits"] is True
    assert "training lists: prompts of" in found["lists"]
    assert found["total"] == sum(found["usage"]["bytes"].values()) + found["overhead"]


def test_a_model_that_cannot_be_read_is_one_line(run, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "nonsense"}', encoding="utf-8")
    code, _, err = run(*FILES, *NO_DATA, f"model.name={tmp_path}")
    assert code == 2
    assert err.startswith("error: cannot load model")
    assert err.count("\n") == 1


def test_an_unknown_card_is_one_line(run):
    code, _, err = run(*FILES, *NO_DATA, "--card", "GTX 1")
    assert code == 2
    assert err.startswith("error: unknown card 'GTX 1'")


def test_the_table_names_every_part():
    found = table(estimate(config(), card_of("RTX 3090")))
    assert found.row_count == 10  # 3 of what is estimated, 5 parts, the peak, the time
