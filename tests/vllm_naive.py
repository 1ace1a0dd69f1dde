"""A model that answers as vLLM does, by plain forward passes over one sequence: no cache, no batch, no code of ours."""

from __future__ import annotations

import threading
from functools import cache
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, GenerationConfig


@cache
def naive_of(folder: str | Path) -> Naive:
    """One model a folder, for all tests that have it served."""
    return Naive(folder)


class Naive:
    """A saved model, and adapters by their folders."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = str(folder)
        self._models: dict[str | None, Any] = {None: self._base()}
        self._lock = threading.Lock()  # a server asks from many threads
        eos = GenerationConfig.from_model_config(self._models[None].config).eos_token_id
        self.eos = set(eos if isinstance(eos, list) else [eos])
        self.vocabulary = self._models[None].config.vocab_size

    def _base(self) -> Any:
        return AutoModelForCausalLM.from_pretrained(
            self.folder, dtype=torch.float32, attn_implementation="eager"
        ).eval()

    def add(self, name: str, folder: str | Path) -> None:
        """Read an adapter from its folder, once; under its name from now on."""
        if name not in self._models:
            self._models[name] = PeftModel.from_pretrained(self._base(), str(folder)).eval()

    @torch.no_grad()
    def logits(self, ids: list[int], name: str | None) -> torch.Tensor:
        """Behind each token, (T, V)."""
        with self._lock:
            return self._models[name](input_ids=torch.tensor([ids])).logits[0].float()

    def logprobs(self, ids: list[int], name: str | None) -> torch.Tensor:
        """log p of every token behind each token, (T, V)."""
        return self.logits(ids, name).log_softmax(-1)

    def write(
        self, ids: list[int], name: str | None, *, limit: int, temperature: float, seed: int | None, stop: list[int]
    ) -> list[int]:
        """Tokens up to and with the one that ends the answer: the likeliest ones, or drawn."""
        generator = torch.Generator().manual_seed(seed or 0)
        answer: list[int] = []
        while len(answer) < limit:
            last = self.logits([*ids, *answer], name)[-1]
            if temperature == 0:
                answer.append(int(last.argmax()))
            else:
                answer.append(int(torch.multinomial((last / temperature).softmax(-1), 1, generator=generator)))
            if answer[-1] in {*stop, *self.eos}:
                break
        return answer
