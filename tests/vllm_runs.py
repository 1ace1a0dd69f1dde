"""Runs of seconds, and vLLM's stand-ins that hold them."""

from __future__ import annotations

from contextlib import contextmanager
from functools import cache

import torch
from small_runs import config_of
from test_strength import SHOWN, examples
from tiny import tiny_model, tiny_tokenizer, with_adapter
from vllm_fake import fake_vllm
from vllm_naive import naive_of
from vllm_stand_in import StandIn, serving

from irpo.config.schema import RUN_CONFIG, to_yaml
from irpo.prompting.prompts import PromptBuilder
from irpo.ranking.engines import ENGINES, Here
from irpo.ranking.vllm.asking import Adapter
from irpo.runs import ADAPTER, load_weights, save_model
from irpo.runs.rankers import ranker_config
from irpo.scoring.tokens import prompted

TOKENIZER = tiny_tokenizer()
CLOSE = {"rtol": 0, "atol": 1e-4}


def saved_run(home, family="llama", **config):
    """A run's folder on a tiny base that lies beside it: an adapter that has learnt something."""
    model = tiny_model(family, attention="eager", **config)
    model.generation_config.eos_token_id = [2, 3]
    model.save_pretrained(home / "base")
    TOKENIZER.save_pretrained(home / "base")
    run = home / "run"
    run.mkdir()
    (run / RUN_CONFIG).write_text(to_yaml(config_of(f"model.name={home / 'base'}")), encoding="utf-8")
    save_model(with_adapter(model), TOKENIZER, run, tuning="lora")
    return run


def stand_in(run, **how):
    """A server of the run's base that was started with its adapter."""
    made = StandIn(naive_of(run.parent / "base"), str(run.parent / "base"), **how)
    made.load(Adapter(run / ADAPTER).name, run / ADAPTER)
    return made


@contextmanager
def opened(way, run, monkeypatch, style="text", **how):
    """The engine, and what stands in for vLLM."""
    builder = PromptBuilder(TOKENIZER, SHOWN, style, max_tokens=1024)
    if way == "library":
        llm = fake_vllm(monkeypatch)
        engine = ENGINES.build("vllm")(str(run), ranker_config(str(run)), builder)
        yield engine, llm.made[0]
        return
    made = stand_in(run, **how)
    with serving(made) as url:
        yield ENGINES.build({"name": "vllm", "url": url})(str(run), ranker_config(str(run)), builder), made


def lists(style, count=2):
    builder = PromptBuilder(TOKENIZER, SHOWN, style, max_tokens=1024)
    return [p.tokens for p in prompted(builder, examples(count), labels=False)]


@cache
def here(run):
    return Here(load_weights(str(run)), TOKENIZER)


def close(ours, theirs):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(torch.tensor(a), torch.tensor(b), **CLOSE)
