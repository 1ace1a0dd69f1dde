"""What can be seen to be wrong before a model is needed, seen without importing what only a model needs."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from irpo.catalogue import registry_of
from irpo.config.layers import PLUGINS, Keys, Layers
from irpo.config.schema import RunConfig, config_of, layered
from irpo.config.trust import require_named
from irpo.registry import load_plugins
from irpo.types import UserError

# Settings that hold several plug-ins; an objective has a weight beside it.
_LISTS = {("method", "objectives"): "objectives", ("evaluation", "modes"): "modes"}


def checked_config(
    files: Sequence[str | Path], overrides: Sequence[str] = (), *, trust_plugins: bool = False
) -> RunConfig:
    """`load_config` whose plug-ins' names and options are right; what is wrong is named with the line that set it.

    Modules that only a run's own config.yaml names are imported where the user says so.
    """
    layers = layered(files, overrides)
    config = config_of(layers)
    require_named(files, overrides, layers.merged, trusts=trust_plugins)
    load_plugins(config.plugins)
    require_plugins(config, layers)
    return config


def require_plugins(config: RunConfig, layers: Layers) -> None:
    """`UserError` for a plug-in's name, option or value that does not serve."""
    given = config.model_dump()
    for keys, kind in PLUGINS.items():
        if (spec := _at(given, keys)) is not None:
            _require(kind, spec, keys, layers)
    for keys, kind in _LISTS.items():
        for number, spec in enumerate(_at(given, keys) or ()):
            own = {key: value for key, value in spec.items() if key != "weight"}
            _require(kind, own, (*keys, str(number)), layers)


def _require(kind: str, spec: Any, keys: Keys, layers: Layers) -> None:
    try:
        registry_of(kind).build(spec)
    except UserError as error:
        where = layers.where((*keys, *error.keys))
        raise type(error)(f"{where}{error}") from None


def _at(given: Any, keys: Keys) -> Any:
    for key in keys:
        given = given.get(key) if isinstance(given, dict) else None
    return given


def require_out(out: Path) -> None:
    """`UserError` where nothing can be written into the folder `out`, found by trying; nothing is left."""
    try:
        there = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
        if not there.is_dir():
            raise UserError(f"--out {out}: {'it' if there == out.absolute() else there} is a file; give a folder")
        tempfile.TemporaryDirectory(prefix=".irpo-", dir=there).cleanup()
    except UserError:
        raise
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UserError(f"--out {str(out)!r}: cannot be written: {reason}") from None
