"""A module `vllm` over a naive model: the same names and arguments, and no others.

Transcribed from vLLM 0.33.0: `entrypoints/llm.py` (LLM), `engine/arg_utils.py` (EngineArgs), `sampling_params.py`,
`lora/request.py`, `config/lora.py` (ranks), `outputs.py`, `logprobs.py`.
"""

from __future__ import annotations

import sys
import types
from dataclasses import dataclass
from typing import Any

from vllm_naive import naive_of

# Of the fields of EngineArgs those that a ranker could mean; LLM takes them all by name.
ENGINE_ARGS = frozenset(
    [
        "revision",
        "tokenizer_revision",
        "dtype",
        "kv_cache_dtype",
        "seed",
        "max_model_len",
        "tensor_parallel_size",
        "enable_prefix_caching",
        "gpu_memory_utilization",
        "max_logprobs",
        "logprobs_mode",
        "quantization",
        "enforce_eager",
        "enable_lora",
        "max_loras",
        "max_lora_rank",
        "lora_dtype",
        "max_cpu_loras",
        "generation_config",
        "trust_remote_code",
        "disable_log_stats",
        "skip_tokenizer_init",
    ]
)
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
DTYPES = ("auto", "half", "float16", "bfloat16", "float", "float32")


@dataclass
class SamplingParams:
    """Those of vLLM's fields that a request may set, with vLLM's defaults and ranges."""

    n: int = 1
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    watermarking: bool | None = None
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop: list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    logprob_token_ids: list[int] | None = None
    flat_logprobs: bool = False
    detokenize: bool = True
    skip_special_tokens: bool = True
    logit_bias: dict[int, float] | None = None
    allowed_token_ids: list[int] | None = None
    skip_reading_prefix_cache: bool | None = None

    def __post_init__(self) -> None:
        if self.n != 1 and self.temperature == 0:
            raise ValueError(f"n must be 1 when using greedy sampling, got {self.n}.")
        if not 0 <= self.temperature <= 2:
            raise ValueError(f"temperature must be in [0, 2], got {self.temperature}.")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {self.max_tokens}.")
        if len(self.logprob_token_ids or []) > 128:
            raise ValueError("Requested logprob_token_ids greater than max allowed: 128")
        if self.logprob_token_ids and self.logprobs not in (None, len(self.logprob_token_ids)):
            raise ValueError("logprobs must equal len(logprob_token_ids).")
        if max(self.logprobs or 0, self.prompt_logprobs or 0) > 20:
            raise ValueError("Requested logprobs greater than max allowed: 20")
        if not all(type(token) is int for token in self.stop_token_ids or []):
            raise ValueError("stop_token_ids must contain only integers")


@dataclass
class LoRARequest:
    lora_name: str
    lora_int_id: int
    lora_path: str = ""
    base_model_name: str | None = None
    load_inplace: bool = False
    is_3d_lora_weight: bool = False

    def __post_init__(self) -> None:
        if self.lora_int_id < 1:
            raise ValueError(f"id must be > 0, got {self.lora_int_id}")
        assert self.lora_path, "lora_path cannot be empty"


@dataclass
class Logprob:
    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


class FakeLLM:
    """`vllm.LLM`; `made` are those that were loaded."""

    made: list[FakeLLM]  # set by `fake_vllm`

    def __init__(self, model: str, **kwargs: Any) -> None:
        unknown = set(kwargs) - ENGINE_ARGS
        if unknown:
            raise TypeError(f"EngineArgs.__init__() got an unexpected keyword argument {sorted(unknown)[0]!r}")
        if kwargs.get("dtype", "auto") not in DTYPES or kwargs.get("max_lora_rank", 16) not in RANKS:
            raise ValueError(f"validation error: {kwargs}")
        if kwargs.get("quantization") is not None and kwargs["quantization"] not in self.quantizations:
            raise ValueError(f"Unknown quantization method: {kwargs['quantization']}.")
        self.arguments = {"model": model, **kwargs}
        self.naive, self.numbers = naive_of(model), dict[int, str]()
        self.asked: list[tuple[list[int], SamplingParams, LoRARequest | None]] = []
        self.made.append(self)

    quantizations: tuple[str, ...] = ("fp8", "awq", "gptq")  # 0.33 has no bitsandbytes of its own

    def generate(
        self,
        prompts: Any,
        sampling_params: Any = None,
        *,
        use_tqdm: bool = True,
        lora_request: LoRARequest | None = None,
        priority: Any = None,
        tokenization_kwargs: Any = None,
        mm_processor_kwargs: Any = None,
    ) -> list[Any]:
        assert isinstance(sampling_params, list)
        assert len(sampling_params) == len(prompts)
        assert all(set(prompt) == {"prompt_token_ids"} for prompt in prompts)
        name = self._adapter(lora_request)
        found = []
        for prompt, params in zip(prompts, sampling_params, strict=True):
            ids = prompt["prompt_token_ids"]
            assert isinstance(params, SamplingParams)
            assert isinstance(ids, list)
            if len(ids) + 1 > self.arguments["max_model_len"]:
                raise ValueError(f"The prompt (length {len(ids)}) is longer than the maximum model length")
            self.asked.append((ids, params, lora_request))
            found.append(self._answer(ids, params, name))
        return found

    def _adapter(self, request: LoRARequest | None) -> str | None:
        """vLLM keeps weights by an adapter's number; it reads the folder once."""
        if request is None:
            return None
        assert self.arguments.get("enable_lora")
        if request.lora_int_id not in self.numbers:
            self.naive.add(request.lora_name, request.lora_path)
            self.numbers[request.lora_int_id] = request.lora_name
        return self.numbers[request.lora_int_id]

    def _answer(self, ids: list[int], params: SamplingParams, name: str | None) -> Any:
        stop, limit = (
            params.stop_token_ids or [],
            min(params.max_tokens or 16, self.arguments["max_model_len"] - len(ids)),
        )
        sampled = self.naive.write(ids, name, limit=limit, temperature=params.temperature, seed=params.seed, stop=stop)
        logprobs = None
        if params.logprob_token_ids:
            row = self.naive.logprobs(ids, name)[-1]
            logprobs = [{t: Logprob(float(row[t])) for t in [sampled[0], *params.logprob_token_ids]}]
        of_prompt = None
        if params.prompt_logprobs is not None:
            rows = self.naive.logprobs(ids, name)
            of_prompt = [None, *({t: Logprob(float(rows[at, t]))} for at, t in enumerate(ids[1:]))]
        output = types.SimpleNamespace(token_ids=sampled, logprobs=logprobs, finish_reason="stop", text="")
        return types.SimpleNamespace(outputs=[output], prompt_logprobs=of_prompt, prompt_token_ids=ids)


def fake_vllm(monkeypatch: Any, *, quantizations: tuple[str, ...] = FakeLLM.quantizations) -> type[FakeLLM]:
    """Put the module in place of vLLM for a test; its `LLM`."""

    class LLM(FakeLLM):
        pass

    LLM.quantizations, LLM.made = quantizations, []
    vllm, lora, request = (types.ModuleType(name) for name in ("vllm", "vllm.lora", "vllm.lora.request"))
    vllm.__version__, vllm.LLM, vllm.SamplingParams, vllm.lora = "0.33.0", LLM, SamplingParams, lora  # type: ignore[attr-defined]
    lora.request, request.LoRARequest = request, LoRARequest  # type: ignore[attr-defined]
    for module in (vllm, lora, request):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    from irpo.ranking.vllm import library

    library.loaded.cache_clear()
    return LLM
