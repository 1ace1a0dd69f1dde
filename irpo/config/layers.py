"""Layers of YAML and `key=value` overrides merged into one mapping that remembers where each key was set."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from irpo.files import read_text
from irpo.registry import nearest
from irpo.resources import configs_dir
from irpo.types import UserError

Keys = tuple[str, ...]

# The settings that hold a plug-in, {"name": ..., option: value} or its bare name, and the kind of it.
PLUGINS: dict[Keys, str] = {
    ("task",): "tasks",
    ("method", "objective"): "objectives",
    ("method", "scorer"): "scorers",
    ("online", "sampler"): "samplers",
    ("online", "method"): "on_policy",
}
_MOST_VALUES = 10_000  # of a file or an override; aliases can make a few lines mean more than a memory holds
_DEEPEST = 20
_LAUNCH = "launch"  # a shipped folder that holds no layers, but accelerate's configurations
_PLAIN = (dict, list, str, int, float, bool, type(None))


class _Loader(yaml.SafeLoader):
    """YAML in which 1e-5 is a number; YAML 1.1 wants a dot in it and would read text."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """As it is, but that what Python cannot make of a value is an error in the file, with its place."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, KeyError, AttributeError, TypeError, ArithmeticError):
            value = f" {node.value!r}"[:40] if isinstance(node, yaml.ScalarNode) else ""
            problem = f"the value{value} is no {node.tag.rpartition(':')[2]}"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from None


class _Dumper(yaml.SafeDumper):
    """Quotes a text that `_Loader` would read as a number."""


_FLOAT = re.compile(r"^[-+]?(\d[\d_]*)(\.\d*)?[eE][-+]?\d+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789"))
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789"))


def written(value: dict[str, Any]) -> str:
    """A mapping as YAML, in its order, that is read back as it was."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def find_config(name: str | Path) -> Path:
    """The file itself, or the shipped one of that name: `configs/models/x.yaml` and `models/x.yaml` both work."""
    path = Path(name)
    if path.is_file():
        return path
    inside = Path(*path.parts[1:]) if path.parts[:1] == ("configs",) else path
    shipped = configs_dir() / inside
    if not path.is_absolute() and shipped.is_file():
        return shipped
    raise UserError(f"no configuration file {str(name)!r}{_instead(inside)}")


def _instead(given: Path) -> str:
    """What a message says of the shipped files, where the given one is not there."""
    known = sorted(p.relative_to(configs_dir()) for p in configs_dir().rglob("*.yaml") if p.parent.name != _LAUNCH)
    folders = sorted({path.parts[0] for path in known if len(path.parts) > 1})
    if given.suffix not in (".yaml", ".yml") and len(given.parts) == 1:
        if meant := next((path for path in known if path.stem == given.name), None):
            return f" (did you mean {meant.as_posix()!r}?)"
        return "; a layer's name ends in .yaml, and an override is written key.sub=value: training.learning_rate=2e-5"
    there = [path for path in known if path.parent == given.parent != Path()] or known
    by_stem = {path.stem: path.as_posix() for path in there}
    if near := nearest(given.stem, by_stem):
        return f" (did you mean {by_stem[near]!r}?)"
    if len(there) < len(known):
        names = ", ".join(path.stem for path in there)
        return f"; the shipped ones in {given.parent.as_posix()}/ are: {names}"
    return f"; shipped ones lie in {', '.join(f'{folder}/' for folder in folders)}"


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
        self._note({keys: f"{path}:{line}: " for keys, line in places.items()})

    def add_override(self, text: str) -> None:
        """Merge one `key.sub=value`; the value is read as YAML."""
        dotted, equals, value = text.partition("=")
        keys = tuple(dotted.strip().split("."))
        if not equals or not all(keys):
            raise UserError(f"override {text!r}: write key.sub=value, for example training.learning_rate=2e-5")
        place = f"override {text if len(text) <= 80 else text[:77] + '...'!r}"
        data: Any = parse_value(value, place)
        paths = [keys, *_paths(data, keys)]
        for key in reversed(keys):
            data = {key: data}
        self.merged = _merge(self.merged, data, ())
        self._note(dict.fromkeys(paths, f"{place}: "))

    def _note(self, places: dict[Keys, str]) -> None:
        """Remember where keys were set; a value that is no mapping takes the place of all that was below its key."""
        above = {keys[:end] for keys in places for end in range(len(keys))}
        values = places.keys() - above
        old = {
            keys: place
            for keys, place in self._where.items()
            if not any(keys[:end] in values for end in range(len(keys)))
        }
        self._where = old | places

    def where(self, keys: Keys) -> str:
        """The place that set a key, a key inside it or the mapping around it; "" or with a ": " behind it."""
        if not keys:
            return ""
        inside = [place for known, place in self._where.items() if known[: len(keys)] == keys]
        overrides = [place for place in inside if place.startswith("override ")]
        above = (self._where[keys[:end]] for end in range(len(keys), 0, -1) if keys[:end] in self._where)
        return next(iter((*overrides[-1:], *above, *inside)), "")


def parse_value(text: str, where: str) -> Any:
    """A value written on the command line, read as YAML."""
    try:
        value = yaml.load(text, _Loader)  # nosec B506 # a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError):
        short = text if len(text) <= 40 else f"{text[:40]}..."
        raise UserError(f"{where}: {short!r} is not a YAML value; quote text that holds special characters") from None
    return _tree(value, where)


def _read(path: Path, places: dict[Keys, int]) -> dict[str, Any]:
    """A file's mapping; `places` is filled with the line of every key."""
    loader, text = None, read_text(path)
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return {}
        if not isinstance(node, yaml.MappingNode):
            raise UserError(f"{path}:{node.start_mark.line + 1}: a configuration is a mapping of keys to values")
        _note_lines(node, (), path, places)
        data: dict[str, Any] = _tree(loader.construct_document(node), str(path))
        return data
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{path}:{line}: broken YAML: {error.problem}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UserError(
            f"{path}:{line}: broken YAML: the character #x{error.character:04x} may not stand here"
        ) from None
    except RecursionError:
        raise UserError(f"{path}: broken YAML: nested too deep, or an alias that holds itself") from None
    except UserError:
        raise
    except ValueError as error:  # an escape beyond Unicode
        line = loader.line + 1 if loader else 1
        raise UserError(f"{path}:{line}: broken YAML: {error}") from None
    finally:
        if loader is not None:
            loader.dispose()


def _tree(value: Any, where: str) -> Any:
    """The value, or a `UserError` where it is no tree of a sensible size: an alias may hold itself, or much."""
    found, level, depth = 0, [value], 0
    while level:
        found, depth = found + len(level), depth + 1
        if found > _MOST_VALUES or depth > _DEEPEST:
            raise UserError(f"{where}: nested too deep, or an alias that holds too much")
        for above in level:
            _require_plain(above, where)
        level = [below for above in level for _, below in _inside(above)]
    return value


def _require_plain(value: Any, where: str) -> None:
    """`UserError` for what JSON has not: dates, sets, bytes, keys that are no texts, half of a surrogate pair."""
    if not isinstance(value, _PLAIN):
        raise UserError(f"{where}: a value {value!r} of the type {type(value).__name__} serves nowhere; quote it")
    for text in value if isinstance(value, dict) else [value] if isinstance(value, str) else []:
        if not isinstance(text, str):
            raise UserError(f"{where}: the key {text!r} is no text; quote it")
        if not text.isascii() and any(0xD800 <= ord(letter) <= 0xDFFF for letter in text):
            raise UserError(f"{where}: {text!r} holds half of a surrogate pair, which is no text in UTF-8")


def _inside(value: Any) -> list[tuple[str, Any]]:
    """A mapping's values with their keys, a list's with their numbers."""
    if isinstance(value, dict):
        return list(value.items())
    return [(str(i), x) for i, x in enumerate(value)] if isinstance(value, list) else []


def _paths(value: Any, above: Keys) -> list[Keys]:
    """The way to every value inside."""
    found = [((*above, key), inner) for key, inner in _inside(value)]
    return [path for keys, inner in found for path in (keys, *_paths(inner, keys))]


def _note_lines(node: yaml.Node, above: Keys, path: Path, places: dict[Keys, int]) -> None:
    """The line of every key, and of every item of a list under its number."""
    if isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            places[*above, str(number)] = value.start_mark.line + 1
            _note_lines(value, (*above, str(number)), path, places)
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        keys, line = (*above, str(key.value)), key.start_mark.line + 1
        if len(places) > _MOST_VALUES:
            raise UserError(f"{path}:{line}: nested too deep, or an alias that holds too much")
        if keys in places:
            raise UserError(f"{path}:{line}: key {'.'.join(keys)!r} is given twice (first in line {places[keys]})")
        places[keys] = line
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
