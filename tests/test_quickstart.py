"""The main job in miniature, smaller still: two updates, four test lists."""

import json

import pytest

from irpo import quickstart
from irpo.config.schema import load_config
from irpo.evaluation import Evaluation, Setting
from irpo.types import Candidate, RankingExample, UserError

SMALL = """
model: {name: embedded, lora: {r: 4}}
task: {name: world, train_lists: 60, eval_lists: 4}
prompt: {style: label, max_tokens: 512}
training: {updates: 2, lists_per_update: 4, max_validation_lists: 4}
evaluation: {modes: [score, generate, constrain], lists_per_batch: 4}
"""


def test_it_compares_four_methods_and_the_base_by_one_protocol(tmp_path, capsys):
    config = tmp_path / "small.yaml"
    config.write_text(SMALL)
    for _ in range(2):  # a second run replaces the first
        found = quickstart.run(tmp_path / "out", config)
    assert list(found) == ["base", "SFT", "DPO", "S-DPO", "IRPO"]
    printed = capsys.readouterr().out
    assert all(name in printed for name in found)
    report = (tmp_path / "out" / "report.md").read_text()
    assert "## NDCG@10 on 4 lists" in report
    for name in found:
        assert (tmp_path / "out" / name.lower() / "evaluation" / "report.md").is_file()
    settings = [summary.setting for summary in found.values()]
    assert all(setting == settings[0] for setting in settings)


def test_methods_measured_in_different_ways_do_not_share_a_table():
    def measured(scorer):
        setting = Setting("text", "world", 512, scorer, "sum", 0, None)
        example = RankingExample("q", "?", (Candidate("a", "A", 1.0), Candidate("b", "B")))
        return Evaluation((example,), (), ("NDCG@10",), setting)

    with pytest.raises(UserError, match="different protocols"):
        quickstart._grid({"IRPO": measured("a"), "SFT": measured("b")})


@pytest.mark.parametrize("method", quickstart.METHODS.values())
def test_the_shipped_methods_are_scored_alike(method):
    config = load_config([f"methods/{method}.yaml", "quickstart.yaml"])
    assert (config.method.scorer, config.method.length) == ({"name": "independent"}, "sum")
    assert json.loads(config.model_dump_json())["task"]["name"] == "world"
