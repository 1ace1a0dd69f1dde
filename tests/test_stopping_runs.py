"""Training that is told to stop: after its update, with a checkpoint, all processes at once; and what is said of it."""

from pathlib import Path

import pytest
import torch
from several import on_processes
from small_runs import SMALL, lines
from training_lists import encoded, learned, method, trainer

from irpo import pipeline, processes, stopping
from irpo.runs.checkpoints import last_whole
from irpo.runs.standing import standing
from irpo.training import saving
from irpo.training.arguments import Loop

ITEMS = encoded(count=8)
BASE = ("models/embedded.yaml", "tasks/world.yaml", "methods/irpo.yaml")


# --- the loop ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def heard(monkeypatch):
    """A command's signals without a signal: call it with a number."""
    watch = stopping._Asked()
    monkeypatch.setattr(stopping, "_watch", watch)
    return watch.hear


@pytest.fixture
def anew(monkeypatch):
    """The next process: no signal has come."""

    def begin():
        monkeypatch.setattr(stopping, "_watch", None)

    return begin


def loop_in(out, **settings):
    settings = {"evaluate_every": 2, "updates": 6, "patience": None, "learning_rate": 0.1, **settings}
    loop = Loop(patience=settings.pop("patience"))
    return trainer(out, method("dpo"), items=ITEMS, validation=ITEMS[:4], loop=loop, **settings)


def figures(out):
    """The log but for times."""
    times = ("tokens_per_s", "lists_per_s", "waiting", "peak_memory_mb", "eval_seconds")
    return [{key: value for key, value in line.items() if key not in times} for line in lines(out)]


def assert_goes_on_to_the_same(tmp_path, update, **settings):
    checkpoint = tmp_path / "told" / "checkpoints" / f"checkpoint-{update}"
    again = loop_in(tmp_path / "told", **settings)
    again.go(checkpoint)
    calm = loop_in(tmp_path / "calm", **settings)
    calm.go(None)
    torch.testing.assert_close(learned(again.model), learned(calm.model), atol=0, rtol=0)
    assert figures(tmp_path / "told") == figures(tmp_path / "calm")
    assert Path(again.state.best_model_checkpoint).name == Path(calm.state.best_model_checkpoint).name
    assert again.validations == calm.validations


@pytest.mark.parametrize("update", [1, 2, 6])
def test_a_signal_within_an_update_is_answered_after_it(update, tmp_path, heard, anew):
    run = loop_in(tmp_path / "told")
    step = run.training_step

    def told(*given, **named):
        if run.state.global_step == update - 1:
            heard(15)
        return step(*given, **named)

    run.training_step = told
    with pytest.raises(stopping.Stopped) as stop:
        run.go(None)
    assert (stop.value.code, run.state.global_step) == (143, update)
    anew()
    assert_goes_on_to_the_same(tmp_path, update)


@pytest.mark.parametrize(
    ("update", "settings"),
    [
        (2, {}),
        (6, {}),  # nothing but the validation is left
        (3, {"evaluate_every": 1, "updates": 20, "patience": 2, "learning_rate": 1e-9}),  # it ends the run
        (5, {"updates": 5}),  # no multiple of evaluate_every: the last is looked at all the same
    ],
)
def test_a_signal_within_a_validation_loses_no_update(update, settings, tmp_path, heard, anew):
    run = loop_in(tmp_path / "told", **settings)
    look = run.look

    def told():
        if run.state.global_step == update:
            heard(2)
        return look()

    run.look = told
    with pytest.raises(stopping.Stopped) as stop:
        run.go(None)
    assert stop.value.code == 130
    assert [line["update"] for line in lines(tmp_path / "told") if "loss" in line][-1] == update
    anew()
    assert_goes_on_to_the_same(tmp_path, update, **settings)


def test_a_validation_that_is_logged_and_not_kept_is_logged_once(tmp_path, anew):
    """As where a process dies between the log's line and the checkpoint that is told of it."""
    run = loop_in(tmp_path / "told")
    run.saving._tell = lambda folder: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        run.go(None)
    assert "eval_NDCG@10" in lines(tmp_path / "told")[-1]
    assert_goes_on_to_the_same(tmp_path, 2)


def test_before_the_first_update_there_is_nothing_to_save(tmp_path, heard):
    run = loop_in(tmp_path / "told")
    plain = run.validation.plain

    def told(*given):
        heard(15)
        return plain(*given)

    run.validation.plain = told
    with pytest.raises(stopping.Stopped):
        run.go(None)
    assert not (tmp_path / "told" / "checkpoints").exists() or not any((tmp_path / "told" / "checkpoints").iterdir())


def test_several_processes_agree_on_a_signal(monkeypatch):
    def summed(values):
        return [value + other for value, other in zip(values, others, strict=True)]

    monkeypatch.setattr(processes, "total", summed)
    others = [0.0, 1.0, 0.0]  # another was told SIGTERM
    assert (saving._any_of(0), saving._any_of(15), saving._any_of(2)) == (15, 15, 2)
    others = [0.0, 0.0, 0.0]
    assert saving._any_of(0) == 0


def told_on_one(out):
    """A run of several processes, the last of which hears a signal within its third update."""
    stopping._watch = stopping._Asked()
    run = loop_in(out)
    step = run.training_step

    def told(*given, **named):
        if run.state.global_step == 2 and processes.rank() == processes.count() - 1:
            stopping._watch.hear(15)
        return step(*given, **named)

    run.training_step = told
    try:
        run.go(None)
    except stopping.Stopped as stop:
        return stop.code, run.state.global_step
    finally:
        stopping._watch = None


def test_a_signal_to_one_process_ends_all_of_them_after_the_same_update(tmp_path):
    assert on_processes(2, told_on_one, tmp_path / "told") == [(143, 3), (143, 3)]
    again, calm = loop_in(tmp_path / "told"), loop_in(tmp_path / "calm")
    again.go(last_whole(tmp_path / "told" / "checkpoints"))
    assert again.state.global_step == 6
    calm.go(None)
    torch.testing.assert_close(learned(again.model), learned(calm.model), atol=1e-4, rtol=0)


# --- what is said -----------------------------------------------------------------------------------------------------


def test_the_line_says_where_a_run_stands(tmp_path):
    assert standing(tmp_path, online=False) == "nothing was written"
    (tmp_path / "config.yaml").touch()
    assert standing(tmp_path, online=False) == "there is no checkpoint yet; --resume begins anew"
    for update in (4, 12):
        (tmp_path / "checkpoints" / f"checkpoint-{update}").mkdir(parents=True)
    (tmp_path / "checkpoints" / "checkpoint-4" / "whole.json").touch()
    assert standing(tmp_path, online=False) == "--resume goes on from update 4"


def test_the_line_says_what_of_the_rounds_is_lost(tmp_path):
    (tmp_path / "config.yaml").touch()
    assert standing(tmp_path, online=True) == "--resume begins anew"
    for number in range(3):
        (tmp_path / "rounds" / f"{number:03d}").mkdir(parents=True)
        if number == 0:
            assert standing(tmp_path, online=True) == "round 0 had begun and is lost; --resume begins anew"
        (tmp_path / "rounds" / f"{number:03d}" / "state.json").touch()
    assert standing(tmp_path, online=True) == "--resume goes on from round 2"
    (tmp_path / "rounds" / "003").mkdir()
    assert standing(tmp_path, online=True) == "round 3 had begun and is lost; --resume goes on from round 2"


def test_a_round_is_left_at_once(tmp_path, heard, monkeypatch):
    from irpo.online import rounds

    drawn = rounds._drawn

    def told(job, now):
        heard(15)
        return drawn(job, now)

    monkeypatch.setattr(rounds, "_drawn", told)
    settings = [s for s in SMALL if not s.startswith(("prompt.style", "method.scorer"))]
    from irpo.config.schema import load_config

    config = load_config(["models/embedded.yaml", "tasks/world.yaml", "methods/reinforce.yaml"], settings)
    with pytest.raises(stopping.Stopped) as stop:
        pipeline.train(config, tmp_path / "run")
    assert stop.value.line == "stopped by SIGTERM; round 1 had begun and is lost; --resume goes on from round 0"


@pytest.mark.parametrize(
    "words", [("prepare", "--task", "world"), ("evaluate", "--model", "embedded", "--task", "world")]
)
def test_every_command_says_its_line(words, irpo, heard, monkeypatch):
    from irpo import api

    monkeypatch.setattr(api, words[0], lambda *_, **__: heard(15))
    assert irpo(*words, "--out", "x") == (143, "", "stopped by SIGTERM\n")
