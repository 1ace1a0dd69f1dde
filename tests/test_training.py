"""The loop: resume, the best checkpoint, early stopping, and what the log says."""

import json
from dataclasses import replace

import pytest
import torch
from tiny import tiny_model
from training_lists import TOKENIZER, encoded, learned, method, trainer

from irpo.measures import ndcg
from irpo.progress import BEST, peak_memory
from irpo.ranking.choosing import ndcg_of
from irpo.ranking.modes import by_score, key_of
from irpo.scorers import SCORERS
from irpo.scoring.forward import score_lists
from irpo.scoring.models import LoraOptions, add_lora, without_dropout
from irpo.training.arguments import Loop
from irpo.types import UserError

ITEMS = encoded(count=8)


def lines(run):
    return [json.loads(line) for line in run.log_file.read_text().splitlines()]


def with_validation(out, *, updates=6, patience=None, **settings):
    settings = {"evaluate_every": 2, **settings}
    return trainer(
        out, method("dpo"), items=ITEMS, validation=ITEMS[:4], updates=updates, loop=Loop(patience=patience), **settings
    )


def interrupted(out, at):
    """A run that dies after `at` updates, just behind its checkpoint."""
    run = with_validation(out)
    save = run._save_checkpoint

    def dying(*args, **kwargs):
        save(*args, **kwargs)
        if run.state.global_step >= at:
            raise KeyboardInterrupt

    run._save_checkpoint = dying
    with pytest.raises(KeyboardInterrupt):
        run.go(None)
    return f"{out}/checkpoints/checkpoint-{at}"


def test_a_resumed_run_is_the_unbroken_one(tmp_path):
    whole = with_validation(tmp_path / "whole")
    whole.go(None)
    checkpoint = interrupted(tmp_path / "broken", 2)
    again = with_validation(tmp_path / "broken")
    again.go(checkpoint)
    torch.testing.assert_close(learned(again.model), learned(whole.model), atol=0, rtol=0)
    assert [line["update"] for line in lines(again)] == [line["update"] for line in lines(whole)]


def test_a_checkpoint_at_the_end_takes_no_further_step(tmp_path):
    run = trainer(tmp_path, method("irpo"), items=ITEMS[:6], updates=3)
    run.args.save_strategy = "steps"
    run.go(None)
    again = trainer(tmp_path, method("irpo"), items=ITEMS[:6], updates=3)
    again.go(f"{tmp_path}/checkpoints/checkpoint-3")
    torch.testing.assert_close(learned(again.model), learned(run.model), atol=0, rtol=0)


def test_the_best_checkpoint_is_what_remains(tmp_path):
    run = with_validation(tmp_path, learning_rate=5.0)  # wild steps, so that the last is not the best
    run.go(None)
    found = {line["update"]: line[f"eval_{BEST}"] for line in lines(run) if f"eval_{BEST}" in line and line["update"]}
    assert len(found) == 3
    assert run.evaluate()[f"eval_{BEST}"] == pytest.approx(max(found.values()), abs=1e-6)


def test_early_stopping_counts_validations_without_a_better_one(tmp_path):
    run = with_validation(tmp_path, updates=20, patience=2, evaluate_every=1, learning_rate=1e-9)
    run.go(None)
    assert run.state.global_step == 3  # the first is the best, two more are not better


def test_validation_never_sees_a_label(tmp_path):
    run = with_validation(tmp_path)
    expected = score_lists(run.model, TOKENIZER, [i.without_labels() for i in ITEMS[:4]], SCORERS.build("independent"))
    mean = sum(ndcg_of(row, item.relevance, 10, key_of(item)) for row, item in zip(expected, ITEMS, strict=False)) / 4
    assert run.evaluate()[f"eval_{BEST}"] == pytest.approx(mean)


def test_equal_scores_count_as_they_are_ranked():
    order = by_score([0.0] * 3, "a list")[0].order
    assert ndcg_of(torch.zeros(3), [2.0, 0.0, 1.0], 10, "a list") == ndcg(order, [2.0, 0.0, 1.0], 10)


def test_precomputed_and_adapters_off_are_the_same_reference(tmp_path):
    weights = []
    for reference in ("adapters_off", "precomputed"):
        run = trainer(tmp_path / reference, method("irpo", reference=reference), updates=3)
        run.go(None)
        weights.append(learned(run.model))
    torch.testing.assert_close(*weights, atol=1e-6, rtol=1e-4)


def test_the_log_shows_what_was_promised(tmp_path):
    run = trainer(tmp_path, method("irpo", nll_weight=0.1))
    run.go(None)
    keys = {"loss", "reward_margin", "train_NDCG@10", "rho_entropy", "tokens_per_s", "peak_memory_mb", "target_nll"}
    assert keys <= lines(run)[0].keys()
    assert peak_memory() > 0


def test_the_gold_order_is_not_logged_as_a_ranking(tmp_path):
    run = trainer(tmp_path, method("irpo", "list"))
    run.go(None)
    assert "train_NDCG@10" not in lines(run)[0]


def test_several_gpus_in_sight_are_one(tmp_path):
    run = trainer(tmp_path, method("irpo"))
    assert run.args._n_gpu <= 1
    assert run.args.train_batch_size == 4


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    model = add_lora(tiny_model(), LoraOptions(r=4), seed=0)
    with torch.no_grad():
        next(p for p in model.parameters() if p.requires_grad).fill_(torch.inf)
    run = trainer(tmp_path, method("irpo"), model=model)
    with pytest.raises(UserError, match="lower the learning rate"):
        run.go(None)


def test_a_method_without_the_reference_it_needs():
    with pytest.raises(UserError, match=r"method.reference is 'none', but IRPO needs one"):
        method("irpo", reference="none")


def test_at_weight_0_no_reference_is_taken(tmp_path, monkeypatch):
    """Neither by a pass with the adapter off nor before training; the step is that of a reference of zeros."""
    steps = {}
    for reference in ("none", "adapters_off", "precomputed"):
        run = trainer(tmp_path / reference, method({"name": "irpo", "reference_weight": 0}, reference=reference))
        for refused in ("irpo.training.method.adapter_off", "irpo.training.trainer.references_of"):
            monkeypatch.setattr(refused, lambda *_, **__: pytest.fail("a reference was taken"))
        run.go(None)
        steps[reference] = learned(run.model)
    torch.testing.assert_close(steps["adapters_off"], steps["none"], atol=0, rtol=0)
    torch.testing.assert_close(steps["precomputed"], steps["none"], atol=0, rtol=0)


def test_out_of_memory_halves_the_batches_and_changes_nothing(tmp_path, monkeypatch, capsys):
    """Memory runs out within the second update, after some gradients were already there."""
    expected = trainer(tmp_path / "whole", method("dpo"), updates=3)
    expected.go(None)
    run = trainer(tmp_path / "halved", method("dpo"), updates=3, tokens_per_batch=150)
    real, calls = run.compute_loss, []

    def failing(model, batch, **rest):
        calls.append(batch.tokens)
        if len(calls) == 4:  # a batch of several lists
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(model, batch, **rest)

    monkeypatch.setattr(run, "compute_loss", failing)
    run.go(None)
    assert run.tokens_per_batch == 75
    assert "out of memory: batches of 75 tokens" in capsys.readouterr().err
    torch.testing.assert_close(learned(run.model), learned(expected.model), atol=1e-6, rtol=1e-4)
    shown = [line["reward_margin"] for line in lines(run) if "reward_margin" in line]
    assert shown == pytest.approx(
        [line["reward_margin"] for line in lines(expected) if "reward_margin" in line], abs=1e-5
    )


def test_one_list_that_does_not_fit_says_what_to_do(tmp_path, monkeypatch):
    run = trainer(tmp_path, method("dpo"), tokens_per_batch=2)

    def failing(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(run, "compute_loss", failing)
    with pytest.raises(UserError, match="gradient_checkpointing=true"):
        run.go(None)


def test_labels_that_an_objective_cannot_use_are_refused_before_the_first_step():
    of = method({"name": "point_sigmoid", "max_label": 1})
    with pytest.raises(UserError, match=r"list 'list-\d' has a label of 2; PointSigmoid uses labels from 0 to 1"):
        of.require_labels(ITEMS)


@pytest.mark.parametrize(
    "objective",
    [{"name": "irpo", "metric": "mrr"}, {"name": "irpo_sampled", "metric": "precision"}, {"name": "kto"}],
    ids=lambda spec: spec["name"],
)
def test_labels_that_would_count_for_nothing_are_refused(objective):
    low = [replace(item, relevance=tuple(y / 4 for y in item.relevance)) for item in ITEMS]
    with pytest.raises(UserError, match=r"has no label above 0.5; \w+ with these options counts 1 and above"):
        method(objective).require_labels(low)
    method({"name": "irpo"}).require_labels(low)
    method(objective).require_labels(ITEMS)


def test_a_gain_beyond_float32_is_refused():
    high = [replace(item, relevance=(100.0, *item.relevance[1:])) for item in ITEMS]
    for objective in ("irpo", "lipo_lambda"):
        with pytest.raises(UserError, match=r"has a label of 100; .* uses labels from 0 to 64"):
            method(objective).require_labels(high)
    method("pair_logistic").require_labels(high)


def test_a_sampled_update_without_anything_relevant_is_no_error(tmp_path):
    nothing = [item.without_labels() for item in ITEMS]
    run = trainer(tmp_path / "run" / "checkpoints", method("irpo_sampled"), items=nothing)
    run.go(None)


def test_policy_and_reference_agree_at_step_0_though_the_model_has_dropout(tmp_path):
    base = without_dropout(tiny_model("llama", attention_dropout=0.5))
    run = trainer(tmp_path / "run" / "checkpoints", method(), model=add_lora(base, LoraOptions(r=4), seed=0), updates=1)
    run.go(None)
    assert [line["reward_margin"] for line in lines(run) if "reward_margin" in line] == [0.0]
