"""What a shell may complete: values of arguments and flags. It answers at every Tab, so nothing heavy is imported.

A completer takes what stands there so far and gives the words that begin so. Where it gives none, a shell offers files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import get_args

from irpo.guiding import topics
from irpo.resources import configs_dir, embedded_dir
from irpo.types import Style

Completer = Callable[[str], list[str]]

_PACKAGE = Path(__file__).resolve().parent
_RUN = "config.yaml"  # irpo.config.schema has the name, and would load pydantic
# Where plug-ins of a kind register: the package's folder, and the name of the registry.
_REGISTERED = {"task": ("tasks", "TASKS"), "mode": ("ranking", "RANKING_MODES"), "engine": ("ranking", "ENGINES")}


def _of(words: Iterable[str], incomplete: str) -> list[str]:
    """The words that begin so, in order."""
    return sorted({word for word in words if word.startswith(incomplete)})


def _fixed(*words: str) -> Completer:
    def complete(incomplete: str) -> list[str]:
        return _of(words, incomplete)

    return complete  # a function: Typer reads a completer's annotations, which a partial has not


def registered(kind: str) -> list[str]:
    """The names of the shipped plug-ins of a kind, read in the sources: importing those of `ranking` loads torch."""
    folder, registry = _REGISTERED[kind]
    name = re.compile(rf'^@{registry}\.register\("([^"]+)"\)', re.MULTILINE)
    return [found for file in (_PACKAGE / folder).rglob("*.py") for found in name.findall(file.read_text("utf-8"))]


def tasks(incomplete: str) -> list[str]:
    """Tasks by name."""
    return _of(registered("task"), incomplete)


def modes(incomplete: str) -> list[str]:
    """Ranking modes by name."""
    return _of(registered("mode"), incomplete)


def engines(incomplete: str) -> list[str]:
    """What runs a model."""
    return _of(registered("engine"), incomplete)


def guides(incomplete: str) -> list[str]:
    """The topics of `irpo guide`."""
    return _of(topics(), incomplete)


def kinds(incomplete: str) -> list[str]:
    """The kinds of plug-ins that `irpo list` shows."""
    from irpo import catalogue

    return _of(catalogue.kinds(None), incomplete)


def launches(incomplete: str) -> list[str]:
    """How processes share the work."""
    return _of((path.stem for path in (configs_dir() / "launch").glob("*.yaml")), incomplete)


def layers(incomplete: str) -> list[str]:
    """Shipped layers by the name that `train` takes, the user's own files, and runs, whose configuration is a layer."""
    shipped = _shipped("models", "tasks", "methods", "embedded")
    return _of([*shipped, *_files(incomplete, "*.yaml"), *(f"{run}/{_RUN}" for run in _runs(incomplete))], incomplete)


def suites(incomplete: str) -> list[str]:
    """Shipped suites and the user's own files."""
    return _of([*_shipped("suites"), *_files(incomplete, "*.yaml")], incomplete)


def models(incomplete: str) -> list[str]:
    """What ranks: the folders of runs, the embedded model, published rankers."""
    return _of([embedded_dir().name, *_shipped("rankers"), *_runs(incomplete)], incomplete)


def runs(incomplete: str) -> list[str]:
    """The folders of runs."""
    return _of(_runs(incomplete), incomplete)


styles = _fixed(*get_args(Style))
formats = _fixed("jsonl", "parquet")
strengths = _fixed("reward", "1")
ways = _fixed("logits", "adapter")


def _shipped(*folders: str) -> Iterator[str]:
    for folder in folders:
        yield from (f"{folder}/{path.name}" for path in (configs_dir() / folder).glob("*.yaml"))


def _place(incomplete: str) -> tuple[Path, str]:
    """The folder that what stands there so far points into, and how its names are written before them."""
    above, slash, _ = incomplete.rpartition("/")
    return Path(above + slash), above + slash


def _files(incomplete: str, pattern: str) -> Iterator[str]:
    """Files of the folder that is being typed."""
    folder, written = _place(incomplete)
    yield from (f"{written}{path.name}" for path in folder.glob(pattern) if path.is_file())


def _runs(incomplete: str) -> Iterator[str]:
    """Runs in the folder that is being typed, and one below it: `runs/x` is found from nothing at all."""
    folder, written = _place(incomplete)
    for path in [*folder.glob(f"*/{_RUN}"), *folder.glob(f"*/*/{_RUN}")]:
        yield f"{written}{path.parent.relative_to(folder).as_posix()}"
