"""The three questions that both ways into vLLM answer, all in token ids."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

from irpo.files import sha256_of
from irpo.scoring.tokens import Tokens
from irpo.types import UserError

MOST_TOKENS = 128  # that vLLM gives log-probabilities of at one place (MAX_LOGPROB_TOKEN_IDS)
_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_SCALES = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora")  # of the config, what scales the weights


@dataclass(frozen=True)
class Writing:
    """How one answer is written: up to `limit` tokens, to the first of `stop`; greedy at temperature 0."""

    limit: int
    stop: tuple[int, ...]
    temperature: float = 0.0
    seed: int | None = None


@dataclass(frozen=True)
class Question:
    """log p(token | prefix) of each of these tokens is asked for."""

    prefix: Tokens
    tokens: Tokens


@dataclass(frozen=True)
class Adapter:
    """A saved LoRA adapter. Its `name` says its weights: an engine that holds others under it there cannot be."""

    folder: Path
    kept: Any = None  # what must live as long as the folder does

    @cached_property
    def config(self) -> dict[str, Any]:
        """As peft wrote it."""
        try:
            found: dict[str, Any] = json.loads((self.folder / _CONFIG).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"the adapter in {self.folder} cannot be read: {error}") from None
        return found

    @cached_property
    def name(self) -> str:
        """By weights and scale, the same on every machine."""
        if not (self.folder / _WEIGHTS).is_file():
            raise UserError(f"the adapter in {self.folder} holds no {_WEIGHTS}, which is what vLLM reads")
        scales = json.dumps([self.config.get(key) for key in _SCALES], sort_keys=True)
        return "irpo-" + sha256((sha256_of(self.folder / _WEIGHTS) + scales).encode()).hexdigest()[:16]

    @property
    def rank(self) -> int:
        """The largest of its layers."""
        return max(int(rank) for rank in [self.config["r"], *(self.config.get("rank_pattern") or {}).values()])


@cache
def scaled(adapter: Adapter, value: float) -> Adapter:
    """The adapter `value` times as large: a folder of its own with the same weights, for as long as this process."""
    place = tempfile.TemporaryDirectory(prefix="irpo-adapter-")
    config = {
        **adapter.config,
        "lora_alpha": adapter.config["lora_alpha"] * value,
        "alpha_pattern": {key: alpha * value for key, alpha in (adapter.config.get("alpha_pattern") or {}).items()},
    }
    (Path(place.name) / _CONFIG).write_text(json.dumps(config), encoding="utf-8")
    (Path(place.name) / _WEIGHTS).symlink_to((adapter.folder / _WEIGHTS).resolve())
    return Adapter(Path(place.name), kept=place)


class Served(Protocol):
    """Weights in vLLM. `adapter` None is the base model, which is the reference."""

    @property
    def about(self) -> str:
        """Library, version, dtype."""
        ...

    @property
    def room(self) -> int:
        """Tokens that prompt and answer may have together."""
        ...

    def require_adapter(self, adapter: Adapter) -> None:
        """`UserError` where it cannot be used with these weights."""
        ...

    def complete(
        self, prompts: Sequence[Tokens], how: Sequence[Writing], adapter: Adapter | None
    ) -> list[tuple[int, ...]]:
        """The tokens of an answer to each prompt."""
        ...

    def prompt_logprobs(self, texts: Sequence[Tokens], adapter: Adapter | None) -> list[list[float]]:
        """log p of each token of each text but its first."""
        ...

    def next_logprobs(self, questions: Sequence[Question], adapter: Adapter | None) -> list[list[float]]:
        """log p(token | prefix) of each question's tokens, at most `MOST_TOKENS`, of the whole vocabulary."""
        ...


def require_logprobs(values: Sequence[float]) -> None:
    """`UserError` where one is above 0: an engine that was started to give logits gives those under this name."""
    if any(value > 1e-3 or math.isnan(value) for value in values):
        raise UserError("vLLM gives numbers that are no log-probabilities; start it with --logprobs-mode raw_logprobs")
