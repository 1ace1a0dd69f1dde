"""What lends a model its prompt and scorer: the run that it came from, or a ranker's configuration."""

from __future__ import annotations

from pathlib import Path

from irpo.config.schema import RankerConfig, load_ranker
from irpo.runs import run_config
from irpo.runs.exported import exported_config, fetched, is_exported
from irpo.types import UserError


def is_ranker(name: str) -> bool:
    """Whether a model's name is a ranker's configuration.

    >>> is_ranker("rankers/first.yaml"), is_ranker("runs/x")
    (True, False)
    """
    return Path(name).suffix in (".yaml", ".yml")


def ranker_config(name: str) -> RankerConfig | None:
    """How a run's model, an exported one or that of a configuration such as `rankers/first.yaml`, ranks.

    None for a bare model. `UserError` for a configuration whose model is a run or an exported one: that has a prompt
    and a strength of its own.
    """
    if not is_ranker(name):
        run, folder = run_config(name), fetched(name)
        if run is not None:
            return RankerConfig.of(run)
        return exported_config(folder) if is_exported(folder) else None
    config = load_ranker(name)
    below = config.model.name
    trained = "a run" if run_config(below) is not None else "an exported ranker" if is_exported(fetched(below)) else ""
    if trained:
        raise UserError(f"{name}: model.name = {below!r} is {trained}, which ranks as it was trained; give that")
    return config


def model_behind(name: str) -> str:
    """The model that a ranker's configuration names; any other name is itself."""
    return load_ranker(name).model.name if is_ranker(name) else name
