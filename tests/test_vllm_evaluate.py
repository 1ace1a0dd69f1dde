"""`irpo evaluate` and `irpo rank` with `--engine vllm`, as a user types them, against the stand-in of a server."""

from __future__ import annotations

import json

import pytest
from commands import refused
from small_runs import config_of
from tiny import with_adapter
from vllm_fake import fake_vllm
from vllm_naive import naive_of
from vllm_stand_in import StandIn, serving

from irpo import api
from irpo.config.schema import RUN_CONFIG, to_yaml
from irpo.evaluation import RESULTS
from irpo.ranking.vllm.asking import Adapter
from irpo.resources import embedded_dir
from irpo.runs import ADAPTER, save_model
from irpo.scoring.models import load_model, load_tokenizer


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run on the embedded model, without its training."""
    folder = tmp_path_factory.mktemp("run")
    (folder / RUN_CONFIG).write_text(to_yaml(config_of("task.candidates=4")), encoding="utf-8")
    save_model(with_adapter(load_model("embedded")), load_tokenizer("embedded"), folder, tuning="lora")
    return folder


@pytest.fixture(scope="module")
def url(run):
    made = StandIn(naive_of(embedded_dir()), str(embedded_dir()), max_model_len=4096)
    made.load(Adapter(run / ADAPTER).name, run / ADAPTER)
    with serving(made) as url:
        yield url


def measured(irpo, run, out, *words):
    code, _, err = irpo("evaluate", "--model", run, "--out", out, "--max-lists", 1, "--strength", 2, *words)
    assert code == 0, err
    lists = [json.loads(line) for line in (out / "per_query.jsonl").read_text().splitlines()]
    return json.loads((out / RESULTS).read_text()), lists


def test_an_evaluation_is_that_of_transformers_and_says_what_ranked(irpo, run, url, tmp_path):
    ours, our_lists = measured(irpo, run, tmp_path / "vllm", "--engine", "vllm", "--engine-url", url)
    theirs, their_lists = measured(irpo, run, tmp_path / "here")
    assert ours["setting"].pop("engine") == "vllm 0.33.0, a server (dtype and quantization as it was started)"
    assert theirs["setting"].pop("engine").startswith("transformers ")
    assert ours["setting"] == theirs["setting"]
    for one, other in zip(ours["rows"], theirs["rows"], strict=True):
        assert (one["name"], one["measures"], one["problems"]) == (other["name"], other["measures"], other["problems"])
    assert our_lists == their_lists  # every order of every mode
    answers = [(tmp_path / way / "generations.jsonl").read_text() for way in ("vllm", "here")]
    assert answers[0] == answers[1]
    report = (tmp_path / "vllm" / "report.md").read_text()
    assert "- engine: vllm 0.33.0, a server" in report
    assert "ranked by vllm 0.33.0, a server (dtype and quantization as it was started): its dtype, kernels" in report
    assert "ranked by" not in (tmp_path / "here" / "report.md").read_text()


def test_in_this_process_it_is_one_word_more(run, monkeypatch, tmp_path):
    llm = fake_vllm(monkeypatch)
    found = api.evaluate(
        str(run), tmp_path / "out", modes=["score"], max_lists=2, engine={"name": "vllm", "tensor_parallel": 2}
    )
    assert found.setting.engine == "vllm 0.33.0, float32, 2 GPUs"
    here = api.evaluate(str(run), tmp_path / "here", modes=["score"], max_lists=2)
    assert found.row("score").measures == here.row("score").measures
    assert llm.made[0].arguments["tensor_parallel_size"] == 2


def test_documents_are_ranked_by_a_server_too(irpo, run, url):
    words = ("rank", "--model", run, "a red fruit", "apple", "sky", "brick", "--json")
    code, ours, err = irpo(*words, "--engine", "vllm", "--engine-url", url)
    assert code == 0, err
    theirs = json.loads(irpo(*words)[1])
    for one, other in zip(json.loads(ours), theirs, strict=True):
        assert one.pop("score") == pytest.approx(other.pop("score"), abs=1e-4)
        assert one == other


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--engine", "vlm"), "unknown engine 'vlm'; choose from transformers, vllm (did you mean 'vllm'?)"),
        (("--engine-url", "http://h:1"), "unknown option 'url' of engine 'transformers'"),
        (("--engine", "vllm", "--engine-url", "h:1"), "--engine-url 'h:1': write http://HOST:PORT of a vLLM server"),
        (("--engine", "vllm", "--engine-url", "http://127.0.0.1:1"), "no vLLM server answers there"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_written(irpo, run, tmp_path, words, said):
    refused(irpo("evaluate", "--model", run, "--out", tmp_path / "out", *words), said)
    assert not (tmp_path / "out").exists()
