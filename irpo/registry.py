"""Plug-in points: a name maps to a frozen dataclass whose fields are its options.

A user's package adds a plug-in by decorating a class and naming its module under `plugins:` in the configuration.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar, get_type_hints

from pydantic import TypeAdapter, ValidationError

from irpo.types import UnknownName, UserError

T = TypeVar("T")
C = TypeVar("C", bound=type)

Spec = str | Mapping[str, Any]  # "irpo", or {"name": "irpo", "beta": 0.1}


class Registry(Generic[T]):
    """The plug-ins of one kind ("objective", "task", ...); iterating gives their names, sorted."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._classes: dict[str, type] = {}

    def register(self, name: str) -> Callable[[C], C]:
        """Class decorator; the class must be a frozen dataclass and the name free."""

        def add(cls: C) -> C:
            if not (dataclasses.is_dataclass(cls) and cls.__dataclass_params__.frozen):  # type: ignore[attr-defined]
                raise TypeError(f"{self.kind} {name!r}: {cls.__name__} must be a frozen dataclass")
            if self._classes.get(name, cls).__qualname__ != cls.__qualname__:
                raise UserError(f"{self.kind} {name!r} is registered twice")
            self._classes[name] = cls
            return cls

        return add

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._classes))

    def __contains__(self, name: object) -> bool:
        return name in self._classes

    def get(self, name: str) -> type:
        """The class registered under a name; `UnknownName` lists what there is."""
        if name not in self._classes:
            raise UnknownName(f"unknown {self.kind} {name!r}; choose from {', '.join(self)}")
        return self._classes[name]

    def options(self, name: str) -> dict[str, dataclasses.Field[Any]]:
        """The option fields of a plug-in, by name."""
        return {f.name: f for f in dataclasses.fields(self.get(name)) if f.init}

    def described(self, plugin: T) -> str:
        """A built plug-in's name, with its options: "list (order=given)"."""
        name = next((name for name, cls in self._classes.items() if cls is type(plugin)), type(plugin).__name__)
        options = [f"{f.name}={getattr(plugin, f.name)}" for f in dataclasses.fields(plugin) if f.init]  # type: ignore[arg-type]
        return f"{name} ({', '.join(options)})" if options else name

    def build(self, spec: Spec | T, /, **options: Any) -> T:
        """The plug-in of a name or a mapping `{"name": ..., option: value}`; a built one is returned as it is."""
        if not isinstance(spec, (str, Mapping)):
            return spec
        given = dict(spec) if isinstance(spec, Mapping) else {"name": spec}
        given.update(options)
        if "name" not in given:
            raise UserError(f"{self.kind}: the mapping {given!r} has no 'name'; choose from {', '.join(self)}")
        name = given.pop("name")
        cls = self.get(name)
        fields = self.options(name)
        for key in given:
            if key not in fields:
                allowed = ", ".join(fields) or "none"
                raise UnknownName(f"unknown option {key!r} of {self.kind} {name!r}; its options are: {allowed}")
        missing = [key for key, field in fields.items() if key not in given and _required(field)]
        if missing:
            raise UserError(f"{self.kind} {name!r} needs {', '.join(missing)}: give {self.kind}.{missing[0]}=...")
        hints = get_type_hints(cls)
        values = {key: self._checked(name, fields[key], hints[key], value) for key, value in given.items()}
        try:
            built: T = cls(**values)
        except TypeError as error:
            raise UserError(f"{self.kind} {name!r}: {error}") from None
        return built

    def _checked(self, name: str, field: dataclasses.Field[Any], hint: Any, value: Any) -> Any:
        nested = field.metadata.get("registry")
        if nested is not None:
            return nested.build(value)
        try:
            return TypeAdapter(hint).validate_python(value)
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise UserError(f"{self.kind} {name!r}: {field.name} = {value!r}: {reason}") from None


def _required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def plugin_field(registry: Registry[Any], default: Spec) -> Any:
    """A dataclass field that holds a plug-in of another registry, given by name or mapping in the configuration."""
    return dataclasses.field(default_factory=lambda: registry.build(default), metadata={"registry": registry})


def load_plugins(modules: Iterable[str]) -> None:
    """Import the user's plug-in modules, so that their decorators run."""
    for name in modules:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise UserError(f"plugins: cannot import {name!r}: {error}") from None
