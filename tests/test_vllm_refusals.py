"""What vLLM behind the ranking modes refuses, in one line each; the stand-ins are those of test_vllm.py."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass

import pytest
from small_runs import config_of
from test_strength import SHOWN
from tiny import tiny_model
from vllm_fake import fake_vllm
from vllm_naive import naive_of
from vllm_runs import TOKENIZER, lists, opened, saved_run, stand_in
from vllm_stand_in import StandIn, serving

from irpo.config.schema import RUN_CONFIG, to_yaml
from irpo.doctor import examine
from irpo.prompting.prompts import PromptBuilder
from irpo.ranking.engines import ENGINES
from irpo.ranking.modes import RANKING_MODES, Ranker
from irpo.ranking.vllm import server
from irpo.ranking.vllm.asking import Adapter
from irpo.runs import ADAPTER, FULL, save_model
from irpo.runs.rankers import ranker_config
from irpo.scorers import SCORERS
from irpo.scoring.strength import PLAIN, Strength
from irpo.types import NoAnswer, UserError


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return saved_run(tmp_path_factory.mktemp("vllm"))


def connecting(run, url):
    builder = PromptBuilder(TOKENIZER, SHOWN, max_tokens=1024)
    return ENGINES.build({"name": "vllm", "url": url})(str(run), ranker_config(str(run)), builder)


def test_a_server_that_does_not_answer_is_one_line(run, monkeypatch):
    monkeypatch.setattr(server.time, "sleep", lambda _: None)
    with pytest.raises(NoAnswer, match=r"--engine-url http://127.0.0.1:1: no vLLM server answers there .*2 times"):
        connecting(run, "http://127.0.0.1:1")


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"name": "meta/other"}, "the server serves .*; the model is .*base'"),
        ({"max_model_len": 512}, "max_model_len is 512, .* up to 1024 tokens: start it with --max-model-len 1024"),
        ({"key": "secret"}, "401 Unauthorized; it wants its key in VLLM_API_KEY"),
    ],
)
def test_a_server_of_another_kind_is_refused(run, how, said):
    made = StandIn(naive_of(run.parent / "base"), **{"name": str(run.parent / "base"), **how})
    made.root = made.name
    with serving(made) as url, pytest.raises(UserError, match=said):
        connecting(run, url)


def test_a_server_may_call_the_model_by_the_runs_own_name_and_want_a_key(run, monkeypatch):
    made = stand_in(run, key="secret", root="/mnt/elsewhere")
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    with serving(made) as url:
        assert connecting(run, url + "/v1/").about.startswith("vllm 0.33.0, a server")


def test_an_adapter_that_is_not_served_is_loaded_or_the_line_says_how(run):
    made = StandIn(naive_of(run.parent / "base"), str(run.parent / "base"))
    name = Adapter(run / ADAPTER).name
    with serving(made) as url:
        with pytest.raises(UserError, match=rf"--enable-lora --max-lora-rank 4 --lora-modules {name}=.*/adapter, or"):
            connecting(run, url)
        made.runtime_lora = True
        assert connecting(run, url).adapter.name == name
        assert made.adapters == {name: str((run / ADAPTER).resolve())}


def test_what_passes_is_tried_again_and_what_stays_is_one_line(run, monkeypatch):
    waited = []
    monkeypatch.setattr(server.time, "sleep", waited.append)
    items, scorer = lists("label", 1), SCORERS.build("label")
    with opened("server", run, monkeypatch) as (engine, made):
        made.busy = 3
        engine.scores(items, scorer, PLAIN, "sum")
        assert len(waited) == 3
        assert 0.25 <= waited[0] <= 0.5 <= waited[1] <= 1 <= waited[2] <= 2
        made.busy = 99
        with pytest.raises(NoAnswer, match="refuses a request: the engine is starting"):
            engine.scores(items, scorer, PLAIN, "sum")
        made.busy = 0
        del made.adapters[engine.adapter.name]
        with pytest.raises(UserError, match=r"refuses a request: The model `irpo-.*` does not exist") as error:
            engine.scores(items, scorer, PLAIN, "sum")
        assert not isinstance(error.value, NoAnswer)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"ignores": frozenset({"logprob_token_ids"}), "version": "0.11.0"}, r"vllm 0\.11\.0 does not give what is"),
        ({"raw_logits": True}, "no log-probabilities; start it with --logprobs-mode raw_logprobs"),
    ],
)
def test_numbers_that_are_not_what_was_asked_for_are_refused(run, monkeypatch, how, said):
    with opened("server", run, monkeypatch, **how) as (engine, _), pytest.raises(UserError, match=said):
        engine.scores(lists("label", 1), SCORERS.build("label"), PLAIN, "sum")


def test_what_is_no_server_of_vllm_is_told(run, monkeypatch):
    made = stand_in(run)
    with serving(made) as url:
        monkeypatch.setattr(made, "answer", lambda *_: "<html>hello</html>")
        with pytest.raises(UserError, match="no list of models of a vLLM server"):
            connecting(run, url)


def test_modes_that_need_the_model_itself_are_refused(run, monkeypatch):
    builder = PromptBuilder(TOKENIZER, SHOWN, max_tokens=1024)
    with opened("library", run, monkeypatch) as (engine, _):
        ranker = Ranker(engine, builder, SCORERS.build("independent"), strength=Strength(2))
        for name in ("score", "generate", "constrain", "window"):
            ranker.require(RANKING_MODES.build(name))
        with pytest.raises(UserError, match="vLLM writes freely as one model"):
            ranker.require(RANKING_MODES.build("generate_strengthened"))

        with pytest.raises(UserError, match="mode 'Own' works on the model itself"):
            ranker.require(Own())
        with pytest.raises(UserError, match="mode 'Own' works on the model itself"):
            ranker.require(RANKING_MODES.build({"name": "window", "by": Own()}))


@dataclass(frozen=True)
class Own:
    """A user's mode that does not say `by_engine`."""

    writes = False


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tensor_parallel": 0}, "give 1 or more GPUs"),
        ({"memory_fraction": 2.0}, "give a share above 0, at most 1"),
        ({"url": "host:8000"}, "write http://HOST:PORT"),
        ({"url": "http://host:8000", "tensor_parallel": 2}, "a server was started with its own"),
        ({"gpus": 2}, "unknown option 'gpus' of engine 'vllm'"),
    ],
)
def test_options_are_checked_before_anything_is_loaded(options, said):
    with pytest.raises(UserError, match=said):
        ENGINES.build({"name": "vllm", **options})


def test_without_vllm_the_line_says_what_to_do(run, monkeypatch):
    fake_vllm(monkeypatch)  # nothing is loaded already
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match=r"pip install 'irpo\[vllm\]' on a machine with a GPU, or give --engine-url"):
        ENGINES.build("vllm")(str(run), ranker_config(str(run)), PromptBuilder(TOKENIZER, SHOWN, max_tokens=1024))


def test_several_processes_do_not_load_it_each(run, monkeypatch):
    fake_vllm(monkeypatch)
    monkeypatch.setattr("irpo.ranking.vllm.library.count", lambda: 2)
    with pytest.raises(UserError, match="2 processes would each load vLLM: run one"):
        ENGINES.build("vllm")(str(run), ranker_config(str(run)), PromptBuilder(TOKENIZER, SHOWN, max_tokens=1024))


def test_a_run_on_a_run_with_an_adapter_is_refused(run, tmp_path):
    second = tmp_path / "second"
    (second / ADAPTER).mkdir(parents=True)
    (second / RUN_CONFIG).write_text(to_yaml(config_of(f"model.name={run}")), encoding="utf-8")
    with pytest.raises(UserError, match="is a run with an adapter, which is merged as it is loaded"):
        ENGINES.build("vllm")(str(second), None, PromptBuilder(TOKENIZER, SHOWN, max_tokens=1024))


def test_a_run_of_whole_weights_is_loaded_from_its_folder_and_has_no_strength(run, tmp_path, monkeypatch):
    (tmp_path / RUN_CONFIG).write_text(
        to_yaml(config_of("model.tuning=full", "method.reference=precomputed")), encoding="utf-8"
    )
    save_model(tiny_model(), TOKENIZER, tmp_path, tuning="full")
    llm = fake_vllm(monkeypatch)
    engine = ENGINES.build("vllm")(str(tmp_path), None, PromptBuilder(TOKENIZER, SHOWN, max_tokens=1024))
    assert llm.made[0].arguments["model"] == str(tmp_path / FULL)
    assert "enable_lora" not in llm.made[0].arguments
    engine.require(PLAIN, writes=True)
    with pytest.raises(UserError, match="strength 2 needs a LoRA adapter"):
        engine.require(Strength(2), writes=False)


def test_doctor_says_whether_vllm_is_there():
    (found,) = [check for check in examine() if check.topic == "vllm"]
    installed = importlib.util.find_spec("vllm") is not None
    assert (found.state, "not installed" in found.detail) == (("ok", False) if installed else ("optional", True))
