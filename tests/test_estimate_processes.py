"""What `irpo estimate --processes` says of each of several processes, against what they really hold."""

from __future__ import annotations

import dataclasses
import json

import pytest
from several import on_processes
from test_estimate import FILES, NO_DATA, batch, config
from tiny import tiny_model
from torch.distributed.tensor import DTensor

from irpo import cli
from irpo.estimate.cards import card_of
from irpo.estimate.ledger import KEPT, LEARNING, WEIGHTS
from irpo.estimate.memory import Build, Passes, simulate
from irpo.estimate.plan import estimate, plan_of, sample_of
from irpo.estimate.sharing import Sharing
from irpo.scoring import sharding
from irpo.scoring.forward import score_batch
from irpo.scoring.models import LoraOptions, add_lora
from irpo.training.job import method_of
from irpo.types import UserError

LORA = LoraOptions(r=4)
GPU = card_of("L4")


def local(tensor):
    """Bytes that this process holds of a tensor."""
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).nbytes


def held(lora):
    """Bytes that a process of the real thing holds: of weights at rest, of gradients, and put together in a layer."""
    model = tiny_model(tie_word_embeddings=False).requires_grad_(lora is None)
    model = sharding.shard(model if lora is None else add_lora(model, lora, seed=0))
    weights = [p for name, p in model.named_parameters() if ".lora_" not in name]
    at_rest = sum(map(local, {*weights, *model.buffers()}))
    layers, whole = sharding.layers_of(sharding.causal_lm(model)), []

    def seen(layer, _):
        names = [p for name, p in layer.named_parameters() if ".lora_" not in name]
        whole.append(sum(p.nbytes for p in names if not isinstance(p, DTensor)))

    hooks = [layer.register_forward_pre_hook(seen) for layer in layers]
    loss = sharding.within(model, lambda: score_batch(model, batch()).table.sum())
    rest = {p for p in sharding.causal_lm(model).parameters() if not isinstance(p, DTensor)}
    rest = sum(p.nbytes for p in rest - {p for layer in layers for p in layer.parameters()})
    loss.backward()
    for hook in hooks:
        hook.remove()
    learning = [p for p in model.parameters() if p.requires_grad]
    return at_rest, sum(local(p.grad) for p in learning), rest, whole[0]


def both_held():
    return held(None), held(LORA)


def test_parts_and_what_is_put_together_are_those_of_real_processes():
    shape = tiny_model(tie_word_embeddings=False).config
    first, _ = on_processes(2, both_held)
    last = 4 * shape.hidden_size * (shape.vocab_size + 1)  # of head and norm, whose gradients are sent when all are
    for lora, (at_rest, gradients, rest, layer) in zip((None, LORA), first, strict=True):
        used = simulate(shape, Build(lora=lora, processes=2, sharded=True), Passes((batch(),), accumulates=True))
        assert used.at_rest == at_rest
        assert used.bytes[WEIGHTS] == at_rest + rest + 2 * layer  # this layer, and the next one fetched ahead
        # Itself, its gradient, AdamW's two states; an adapter's gradients once more, in DDP's buckets.
        assert used.bytes[LEARNING] == (3 * gradients + last if lora is None else 5 * gradients)


@pytest.mark.parametrize(("lora", "nf4"), [(None, False), (LORA, False), (LORA, True)])
def test_more_processes_need_no_more_each(lora, nf4):
    shape = tiny_model(num_hidden_layers=4).config
    found = [
        simulate(shape, Build(lora=lora, nf4=nf4, processes=count, sharded=True), Passes((batch(),)))
        for count in (1, 2, 8)
    ]
    at_rest = [used.at_rest for used in found]
    assert at_rest == sorted(at_rest, reverse=True)
    assert at_rest[0] > at_rest[1] > at_rest[-1]
    peaks = [used.peak for used in found[1:]]
    assert peaks == sorted(peaks, reverse=True)
    assert len({used.bytes[KEPT] for used in found[1:]}) == 1


def test_ddp_holds_the_gradients_once_more_and_nothing_else():
    one, four = (simulate(tiny_model().config, Build(lora=LORA, processes=n), Passes((batch(),))) for n in (1, 4))
    adapter = 4 * one.trainable
    assert four.bytes == {**one.bytes, LEARNING: one.bytes[LEARNING] + adapter}


def test_one_process_is_no_flag():
    assert estimate(config(), GPU, Sharing(1, "fsdp2")) == dataclasses.replace(estimate(config(), GPU), launch="fsdp2")


def test_an_update_is_dealt_and_takes_its_share_of_the_time():
    lists = "training.lists_per_update=8"
    one, four, nine = (estimate(config(lists), GPU, Sharing(n)) for n in (1, 4, 9))
    assert four.tokens_per_update == one.tokens_per_update
    assert four.seconds_per_update == pytest.approx(one.seconds_per_update / 4, rel=0.15)
    assert nine.seconds_per_update == pytest.approx(one.seconds_per_update / 8, rel=0.15)  # a list is never cut
    assert "not counted" in four.notes[-1]
    assert one.notes == ()


def test_micro_batches_are_those_of_one_process():
    run = config("training.lists_per_update=16", "training.tokens_per_batch=1024")
    method, sample = method_of(run), sample_of(run)
    one, four = (plan_of(run, method, sample, count) for count in (1, 4))
    assert one.batches == 4 * four.batches
    assert four.busiest == pytest.approx(0.25)
    assert (one.lists, one.tokens) == (four.lists, four.tokens)


def test_processes_without_a_gpu_share_the_machine():
    own = dataclasses.replace(card_of("1.5"), gpu=False, tflops=1.0)
    one, two = (estimate(config("training.lists_per_update=4"), own, Sharing(n)) for n in (1, 2))
    assert one.fits
    assert not two.fits
    assert two.seconds_per_update == pytest.approx(one.seconds_per_update, rel=0.1)


def told(monkeypatch, capsys, *words):
    monkeypatch.setattr("sys.argv", ["irpo", "estimate", *FILES, *NO_DATA, "--card", "L4", *words])
    monkeypatch.setenv("COLUMNS", "100")
    code = 0
    try:
        cli.main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


def test_the_table_and_json_say_it(monkeypatch, capsys):
    _, table, _ = told(monkeypatch, capsys, "--processes", "4", "--launch", "fsdp2")
    assert "4 by fsdp2; memory is of each" in table
    _, out, _ = told(monkeypatch, capsys, "--processes", "4", "--launch", "fsdp2", "--json")
    found = json.loads(out)
    assert (found["processes"], found["launch"], found["fits"]) == (4, "fsdp2", True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--launch", "fsdp2"), "--processes says how many"),
        (("--processes", "2", "--launch", "nonsense"), "choose from ddp, fsdp2, fsdp2_qlora"),
    ],
)
def test_a_wrong_flag_is_one_line(words, said, monkeypatch, capsys):
    code, _, err = told(monkeypatch, capsys, *words)
    assert code == 2
    assert said in err
    assert err.count("\n") == 1


def test_a_number_of_processes_below_one_is_refused():
    with pytest.raises(UserError, match="at least"):
        Sharing(0)
