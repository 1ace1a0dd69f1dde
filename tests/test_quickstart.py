"""The main job in miniature, smaller still: two updates, four test lists."""

import json

import pytest

from irpo import quickstart
from irpo.config.schema import load_config
from irpo.evaluation.contest import Contest

SMALL = """
model: {name: embedded, lora: {r: 4}}
task: {name: world, train_lists: 60, eval_lists: 4}
prompt: {style: label, max_tokens: 512}
training: {updates: 2, lists_per_update: 4, max_validation_lists: 4}
evaluation: {modes: [score, generate, constrain], lists_per_batch: 4}
"""


def test_methods_and_the_base_are_compared_by_one_protocol(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(quickstart, "METHODS", {"SFT": "sft", "IRPO": "irpo"})
    config = tmp_path / "small.yaml"
    config.write_text(SMALL)
    out = tmp_path / "out"
    found = quickstart.run(out, config)
    assert list(found) == ["base model", "SFT", "IRPO"]
    for name in found:
        assert (out / name.lower().replace(" ", "-") / "evaluation" / "report.md").is_file()
    report = (out / "report.md").read_text()
    assert "## NDCG@10 on 4 lists" in report
    assert "![](quickstart.png)" in report
    assert (out / "quickstart.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    told = capsys.readouterr()
    lines = told.out.splitlines()
    assert lines[-1].endswith(f" s; picture: {out}/quickstart.png; report.md beside it")
    assert len(lines) - sum(line[:1] in "┏┃┡│├└" for line in lines) <= 12
    assert "\n[1 of 5] base model: measuring\n" in told.err
    assert "\n[5 of 5] IRPO: measuring, about " in told.err
    # What is printed can be made again from what was written.
    written = json.loads((out / "results.json").read_text())
    quickstart.show(Contest.read(written["contest"]), written["seconds"], out)
    assert capsys.readouterr().out.splitlines()[:-1] == lines[:-1]
    assert [update for update, _ in quickstart._curve(out / "irpo")] == [0, 1, 2]


@pytest.mark.parametrize("method", quickstart.METHODS.values())
def test_the_shipped_methods_are_scored_alike(method):
    config = load_config([f"methods/{method}.yaml", f"embedded/{method}.yaml", "quickstart.yaml"])
    assert (config.method.scorer, config.method.length) == ({"name": "independent"}, "sum")
    assert json.loads(config.model_dump_json())["task"]["name"] == "world"
