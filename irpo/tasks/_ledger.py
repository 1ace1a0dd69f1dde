"""What `prepare` has to remember while it runs, on disk: the ids and groups that came, and how far it is.

Ids and groups are kept as the first 16 bytes of their SHA-256: of 10^9 lists two are taken for one with a probability
below 10^-20. What was not committed is undone where the process dies.
"""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

from irpo.chance import digest
from irpo.types import UserError

NAME = "ledger.sqlite"
_SPLITS = {"train": 1, "eval": 2}
_TABLES = """
CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT);
CREATE TABLE IF NOT EXISTS ids (hash BLOB, split INTEGER, line INTEGER, PRIMARY KEY (hash, split)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS groups (hash BLOB, split INTEGER, PRIMARY KEY (hash, split)) WITHOUT ROWID;
"""


class Ledger:
    """The memory of one `prepare`, in a folder that it alone works in; `UserError` where another process does."""

    def __init__(self, folder: Path) -> None:
        self._base = sqlite3.connect(folder / NAME, timeout=0, isolation_level=None)
        try:
            # The lock is the operating system's: it ends with the process.
            self._base.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._base.execute("PRAGMA journal_mode=WAL")  # whole after a power cut too, without waiting for the disk
            self._base.execute("PRAGMA synchronous=NORMAL")
            self._base.execute("PRAGMA cache_size=-16000")  # kB
            self._base.execute("BEGIN EXCLUSIVE")
            for statement in _TABLES.split(";")[:-1]:
                self._base.execute(statement)
            self._names = {name for (name,) in self._base.execute("SELECT name FROM about")}
        except sqlite3.OperationalError as error:
            self._base.close()
            if "locked" not in str(error):
                raise
            raise UserError(f"{folder}: another process prepares these lists now; wait for it") from None

    def close(self) -> None:
        """What was not committed is undone."""
        self._base.close()

    def told(self, name: str) -> Any:
        """What was noted under a name, None where nothing was."""
        found = self._base.execute("SELECT value FROM about WHERE name = ?", (name,)).fetchone()
        return None if found is None else json.loads(found[0])

    def lasts(self, *names: str) -> bool:
        """Whether something under one of the names is on disk; it may be asked in any thread."""
        return not self._names.isdisjoint(names)

    def commit(self, name: str, value: Any) -> None:
        """Note something, and let all that came so far last."""
        self._base.execute("INSERT OR REPLACE INTO about VALUES (?, ?)", (name, json.dumps(value)))
        self._base.execute("COMMIT")
        self._names.add(name)
        self._base.execute("BEGIN EXCLUSIVE")

    def earlier(self, split: str, example_id: str, line: int) -> int | None:
        """The line where an id came before in this split; else None, and from now on it came in this one."""
        key = (digest(example_id)[:16], _SPLITS[split])
        fresh = self._base.execute("INSERT OR IGNORE INTO ids VALUES (?, ?, ?)", (*key, line)).rowcount
        if fresh:
            return None
        found = self._base.execute("SELECT line FROM ids WHERE hash = ? AND split = ?", key).fetchone()
        return int(found[0])

    def has(self, split: str, example_id: str) -> bool:
        """Whether an id came in this split."""
        return self._has("ids", split, example_id)

    def add_group(self, split: str, group: str) -> bool:
        """Note a list's group; whether it is new."""
        key = (digest(group)[:16], _SPLITS[split])
        return bool(self._base.execute("INSERT OR IGNORE INTO groups VALUES (?, ?)", key).rowcount)

    def has_group(self, split: str, group: str) -> bool:
        """Whether a group came in this split."""
        return self._has("groups", split, group)

    def _has(self, table: str, split: str, name: str) -> bool:
        query = f"SELECT 1 FROM {table} WHERE hash = ? AND split = ?"  # nosec B608 # a table's name of ours
        return self._base.execute(query, (digest(name)[:16], _SPLITS[split])).fetchone() is not None
