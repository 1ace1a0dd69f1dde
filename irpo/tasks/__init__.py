"""Tasks: a module a dataset, each building ranking examples from the authors' files or from the hub's rows.

A task is a frozen dataclass whose fields are its options (`data`: a folder, a file, "hub" or "hub@REVISION"; `seed`;
...) and whose one method `build(intake)` gives the lists of "train" and "eval", one for each split that the data hold.
A new module in this package registers itself; a module whose name begins with `_` holds what several tasks share.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import pkgutil
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from irpo.chance import fingerprint
from irpo.files import Row, existing, json_line, read_rows, sha256_of
from irpo.registry import Registry
from irpo.sameness import text_key
from irpo.tasks._hub import is_hub, load_hub
from irpo.types import RankingExample, UserError

T = TypeVar("T")

Lists = dict[str, list[RankingExample]]  # "train", "eval" -> its lists


class Task(Protocol):
    """What a task plug-in does; see the package's docstring."""

    def build(self, intake: Intake) -> Lists:
        """The lists of each split that the data hold; what is dropped on the way is counted in `intake`."""
        ...


TASKS: Registry[Task] = Registry("task")


def relevant_from(task: object) -> float:
    """The label from which an item of a task counts as relevant in Recall, P, MRR and MAP; 1 unless the task says."""
    return float(getattr(task, "relevant_from", 1.0))


def validation_shares(task: object) -> tuple[float, ...]:
    """The shares of training lists that may validate without holding what training lists hold; () is any share."""
    return tuple(getattr(task, "validation_shares", ()))


class Refused(Exception):
    """A sound row that makes no list (no answer, say): counted under its reason, never an error."""


@dataclass(frozen=True)
class Release:
    """How a dataset is laid out where its authors, and the hub, publish it.

    `eval_names` are the names of the evaluation split, the first one that is there is taken; `prefer` chooses among
    several files, or splits of the hub, of one kind by a word of their names.
    """

    eval_names: tuple[str, ...]
    suffixes: tuple[str, ...] = (".json", ".jsonl", ".parquet")
    prefer: str = ""
    hub: str = ""
    hub_config: str | None = None
    form: str = ""  # what the files hold, said where none is found


_SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "dev": "dev",
    "val": "dev",
    "valid": "dev",
    "validation": "dev",
    "test": "test",
    "testing": "test",
    "eval": "test",
}


def name_words(path: Path) -> list[str]:
    """The words of a file's name, lower case.

    >>> name_words(Path("ARC-Challenge-Dev.jsonl"))
    ['arc', 'challenge', 'dev', 'jsonl']
    """
    return re.findall(r"[a-z]+|\d+", path.name.lower())


def split_of(path: Path) -> str | None:
    """The release's split ("train", "dev" or "test") that a file's name tells, if any."""
    return next((_SPLIT_WORDS[word] for word in name_words(path) if word in _SPLIT_WORDS), None)


@dataclass
class Intake:
    """One reading of a task's data: how broken rows are treated, and the account of what was read and dropped.

    Nothing in it names a folder of this machine: it ends up in the card.
    """

    skip_bad_rows: bool = False
    dropped: dict[str, Counter[str]] = field(default_factory=dict)  # split -> reason -> how many
    bad_rows: list[str] = field(default_factory=list)  # "name:line: why", only where they are skipped
    sources: dict[str, dict[str, Any]] = field(default_factory=dict)  # file name -> sha256, rows
    notes: list[str] = field(default_factory=list)

    def drop(self, split: str, reason: str, count: int = 1) -> None:
        """Count something that was left out of a split."""
        if count:
            self.dropped_of(split)[reason] += count

    def dropped_of(self, split: str) -> Counter[str]:
        """The split's counter, to count into."""
        return self.dropped.setdefault(split, Counter())

    def note(self, text: str) -> None:
        """Say something on the card, once."""
        if text not in self.notes:
            self.notes.append(text)

    def bad(self, row: Row, problem: str) -> None:
        """A row that cannot be used: an error at its `path:line`, or counted where bad rows are skipped."""
        if not self.skip_bad_rows:
            raise UserError(f"{row.where}: {problem}")
        self.bad_rows.append(f"{row.short}: {problem}")

    def rows(self, path: Path) -> Iterator[Row]:
        """A file's sound rows; the file's hash and its number of rows go to the sources."""
        count = 0
        for row in read_rows(path):
            count += 1
            if problem := row.problem or _unwritable(row.value):
                self.bad(row, problem)
            else:
                yield row
        self.source(path.name, sha256_of(path), count)

    def source(self, name: str, sha256: str, rows: int) -> None:
        """Record something that was read."""
        key, again = name, 2
        while key in self.sources and self.sources[key]["sha256"] != sha256:
            key, again = f"{name} ({again})", again + 1
        self.sources[key] = {"sha256": sha256, "rows": rows}

    def collect(self, split: str, rows: Iterable[Row], parse: Callable[[Row], T]) -> Iterator[T]:
        """What `parse` makes of each row: its `Refused` is counted, its `UserError` is the row's (see `bad`)."""
        for row in rows:
            try:
                yield parse(row)
            except Refused as refusal:
                self.drop(split, str(refusal))
            except UserError as error:
                self.bad(row, str(error))

    def splits(self, data: str, release: Release) -> dict[str, Iterable[Row]]:
        """The rows of "train" and "eval" that a folder, a file or the hub holds; `UserError` where neither is there."""
        if is_hub(data):
            return self._hub(data, release)
        files = split_files(Path(data), release)
        return {split: self._chain(paths) for split, paths in files.items()}

    def _chain(self, paths: Iterable[Path]) -> Iterator[Row]:
        for path in paths:
            yield from self.rows(path)

    def _hub(self, data: str, release: Release) -> dict[str, Iterable[Row]]:
        found = load_hub(data, release.hub, release.hub_config)
        names = _hub_splits(found, release)
        return {split: self._hub_rows(f"hub:{release.hub}/{name}", found[name]) for split, name in names.items()}

    def _hub_rows(self, name: str, rows: Iterable[Mapping[str, Any]]) -> Iterator[Row]:
        digest, count = hashlib.sha256(), 0
        for count, value in enumerate(rows, start=1):
            digest.update(json_line(value).encode("utf-8", "backslashreplace") + b"\n")
            yield Row(value, name, count)
        self.source(name, digest.hexdigest(), count)


def _hub_splits(names: Iterable[str], release: Release) -> dict[str, str]:
    """The hub's names of "train" and "eval": the plain one, else the one that has the preferred word."""
    by_kind: dict[str, list[str]] = {}
    for name in names:
        if kind := split_of(Path(name)):
            by_kind.setdefault(kind, []).append(name)
    kinds = {"train": "train", "eval": next((kind for kind in release.eval_names if kind in by_kind), "")}
    found: dict[str, str] = {}
    for split, kind in kinds.items():
        several = by_kind.get(kind, [])
        fitting = [name for name in several if name in _SPLIT_WORDS] or [
            path.name for path in _preferred([Path(name) for name in several], release.prefer)
        ]
        if len(fitting) > 1:
            raise UserError(f"data: 'hub': {release.hub!r} has several splits for {kind}: {', '.join(fitting)}")
        if fitting:
            found[split] = fitting[0]
    if not found:
        wanted = " or ".join(("train", *release.eval_names))
        raise UserError(f"data: 'hub': {release.hub!r} has the splits {', '.join(names)}, none of them {wanted}")
    return found


def split_files(data: Path, release: Release) -> dict[str, list[Path]]:
    """The files of "train" and "eval", found by the words of their names; sub-folders are not looked into.

    A single file is "eval" where its name says dev, valid or test, else "train".
    """
    if existing(data).is_file():
        return {"train" if split_of(data) in (None, "train") else "eval": [data]}
    by_name: dict[str, list[Path]] = {}
    for path in sorted(data.iterdir()):
        name = split_of(path)
        if path.suffix.lower() in release.suffixes and name:
            by_name.setdefault(name, []).append(path)
    chosen = {"train": "train", "eval": next((name for name in release.eval_names if name in by_name), "")}
    found = {split: _preferred(by_name[name], release.prefer) for split, name in chosen.items() if name in by_name}
    if not found:
        wanted = " or ".join(("train", *release.eval_names))
        kinds = ", ".join(release.suffixes)
        raise UserError(
            f"{data}: no file here ({kinds}) has {wanted} as a word of its name; give a folder or a file{release.form}"
        )
    for path in (path for paths in found.values() for path in paths):
        if not path.is_file():
            what = "a folder" if path.is_dir() else "a link to nothing" if path.is_symlink() else "no file"
            raise UserError(f"{path}: this is {what}; a file is needed here, or another name")
    return found


def _preferred(paths: list[Path], word: str) -> list[Path]:
    return [path for path in paths if word and word in name_words(path)] or paths


def build_lists(task: Task, intake: Intake) -> Lists:
    """The task's lists, checked: no id twice in a split, no training id that is also an evaluation id, not nothing."""
    lists = {split: _without_repeats(split, examples, intake) for split, examples in task.build(intake).items()}
    evaluated = {example.id for example in lists.get("eval", ())}
    kept = [example for example in lists.get("train", ()) if example.id not in evaluated]
    if "train" in lists:
        intake.drop("train", "id is also in the evaluation split", len(lists["train"]) - len(kept))
        lists["train"] = kept
    shared = {example.unit for example in lists.get("eval", ())} & {example.unit for example in kept}
    if shared:
        intake.note(f"train and eval share {len(shared)} groups, such as {min(shared)!r}: they are not independent")
    empty = [split for split, examples in lists.items() if not examples]
    if empty or not lists:
        split = empty[0] if empty else "any split"
        why = "; ".join(f"{count} x {reason}" for reason, count in sorted(intake.dropped.get(split, {}).items()))
        why += f"; {len(intake.bad_rows)} bad rows" if intake.bad_rows else ""
        read = ", ".join(sorted(intake.sources)) or "what was given"
        raise UserError(f"no list could be made for {split} from {read}: {why.strip('; ') or 'there are no rows'}")
    return lists


def _unwritable(value: object) -> str:
    """What keeps a record from being written as UTF-8 again ("" where nothing does): half of a surrogate pair."""
    try:
        json.dumps(value, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError as error:
        return f"it holds {error.object[error.start]!a}, half of a surrogate pair, which is no text"
    return ""


def groups_of(asked: Iterable[tuple[str, str]]) -> dict[str, str]:
    """From (id, question) of lists: the group of each id whose question others ask too, a name for the question."""
    ids: dict[str, set[str]] = {}
    for name, question in asked:
        ids.setdefault(text_key(question), set()).add(name)
    return {name: fingerprint(key) for key, names in ids.items() if len(names) > 1 for name in names}


def _without_repeats(split: str, examples: Iterable[RankingExample], intake: Intake) -> list[RankingExample]:
    kept: dict[str, RankingExample] = {}
    for example in examples:
        if example.id in kept:
            intake.drop(split, "id was there before")
        else:
            kept[example.id] = example
    return list(kept.values())


for _module in sorted(found.name for found in pkgutil.iter_modules(__path__)):
    importlib.import_module(f"{__name__}.{_module}")
