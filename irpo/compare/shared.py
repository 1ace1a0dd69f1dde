"""What the cells of a suite share on disk: a task's lists, built once, and the reference's scores of them.

    prepared/<key>/          train.jsonl, eval.jsonl, card.json, as `irpo prepare` writes them
    lists/<digest>.jsonl     the evaluation lists as the report shows them
    reference/<key>.npz      scores (K,) of lists by a model that was not trained

A key says what the content depends on, so that cells of one suite, and suites in one folder, find what another made.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from irpo.compare.results import BROKEN, LISTS
from irpo.config.schema import RunConfig
from irpo.disk import written
from irpo.files import atomic_file, atomic_path, beside, json_line, sha256_of
from irpo.tasks import TASKS, Lists
from irpo.tasks.preparing import CARD, FILES, files_named, prepare, read_lists
from irpo.types import RankingExample

PREPARED, REFERENCE = "prepared", "reference"


def digest_of(value: Any) -> str:
    """16 hex digits of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Prepared:
    """A task's lists on disk."""

    key: str  # of its folder in `prepared/`
    card: Mapping[str, Any]
    lists: str  # digest of the evaluation lists as the report shows them

    @property
    def digests(self) -> dict[str, str]:
        """Of each split's lists: what a result depends on."""
        return {split: part["sha256"] for split, part in self.card["splits"].items()}


def prepared(out: Path, config: RunConfig) -> Prepared:
    """The lists of a run's task, built and written where they are not there yet; `UserError` where that cannot be."""
    spec = dict(config.task)
    task = TASKS.build(spec)
    known = spec | {option: _content(str(path)) for option, path in files_named(task).items()}
    key = digest_of([known, config.skip_bad_rows, plugin_sources(config)])
    home = out / PREPARED / key
    if not (home / CARD).is_file():
        work = beside(home)  # so that nobody who reads the folder meanwhile sees a part of it
        try:
            made = work / "made"  # within it, so that what a dead process left of making it goes with it
            with written(home, kept=str):  # nothing is: what lies in `work` goes
                prepare(task, made, task_spec=spec, skip_bad_rows=config.skip_bad_rows)
            with suppress(OSError):  # another suite was first, with the same lists
                made.rename(home)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    card = json.loads((home / CARD).read_text(encoding="utf-8"))
    return Prepared(key, card, _shown(out, home, config.evaluation.max_lists))


def _content(data: str) -> str:
    """What lies there, byte by byte; of a hub's data the name and the revision."""
    path = Path(data)
    if not path.is_dir():
        return sha256_of(path) if path.is_file() else data
    files = sorted(p for p in path.rglob("*") if p.is_file())
    return digest_of([[p.relative_to(path).as_posix(), sha256_of(p)] for p in files])


def plugin_sources(config: RunConfig) -> dict[str, str]:
    """Digests of the user's own modules: what they do is in no setting."""
    found = {name: find_spec(name) for name in config.plugins}
    return {name: sha256_of(Path(spec.origin)) for name, spec in found.items() if spec and spec.origin}


def _shown(out: Path, home: Path, most: int | None) -> str:
    """Write the evaluation lists for the report; returns their digest."""
    if not (home / FILES["eval"]).is_file():
        return ""
    text = "".join(
        json_line({"id": e.id, "unit": e.unit, "query": e.query, "texts": e.texts, "relevance": e.relevance}) + "\n"
        for e in read_lists(home / FILES["eval"], split="eval")[:most]
    )
    digest = hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:16]
    path = out / LISTS / f"{digest}.jsonl"
    if not path.is_file():
        with atomic_file(path) as file:
            file.write(text)
    return digest


def lists_of(out: Path, key: str) -> tuple[Lists, dict[str, Any]]:
    """The lists that `prepared` wrote, and their card."""
    home = out / PREPARED / key
    card = json.loads((home / CARD).read_text(encoding="utf-8"))
    return {split: read_lists(home / FILES[split], split=split) for split in card["splits"]}, card


def kept(out: Path, key: Any, make: Callable[[], Sequence[np.ndarray]]) -> list[np.ndarray]:
    """Arrays by a key, made and written where they are not there yet."""
    path = out / REFERENCE / f"{digest_of(key)}.npz"
    try:
        with np.load(path) as found:
            return [found[f"arr_{i}"] for i in range(len(found.files))]
    except BROKEN:
        made = list(make())
    with atomic_path(path) as work, work.open("wb") as file:
        np.savez(file, *made)
    return made


def permuted(example: RankingExample, order: Sequence[int]) -> RankingExample:
    """The list with its candidates in another order."""
    return replace(example, candidates=tuple(example.candidates[j] for j in order))
