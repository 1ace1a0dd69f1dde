"""Plug-in points: a name maps to a frozen dataclass whose fields are its options.

A user's package adds a plug-in by decorating a class and naming its module under `plugins:` in the configuration, or,
where it is installed, by an entry point of the group `irpo.plugins` whose value is that module.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from importlib import metadata
from typing import Any, Generic, TypeVar, get_type_hints

from pydantic import TypeAdapter, ValidationError

from irpo.types import UnknownName, UserError

T = TypeVar("T")
C = TypeVar("C", bound=type)

GROUP = "irpo.plugins"  # of entry points
Fields = dict[str, dataclasses.Field[Any]]
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
        load_installed()
        return iter(sorted(self._classes))

    def __contains__(self, name: object) -> bool:
        if name not in self._classes:
            load_installed()
        return name in self._classes

    def get(self, name: str) -> type:
        """The class registered under a name; `UnknownName` lists what there is."""
        if name not in self:
            known = ", ".join(self)
            raise at(UnknownName(f"unknown {self.kind} {name!r}; choose from {known}{meant(name, self)}"), "name")
        return self._classes[name]

    def options(self, name: str) -> Fields:
        """The option fields of a plug-in, by name."""
        return {f.name: f for f in dataclasses.fields(self.get(name)) if f.init}

    def described(self, plugin: T) -> str:
        """A built plug-in's name, with its options: "list (order=given)"."""
        name = next((name for name, cls in self._classes.items() if cls is type(plugin)), type(plugin).__name__)
        fields = [f for f in dataclasses.fields(plugin) if f.init]  # type: ignore[arg-type]
        options = [f"{f.name}={_told(f, getattr(plugin, f.name))}" for f in fields]
        return f"{name} ({', '.join(options)})" if options else name

    def build(self, spec: Spec | T, /, **options: Any) -> T:
        """The plug-in of a name or a mapping `{"name": ..., option: value}`; a built one is returned as it is.

        A `UserError` says in its `keys` which option it is about.
        """
        if spec is None or isinstance(spec, (bool, int, float, list, tuple)):
            raise UserError(f"{self.kind}: {spec!r}; give a name or a mapping, and as name one of {', '.join(self)}")
        if not isinstance(spec, (str, Mapping)):
            return spec
        given = dict(spec) if isinstance(spec, Mapping) else {"name": spec}
        given.update(options)
        if "name" not in given:
            raise UserError(f"{self.kind}: the mapping {given!r} has no 'name'; choose from {', '.join(self)}")
        name = given.pop("name")
        if not isinstance(name, str):
            raise at(UserError(f"{self.kind}: name = {name!r}; a plug-in's name is a text"), "name")
        cls = self.get(name)
        fields = self.options(name)
        self._require_options(name, fields, given)
        hints = get_type_hints(cls)
        values = {key: self._checked(name, fields[key], hints[key], value) for key, value in given.items()}
        try:
            built: T = cls(**values)
        except TypeError as error:
            raise UserError(f"{self.kind} {name!r}: {error}") from None
        return built

    def _require_options(self, name: str, fields: Fields, given: Mapping[Any, Any]) -> None:
        """`UserError` for an option that there is not, and for one that is needed and not given."""
        for key in given:
            if key not in fields:
                allowed = ", ".join(fields) or "none"
                hint = meant(key, fields)
                reason = f"unknown option {key!r} of {self.kind} {name!r}; its options are: {allowed}{hint}"
                raise at(UnknownName(reason), str(key))
        missing = [key for key, field in fields.items() if key not in given and _required(field)]
        if missing:
            raise UserError(f"{self.kind} {name!r} needs {', '.join(missing)}: give {self.kind}.{missing[0]}=...")

    def _checked(self, name: str, field: dataclasses.Field[Any], hint: Any, value: Any) -> Any:
        nested = field.metadata.get("registry")
        try:
            return TypeAdapter(hint).validate_python(value) if nested is None else nested.build(value)
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            wrong = UserError(f"{self.kind} {name!r}: {field.name} = {value!r}: {reason}")
            raise at(wrong, field.name) from None
        except UserError as error:
            raise at(error, field.name) from None


def _told(field: dataclasses.Field[Any], value: Any) -> str:
    """An option's value as `described` has it; a plug-in as its own registry describes it."""
    nested: Registry[Any] | None = field.metadata.get("registry")
    return str(value) if nested is None else nested.described(value)


def _required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def plugin_field(registry: Registry[Any], default: Spec) -> Any:
    """A dataclass field that holds a plug-in of another registry, given by name or mapping in the configuration."""
    return dataclasses.field(default_factory=lambda: registry.build(default), metadata={"registry": registry})


def at(error: UserError, key: str) -> UserError:
    """The error, found one mapping further out: below `key`."""
    error.keys = (key, *error.keys)
    return error


def nearest(given: object, known: Iterable[str]) -> str | None:
    """The known word that was probably meant, if one is near."""
    return next(iter(difflib.get_close_matches(str(given), list(known), n=1)), None)


def meant(given: object, known: Iterable[str]) -> str:
    """What a message says after the allowed words.

    >>> meant("irpoo", ["dpo", "irpo"])
    " (did you mean 'irpo'?)"
    >>> meant("x", ["dpo", "irpo"])
    ''
    """
    near = nearest(given, known)
    return "" if near is None else f" (did you mean {near!r}?)"


def require_module(name: str) -> str:
    """The name itself; `UserError` where it cannot be a module's."""
    if not all(part.isidentifier() for part in name.split(".")):
        raise UserError(f"{name!r} is no module's name; write it as in an import: my_package.losses")
    return name


def load_plugins(modules: Iterable[str]) -> None:
    """Import the user's plug-in modules, so that their decorators run."""
    for name in modules:
        import_named(name, "plugins")


def import_named(name: str, what: str) -> Any:
    """A module that the user named; it may lie in the folder where the command is run.

    That folder is looked into last: a file there never stands in for an installed package.
    """
    if not all(part.isidentifier() for part in name.split(".")):
        raise UserError(
            f"{what}: {name!r} is no module's name; write it as in an import, for example my_package.losses"
        )
    if "" not in sys.path:
        sys.path.append("")
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"{what}: cannot import {name!r}: {error}") from None


@cache
def load_installed() -> None:
    """Import the plug-in modules of installed packages; once, where a name is not known yet or all are asked for."""
    for point in metadata.entry_points(group=GROUP):
        try:
            point.load()
        except ImportError as error:
            package = point.dist.name if point.dist else "?"
            reason = f"the plug-in {point.value!r} of the installed package {package!r} cannot be imported: {error}"
            raise UserError(reason) from None
