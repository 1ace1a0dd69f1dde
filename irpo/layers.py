"""Layers of YAML and `key=value` overrides merged into one mapping that remembers where each key was set."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from irpo.resources import configs_dir
from irpo.types import UserError

Keys = tuple[str, ...]

# The settings that hold a plug-in: {"name": ..., option: value}, or its bare name.
PLUGINS: tuple[Keys, ...] = (
    *(("task",), ("method", "objective"), ("method", "scorer")),
    *(("online", "sampler"), ("online", "method")),
)


class _Loader(yaml.SafeLoader):
    """YAML in which 1e-5 is a number; YAML 1.1 wants a dot in it and would read text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d[\d_]*)(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def find_config(name: str | Path) -> Path:
    """The file itself, or the shipped one of that name: `configs/models/x.yaml` and `models/x.yaml` both work."""
    path = Path(name)
    if path.is_file():
        return path
    inside = Path(*path.parts[1:]) if path.parts[:1] == ("configs",) else path
    shipped = configs_dir() / inside
    if not path.is_absolute() and shipped.is_file():
        return shipped
    known = sorted(p.relative_to(configs_dir()).as_posix() for p in configs_dir().rglob("*.yaml"))
    raise UserError(f"no configuration file {str(name)!r}; the shipped ones are: {', '.join(known)}")


class Layers:
    """The mapping merged so far."""

    def __init__(self) -> None:
        self.merged: dict[str, Any] = {}
        self._where: dict[Keys, str] = {}  # the last place that set a key

    def add_file(self, name: str | Path) -> None:
        """Merge a YAML file over what is there."""
        path = find_config(name)
        places: dict[Keys, int] = {}
        data = _read(path, places)
        given = {key: value for key, value in data.items() if value is not None}  # `training:` with nothing below it
        self.merged = _merge(self.merged, given, ())
        self._where.update({keys: f"{path}:{line}: " for keys, line in places.items()})

    def add_override(self, text: str) -> None:
        """Merge one `key.sub=value`; the value is read as YAML."""
        dotted, equals, value = text.partition("=")
        keys = tuple(dotted.strip().split("."))
        if not equals or not all(keys):
            raise UserError(f"override {text!r}: write key.sub=value, for example training.learning_rate=2e-5")
        data: Any = parse_value(value, f"override {text!r}")
        for key in reversed(keys):
            data = {key: data}
        self.merged = _merge(self.merged, data, ())
        self._where[keys] = f"override {text!r}: "

    def where(self, keys: Keys) -> str:
        """The place that set a key, the nearest mapping around it or a key inside it; "" or with a ": " behind it."""
        for end in range(len(keys), 0, -1):
            if keys[:end] in self._where:
                return self._where[keys[:end]]
        below = (place for known, place in self._where.items() if known[: len(keys)] == keys)
        return next(below, "") if keys else ""


def parse_value(text: str, where: str) -> Any:
    """A value written on the command line, read as YAML."""
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError:
        raise UserError(f"{where}: {text!r} is not a YAML value; quote text that holds special characters") from None


def _read(path: Path, places: dict[Keys, int]) -> dict[str, Any]:
    """A file's mapping; `places` is filled with the line of every key."""
    loader = None
    try:
        loader = _Loader(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        if node is None:
            return {}
        if not isinstance(node, yaml.MappingNode):
            raise UserError(f"{path}:{node.start_mark.line + 1}: a configuration is a mapping of keys to values")
        _note_lines(node, (), path, places)
        data: dict[str, Any] = loader.construct_document(node)
        return data
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{path}:{line}: broken YAML: {error.problem}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file in UTF-8: {error.reason}") from None
    finally:
        if loader is not None:
            loader.dispose()


def _note_lines(node: yaml.MappingNode, above: Keys, path: Path, places: dict[Keys, int]) -> None:
    for key, value in node.value:
        keys, line = (*above, str(key.value)), key.start_mark.line + 1
        if keys in places:
            raise UserError(f"{path}:{line}: key {'.'.join(keys)!r} is given twice (first in line {places[keys]})")
        places[keys] = line
        if isinstance(value, yaml.MappingNode):
            _note_lines(value, keys, path, places)


def _merge(old: Any, new: Any, keys: Keys) -> Any:
    in_plugin = any(keys[: len(p)] == p for p in PLUGINS)
    if in_plugin:
        if keys in PLUGINS and isinstance(new, str):
            new = {"name": new}
        if isinstance(old, str) and isinstance(new, dict):
            old = {"name": old}
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    if in_plugin and "name" in new and "name" in old and new["name"] != old["name"]:
        return new
    return old | {key: _merge(old[key], value, (*keys, key)) if key in old else value for key, value in new.items()}
