"""What a run's own files would have this machine do, where somebody else may have written them: a folder is data.

A module that its config.yaml names runs code when it is imported, and an endpoint that its task names is sent the
user's key. Both want the user's word: `--trust-plugins`, or the name itself given by the user.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from irpo.config.layers import find_config
from irpo.config.schema import RUN_CONFIG, RankerConfig, RunConfig, layered
from irpo.registry import load_plugins
from irpo.types import UserError

_MARKS = ("run.json", "adapter", "model")  # one of these lies beside a run's config.yaml, or a round's
ENDPOINT = "llm_endpoint"  # the option of tasks that ask a language model


def load_theirs(owner: str | Path, config: RunConfig | RankerConfig, *, trusts: bool) -> None:
    """Import the plug-ins that a run names; `UserError` where the user neither `trusts` it nor has imported them."""
    _require(owner, config.plugins, trusts)
    load_plugins(config.plugins)


def require_named(
    files: Sequence[str | Path], overrides: Sequence[str], merged: Mapping[str, Any], *, trusts: bool
) -> None:
    """`UserError` for modules and endpoints of the `merged` layers that a run's own config.yaml alone names."""
    theirs = [file for file in files if is_of_run(file)]
    if not theirs:
        return
    named = layered([file for file in files if file not in theirs], overrides).merged
    _require(theirs[0], [name for name in modules_in(merged) if name not in modules_in(named)], trusts)
    require_own_endpoint(theirs[0], merged.get("task"), named.get("task"))


def require_own_endpoint(owner: str | Path, task: Any, given: Any) -> None:
    """`UserError` where a run's task would have the user's key sent to an endpoint that the user has not given."""
    url, own = (spec.get(ENDPOINT) if isinstance(spec, Mapping) else None for spec in (task, given))
    if url not in (None, own) and os.environ.get("OPENAI_API_KEY"):
        raise UserError(
            f"{owner}: its task asks the endpoint {url!r}, which would be sent your OPENAI_API_KEY; where you trust "
            f"it, give it yourself: {ENDPOINT}={url}"
        )


def is_of_run(file: str | Path) -> bool:
    """Whether a layer is what a run wrote of itself, and not a file that the user made."""
    path = find_config(file)
    return path.name == RUN_CONFIG and any((path.parent / mark).exists() for mark in _MARKS)


def modules_in(merged: Mapping[str, Any]) -> list[str]:
    """The modules that merged layers would have imported: plug-ins, and those of `function: module:name`.

    >>> modules_in({"plugins": ["a.b"], "online": {"method": {"reward": {"name": "python", "function": "c:f"}}}})
    ['a.b', 'c']
    """
    plugins = merged.get("plugins")
    listed = [str(name) for name in plugins] if isinstance(plugins, list) else []
    return [*listed, *_functions(merged)]


def _functions(value: Any) -> Iterator[str]:
    inside = list(value.values()) if isinstance(value, Mapping) else value if isinstance(value, list) else []
    if isinstance(value, Mapping) and value.get("name") == "python" and isinstance(value.get("function"), str):
        yield value["function"].partition(":")[0]
    for inner in inside:
        yield from _functions(inner)


def _require(owner: str | Path, modules: Sequence[str], trusts: bool) -> None:
    """A module that is imported already runs nothing more: the user named it, or it is part of what runs here."""
    waiting = [name for name in dict.fromkeys(modules) if name not in sys.modules]
    if waiting and not trusts:
        raise UserError(
            f"{owner} names the plug-ins {', '.join(waiting)}, which would run code of whoever wrote it; where you "
            "trust them add --trust-plugins, or name them yourself: --plugin MODULE, in layers plugins=[MODULE]"
        )
