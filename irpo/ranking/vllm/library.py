"""vLLM in this process: `vllm.LLM` (extra `vllm`, a GPU or several)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from irpo.processes import count
from irpo.ranking.vllm.asking import Adapter, Question, Writing, require_logprobs
from irpo.scoring.tokens import Tokens
from irpo.types import UserError

_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # what max_lora_rank may be


@dataclass(frozen=True)
class Loading:
    """The weights that an engine holds, and how."""

    base: str  # a folder or a hub id
    revision: str = "main"
    dtype: str = "bfloat16"
    four_bit: bool = False
    rank: int | None = None  # of the adapters that it will be given; None: none
    room: int = 4096  # tokens of prompt and answer
    tensor_parallel: int = 1
    memory_fraction: float = 0.9

    @property
    def arguments(self) -> dict[str, Any]:
        """As `vllm.LLM` takes them."""
        given: dict[str, Any] = {
            "model": self.base,
            "revision": self.revision,
            "tokenizer_revision": self.revision,
            "dtype": self.dtype,
            "tensor_parallel_size": self.tensor_parallel,
            "gpu_memory_utilization": self.memory_fraction,
            "max_model_len": self.room,
            "logprobs_mode": "raw_logprobs",
            "seed": 0,
        }
        if self.rank is not None:
            given |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": _rank(self.rank)}
        # Without a word vLLM loads whole weights, which are others than those that were trained on.
        return given | ({"quantization": "bitsandbytes"} if self.four_bit else {})


class Library:
    """A loaded `vllm.LLM`, as `irpo.ranking.vllm.asking.Served`."""

    def __init__(self, loading: Loading) -> None:
        if count() > 1:
            raise UserError(
                f"{count()} processes would each load vLLM: run one, which itself takes several GPUs "
                "(tensor_parallel), or ask a server (--engine-url)"
            )
        self._vllm, self._loading = library(), loading
        try:
            self._llm = self._vllm.LLM(**loading.arguments)
        except Exception as error:  # noqa: BLE001 - no GPU, too little memory, a family it has not: whatever it raises
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            bits = "in 4 bits, for which it needs a plug-in since 0.33; take --engine transformers. It says: "
            raise UserError(
                f"vLLM {self._vllm.__version__} cannot load {loading.base!r}{' ' + bits if loading.four_bit else ': '}"
                f"{reason}"
            ) from None

    @property
    def about(self) -> str:
        gpus = f", {self._loading.tensor_parallel} GPUs" if self._loading.tensor_parallel > 1 else ""
        bits = ", 4 bits" if self._loading.four_bit else ""
        return f"vllm {self._vllm.__version__}, {self._loading.dtype}{bits}{gpus}"

    @property
    def room(self) -> int:
        return self._loading.room

    def require_adapter(self, adapter: Adapter) -> None:
        if self._loading.rank is None or adapter.rank > _rank(self._loading.rank):
            raise UserError(f"the engine was loaded for adapters of rank {self._loading.rank}, not {adapter.rank}")

    def complete(
        self, prompts: Sequence[Tokens], how: Sequence[Writing], adapter: Adapter | None
    ) -> list[tuple[int, ...]]:
        settings = [
            self._settings(max_tokens=one.limit, temperature=one.temperature, seed=one.seed, stop_token_ids=[*one.stop])
            for one in how
        ]
        return [tuple(found.outputs[0].token_ids) for found in self._generate(prompts, settings, adapter)]

    def prompt_logprobs(self, texts: Sequence[Tokens], adapter: Adapter | None) -> list[list[float]]:
        settings = [self._settings(max_tokens=1, temperature=0.0, prompt_logprobs=0)] * len(texts)
        spoken = []
        for text, found in zip(texts, self._generate(texts, settings, adapter), strict=True):
            told = found.prompt_logprobs[1:]  # of the first token nothing is known
            spoken.append([float(at[token].logprob) for token, at in zip(text[1:], told, strict=True)])
            require_logprobs(spoken[-1])
        return spoken

    def next_logprobs(self, questions: Sequence[Question], adapter: Adapter | None) -> list[list[float]]:
        settings = [self._settings(max_tokens=1, temperature=0.0, logprob_token_ids=[*q.tokens]) for q in questions]
        told = []
        for question, found in zip(
            questions, self._generate([q.prefix for q in questions], settings, adapter), strict=True
        ):
            first = found.outputs[0].logprobs[0]
            require_logprobs([value.logprob for value in first.values()])
            told.append([float(first[token].logprob) for token in question.tokens])
        return told

    def _settings(self, **given: Any) -> Any:
        """All else is neutral: no penalty, no cut, whatever the model's generation_config.json says."""
        return self._vllm.SamplingParams(detokenize=False, **given)

    def _generate(self, prompts: Sequence[Tokens], settings: Sequence[Any], adapter: Adapter | None) -> list[Any]:
        asked = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        found: list[Any] = self._llm.generate(
            asked, list(settings), use_tqdm=False, lora_request=self._request(adapter)
        )
        return found

    def _request(self, adapter: Adapter | None) -> Any:
        if adapter is None:
            return None
        return self._vllm.lora.request.LoRARequest(adapter.name, _number(adapter.name), str(adapter.folder))


def library() -> Any:
    """The package; `UserError` where it is not installed."""
    try:
        import vllm
        import vllm.lora.request
    except ImportError:
        raise UserError(
            "vLLM is not here: pip install 'irpo[vllm]' on a machine with a GPU, or give --engine-url of a server"
        ) from None
    return vllm


@cache
def loaded(loading: Loading) -> Library:
    """One engine for the same weights: loading takes minutes."""
    return Library(loading)


def _rank(rank: int) -> int:
    """The least that vLLM has for a rank."""
    fitting = [most for most in _RANKS if most >= rank]
    if not fitting:
        raise UserError(f"the adapter's rank is {rank}; vLLM takes up to {_RANKS[-1]}: take --engine transformers")
    return fitting[0]


_numbers: dict[str, int] = {}


def _number(name: str) -> int:
    """A number from 1 for each adapter: vLLM keeps an adapter's weights by it."""
    return _numbers.setdefault(name, len(_numbers) + 1)
