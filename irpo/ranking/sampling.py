"""Who draws answers from a policy: `transformers` here, or a `vllm` engine behind the same interface."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from irpo.ranking.decoding import Drawn, Sampling, answer_limit, as_drawn, sample_answers
from irpo.ranking.drawing import draw_whole
from irpo.registry import Registry
from irpo.scoring.models import four_bit_layers
from irpo.scoring.tokens import EncodedList
from irpo.types import UserError


class Sampler(Protocol):
    """A way of drawing answers; its fields are its options.

    It may say `by_name`: that it loads the base model by its name, and is given the policy as a LoRA adapter. It may be
    a `WholeSampler` as well.
    """

    def __call__(
        self,
        model: Any,
        tokenizer: Any,
        items: Sequence[EncodedList],
        sampling: Sampling,
        max_new_tokens: int | None = None,
    ) -> list[list[Drawn]]:
        """`sampling.samples` answers to each list's prompt, in the given order of lists."""
        ...


@runtime_checkable
class WholeSampler(Protocol):
    """A sampler that can draw along walks too, for `online.draw: constrained`."""

    def whole(self, model: Any, tokenizer: Any, items: Sequence[EncodedList], sampling: Sampling) -> list[list[Drawn]]:
        """`sampling.samples` complete answers to each list's prompt, as `draw_whole` has them."""
        ...


SAMPLERS: Registry[Sampler] = Registry("sampler")


@SAMPLERS.register("transformers")
@dataclass(frozen=True)
class Transformers:
    """Batched `generate` of the model itself; an answer depends on (seed, list id, number of the sample) alone."""

    answers_per_batch: int = 32

    def __call__(
        self,
        model: Any,
        tokenizer: Any,
        items: Sequence[EncodedList],
        sampling: Sampling,
        max_new_tokens: int | None = None,
    ) -> list[list[Drawn]]:
        size = self.answers_per_batch
        return sample_answers(model, tokenizer, items, sampling, lists_per_batch=size, max_new_tokens=max_new_tokens)

    def whole(self, model: Any, tokenizer: Any, items: Sequence[EncodedList], sampling: Sampling) -> list[list[Drawn]]:
        return draw_whole(model, tokenizer, items, sampling, answers_per_batch=self.answers_per_batch)


@SAMPLERS.register("vllm")
@dataclass(frozen=True)
class Vllm:
    """A vLLM engine (extra `vllm`, a GPU) that holds the base model once; the policy reaches it as a LoRA adapter.

    Where training is on a base in 4 bits, so is the engine: vLLM quantizes the same weights as it loads them.
    """

    by_name: ClassVar[bool] = True

    memory_fraction: float = 0.4  # of the GPU's memory, the engine's share beside training
    max_lora_rank: int = 64
    max_tokens: int = 4096  # prompt + answer

    def __call__(
        self,
        model: Any,
        tokenizer: Any,
        items: Sequence[EncodedList],
        sampling: Sampling,
        max_new_tokens: int | None = None,
    ) -> list[list[Drawn]]:
        if not sampling.strength.plain:
            raise UserError("sampler 'vllm' draws from the policy, at strength 1; take sampler 'transformers'")
        vllm = _library()
        if not hasattr(model, "peft_config"):
            raise UserError("sampler 'vllm' takes the policy as a LoRA adapter; set model.tuning to 'lora'")
        base = model.get_base_model()
        engine = _engine(base.config.name_or_path, self, four_bit_layers(base) > 0)
        stop = sorted({item.end for item in items} | {int(tokenizer.eos_token_id)})
        prompts = [{"prompt_token_ids": list(item.prompt)} for item in items]
        settings = [
            vllm.SamplingParams(
                n=sampling.samples,
                temperature=sampling.temperature,
                seed=sampling.seed % 2**32 + index,
                max_tokens=max_new_tokens or answer_limit(item),
                stop_token_ids=stop,
            )
            for index, item in enumerate(items)
        ]
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            adapter = vllm.lora.request.LoRARequest(Path(folder).name, _next_adapter(), folder)
            outputs = engine.generate(prompts, settings, use_tqdm=False, lora_request=adapter)
        return [[as_drawn(tokenizer, list(o.token_ids), stop) for o in found.outputs] for found in outputs]


def _library() -> Any:
    try:
        import vllm
        import vllm.lora.request
    except ImportError:
        raise UserError("sampler 'vllm' needs vLLM and a GPU: pip install 'irpo[vllm]'") from None
    return vllm


@cache
def _engine(base: str, options: Vllm, four_bit: bool) -> Any:
    """One engine a base model: loading it takes minutes."""
    # Answers drawn from other weights than the trained ones would be off-policy. Without a word vLLM loads whole ones.
    quantized = {"quantization": "bitsandbytes"} if four_bit else {}
    return _library().LLM(
        model=base,
        enable_lora=True,
        max_lora_rank=options.max_lora_rank,
        gpu_memory_utilization=options.memory_fraction,
        max_model_len=options.max_tokens,
        **quantized,
    )


_adapters: list[int] = []


def _next_adapter() -> int:
    """A number that no earlier adapter had: vLLM keeps an adapter's weights by it."""
    _adapters.append(len(_adapters) + 1)
    return _adapters[-1]
