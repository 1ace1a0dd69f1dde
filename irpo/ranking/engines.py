"""Who runs the model that ranks: this process by `transformers`, or vLLM behind the same few questions.

A ranking mode asks an `Engine`, and knows no more of it. Scores and answers of two engines are those of the same model
up to their arithmetic: another dtype, other kernels, another order of sums.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from irpo.registry import Registry
from irpo.types import Ranking, UserError

# What is heavy is imported where it is used: an engine's options are checked before that is loaded.
if TYPE_CHECKING:
    from irpo.config.schema import RankerConfig
    from irpo.prompting.prompts import PromptBuilder
    from irpo.scoring.kept import Kept
    from irpo.scoring.layout import Length, Scorer
    from irpo.scoring.strength import Strength
    from irpo.scoring.tokens import EncodedList


@runtime_checkable
class Engine(Protocol):
    """A model at work: what a ranking mode asks of it. Lists are given without labels, answers in their order."""

    @property
    def about(self) -> str:
        """What a report says of it: library, version, dtype."""
        ...

    def require(self, strength: Strength, *, writes: bool) -> None:
        """`UserError` where the model has no such strength, or with `writes` cannot write freely at it."""
        ...

    def batches(self, items: Sequence[EncodedList], lists_per_batch: int | None) -> list[list[int]]:
        """Indices of the lists that it is given at once."""
        ...

    def scores(
        self, items: Sequence[EncodedList], scorer: Scorer, strength: Strength, length: Length
    ) -> list[list[float]]:
        """The scorer's log-probabilities of each list's candidates, in nats, at a strength."""
        ...

    def texts(self, items: Sequence[EncodedList], strength: Strength) -> list[str]:
        """The most likely answer to each prompt, token by token, up to the end of its turn or its limit."""
        ...

    def rankings(self, items: Sequence[EncodedList], strength: Strength) -> list[Ranking]:
        """The answer to each prompt that takes the likeliest token of those that leave it a permutation."""
        ...


@dataclass(frozen=True)
class Here:
    """The model of this process, as training has it.

    With `kept` candidates in prompts of blocks are computed once and kept between queries.
    """

    model: Any
    tokenizer: Any
    kept: Kept | None = None

    @property
    def about(self) -> str:
        import transformers

        dtype = str(self.model.dtype).removeprefix("torch.")
        bits = ", 4 bits" if getattr(self.model, "is_loaded_in_4bit", False) else ""
        return f"transformers {transformers.__version__}, {dtype}{bits}"

    def require(self, strength: Strength, *, writes: bool) -> None:
        strength.require(self.model)
        if writes:
            strength.require_writing()

    def batches(self, items: Sequence[EncodedList], lists_per_batch: int | None) -> list[list[int]]:
        from irpo.ranking import in_batches

        return in_batches(items, self.model.device, lists_per_batch)

    def scores(
        self, items: Sequence[EncodedList], scorer: Scorer, strength: Strength, length: Length
    ) -> list[list[float]]:
        from irpo.scoring.strength import score_at

        found = score_at(self.model, self.tokenizer, items, scorer, strength, length=length, kept=self.kept)
        return [row.tolist() for row in found]

    def texts(self, items: Sequence[EncodedList], strength: Strength) -> list[str]:
        from irpo.ranking import generate_text

        return generate_text(self.model, self.tokenizer, items, lists_per_batch=len(items), strength=strength)

    def rankings(self, items: Sequence[EncodedList], strength: Strength) -> list[Ranking]:
        from irpo.ranking import constrained_ranking

        return constrained_ranking(self.model, self.tokenizer, items, lists_per_batch=len(items), strength=strength)


def engine_of(model: Any, tokenizer: Any, kept: Kept | None = None) -> Engine:
    """The engine that a model is, or the one that runs it here, with the candidates that are kept."""
    return model if isinstance(model, Engine) else Here(model, tokenizer, kept)


class Opening(Protocol):
    """A way of getting a model to work; its fields are its options.

    One that runs it here may have `kept`, GiB for candidates that are kept between queries, None: they are not.
    """

    def __call__(self, name: str, config: RankerConfig | None, builder: PromptBuilder) -> Any:
        """An `Engine`, or a model of this process (which `Here` runs), of a run, a folder or a hub id.

        `config` says how it is loaded, None: as a base model; `builder` how long prompt and answer may be.
        """
        ...


ENGINES: Registry[Opening] = Registry("engine")


@ENGINES.register("transformers")
@dataclass(frozen=True)
class Transformers:
    """The model in this process, on its GPU or CPU."""

    kept: float | None = None  # GiB for candidates of prompts of blocks, whose keys and values stay between queries

    def __post_init__(self) -> None:
        if self.kept is not None and not 0 < self.kept < math.inf:
            raise UserError(
                f"engine transformers: kept is {self.kept}; give the GiB, above 0, that candidates may take"
            )

    def __call__(self, name: str, config: RankerConfig | None, builder: PromptBuilder) -> Any:
        from irpo.progress import say
        from irpo.runs import load_options, load_weights
        from irpo.scorers import check_model

        model = load_weights(name, load_options(config) if config else None)
        # From here on it is known how its family is scored, as in training.
        if note := check_model(model):
            say(note)
        return model


@ENGINES.register("vllm")
@dataclass(frozen=True)
class Vllm:
    """vLLM: in this process (extra `vllm`, a GPU), or the server at `url`."""

    url: str | None = None  # of an OpenAI-compatible vLLM server: http://host:8000
    tensor_parallel: int = 1  # GPUs that share the model, in this process
    memory_fraction: float = 0.9  # of each GPU's memory, in this process

    def __post_init__(self) -> None:
        if self.tensor_parallel < 1:
            raise UserError(f"engine vllm: tensor_parallel is {self.tensor_parallel}; give 1 or more GPUs")
        if not 0 < self.memory_fraction <= 1:
            raise UserError(f"engine vllm: memory_fraction is {self.memory_fraction}; give a share above 0, at most 1")
        if self.url is not None and not self.url.startswith(("http://", "https://")):
            raise UserError(f"--engine-url {self.url!r}: write http://HOST:PORT of a vLLM server")
        if self.url is not None and self.tensor_parallel > 1:
            raise UserError("--tensor-parallel is of vLLM in this process; a server was started with its own")

    def __call__(self, name: str, config: RankerConfig | None, builder: PromptBuilder) -> Engine:
        from irpo.ranking.vllm.opening import open_engine

        return open_engine(name, config, builder, self)
