"""Who draws answers from a policy: `transformers` here, or `vllm` behind the same interface."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from irpo.ranking.decoding import Drawn, Sampling, answer_limit, as_drawn, sample_answers
from irpo.ranking.drawing import draw_whole
from irpo.ranking.vllm.asking import Adapter, Writing
from irpo.ranking.vllm.library import Loading, library, loaded
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
    """vLLM in this process (extra `vllm`, a GPU): the base model once; the policy reaches it as a LoRA adapter.

    Where training is on a base in 4 bits, so is vLLM, or it says that it cannot. An answer's seed is that of
    `transformers`' answer, its tokens are others: vLLM draws in its own way.
    """

    by_name: ClassVar[bool] = True

    memory_fraction: float = 0.4  # of each GPU's memory, vLLM's share beside training
    max_tokens: int = 4096  # prompt + answer
    tensor_parallel: int = 1  # GPUs that share the model

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
        if not 0.01 <= sampling.temperature <= 2:
            raise UserError(f"sampler 'vllm' draws at temperatures from 0.01 to 2, not {sampling.temperature:g}")
        library()
        if not hasattr(model, "peft_config"):
            raise UserError("sampler 'vllm' takes the policy as a LoRA adapter; set model.tuning to 'lora'")
        if any(item.blocks for item in items):
            raise UserError(
                "sampler 'vllm' knows no prompt.attention 'block'; take online.sampler {name: transformers}"
            )
        stop = tuple(sorted({item.end for item in items} | {int(tokenizer.eos_token_id)}))
        repeated = [item for item in items for _ in range(sampling.samples)]
        how = [
            Writing(max_new_tokens or answer_limit(item), stop, sampling.temperature, seed)
            for item, seed in zip(repeated, sampling.seeds(items), strict=True)
        ]
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            policy = Adapter(Path(folder))
            tokens = loaded(self._loading(model, policy)).complete([item.prompt for item in repeated], how, policy)
        found = [as_drawn(tokenizer, answer, stop) for answer in tokens]
        return [found[i : i + sampling.samples] for i in range(0, len(found), sampling.samples)]

    def _loading(self, model: Any, policy: Adapter) -> Loading:
        base = model.get_base_model()
        return Loading(
            base=base.config.name_or_path,
            revision=getattr(base.config, "_commit_hash", None) or "main",
            dtype=str(base.dtype).removeprefix("torch."),
            four_bit=four_bit_layers(base) > 0,
            rank=policy.rank,
            room=self.max_tokens,
            tensor_parallel=self.tensor_parallel,
            memory_fraction=self.memory_fraction,
        )
