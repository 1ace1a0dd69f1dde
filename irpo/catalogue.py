"""The registered plug-ins of every kind, as rows for a table."""

from __future__ import annotations

import dataclasses
import inspect
import json
from importlib import import_module
from typing import Any

from irpo.registry import Registry, meant
from irpo.types import UnknownName

# Kind -> the module and the name of its registry; importing the module registers what ships with the package.
_REGISTRIES = {
    "objectives": ("irpo.objectives", "OBJECTIVES"),
    "metrics": ("irpo.positional", "POSITIONAL_METRICS"),
    "scorers": ("irpo.scorers", "SCORERS"),
    "tasks": ("irpo.tasks", "TASKS"),
    "modes": ("irpo.ranking.modes", "RANKING_MODES"),
    "on_policy": ("irpo.online", "ON_POLICY"),
    "rewards": ("irpo.online.rewards", "REWARDS"),
    "samplers": ("irpo.ranking", "SAMPLERS"),
    "engines": ("irpo.ranking.engines", "ENGINES"),
}


def kinds(kind: str | None) -> tuple[str, ...]:
    """The kinds to show: the given one (in the singular, too), or all."""
    if kind is None:
        return tuple(_REGISTRIES)
    plural = kind if kind in _REGISTRIES else f"{kind}s"
    if plural not in _REGISTRIES:
        known = ", ".join(_REGISTRIES)
        raise UnknownName(f"unknown kind of plug-in {kind!r}; choose from {known}{meant(plural, _REGISTRIES)}")
    return (plural,)


def entries(kind: str) -> list[dict[str, Any]]:
    """Name, options with defaults, and the first line of the docstring of every plug-in of a kind."""
    registry = registry_of(kind)
    return [_entry(registry, plugin) for plugin in registry]


def registry_of(kind: str) -> Registry[Any]:
    """The plug-ins of a kind; what holds them is imported now, and nothing else."""
    module, name = _REGISTRIES[kind]
    registry: Registry[Any] = getattr(import_module(module), name)
    return registry


def _entry(registry: Registry[Any], name: str) -> dict[str, Any]:
    options = [f"{key}={_default(registry, field)}" for key, field in registry.options(name).items()]
    summary = (inspect.getdoc(registry.get(name)) or "").partition("\n")[0]
    return {"name": name, "options": ", ".join(options), "what it does": summary}


def _default(registry: Registry[Any], field: dataclasses.Field[Any]) -> str:
    """An option's default, spelt as in YAML; a plug-in by its name."""
    if field.default is not dataclasses.MISSING:
        return _spelt(field.default)
    if field.default_factory is dataclasses.MISSING:
        return "(required)"
    value = field.default_factory()
    nested: Registry[Any] | None = field.metadata.get("registry")
    if nested is None:
        return _spelt(value)
    return next((name for name in nested if nested.get(name) is type(value)), _spelt(value))


def _spelt(value: Any) -> str:
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)
