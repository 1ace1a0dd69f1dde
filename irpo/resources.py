"""Where the files that ship with the package lie: in a checkout at its top level, in a wheel inside the package.
And where computed ones may."""

from __future__ import annotations

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def _shipped(name: str) -> Path:
    inside = _PACKAGE / "_data" / name
    return inside if inside.is_dir() else _PACKAGE.parent / name


def prompts_dir() -> Path:
    """The folder of prompt templates."""
    return _shipped("prompts")


def configs_dir() -> Path:
    """The folder of shipped configurations (models/, tasks/, methods/, ...)."""
    return _shipped("configs")


def embedded_dir() -> Path:
    """The folder of the model called `embedded`: weights, configuration and tokenizer."""
    return _PACKAGE / "_data" / "embedded"


def report_dir() -> Path:
    """The folder of what a report's page is made of: template, style, scripts."""
    return _PACKAGE / "_data" / "report"


def project_dir() -> Path:
    """The folder of what `irpo init` begins a project with: configuration, example lists, Makefile."""
    return _PACKAGE / "_data" / "project"


def serve_dir() -> Path:
    """The folder of what a server's pages are made of."""
    return _PACKAGE / "_data" / "serve"


def cache_dir() -> Path:
    """The folder of what may be computed anew at any time: $IRPO_CACHE, else irpo in $XDG_CACHE_HOME or ~/.cache."""
    if own := os.environ.get("IRPO_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "irpo"
