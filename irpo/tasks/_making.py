"""The lists of a task on their way into files, one shard after another; a dead process's whole shards are kept.

Of each split it holds a few batches, running counts and what the ledger has on disk: memory does not grow with the
number of lists, unless the task itself holds them.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from irpo import stopping
from irpo.disk import OF_SPACE, NoRoom, cause
from irpo.progress import say
from irpo.rows import Row
from irpo.tasks import IN_EVALUATION, REPEATED, Collected, Intake, Refused
from irpo.tasks._batches import FORMATS, Batch, Entry, batches
from irpo.tasks._intake import FIRST_BAD_ROWS
from irpo.tasks._ledger import Ledger
from irpo.tasks._shelves import Shelf, is_whole, open_shelf
from irpo.tasks._statistics import Statistics
from irpo.tasks._workers import WorkerDied, Workers
from irpo.tasks.shards import FILES
from irpo.types import RankingExample, UnknownName, UserError

SHARD_LISTS = 10_000
MAX_PROCESSES = 256


@dataclass(frozen=True)
class Layout:
    """How lists are written, and by how many processes."""

    format: str = "jsonl"
    shard_lists: int = SHARD_LISTS  # of a Parquet file; what a process that was killed loses at most
    processes: int = 1

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise UnknownName(f"unknown format {self.format!r}; choose from {', '.join(FORMATS)}")
        if self.shard_lists < 1:
            raise UserError(f"shard_lists: {self.shard_lists}; give 1 or more")
        if not 1 <= self.processes <= MAX_PROCESSES:
            raise UserError(f"processes: {self.processes}; give 1 to {MAX_PROCESSES}")


@dataclass
class Progress:
    """How far a split is, all of it in JSON: what it takes to go on."""

    passed: int = 0  # outcomes: rows that were read, or lists that were made
    groups: int = 0
    shared: int = 0  # groups that the evaluation split holds too
    least: str = ""  # the first of them in the order of the alphabet
    done: bool = False
    statistics: Statistics = field(default_factory=Statistics)
    shelf: dict[str, Any] | None = None
    account: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return {**vars(self), "statistics": self.statistics.as_json()}

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Progress:
        """It again, from `as_json`."""
        return cls(**{**told, "statistics": Statistics.of(told["statistics"])})


@dataclass(frozen=True)
class Made:
    """A split's files, and what the card says of them."""

    names: list[str]
    card: dict[str, Any]
    progress: Progress


@dataclass(frozen=True)
class Making:
    """One making of lists: where, how, and what is known of all splits."""

    folder: Path
    ledger: Ledger
    workers: Workers
    layout: Layout
    given: bool  # whether an id that comes twice is the user's mistake
    intake: Intake  # the task's own

    def split(self, split: str, found: Iterable[RankingExample]) -> Made:
        """Write a split's lists, those of the evaluation split before the training split's."""
        told = self.ledger.told(split)
        progress = Progress() if told is None else Progress.of(told)
        shelf = open_shelf(self.folder, split, self.layout.format, self.layout.shard_lists, progress.shelf)
        if told is not None:
            say(f"{split}: {progress.statistics.lists} lists were written before; going on from there")
        if not progress.done:
            self._drain(split, found, progress, shelf)
        sha256, more = shelf.said()
        return Made(shelf.names(), progress.statistics.card(progress.groups, sha256) | more, progress)

    def _drain(self, split: str, found: Iterable[RankingExample], progress: Progress, shelf: Shelf) -> None:
        """Go through the rest of a split's lists.

        What this counts itself lasts with each shard; what a task's generator counts on the way is counted anew where
        it is gone through again, and lasts with the whole split.
        """
        own = Intake(self.intake.skip_bad_rows)
        add_account(own, progress.account)
        before = take_account(self.intake)
        take = _Take(self, split, progress, shelf, own, found)
        for batch in batches(found, self.layout.format, self.workers, progress.passed):
            take.batch(batch)
        shelf.end()
        add_account(own, take_account(self.intake))
        add_account(self.intake, before)
        progress.done = True
        take.commit()


@dataclass
class _Take:
    """What is done with each outcome of a split."""

    making: Making
    split: str
    progress: Progress
    shelf: Shelf
    own: Intake
    found: Iterable[RankingExample]

    def batch(self, batch: Batch) -> None:
        """Keep what is to be kept of a batch, and let it last where a shard is full."""
        kept: list[int] = []
        place = -1
        for outcome in batch.outcomes:
            self.progress.passed += 1
            if not isinstance(outcome, Entry):
                self._omit(outcome)
                continue
            place += 1
            if self._keeps(outcome):
                self._count(outcome)
                kept.append(place)
            if len(kept) == self.shelf.room:
                self.shelf.add(batch.payload, kept)
                self.shelf.end()
                self.commit()
                kept = []
        self.shelf.add(batch.payload, kept)

    def commit(self) -> None:
        """Let all that came so far last."""
        self.progress.shelf, self.progress.account = self.shelf.state(), account_of(self.own)
        self.making.ledger.commit(self.split, self.progress.as_json())

    def _omit(self, outcome: Row | Refused) -> None:
        if isinstance(self.found, Collected):
            # Rows that another split accounts for have an intake of their own.
            intake = self.own if self.found.intake is self.making.intake else self.found.intake
            Collected(intake, self.split, (), self.found.parse).omits(outcome)

    def _keeps(self, entry: Entry) -> bool:
        ledger = self.making.ledger
        path, _, place = entry.where.rpartition(":")
        line = int(place) if self.making.given else 0
        if (earlier := ledger.earlier(self.split, entry.id, line)) is not None:
            if self.making.given:
                row = Row({}, path, line)
                self.own.bad(row, f"id {entry.id!r} stands in line {earlier} already; ids are unique")
            else:
                self.own.drop(self.split, REPEATED)
            return False
        if self.split == "train" and ledger.has("eval", entry.id):
            self.own.drop("train", IN_EVALUATION)
            return False
        return True

    def _count(self, entry: Entry) -> None:
        ledger, progress = self.making.ledger, self.progress
        progress.statistics.add(entry.numbers)
        if ledger.add_group(self.split, entry.unit):
            progress.groups += 1
            if self.split == "train" and ledger.has_group("eval", entry.unit):
                progress.least = min(progress.least, entry.unit) if progress.shared else entry.unit
                progress.shared += 1


def account_of(intake: Intake) -> dict[str, Any]:
    """What an intake has counted, in JSON."""
    return {name: value for name, value in vars(intake).items() if name not in ("skip_bad_rows", "told")}


def take_account(intake: Intake) -> dict[str, Any]:
    """What an intake has counted; it begins anew."""
    told = account_of(intake)
    vars(intake).update(vars(Intake(intake.skip_bad_rows)))
    return told


def add_account(intake: Intake, told: Mapping[str, Any]) -> None:
    """Count what another intake has counted too."""
    for split, reasons in told.get("dropped", {}).items():
        intake.dropped_of(split).update(Counter(reasons))
    intake.bad_rows = [*intake.bad_rows, *told.get("bad_rows", ())][:FIRST_BAD_ROWS]
    intake.bad_count += told.get("bad_count", 0)
    intake.sources |= told.get("sources", {})
    for note in told.get("notes", ()):
        intake.note(note)


@contextmanager
def work_folder(out: Path, key: str) -> Iterator[tuple[Path, Ledger]]:
    """A hidden folder beside `out` to work in, as a process that died left it where it did the same (`key`).

    It goes when the work is done or has failed; where the process is interrupted, or the disk is full, it stays if
    anything whole is in it.
    """
    folder = work_folder_of(out)
    with _telling(out, lambda: ""):
        ledger = _entered(folder, key)
    kept = partial(_if_whole, ledger, "what is whole was kept, the same command goes on from it")
    stands = partial(_if_whole, ledger, "the same command goes on from what is whole")
    keep = False
    with _telling(out, kept), stopping.telling(stands):
        try:
            yield folder, ledger
        except (KeyboardInterrupt, stopping.Stopped, WorkerDied, NoRoom, OSError, sqlite3.OperationalError):
            keep = ledger.lasts(*FILES)
            raise
        finally:
            ledger.close()
            if not keep:
                shutil.rmtree(folder, ignore_errors=True)


def work_folder_of(out: Path) -> Path:
    """Where the lists of `out` are made."""
    return out.absolute().with_name(f".{out.absolute().name}.preparing")


def _if_whole(ledger: Ledger, told: str) -> str:
    return told if ledger.lasts(*FILES) else ""


@contextmanager
def _telling(out: Path, kept: Callable[[], str]) -> Iterator[None]:
    """What cannot be written in the block is one line: the user's `out`, bytes that are wanting, and what is kept."""
    try:
        yield
    except NoRoom as error:
        raise NoRoom(out, error.code, needed=error.needed, kept=kept()) from None
    except (OSError, sqlite3.OperationalError) as error:
        if (code := cause(error)[1]) in OF_SPACE:
            raise NoRoom(out, code, kept=kept()) from None
        if isinstance(error, OSError) and error.filename is not None:
            raise
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        stands = kept()
        raise UserError(f"--out {out}: cannot be written: {reason}" + (f"; {stands}" if stands else "")) from None


def _entered(folder: Path, key: str) -> Ledger:
    """The folder's ledger; where it cannot be opened, a folder that was not there is not there again."""
    fresh = not os.path.exists(folder)  # not Path.exists: it raises where the name is too long
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return _opened(folder, key)
    except UserError:  # another process works in it
        raise
    except BaseException:
        if fresh:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _opened(folder: Path, key: str) -> Ledger:
    """The folder's ledger; all that belongs to other work, or is damaged, is removed first."""
    try:
        ledger = Ledger(folder)
        states = {split: ledger.told(split) for split in FILES}
        whole = all(is_whole(folder, split, told["shelf"]) for split, told in states.items() if told)
        if whole and ledger.told("key") == key:
            return ledger
        ledger.close()
    except sqlite3.OperationalError:  # no room, or no access: what lies there may be whole
        raise
    except (sqlite3.DatabaseError, json.JSONDecodeError):
        pass
    for path in folder.iterdir():
        path.unlink()
    ledger = Ledger(folder)
    ledger.commit("key", key)
    return ledger
