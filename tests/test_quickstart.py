"""The main job in miniature, smaller still: two updates, four test lists."""

import pytest

from irpo import quickstart
from irpo.compare.suite import read_suite
from irpo.types import UserError

SMALL = """
model: {name: embedded, lora: {r: 2, targets: [q_proj]}}
task: {name: world, train_lists: 60, eval_lists: 4, candidates: 4}
prompt: {style: label, max_tokens: 512}
training: {updates: 2, lists_per_update: 2, max_validation_lists: 4}
evaluation: {modes: [score, generate, constrain], lists_per_batch: 4}
"""


@pytest.mark.slow
def test_methods_and_the_base_are_compared_and_a_second_one_finds_all_done(tmp_path, capsys, monkeypatch):
    short = read_suite(quickstart.SUITE)
    chosen = tuple(m for m in short.methods if m.name in ("base", "SFT"))
    monkeypatch.setattr(quickstart, "read_suite", lambda _: short.model_copy(update={"methods": chosen}))
    config = tmp_path / "small.yaml"
    config.write_text(SMALL)
    out = tmp_path / "out"
    report = quickstart.run(out, config)
    assert {row.name for row in report.tables[0].rows if row.group == "embedded"} == {"base", "SFT"}
    assert report.about == "With the settings of small.yaml."
    for name in ("report.html", "report.md", "report.json"):
        assert (out / name).is_file()
    told = capsys.readouterr()
    assert "NDCG@10 on world" in told.out
    assert "3 cells done" in told.err
    assert quickstart.run(out, config).tables == report.tables
    assert "[3/3] from before: 3 done" in capsys.readouterr().err


def test_what_a_user_brings_gives_the_names(tmp_path):
    config = tmp_path / "mine.yaml"
    config.write_text("model: {name: runs/x}\ntask: {name: jsonl, data: mine}\nprompt: {style: text}\n")
    suite = quickstart._of(read_suite(quickstart.SUITE), config)
    assert (suite.models[0].name, suite.tasks[0].name) == ("x", "jsonl")


def test_another_folder_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="the folder is not empty and holds no suite"):
        quickstart.run(tmp_path)


def test_the_shipped_methods_are_scored_alike():
    suite = read_suite(quickstart.SUITE)
    for method in suite.methods:
        config = suite.config(suite.models[0], suite.tasks[0], method, {}, 0)
        assert (config.method.scorer, config.method.length) == ({"name": "independent"}, "sum")
        assert config.task["name"] == "world"
