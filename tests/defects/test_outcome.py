"""What a run says of itself at its end, and what it may be resumed to."""

from dataclasses import replace

import pytest
from training_lists import examples

from irpo import pipeline
from irpo.config.schema import load_config
from irpo.training.outcome import outcome_of
from irpo.types import UserError

SMALL = [
    *("task.train_lists=60", "task.eval_lists=4", "model.lora.r=2", "prompt.style=label", "prompt.max_tokens=512"),
    *("method.scorer=label", "training.lists_per_update=16", "training.evaluate_every=2"),
    *("model.lora.targets=[q_proj]",),
]


def config_of(*overrides):
    return load_config(["models/embedded.yaml", "tasks/world.yaml", "methods/irpo.yaml"], [*SMALL, *overrides])


def test_u5_a_fall_is_held_to_the_evidence_that_a_gain_is_held_to():
    lists = examples(8)
    before = {e.id: 0.5 for e in lists}
    changes = [-0.3, 0.2, -0.1, 0.1, -0.2, 0.2, -0.1, 0.1]
    after = {e.id: 0.5 + change for e, change in zip(lists, changes, strict=True)}
    assert "chance alone" in outcome_of(before, after, lists).verdict


def test_w3_no_interval_is_told_of_few_groups():
    """50 validation lists of 3 wishes had a "95 %" interval, and such intervals held the mean in 74 % of cases."""
    lists = [replace(e, group=f"wish {n % 3}") for n, e in enumerate(examples(8))]
    before, after = ({e.id: value * (1 + 0.01 * n) for n, e in enumerate(lists)} for value in (0.5, 0.6))
    found = outcome_of(before, after, lists)
    assert found.gain is None
    assert "on 8 list(s) in 3 group(s)" in str(found)


def test_w3_few_groups_of_many_lists_are_warned_of(tmp_path, capsys):
    pipeline.train(config_of("task.train_lists=300", "training.updates=1"), tmp_path / "run")
    said = capsys.readouterr().err
    assert "group(s) that share nothing with each other: a gain on so few" in said


def test_u18_a_run_by_epochs_does_not_shrink_by_a_number_of_updates(tmp_path):
    run = tmp_path / "run"
    pipeline.train(config_of(), run)
    written = (run / "config.yaml").read_bytes()
    with pytest.raises(UserError, match=r"training\.updates is 1 and the run was to take [2-9]"):
        pipeline.train(config_of("training.updates=1"), run, resume=True)
    assert (run / "config.yaml").read_bytes() == written
