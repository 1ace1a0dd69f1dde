"""The stand-ins' words against vLLM's own sources, where they lie: installed, or unpacked in IRPO_VLLM_SOURCE.

The sources are read, not imported: that needs no GPU.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import os
from functools import cache
from pathlib import Path

import pytest
from vllm_fake import DTYPES, ENGINE_ARGS, RANKS, FakeLLM, Logprob, LoRARequest, SamplingParams
from vllm_stand_in import MAX_LOGPROB_TOKEN_IDS, NEUTRAL, CompletionRequest, LoadLoRAAdapterRequest

from irpo.ranking.vllm import asking, library

PROTOCOL = "entrypoints/openai/completion/protocol.py"
INSTALLED = importlib.util.find_spec("vllm")
SOURCE = Path(os.environ.get("IRPO_VLLM_SOURCE") or (Path(INSTALLED.origin).parent if INSTALLED else "/nowhere"))
pytestmark = pytest.mark.skipif(
    not (SOURCE / PROTOCOL).is_file(),
    reason="vLLM is not installed; unpack its wheel and set IRPO_VLLM_SOURCE to its folder vllm",
)


@cache
def parsed(file):
    return ast.parse((SOURCE / file).read_text(encoding="utf-8"))


def class_of(file, name):
    return next(node for node in parsed(file).body if isinstance(node, ast.ClassDef) and node.name == name)


def fields(file, name):
    """The annotated names of a class, with their defaults as written."""
    found = (node for node in class_of(file, name).body if isinstance(node, ast.AnnAssign))
    return {
        node.target.id: node.value and ast.unparse(node.value) for node in found if not node.target.id.startswith("_")
    }


def arguments(file, cls, method):
    found = (node for node in class_of(file, cls).body if isinstance(node, ast.FunctionDef) and node.name == method)
    args = next(found).args
    return {arg.arg for arg in (*args.args, *args.kwonlyargs)} - {"self"}


def assigned(file, name):
    for node in parsed(file).body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name) and target.id == name:
            return ast.unparse(node.value)
    raise LookupError(name)


def test_a_completion_has_these_fields_and_no_others():
    theirs = fields(PROTOCOL, "CompletionRequest")
    assert set(theirs) == set(CompletionRequest.model_fields)
    for name, field in CompletionRequest.model_fields.items():
        if not field.is_required() and isinstance(field.default, (bool, int, float)) and "Field(" not in theirs[name]:
            assert ast.literal_eval(theirs[name]) == field.default, name


def test_an_answer_holds_what_is_read_of_it():
    assert {"token_ids", "logprobs", "prompt_logprobs"} <= set(fields(PROTOCOL, "CompletionResponseChoice"))
    assert "top_logprobs" in fields(PROTOCOL, "CompletionLogProbs")
    assert list(fields("logprobs.py", "Logprob")) == [f.name for f in dataclasses.fields(Logprob)]
    assert 'f"token_id:{token_id}"' in (SOURCE / "entrypoints/generate/base/serving.py").read_text(encoding="utf-8")
    assert {"id", "root", "parent", "max_model_len"} <= set(fields("entrypoints/serve/engine/protocol.py", "ModelCard"))


def test_an_adapter_is_loaded_by_these_words():
    theirs = fields("entrypoints/serve/lora/protocol.py", "LoadLoRAAdapterRequest")
    assert set(theirs) == set(LoadLoRAAdapterRequest.model_fields)
    assert list(fields("lora/request.py", "LoRARequest")) == [f.name for f in dataclasses.fields(LoRARequest)]
    ranks = assigned("config/lora.py", "MaxLoRARanks")
    assert ast.literal_eval(ranks.removeprefix("Literal")) == list(RANKS)
    assert set(library._RANKS) < set(RANKS)


def test_settings_and_defaults_are_vllms():
    theirs = fields("sampling_params.py", "SamplingParams")
    for field in dataclasses.fields(SamplingParams):
        assert ast.literal_eval(theirs[field.name]) == field.default, field.name
    assert {name: ast.literal_eval(theirs[name]) for name in NEUTRAL} == NEUTRAL
    assert int(assigned("sampling_params.py", "MAX_LOGPROB_TOKEN_IDS")) == MAX_LOGPROB_TOKEN_IDS == asking.MOST_TOKENS


def test_the_engine_takes_these_arguments():
    theirs = set(fields("engine/arg_utils.py", "EngineArgs")) | arguments("entrypoints/llm.py", "LLM", "__init__")
    assert theirs >= ENGINE_ARGS
    assert set(library.Loading("base", rank=8, four_bit=True).arguments) <= {"model", *ENGINE_ARGS}
    generate = FakeLLM.generate.__code__
    ours = generate.co_varnames[1 : generate.co_argcount + generate.co_kwonlyargcount]
    assert arguments("entrypoints/llm.py", "LLM", "generate") == set(ours)
    dtypes = assigned("config/model.py", "ModelDType")
    assert ast.literal_eval(dtypes.removeprefix("Literal")) == list(DTYPES)
    assert "raw_logprobs" in assigned("config/model.py", "LogprobsMode")
