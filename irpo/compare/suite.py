"""A suite: models x tasks x methods x seeds under one protocol, in a short YAML file.

    title: Which loss for my lists?
    models: [models/llama3.2-3b.yaml]
    tasks: [{layers: [tasks/jsonl.yaml], set: {task.data: my_lists}}]
    methods: [base, methods/sft.yaml, methods/dpo.yaml, methods/irpo.yaml]
    seeds: 5
    search:
      trials: 6
      space:
        training.learning_rate: [2.0e-5, 1.0e-4, 5.0e-4]
        method.objective.beta: [0.1, 1.0]

A run's configuration is made of the layers of its model, task and method and of the suite, in this order; then of what
the suite, the model, the task and the method `set`, then of the setting that the search chose, and the seed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, field_validator, model_validator

from irpo.compare.cells import folder_of
from irpo.config.checks import require_plugins
from irpo.config.layers import Layers, find_config, written
from irpo.config.schema import MeasureName, Positive, RunConfig, _Section, config_of
from irpo.registry import load_plugins
from irpo.resources import configs_dir
from irpo.types import UserError

BASE = "base"
BEST = "best"  # of `against`: the method that validation lists choose
UNTRAINED = ("methods/sft.yaml",)  # what an untrained model is scored by: no loss of it is ever taken

Value = float | int | str
Seed = Annotated[int, Field(ge=0)]


def _as_dimension(given: Any) -> Any:
    return {"values": given} if isinstance(given, list | tuple) else given


class Dimension(_Section):
    """One axis of a search; of several keys a method takes the first that it has."""

    key: tuple[str, ...] = ()  # by default the dimension's own name
    values: Annotated[tuple[Value, ...], Field(min_length=1)]

    @field_validator("key", mode="before")
    @classmethod
    def _one_or_several(cls, given: Any) -> Any:
        return (given,) if isinstance(given, str) else given


class Search(_Section):
    """An equal search for every method, chosen on validation lists."""

    trials: Positive
    space: Annotated[dict[str, Annotated[Dimension, BeforeValidator(_as_dimension)]], Field(min_length=1)]
    by: Literal["1", "auto"] = "auto"  # the strength at which validation lists are ranked
    seed: Seed = 1000  # of its runs; what is chosen is trained anew with the suite's seeds

    @field_validator("by", mode="before")
    @classmethod
    def _as_word(cls, given: Any) -> Any:
        return str(given)


def _as_entry(given: Any) -> Any:
    if given == BASE:
        return {"name": BASE, "trains": False}
    return {"layers": [given]} if isinstance(given, str) else given


class Entry(_Section):
    """A model, a task or a method: its layers, what is set over them, and what tables call it."""

    name: str = ""  # by default of its last layer's file
    layers: tuple[str, ...] = ()
    set: dict[str, Any] = Field(default_factory=dict)
    data: str = ""  # of a task: its folder among the user's (`--data`); without these `set` may say task.data: hub
    family: str = ""  # of a task: those of one family stand in one table
    measures: tuple[MeasureName, ...] = ()  # of a task: the table's columns; by default the suite's
    trains: bool = True  # of a method: whether it learns, or is measured as it comes
    # Of a method: other values of a dimension; null: not searched.
    space: dict[str, tuple[Value, ...] | None] = Field(default_factory=dict)
    trials: Positive | None = None  # of a method: more or fewer than the others, which the tables mark

    @model_validator(mode="before")
    @classmethod
    def _named(cls, given: Any) -> Any:
        if isinstance(given, dict) and not given.get("name") and given.get("layers"):
            return given | {"name": Path(str(given["layers"][-1])).stem}
        return given


Entries = Annotated[tuple[Annotated[Entry, BeforeValidator(_as_entry)], ...], Field(min_length=1)]


_OWN = {  # what an entry of an axis says beside its name, layers and settings
    "models": (),
    "tasks": ("data", "family", "measures"),
    "methods": ("trains", "space", "trials"),
    "rankers": (),
}


def _each_once(given: tuple[Any, ...]) -> tuple[Any, ...]:
    again = next((value for i, value in enumerate(given) if value in given[:i]), None)
    if again is not None:
        raise ValueError(f"{again!r} stands there twice")
    return given


class Suite(_Section):
    """What is compared, and how."""

    title: str
    about: str = ""
    models: Entries
    tasks: Entries
    methods: Entries
    rankers: tuple[Annotated[Entry, BeforeValidator(_as_entry)], ...] = ()  # with a model of their own, untrained
    layers: tuple[str, ...] = ()
    set: dict[str, Any] = Field(default_factory=dict)
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1), AfterValidator(_each_once)] = (0,)
    search: Search | None = None
    strengths: Annotated[tuple[Literal["1", "auto"], ...], Field(min_length=1), AfterValidator(_each_once)] = (
        "1",
        "auto",
    )
    orders: Positive = 1  # candidate orders in which lists are ranked by score; the tables are of the prepared one
    decoded_lists: Positive | None = None  # the first so many are ranked by answers too; None: all
    measures: Annotated[tuple[MeasureName, ...], Field(min_length=1)] = ("NDCG@1", "NDCG@5", "NDCG@10")
    against: tuple[str, ...] = ()  # what every other method is tested against; by default base and the first method
    printed: str = ""  # a file of a paper's figures, beside the suite's
    keep_runs: bool = False  # leave the trained runs in their cells' folders

    @field_validator("seeds", mode="before")
    @classmethod
    def _count(cls, given: Any) -> Any:
        return tuple(range(given)) if isinstance(given, int) and not isinstance(given, bool) else given

    @field_validator("strengths", mode="before")
    @classmethod
    def _words(cls, given: Any) -> Any:
        return tuple(map(str, given)) if isinstance(given, list | tuple) else given

    @model_validator(mode="after")
    def _names_are_names(self) -> Self:
        for what, entries in (
            ("models", self.models),
            ("tasks", self.tasks),
            ("methods", (*self.methods, *self.rankers)),
        ):
            names = [entry.name for entry in entries]
            if not all(names):
                raise ValueError(f"{what}: one has neither a name nor layers")
            folders = [folder_of(name).casefold() for name in names]
            again = next((i for i, folder in enumerate(folders) if folder in folders[:i]), None)
            if again is not None:
                first = names[folders.index(folders[again])]
                alike = "" if first == names[again] else f" and {names[again]!r}, which is the same as a folder's name"
                raise ValueError(f"{what}: two are called {first!r}{alike}; give one of them another name")
        unknown = [name for name in self.against if name not in [BEST, *(m.name for m in self.methods)]]
        if unknown:
            raise ValueError(f"against: {unknown[0]!r} is no method of this suite")
        for method in self.methods:
            learns = any(key.startswith(("method", "online")) for key in (*method.set, *self.set))
            if method.trains and not (method.layers or learns):
                raise ValueError(f"method {method.name!r}: it has no layers, so no objective: {_like(method.name)}")
            strange = [name for name in method.space if self.search is None or name not in self.search.space]
            if strange:
                raise ValueError(f"method {method.name!r}: space has {strange[0]!r}, which the search has not")
        return self

    @model_validator(mode="after")
    def _each_says_its_own(self) -> Self:
        """What a task alone can say, or a method alone, is not passed over elsewhere."""
        for what, own in _OWN.items():
            for entry in getattr(self, what):
                others = Entry.model_fields.keys() - {"name", "layers", "set", *own}
                if strange := sorted(key for key in others if getattr(entry, key) != getattr(Entry(), key)):
                    raise ValueError(f"{what}: {entry.name!r} says {strange[0]!r}, which is not of {what}")
        for entry in (*self.models, *self.methods):
            for key in _dotted(entry.set):
                if key.startswith("task.") or key == "evaluation.max_lists":
                    raise ValueError(f"{entry.name!r} sets {key}: lists are the same for all; set it for the task")
        for name, dimension in self.search.space.items() if self.search else ():
            for key in dimension.key or (name,):
                if key.startswith(("task.", "evaluation.", "ranking.")) or key == "seed":
                    raise ValueError(f"search.space.{name}: {key} is of the comparison, not of a method")
        return self

    @property
    def references(self) -> tuple[str, ...]:
        """What every other method is tested against."""
        untrained = [m.name for m in self.methods if not m.trains]
        trained = [m.name for m in self.methods if m.trains]
        return self.against or (*untrained[:1], *trained[:1])

    def config(self, model: Entry, task: Entry, method: Entry, setting: Mapping[str, Value], seed: int) -> RunConfig:
        """The configuration of a run, its plug-ins checked; `UserError` names a layer's line, or what is set."""
        layers = self._layers(model, task, method)
        _override(layers, {**setting, "seed": seed})
        return _checked(layers)

    def ranker_config(self, task: Entry, ranker: Entry) -> RunConfig:
        """How a ranker with a model of its own is measured on a task: what it says itself wins over the suite."""
        layers = Layers()
        for name in (*task.layers, *UNTRAINED, *self.layers):
            layers.add_file(name)
        _override(layers, self.set, task.set)
        for name in ranker.layers:
            layers.add_file(name)
        _override(layers, ranker.set)
        return _checked(layers)

    def _layers(self, model: Entry, task: Entry, method: Entry) -> Layers:
        layers = Layers()
        own = method.layers or UNTRAINED
        for name in (*model.layers, *task.layers, *own, *self.layers):
            layers.add_file(name)
        _override(layers, self.set, model.set, task.set, method.set)
        return layers


def _dotted(values: Mapping[str, Any], above: str = "") -> list[str]:
    """The keys of what is `set`, whether they are dotted or one in another."""
    found = []
    for key, value in values.items():
        found += _dotted(value, f"{above}{key}.") if isinstance(value, Mapping) and value else [f"{above}{key}"]
    return found


def _like(name: str) -> str:
    """A layer that the name may stand for, as an example."""
    stem = re.sub(r"[^a-z0-9]+", "_", name.lower())
    known = [stem] if (configs_dir() / "methods" / f"{stem}.yaml").is_file() else ["irpo"]
    return f"write methods/{known[0]}.yaml, or layers: [methods/{known[0]}.yaml]"


def _override(layers: Layers, *several: Mapping[str, Any]) -> None:
    for more in several:
        for key, value in more.items():
            layers.add_override(f"{key}={_spelt(value)}")


def _checked(layers: Layers) -> RunConfig:
    config = config_of(layers)
    load_plugins(config.plugins)
    require_plugins(config, layers)
    return config


def _spelt(value: Any) -> str:
    """A value as an override writes it, so that YAML reads it back."""
    if isinstance(value, dict | list | tuple):
        return json.dumps(value)  # which is YAML, in one line
    return written({"value": value}).removeprefix("value: ").strip()


def read_suite(name: str | Path, data: Path | None = None) -> Suite:
    """A suite's file, or a shipped one by its name; every mistake is one line with the file and the line in it.

    `data` is a folder with one for each task that says its name.
    """
    path = find_config(name)
    layers = Layers()
    layers.add_file(path)
    try:
        suite = Suite.model_validate({"title": path.stem} | layers.merged)
    except ValidationError as error:
        raise _mistake(path, layers, error) from None
    if data is not None and not data.is_dir():
        raise UserError(f"--data {data}: there is no such folder")
    return suite.model_copy(update={"tasks": tuple(_fed(task, data) for task in suite.tasks)})


def _fed(task: Entry, data: Path | None) -> Entry:
    """The task with its own folder among the user's; without these what it says itself, else a folder here."""
    if not task.data or (data is None and "task.data" in task.set):
        return task
    return task.model_copy(update={"set": task.set | {"task.data": str((data or Path()) / task.data)}})


def _mistake(path: Path, layers: Layers, error: ValidationError) -> UserError:
    first = next((e for e in error.errors() if e["type"] == "extra_forbidden"), error.errors()[0])
    keys = tuple(str(part) for part in first["loc"])
    place = layers.where(keys) or f"{path}: "
    key = ".".join(keys)
    if first["type"] == "extra_forbidden":
        known = ", ".join((Suite if len(keys) == 1 else Entry if keys[0] != "search" else Search).model_fields)
        return UserError(f"{place}unknown key {key!r}; the keys are: {known}")
    if first["type"] == "missing":
        return UserError(f"{path}: {key!r} is not set; a suite names models, tasks and methods")
    reason = first["msg"].removeprefix("Value error, ").replace("tuple", "list").replace("dictionary", "mapping")
    return UserError(f"{place}{key}: {reason}" if key else f"{place}{reason}")


def narrowed(suite: Suite, only: Sequence[str]) -> Suite:
    """The suite with only what `task=arc`, `method=irpo`, `model=...` name; the base model stays for the tests."""
    wanted: dict[str, list[str]] = {}
    for text in only:
        kind, equals, name = text.partition("=")
        if not equals or kind not in ("task", "method", "model"):
            raise UserError(f"--only {text!r}: write task=NAME, method=NAME or model=NAME")
        wanted.setdefault(f"{kind}s", []).append(name)
    changed: dict[str, Any] = {}
    for what, names in wanted.items():
        entries: tuple[Entry, ...] = getattr(suite, what)
        if what == "methods":
            entries = (*entries, *suite.rankers)
        folded = {entry.name.casefold(): entry for entry in entries} | {
            Path(layer).stem.casefold(): entry for entry in entries for layer in entry.layers[-1:]
        }
        for name in names:
            if name.casefold() not in folded:
                there = ", ".join(entry.name for entry in entries)
                raise UserError(f"--only: the suite has no {what[:-1]} {name!r}; it has {there}")
        kept = {folded[name.casefold()].name for name in names}
        changed[what] = tuple(e for e in getattr(suite, what) if e.name in kept or (what == "methods" and not e.trains))
        if what == "methods":
            changed["rankers"] = tuple(ranker for ranker in suite.rankers if ranker.name in kept)
    methods = changed.get("methods", suite.methods)
    against = tuple(name for name in suite.against if name in [BEST, *(m.name for m in methods)])
    return suite.model_copy(update=changed | {"against": against})
