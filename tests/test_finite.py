"""A loss, gradient or weight that is not finite: the run ends before the step, with the lists' ids written out."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from several import on_processes
from small_runs import config_of
from torch import nn
from training_lists import encoded, learned, method, trainer
from transformers import TrainerCallback

from irpo import pipeline
from irpo.processes import rank
from irpo.runs.checkpoints import all_in, last_whole, problem
from irpo.training.finite import Watch
from irpo.training.storing import accounted, tell_divergence
from irpo.training.trainer import ListTrainer
from irpo.types import Diverged

ITEMS = encoded(count=8)


def spoiled(run, name, spoil, after=2):
    """The trainer, whose policy scores of a list are spoiled from the update behind `after` on."""
    tables = run._tables

    def spoiled_tables(model, inputs):
        lists = tables(model, inputs)
        if run.state.global_step < after or name not in inputs.names:
            return lists
        rows = list(lists.policy.unbind())
        rows[inputs.names.index(name)] = spoil(rows[inputs.names.index(name)])
        return replace(lists, policy=torch.stack(rows))

    run._tables = spoiled_tables
    return run


def nan(row):
    return row * torch.nan


def infinite(row):
    return row + torch.inf


def steep(row):
    """The same values, whose gradient is 0 * inf."""
    return row + 0 * (row - row.detach()).sqrt()


class Weights(TrainerCallback):
    """Keeps the weights behind each step."""

    def __init__(self):
        self.by_update = {}

    def on_step_end(self, args, state, control, model=None, **_):
        self.by_update[state.global_step] = learned(model)


def small(out, **settings):
    """8 lists, all of them in every update; no log line falls due before the last."""
    told = {"updates": 6, "lists_per_update": 8, "evaluate_every": 2, "logging_every": 50, "tokens_per_batch": 300}
    return trainer(out, method("irpo"), items=ITEMS, **{**told, **settings})


@pytest.mark.parametrize(("spoil", "what"), [(nan, "loss"), (infinite, "loss"), (steep, "gradient")])
def test_the_run_ends_before_the_step_and_names_the_list(tmp_path, spoil, what):
    run, kept = spoiled(small(tmp_path), "list-5", spoil), Weights()
    run.add_callback(kept)
    with pytest.raises(Diverged, match=f"update 3: the {what} is not finite, in 1 list.s.: list-5; lower") as error:
        run.go(None)
    assert error.value.found == {"update": 3, "what": what, "lists": ["list-5"], "known": True}
    torch.testing.assert_close(learned(run.model), kept.by_update[2], atol=0, rtol=0)
    (checkpoint,) = all_in(tmp_path / "checkpoints")
    assert checkpoint.name == "checkpoint-2"
    assert problem(checkpoint) is None
    assert [json.loads(line)["update"] for line in run.log_file.read_text().splitlines()] == [1], "none fell due"


def test_a_gradient_that_no_list_has_alone_names_the_update(tmp_path, monkeypatch):
    """Sums that overflow only together."""
    monkeypatch.setattr(ListTrainer, "_norm_of", lambda self, item: 1.0)
    run = spoiled(small(tmp_path), "list-5", steep, after=0)
    with pytest.raises(Diverged, match=r"after an update of 8 list\(s\): list-\d, list-\d, list-\d, \.\.\.;") as error:
        run.go(None)
    assert (sorted(error.value.found["lists"]), error.value.found["known"]) == (sorted(i.id for i in ITEMS), False)


class Breaks(TrainerCallback):
    """The optimiser's step of an update makes a weight infinite."""

    def __init__(self, at):
        self.at = at

    def on_optimizer_step(self, args, state, control, model=None, **_):
        if state.global_step + 1 == self.at:
            with torch.no_grad():
                next(p for p in model.parameters() if p.requires_grad).view(-1)[0] = torch.inf


@pytest.mark.parametrize(("at", "kept"), [(3, [2]), (4, [2]), (6, [2, 4])], ids=["between", "to be saved", "the last"])
def test_weights_that_are_not_finite_are_never_saved(tmp_path, at, kept):
    run = small(tmp_path)
    run.add_callback(Breaks(at))
    with pytest.raises(Diverged, match=f"update {at}: the weights are not finite, after an update of 8") as error:
        run.go(None)
    assert len(error.value.found["lists"]) == 8
    assert [int(path.name.partition("-")[2]) for path in all_in(tmp_path / "checkpoints")] == kept


def test_nothing_of_them_is_validated(tmp_path):
    run = trainer(tmp_path, method("irpo"), items=ITEMS, validation=ITEMS[:4], updates=4, evaluate_every=2)
    run.add_callback(Breaks(2))
    with pytest.raises(Diverged, match="update 2: the weights"):
        run.go(None)
    assert [line["update"] for line in map(json.loads, run.log_file.read_text().splitlines())] == [0, 1, 2]
    assert not all_in(tmp_path / "checkpoints")


def test_a_run_writes_the_ids_and_goes_on_from_the_last_good_checkpoint(tmp_path, monkeypatch, capsys):
    """A fault of the machine: what diverged once does not when the run goes on."""
    out, config, init = tmp_path / "run", config_of("training.updates=6"), ListTrainer.__init__

    def spoiling(self, **given):
        init(self, **given)
        first = self.train_dataset[0].id
        for item in self.train_dataset:
            spoiled(self, item.id, nan, after=4) if item.id != first else None

    with monkeypatch.context() as patch:
        patch.setattr(ListTrainer, "__init__", spoiling)
        with pytest.raises(Diverged) as error:
            pipeline.train(config, out)
    told = json.loads((out / "diverged.json").read_text())
    assert str(error.value).endswith(
        f"{out / 'diverged.json'} names the lists; the last good checkpoint is checkpoint-4"
    )
    assert (told["update"], told["what"], told["last"]) == (5, "loss", "the last good checkpoint is checkpoint-4")
    assert told["error"] == error.value.short
    assert all(name in error.value.short for name in told["lists"][:3])
    assert not (out / "adapter").exists()
    capsys.readouterr()
    pipeline.train(config, out, resume=True)
    err = capsys.readouterr().err
    assert "note: this run diverged before (update 5: the loss is not finite, in" in err
    assert "going on from checkpoint-4" in err
    assert not (out / "diverged.json").exists(), "it got through"
    assert (out / "adapter").is_dir()
    assert last_whole(out / "checkpoints") is not None


def test_a_run_that_diverged_at_once_begins_anew(tmp_path, capsys):
    with pytest.raises(Diverged, match="there is no checkpoint yet"), accounted(tmp_path):
        raise Diverged("update 1: the loss is not finite", {"update": 1})
    tell_divergence(tmp_path)
    assert "diverged before (update 1: the loss is not finite)" in capsys.readouterr().err


def _watched(number):
    """What a process finds of updates: a whole one, one with a loss that is lost on process 1, one with a gradient."""
    found, model = [], nn.Linear(1, 1)
    for losses, norm in (([1.0, 2.0], 1.0), ([1.0, math.nan if number else 2.0], 1.0), ([1.0, 2.0], math.inf)):
        watch, names = Watch(), [f"{number}-{i}" for i in range(2)]
        watch.begin([SimpleNamespace(id=name) for name in names])
        watch.add(names, torch.tensor(losses))
        try:
            watch.require(torch.tensor(norm), model, 7, alone=lambda item: math.nan)
            found.append(None)
        except Diverged as error:
            found.append(error.found)
    return found


def _on_each(out):
    run = spoiled(small(out), "list-5", nan)
    try:
        run.go(None)
    except Diverged as error:
        return _watched(rank()), error.found, sorted(path.name for path in all_in(out / "checkpoints"))


def test_processes_stop_together_and_name_the_lists_of_all(tmp_path):
    both = on_processes(2, _on_each, tmp_path)
    assert both[0] == both[1]
    (nothing, loss, gradient), found, checkpoints = both[0]
    assert nothing is None
    assert loss == {"update": 7, "what": "loss", "lists": ["1-1"], "known": True}
    assert gradient == {"update": 7, "what": "gradient", "lists": ["0-0", "0-1", "1-0", "1-1"], "known": False}
    assert found == {"update": 3, "what": "loss", "lists": ["list-5"], "known": True}
    assert checkpoints == ["checkpoint-2"]
