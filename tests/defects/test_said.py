"""What training says of itself."""

import pytest
from small_runs import config_of, lines
from training_lists import encoded, method, trainer

from irpo import pipeline


def test_u5_training_says_whether_it_helped(tmp_path, capsys):
    pipeline.train(config_of(), tmp_path / "run")
    said = capsys.readouterr().err
    first = lines(tmp_path / "run")[0]
    assert first["update"] == 0
    assert f"{first['eval_NDCG@10']:.4f} before training" in said
    assert any("after (" in line for line in said.splitlines()[-5:])
    assert f"irpo evaluate --model {tmp_path / 'run'}" in said.splitlines()[-2]
    assert all("   # " in line and "(" not in line for line in said.splitlines()[-2:])  # a shell takes it as it is
    assert "a gain on so few is hard to tell from chance" in said
    assert "before training" in (tmp_path / "run" / "README.md").read_text()


def test_u5_an_interval_stands_beside_a_gain_and_goes_by_group():
    from training_lists import examples

    from irpo.training.outcome import outcome_of

    lists = examples(8)
    before = {e.id: 0.5 for e in lists}
    gains = [0.1, 0.3, 0.2, 0.0, 0.1, 0.2, 0.3, 0.1]
    after = {e.id: 0.5 + gain for e, gain in zip(lists, gains, strict=True)}
    found = outcome_of(before, after, lists)
    low, high = found.gain
    assert 0 < low < sum(gains) / 8 < high
    assert found.verdict == ""
    assert "95 % interval" in str(found)
    assert outcome_of(after, before, lists).verdict.startswith("training made it worse")
    assert "chance" not in outcome_of(after, before, lists).verdict
    for some, others in ((before, after), (after, before)):  # on two lists, chance may have done either
        two = [e.id for e in lists[:2]]
        assert "chance" in outcome_of({i: some[i] for i in two}, {i: others[i] for i in two}, lists[:2]).verdict


def test_u5_training_without_validation_is_told(tmp_path, capsys):
    pipeline.train(config_of("training.validation_fraction=0", "training.updates=1"), tmp_path / "run")
    assert "nothing will say whether training helped" in capsys.readouterr().err


def test_u6_the_losss_terms_stand_apart(tmp_path):
    run = trainer(tmp_path, method("irpo", nll_weight=0.5), updates=1)
    run.go(None)
    line = lines(tmp_path)[0]
    assert line["objective"] + line["anchor"] == pytest.approx(line["loss"], rel=1e-5)
    tokens = [len(item.answer(range(len(item.bodies)))) for item in encoded()]
    assert min(tokens) <= line["target_nll"] / line["nll_per_token"] <= max(tokens)
    assert line["anchor"] == pytest.approx(0.5 * line["nll_per_token"], rel=0.1)  # mean of ratios, ratio of means


def test_u10_cut_prompts_of_both_splits_are_counted_and_the_remedy_stands_beside(tmp_path, capsys):
    pipeline.train(config_of("prompt.max_tokens=144", "training.updates=1"), tmp_path / "run")
    said = capsys.readouterr().err
    (split,) = (line for line in said.splitlines() if line.startswith("lists: "))
    (note,) = (line for line in said.splitlines() if "prompts are cut" in line)
    counts = [int(word) for word in split.replace(",", " ").split() if word.isdigit()]
    assert f"of {counts[0] + counts[1]} prompts" in note
    assert "prompt.max_tokens = 144: raise it" in note


def test_u11_at_80_columns_the_validation_figure_stays(capsys, monkeypatch, tmp_path):
    from types import SimpleNamespace

    from irpo.progress import bars
    from irpo.training.logbook import Logbook, Progress

    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal
    monkeypatch.setenv("COLUMNS", "80")
    bar, state = Progress(Logbook(tmp_path)), SimpleNamespace(global_step=0, max_steps=100)
    with bars() as shown:
        bar.on_train_begin(None, state, None)
        state.global_step = 50
        bar.on_step_end(None, state, None)
        bar.on_log(None, state, None, {"loss": 164.9123, "train_NDCG@10": 0.81234, "objective": 9.0, "anchor": 155.9})
        bar.on_log(None, state, None, {"eval_NDCG@10": 0.67812})
        shown.refresh()
    said = capsys.readouterr().err
    assert "50/100" in said
    assert "0.6781" in said
    assert "164.9" in said


def test_u11_a_line_is_a_line(capsys):
    from irpo.progress import say

    say("word " * 60)
    assert capsys.readouterr().err == "word " * 60 + "\n"
