"""What a task reads its data through: files or the hub's rows, and the account of what is left out on the way."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from irpo.files import existing
from irpo.rows import Chunk, Row, grouped, read_chunks, rows_of
from irpo.tasks._hub import is_hub, load_hub
from irpo.types import UserError

T = TypeVar("T")

FIRST_BAD_ROWS = 20  # that are told one by one


class Refused(Exception):
    """A sound row that makes no list (no answer, say): counted under its reason, never an error."""


class Elsewhere(Refused):
    """A row that another split takes: not counted."""


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
    bad_rows: list[str] = field(default_factory=list)  # "name:line: why" of the first, only where they are skipped
    bad_count: int = 0  # of all of them
    sources: dict[str, dict[str, Any]] = field(default_factory=dict)  # file name -> sha256, rows
    notes: list[str] = field(default_factory=list)
    told: int = FIRST_BAD_ROWS  # so many bad rows are told one by one

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
        self.bad_count += 1
        if len(self.bad_rows) < self.told:
            self.bad_rows.append(f"{row.short}: {problem}")

    def rows(self, path: Path) -> Iterator[Row]:
        """A file's sound rows; the file's hash and its number of rows go to the sources."""
        return iter(self.collect("", self.file_rows([path]), lambda row: row))

    def file_rows(self, paths: Sequence[Path]) -> Rows:
        """The rows of files in turn, read as they are gone through; hashes and numbers of rows go to the sources."""
        return Rows(lambda: self._file_chunks(paths))

    def source(self, name: str, sha256: str, rows: int) -> None:
        """Record something that was read."""
        key, again = name, 2
        while key in self.sources and self.sources[key]["sha256"] != sha256:
            key, again = f"{name} ({again})", again + 1
        self.sources[key] = {"sha256": sha256, "rows": rows}

    def collect(self, split: str, rows: Iterable[Row], parse: Callable[[Row], T]) -> Collected[T]:
        """What `parse` makes of each row, as it is gone through; `Refused` is counted, `UserError` too (see `bad`).

        A `parse` that depends on the row alone, and that can be pickled, may run in another process.
        """
        return Collected(self, split, rows, parse)

    def splits(self, data: str, release: Release) -> dict[str, Rows]:
        """The rows of "train" and "eval" that a folder, a file or the hub holds; `UserError` where neither is there."""
        if is_hub(data):
            return self._hub(data, release)
        return {split: self.file_rows(paths) for split, paths in split_files(Path(data), release).items()}

    def _file_chunks(self, paths: Sequence[Path]) -> Iterator[Chunk]:
        for path in paths:
            digest, count = hashlib.sha256(), 0
            for chunk in read_chunks(path, digest):
                count += chunk.count
                yield chunk
            self.source(path.name, digest.hexdigest(), count)

    def _hub(self, data: str, release: Release) -> dict[str, Rows]:
        found = load_hub(data, release.hub, release.hub_config)
        names = _hub_splits(found, release)
        return {split: self.hub_rows(f"hub:{release.hub}/{name}", found[name]) for split, name in names.items()}

    def hub_rows(self, name: str, values: Iterable[Mapping[str, Any]]) -> Rows:
        """Rows of the hub, read as they are gone through; their hash and number go to the sources."""

        def rows() -> Iterator[Row]:
            digest, count = hashlib.sha256(), 0
            for count, value in enumerate(values, start=1):
                # A number that is none, or a date, is the row's matter: its task says whether it can be used.
                line = json.dumps(value, ensure_ascii=False, default=str)
                digest.update(line.encode("utf-8", "backslashreplace") + b"\n")
                yield Row(value, name, count)
            self.source(name, digest.hexdigest(), count)

        return Rows(lambda: grouped(name, rows()))


class Rows:
    """Rows that are read as they are gone through, as often as that is, and that come in chunks too."""

    def __init__(self, chunks: Callable[[], Iterator[Chunk]]) -> None:
        self._chunks = chunks

    def chunks(self) -> Iterator[Chunk]:
        """Its chunks, from the first one on."""
        return _numbered(self._chunks())

    def __iter__(self) -> Iterator[Row]:
        return chain.from_iterable(map(rows_of, self.chunks()))


@dataclass(frozen=True)
class Collected(Generic[T]):
    """What becomes of rows, one by one; see `Intake.collect`."""

    intake: Intake
    split: str
    rows: Iterable[Row]
    parse: Callable[[Row], T]

    def __iter__(self) -> Iterator[T]:
        for row in self.rows:
            outcome = outcome_of(row, self.parse)
            if not self.omits(outcome):
                yield cast(T, outcome)

    def omits(self, outcome: T | Row | Refused) -> bool:
        """Whether an outcome is nothing that was made; then it is counted, or the error that it is."""
        if isinstance(outcome, Elsewhere):
            return True
        if isinstance(outcome, Refused):
            self.intake.drop(self.split, str(outcome))
        elif isinstance(outcome, Row) and outcome.problem:
            self.intake.bad(outcome, outcome.problem)
        else:
            return False
        return True


def outcome_of(row: Row, parse: Callable[[Row], T]) -> T | Row | Refused:
    """What `parse` makes of a row; else why it is refused, or the row with its problem."""
    problem = row.problem or unwritable(row.value)
    if not problem:
        try:
            return parse(row)
        except Refused as refusal:
            return refusal
        except UserError as error:
            problem = str(error)
    return Row({}, row.path, row.line, problem)


def _numbered(chunks: Iterable[Chunk]) -> Iterator[Chunk]:
    """Chunks, perhaps of several files, that know how many records came before."""
    before = 0
    for chunk in chunks:
        yield replace(chunk, before=before)
        before += chunk.count


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
        require_file(path)
    return found


def require_file(path: Path) -> Path:
    """The path itself, or a `UserError` for what cannot be read twice from its beginning: a folder, a link, a pipe."""
    if not path.is_file():
        what = "a folder" if path.is_dir() else "a link to nothing" if path.is_symlink() else "no file"
        raise UserError(f"{path}: this is {what}; a file is needed here, or another name")
    return path


def _preferred(paths: list[Path], word: str) -> list[Path]:
    return [path for path in paths if word and word in name_words(path)] or paths


def unwritable(value: object) -> str:
    """What keeps a record from being written as UTF-8 again ("" where nothing does): half of a surrogate pair."""
    try:
        json.dumps(value, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError as error:
        return f"it holds {error.object[error.start]!a}, half of a surrogate pair, which is no text"
    return ""
