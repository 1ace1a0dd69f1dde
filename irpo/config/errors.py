"""What is wrong with a configuration, in one line: which key, where it was set, what it may be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from irpo.config.layers import Layers
from irpo.registry import meant
from irpo.types import UnknownName, UserError


def user_error(error: ValidationError, layers: Layers, whole: type[BaseModel]) -> UserError:
    """The first thing wrong, in one line: where it stands, what was given, what is allowed."""
    first = next((e for e in error.errors() if e["type"] == "extra_forbidden"), error.errors()[0])
    section, keys = _section(first["loc"], whole)
    key = ".".join(keys)
    where = layers.where(keys)
    if first["type"] == "extra_forbidden":
        allowed = ", ".join(section.model_fields)
        inside = f" of {'.'.join(keys[:-1])!r}" if keys[:-1] else ""
        return UnknownName(f"{where}unknown key {key!r}; the keys{inside} are: {allowed}{_meant(keys, whole)}")
    if first["type"] == "missing":
        return UserError(f"{key!r} is not set; give {_HINTS.get(keys[0], f'{key}=...')}")
    same_key = [e for e in error.errors() if _section(e["loc"], whole)[1] == keys]
    said = [e["msg"].removeprefix("Value error, ") for e in same_key if e["type"] != "too_short" or e is same_key[0]]
    reason = ", or: ".join(dict.fromkeys(said)).replace("tuple", "list").replace("dictionary", "mapping")
    given = "" if isinstance(first["input"], dict | BaseModel) or not key else f" = {first['input']!r}"
    return UserError(f"{where}{key}{given}: {reason}" if key else f"{where}{reason}")


def _meant(keys: tuple[str, ...], whole: type[BaseModel]) -> str:
    """The key that is near: of the same name in another section, or of nearly the same."""
    known = list(_all_keys(whole))
    same = [".".join(way) for way in known if way[-1] == keys[-1]]
    return f" (did you mean {same[0]!r}?)" if same else meant(".".join(keys), map(".".join, known))


def _all_keys(section: type[BaseModel], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, field in section.model_fields.items():
        yield (*above, name)
        if inner := _inner(field.annotation):
            yield from _all_keys(inner, (*above, name))


_HINTS = {
    "model": "a file such as configs/models/embedded.yaml, or model.name=...",
    "task": "a file such as configs/tasks/jsonl.yaml, or task.name=...",
    "method": "a file such as configs/methods/irpo.yaml, or method.objective=...",
}


def _section(loc: tuple[int | str, ...], whole: type[BaseModel]) -> tuple[type[BaseModel], tuple[str, ...]]:
    """The section that holds the key of an error, and the key's path without pydantic's union branches."""
    section = whole
    keys: list[str] = []
    for step in loc:
        keys.append(str(step))
        field = section.model_fields.get(str(step))
        inner = _inner(field.annotation) if field else None
        if inner is None:
            break
        if len(keys) < len(loc):
            section = inner
    return section, tuple(keys)


def _inner(annotation: Any) -> type[BaseModel] | None:
    """The section that a key holds, if it holds one."""
    kinds = (annotation, *get_args(annotation))
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
