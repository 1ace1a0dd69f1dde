"""vLLM behind the ranking modes, against stand-ins of its server and of its library over a naive model.

Scores, answers and rankings through either are those of `transformers` in this process, to 1e-4 in float32.
"""

from __future__ import annotations

import math
import sys

import pytest
from test_strength import SHOWN
from tiny import tiny_model
from vllm_fake import fake_vllm
from vllm_naive import naive_of
from vllm_runs import TOKENIZER, close, here, lists, opened, saved_run

from irpo.prompting.prompts import PromptBuilder
from irpo.ranking import SAMPLERS, Sampling
from irpo.ranking.engines import ENGINES
from irpo.ranking.vllm import asking, reading, server
from irpo.ranking.vllm.asking import Adapter, Question, Writing, scaled
from irpo.ranking.vllm.engine import VllmEngine
from irpo.runs import ADAPTER, load_weights
from irpo.runs.rankers import ranker_config
from irpo.scorers import SCORERS
from irpo.scoring.strength import PLAIN, Strength
from irpo.types import UserError

WAYS = ("server", "library")
REWARD = Strength(math.inf)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return saved_run(tmp_path_factory.mktemp("vllm"))


# --- the numbers ------------------------------------------------------------------------------------------------------

READ = [
    *(("independent", "text"), ("independent", "response"), ("list", "text"), ("list", "label")),
    *(("label", "label"), ("stepwise", "label"), ("yes_no", "pointwise")),
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("request_costs", [0, 10**9])  # all by prefixes, all by texts
def test_scores_are_those_of_transformers(run, monkeypatch, way, request_costs):
    monkeypatch.setattr(reading, "REQUEST", request_costs)
    model = here(run)
    with opened(way, run, monkeypatch) as (engine, _):
        for name, style in READ:
            items, scorer = lists(style, 1), SCORERS.build(name)
            for strength, length in ((PLAIN, "sum"), (Strength(2.5), "mean")):
                close(engine.scores(items, scorer, strength, length), model.scores(items, scorer, strength, length))
        items, scorer = lists("text"), SCORERS.build("independent")
        close(engine.scores(items, scorer, REWARD, "sum"), model.scores(items, scorer, REWARD, "sum"))


@pytest.mark.parametrize(("family", "config"), [("gemma2", {}), ("qwen3", {}), ("phi3", {})])
def test_families_are_read_alike(tmp_path, monkeypatch, family, config):
    """Gemma 2 caps its logits low: a way that drops the cap is far off."""
    run = saved_run(tmp_path, family, **config)
    with opened("library", run, monkeypatch) as (engine, _):
        items, scorer = lists("text"), SCORERS.build("independent")
        close(engine.scores(items, scorer, PLAIN, "sum"), here(run).scores(items, scorer, PLAIN, "sum"))


@pytest.mark.parametrize("way", WAYS)
def test_answers_and_complete_rankings_are_those_of_transformers(run, monkeypatch, way):
    model = here(run)
    with opened(way, run, monkeypatch) as (engine, _):
        items = lists("label")
        assert engine.texts(items, PLAIN) == model.texts(items, PLAIN)
        for strength in (PLAIN, REWARD):
            assert engine.rankings(items, strength) == model.rankings(items, strength)


def test_a_strength_by_adapter_is_an_adapter_that_is_so_much_larger(run, monkeypatch):
    strength, items, scorer = Strength(1.7, "adapter"), lists("label"), SCORERS.build("label")
    with opened("library", run, monkeypatch) as (engine, _):
        close(engine.scores(items, scorer, strength, "sum"), here(run).scores(items, scorer, strength, "sum"))
        assert engine.texts(items, strength) == here(run).texts(items, strength)


def test_more_tokens_than_vllm_answers_at_once_are_asked_in_parts(run, monkeypatch):
    monkeypatch.setattr(reading, "MOST_TOKENS", 2)
    monkeypatch.setattr("irpo.ranking.vllm.engine.MOST_TOKENS", 2)
    items, scorer = lists("label"), SCORERS.build("label")
    with opened("library", run, monkeypatch) as (engine, llm):
        close(engine.scores(items, scorer, PLAIN, "sum"), here(run).scores(items, scorer, PLAIN, "sum"))
        assert {len(params.logprob_token_ids) for _, params, _ in llm.asked} == {1, 2}
        assert engine.rankings(items, PLAIN) == here(run).rankings(items, PLAIN)


def test_a_text_that_fills_the_room_is_asked_about_by_prefixes(run, monkeypatch):
    """vLLM generates a token behind every prompt, so a prompt may not fill its room."""
    items, scorer = lists("response", 1), SCORERS.build("independent")
    longest = len(items[0].prompt) + max(map(len, items[0].bodies))
    monkeypatch.setattr(reading, "REQUEST", 10**9)
    with opened("server", run, monkeypatch) as (engine, made):
        made.max_model_len = longest
        tight = VllmEngine(
            server.Server(made.url, made.name, "0.33.0", longest), TOKENIZER, engine.config, engine.ends, engine.adapter
        )
        close(tight.scores(items, scorer, PLAIN, "sum"), here(run).scores(items, scorer, PLAIN, "sum"))


def test_short_candidates_of_a_long_prompt_are_asked_by_prefixes_and_a_whole_list_as_a_text():
    prompt, item = tuple(range(1000)), lists("text", 1)[0]
    long = type(item)("q", prompt, item.heads, item.bodies, item.tail, item.relevance)
    by = {n: reading.Reading.of(SCORERS.build(n).layout(long)).by_prefix(9999, True) for n in ("independent", "list")}
    assert by == {"independent": True, "list": False}
    assert not reading.Reading.of(SCORERS.build("independent").layout(long)).by_prefix(9999, False)
    label = reading.Reading.of(SCORERS.build("label").layout(lists("label", 1)[0]))
    assert label.by_prefix(9999, True)
    assert len(label.questions) == 1


# --- what is sent -----------------------------------------------------------------------------------------------------


def test_nothing_is_left_to_a_servers_defaults_and_every_span_is_ours(run, monkeypatch):
    items = lists("label", 1)
    with opened("server", run, monkeypatch) as (engine, made):
        engine.scores(items, SCORERS.build("label"), Strength(2), "sum")
        engine.texts(items, PLAIN)
    labels, reference, answer = made.asked
    assert labels.prompt == [*items[0].prompt, *items[0].heads[0]]
    assert labels.logprob_token_ids == [body[0] for body in items[0].bodies]
    assert (labels.model, reference.model) == (Adapter(run / ADAPTER).name, made.name)  # with the adapter, and without
    assert labels.model_copy(update={"model": made.name}) == reference
    assert answer.prompt == list(items[0].prompt)
    assert set(answer.stop_token_ids) == {2, 3, items[0].end}
    assert answer.return_token_ids
    for sent in made.asked:  # the stand-in refuses what its generation_config.json would have a say in
        assert {"temperature", "top_p", "top_k", "min_p", "repetition_penalty"} <= sent.model_fields_set
        assert sent.temperature == 0


def test_vllm_in_this_process_holds_the_runs_weights(run, monkeypatch):
    with opened("library", run, monkeypatch) as (engine, llm):
        assert llm.arguments == {
            "model": str(run.parent / "base"),
            "revision": "main",
            "tokenizer_revision": "main",
            "dtype": "float32",  # as the run says
            "tensor_parallel_size": 1,
            "gpu_memory_utilization": 0.9,
            "max_model_len": 1024 + 512 + 64,
            "logprobs_mode": "raw_logprobs",
            "seed": 0,
            "enable_lora": True,
            "max_loras": 1,
            "max_lora_rank": 8,  # the least that vLLM has for the run's 4
        }
        engine.scores(lists("label", 1), SCORERS.build("label"), Strength(2), "sum")
        (_, _, policy), (_, _, reference) = llm.asked
        assert (policy.lora_path, reference) == (str(run / ADAPTER), None)
        assert engine.about == "vllm 0.33.0, float32"
    several = ENGINES.build({"name": "vllm", "tensor_parallel": 2, "memory_fraction": 0.5})
    builder = PromptBuilder(TOKENIZER, SHOWN, max_tokens=2048)
    base = several(str(run.parent / "base"), None, builder)
    assert sys.modules["vllm"].LLM.made[1].arguments == {  # no longer than the model's positions
        **{key: value for key, value in llm.arguments.items() if "lora" not in key},
        "tensor_parallel_size": 2,
        "gpu_memory_utilization": 0.5,
        "dtype": "bfloat16",
        "max_model_len": 2048,
    }
    assert base.about == "vllm 0.33.0, bfloat16, 2 GPUs"


@pytest.mark.parametrize("has", [True, False])
def test_a_run_in_four_bits_is_loaded_so_or_not_at_all(run, monkeypatch, has):
    llm = fake_vllm(monkeypatch, quantizations=("bitsandbytes",) if has else ("fp8",))
    config = ranker_config(str(run))
    config = config.model_copy(update={"model": config.model.model_copy(update={"quantization": "nf4"})})
    ask = ENGINES.build("vllm"), (str(run), config, PromptBuilder(TOKENIZER, SHOWN, max_tokens=1024))
    if not has:
        with pytest.raises(UserError, match=r"in 4 bits, for which it needs a plug-in.*Unknown quantization method"):
            ask[0](*ask[1])
        return
    assert ask[0](*ask[1]).about == "vllm 0.33.0, float32, 4 bits"
    assert llm.made[0].arguments["quantization"] == "bitsandbytes"


def test_an_adapters_name_says_its_weights(run, tmp_path):
    own = Adapter(run / ADAPTER)
    larger, other = scaled(own, 2.0), saved_run(tmp_path)
    assert len({own.name, larger.name}) == 2
    assert Adapter(other / ADAPTER).name == own.name  # the same weights, in another place
    path = other / ADAPTER / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    assert Adapter(other / ADAPTER).name != own.name


# --- drawing ----------------------------------------------------------------------------------------------------------


def test_the_sampler_draws_from_the_policy_with_a_seed_an_answer(run, monkeypatch):
    llm = fake_vllm(monkeypatch)
    model, items = load_weights(str(run)), lists("label")
    sampling = Sampling(0.7, 2, 5)
    drawn = SAMPLERS.build({"name": "vllm", "memory_fraction": 0.3})(model, TOKENIZER, items, sampling, 6)
    (made,) = llm.made
    assert made.arguments["model"] == str(run.parent / "base")
    assert (made.arguments["dtype"], made.arguments["gpu_memory_utilization"]) == ("float32", 0.3)
    assert [params.seed for _, params, _ in made.asked] == sampling.seeds(items)
    assert len(set(sampling.seeds(items))) == 4
    naive = naive_of(run.parent / "base")
    naive.add("policy", run / ADAPTER)
    for item, answers in zip(items, drawn, strict=True):
        for number, answer in enumerate(answers):
            seed = sampling.seeds([item])[number]
            own = naive.write(list(item.prompt), "policy", limit=6, temperature=0.7, seed=seed, stop=[item.end, 2])
            assert list(answer.tokens) == own
    with pytest.raises(UserError, match="takes the policy as a LoRA adapter"):
        SAMPLERS.build("vllm")(tiny_model(), TOKENIZER, items, sampling)
    with pytest.raises(UserError, match=r"temperatures from 0\.01 to 2, not 3"):
        SAMPLERS.build("vllm")(model, TOKENIZER, items, Sampling(3.0))


def test_a_server_draws_with_the_seeds_that_it_is_given(run, monkeypatch):
    with opened("server", run, monkeypatch) as (engine, made):
        prompt = lists("label", 1)[0].prompt
        how = [Writing(5, (3,), 0.8, seed) for seed in (7, 2**55)]
        found = engine.served.complete([prompt] * 2, how, engine.adapter)
        assert {(sent.temperature, sent.seed) for sent in made.asked} == {(0.8, 7), (0.8, 2**55)}
        naive = made.naive
        assert found == [
            tuple(naive.write(list(prompt), engine.adapter.name, limit=5, temperature=0.8, seed=one.seed, stop=[3]))
            for one in how
        ]


def test_nothing_is_asked_twice_of_a_list(run, monkeypatch):
    """One request a distinct prefix, whatever number of candidates begins alike."""
    with opened("library", run, monkeypatch) as (engine, llm):
        monkeypatch.setattr(reading, "REQUEST", 0)
        engine.scores(lists("text", 1), SCORERS.build("independent"), PLAIN, "sum")
        prefixes = [tuple(ids) for ids, _, _ in llm.asked]
        assert len(prefixes) == len(set(prefixes))
        assert asking.Question(prefixes[0], tuple(llm.asked[0][1].logprob_token_ids)) == Question(
            prefixes[0], tuple(dict.fromkeys(body[0] for body in lists("text", 1)[0].bodies))
        )
