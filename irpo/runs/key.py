"""A run's key: a hash of what decides what is learnt, the same on every machine.

Settings count by their value; what they only point at (data, a model's folder, a template's file) counts by content.
Paths, logging and what makes a run faster do not count.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from irpo.config.schema import RunConfig
from irpo.prompting.markup import markup_source
from irpo.resources import embedded_dir

KEY = "run.json"  # of a run's folder: its key and the contents that it is made of
Settings = dict[str, Any]  # by dotted name

# Settings that came after there were runs, and what these did: at it they do not count, so that a run keeps its key.
LATER: Settings = {
    "ranking.strength": 1,
    "ranking.strength_by": "logits",
    "ranking.temperature": None,
    "online.draw": "free",
    "prompt.labels": "letters",
    "prompt.attention": "full",
    "prompt.chat_template": None,
    "training.max_lists": None,
    "training.shuffle_buffer": None,
}

# What may differ between the halves of a run: it changes what is shown, measured afterwards, or how fast it goes.
FREE = (
    *("plugins", "evaluation", "training.logging_every", "training.report_to"),
    *("training.tokens_per_batch", "training.encoding_processes", "model.gradient_checkpointing"),
)
MAY_GROW = ("training.updates", "online.rounds")  # a run may be made longer
BY_CONTENT = (
    "task.data",
    "model.name",
    "prompt.template",
    "prompt.chat_template",
)  # paths: what lies there counts (`contents`)


def settings(config: RunConfig) -> Settings:
    """Every setting that decides what is learnt, by its dotted name; those in `BY_CONTENT` are left out."""
    flat = _flat(config.model_dump(mode="json"), "")
    free = (*FREE, *BY_CONTENT)
    return {
        key: value
        for key, value in flat.items()
        if not any(key == f or key.startswith(f"{f}.") for f in free) and not (key in LATER and value == LATER[key])
    }


def _flat(value: Any, name: str) -> Settings:
    if not isinstance(value, Mapping) or not value:
        return {name: value}
    found: Settings = {}
    for key, inner in value.items():
        found |= _flat(inner, f"{name}.{key}" if name else str(key))
    return found


def contents(config: RunConfig, template: str, lists_sha256: str) -> Settings:
    """Digests of what the settings only point at: the model, the prompt template, the training lists.

    And what a setting means where that has changed: an anchor was once weighed by the list's NLL, not by its token's.
    """
    held = {
        "model.name": fingerprint(config.model.name),
        "prompt.template": hashlib.sha256(template.encode()).hexdigest(),
        "the training lists": lists_sha256,
    }
    if config.prompt.chat_template is not None:
        held["prompt.chat_template"] = hashlib.sha256(markup_source(config.prompt.chat_template).encode()).hexdigest()
    return held | ({"the unit of method.nll_weight": "a token's NLL"} if config.method.nll_weight else {})


def run_key(config: RunConfig, held: Settings) -> str:
    """16 hex digits, the same wherever the same thing is learnt: on every machine, from every folder.

    The task's options count by the lists that they make, whose digest is among the contents.
    """
    decisive = {key: value for key, value in settings(config).items() if not key.startswith("task.")}
    told = json.dumps({"settings": decisive, "contents": held}, sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def fingerprint(name: str) -> str:
    """What a model's name stands for, wherever it lies: a run by its key, a folder by its files, a hub id by itself.

    Of a file that is larger than a megabyte its size, beginning and end count.
    """
    folder = embedded_dir() if name == "embedded" else Path(name)
    if not folder.is_dir():
        return name
    if (key := read_json(folder / KEY).get("key")) is not None:
        return f"run {key}"
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")):
        size, end = path.stat().st_size, 2**19
        digest.update(f"{path.relative_to(folder).as_posix()} {size} ".encode())
        with path.open("rb") as file:
            digest.update(file.read(2 * end if size <= 2 * end else end))
            if size > 2 * end:
                file.seek(-end, os.SEEK_END)
                digest.update(file.read())
    return digest.hexdigest()


def differing(old: Settings, new: Settings) -> dict[str, tuple[Any, Any]]:
    """(old, new) of the names that are not the same in both; None stands for absent."""
    names = [*old, *(name for name in new if name not in old)]
    return {name: (old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)}


def read_json(path: Path) -> dict[str, Any]:
    """The file's object; {} where there is none, or only a part of one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
