"""How many tokens lists take, and whether they fit a prompt's budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from irpo.config.schema import RunConfig, config_of, layered
from irpo.runs import run_config
from irpo.runs.rankers import is_ranker
from irpo.scoring.names import EMBEDDED
from irpo.types import RankingExample, Style, UserError

_NO_LIMIT = 2**40  # tokens
_SHIPPED = {EMBEDDED: "models/embedded.yaml"}  # a model whose budget a shipped file says


class Measured(NamedTuple):
    """Tokens of the lists that a prompt can hold, and why there is none for each other one: (the list, why)."""

    tokens: tuple[int, ...] = ()
    refused: tuple[tuple[RankingExample, str], ...] = ()


@dataclass(frozen=True)
class Budget:
    """What a list has to fit: a model's tokens, a style of prompt, and how many of prompt and answer together."""

    model: str
    style: Style
    max_tokens: int
    builder: Any  # a `PromptBuilder`

    @classmethod
    def of(cls, model: str, task: str, *, style: Style | None = None, max_tokens: int | None = None) -> Budget:
        """A run's folder, a file of layers (`models/llama3.2-1b.yaml`), `embedded`, a model's folder or hub id.

        The prompt is what training would build for the task: as the run or the file says, else as training's defaults.
        """
        from irpo.training.job import builder_of

        config = _config_of(model, task)
        given = {"style": style, "max_tokens": max_tokens}
        prompt = config.prompt.model_copy(update={key: value for key, value in given.items() if value is not None})
        builder = builder_of(config.model_copy(update={"prompt": prompt}))
        return cls(model, builder.style, builder.max_tokens, builder)

    def measure(self, examples: Sequence[RankingExample]) -> Measured:
        """Tokens of prompt and longest complete answer of each list, nothing cut; of lists without a prompt, why."""
        whole = replace(self.builder, max_tokens=_NO_LIMIT)
        tokens: list[int] = []
        refused = []
        for example in examples:
            try:
                tokens.append(int(whole.length(whole.build(example))))
            except UserError as error:
                refused.append((example, str(error)))
        return Measured(tuple(tokens), tuple(refused))


def _config_of(model: str, task: str) -> RunConfig:
    if (own := run_config(model)) is not None:
        return own
    model = _SHIPPED.get(model, model)
    files = [model] if is_ranker(model) else []
    named = [] if files else [f"model.name={model}"]
    # The objective is of no consequence for a prompt, but a run's configuration has one.
    return config_of(layered(["methods/irpo.yaml", *files], [*named, f"task.name={task}"]))
