"""Adapters of several runs on one base model: whether they can share it, and which of them is on.

That they can is known before anything heavy is imported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from irpo.config.schema import RankerConfig, RunConfig
from irpo.progress import say
from irpo.runs import ADAPTER, FULL, load_options, load_weights, model_below, run_config
from irpo.runs.key import fingerprint
from irpo.runs.rankers import is_ranker, model_behind, ranker_config
from irpo.scoring.names import commit_of, is_of_hub, pinned
from irpo.types import UserError

_LONGEST = 100  # characters of a name


@dataclass
class SharedBase:
    """An engine's `Opening`: base weights in memory once, loaded as one of the runs says, and adapters on them.

    One adapter is on at a time. The base's own ranker is opened first: what is asked of a model without an adapter is
    asked while there is none.
    """

    name: str
    like: RunConfig | RankerConfig  # how it is loaded
    adapters: dict[str, str] = field(default_factory=dict)  # by run: what peft calls its adapter
    kept: float | None = None  # GiB for candidates that each ranker keeps
    _base: Any = None
    _adapted: Any = None  # the base with all adapters, once there is one
    _on: str | None = None

    def __call__(self, name: str, config: RankerConfig | None, builder: Any) -> Any:
        """The base, or with a run's name the base with that run's adapter, too."""
        from irpo.scorers import check_model

        if self._base is None:
            self._base = load_weights(self.name, load_options(self.like), merge=True)
        model = self._base if name == self.name else self._with(name)
        if note := check_model(model):
            say(note)
        return model

    def _with(self, run: str) -> Any:
        from irpo.scoring.models import load_adapter

        if run not in self.adapters:
            own = f"adapter{len(self.adapters)}"  # peft allows no dot in it
            lies_on = self._base if self._adapted is None else self._adapted
            self._adapted = load_adapter(lies_on, Path(run) / ADAPTER, name=own)
            self.adapters[run] = own
        return self._adapted

    @contextmanager
    def with_adapter(self, adapter: str | None) -> Iterator[None]:
        """The base at work with one adapter, or with none; within the rerankers' lock."""
        from irpo.scoring.models import adapter_off

        if adapter is not None and adapter != self._on:
            self._adapted.set_adapter(adapter, inference_mode=True)
            self._on = adapter
        off: AbstractContextManager[None] = adapter_off(self._base) if adapter is None else nullcontext()
        with off:
            yield


def public_name(model: str) -> str:
    """What a model is called where no path may be said.

    >>> public_name("/data/runs/films"), public_name("meta-llama/Llama-3.2-3B"), public_name("rankers/first.yaml")
    ('films', 'meta-llama/Llama-3.2-3B', 'first')
    """
    path = Path(model)
    if path.suffix in (".yaml", ".yml"):
        return path.stem
    return path.resolve().name or "model" if path.exists() or path.is_absolute() else model


def shared_base(model: str, adapters: Mapping[str, Path]) -> SharedBase | None:
    """What the model and all runs begin with, of the hub's at one commit; None where the model is alone.

    `UserError` in one line for a run whose base is another, or loaded otherwise, or which learnt all weights.
    """
    first, own = public_name(model), run_config(model)
    for name in adapters:
        if name == first or len(name) > _LONGEST or not name.isprintable():
            raise UserError(f"--adapter {name[:_LONGEST]!r}: give a short name of its own, not {first!r}, the model's")
    flags = {f"--adapter {name}={path}": path for name, path in adapters.items()}
    if not flags:
        return None
    runs = {} if own is None else {f"--model {model}": (Path(model), own)}
    runs |= {flag: (path, _of_run(flag, path)) for flag, path in flags.items()}
    loaded: dict[str, RunConfig | RankerConfig] = {flag: config for flag, (_, config) in runs.items()}
    if is_ranker(model) and (ranker := ranker_config(model)) is not None:
        loaded = {f"--model {model}": ranker, **loaded}
    base = _base(model, next(iter(runs.values()))[0])
    for flag, (path, _) in runs.items():
        if (path / FULL).is_dir():
            raise UserError(f"{flag}: the run learnt all weights and has no adapter; serve it alone, by --model")
        below = model_below(str(path)) or ""
        if fingerprint(below) != fingerprint(base):
            raise UserError(f"{flag}: its base is {below!r}, not {base!r}; all share one base")
    return SharedBase(base, _alike(loaded))


def _alike(loaded: Mapping[str, RunConfig | RankerConfig]) -> RunConfig | RankerConfig:
    """How all of them load their model; `UserError` where one does otherwise."""
    said, like = next(iter(loaded.items()))
    for flag, config in loaded.items():
        for key in ("quantization", "dtype", "attention"):
            one, other = getattr(config.model, key), getattr(like.model, key)
            if one != other:
                raise UserError(f"{flag}: model.{key} is {one!r}, and {other!r} in {said}; all share one base")
    return like


def _base(model: str, run: Path) -> str:
    """What a model that is a run was trained on, or what it names; of a hub id without a commit the first run's."""
    theirs = model_below(str(run)) or ""
    if run == Path(model):
        return theirs
    name = model_behind(model)
    if not is_of_hub(name):
        return name
    return theirs if name == theirs.partition("@")[0] else pinned(name, commit_of(name))


def _of_run(flag: str, path: Path) -> RunConfig:
    config = run_config(path)
    if config is None:
        raise UserError(f"{flag}: this is no run's folder; give NAME=RUN, a folder that `irpo train` wrote")
    return config
