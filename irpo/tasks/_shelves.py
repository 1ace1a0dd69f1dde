"""Where the lists of a split are written: one JSON lines file, or Parquet shards, either a shard at a time.

What is written of whole shards is on the disk when `end` returns, and `state` is what it takes to go on from there.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from irpo.files import sha256_of, to_disk
from irpo.tasks.shards import FILES, ROW_GROUP, is_shard, shard_name, shard_schema


class Shelf(Protocol):
    """A split's files while they are written."""

    @property
    def room(self) -> int:
        """How many more lists the present shard takes."""
        ...

    def add(self, payload: Any, kept: Sequence[int]) -> None:
        """Write those lists of a batch's payload; no more than there is room for."""
        ...

    def end(self) -> None:
        """The present shard ends here, if anything is in it."""
        ...

    def state(self) -> dict[str, Any]:
        """What was written of whole shards, in JSON."""
        ...

    def names(self) -> list[str]:
        """The files, by name."""
        ...

    def said(self) -> tuple[str, dict[str, Any]]:
        """The digest of all of them, and what else the card says of them."""
        ...


def open_shelf(folder: Path, split: str, form: str, lists: int, state: Mapping[str, Any] | None) -> Shelf:
    """The split's files in a folder, shards of so many lists, where need be from an earlier `state` on."""
    return JsonShelf(folder, split, lists, state) if form == "jsonl" else ParquetShelf(folder, split, lists, state)


def is_whole(folder: Path, split: str, state: Mapping[str, Any]) -> bool:
    """Whether a folder holds what a state says."""
    if "bytes" in state:
        path = folder / FILES[split]
        return path.is_file() and path.stat().st_size >= state["bytes"]
    return all((folder / file["name"]).is_file() for file in state["files"])


class JsonShelf:
    """One JSON lines file; a shard is a part of it."""

    def __init__(self, folder: Path, split: str, lists: int, state: Mapping[str, Any] | None) -> None:
        self._path = folder / FILES[split]
        self._shard, self._held = lists, 0
        self._bytes = int(state["bytes"]) if state else 0
        self._path.touch()
        os.truncate(self._path, self._bytes)
        with self._path.open("rb") as file:
            self._digest = hashlib.file_digest(file, "sha256")
        self._file = self._path.open("ab")

    @property
    def room(self) -> int:
        return self._shard - self._held

    def add(self, payload: Sequence[bytes], kept: Sequence[int]) -> None:
        for index in kept:
            self._file.write(payload[index])
            self._digest.update(payload[index])
        self._held += len(kept)

    def end(self) -> None:
        self._file.flush()
        to_disk(self._path)
        self._bytes, self._held = self._file.tell(), 0

    def state(self) -> dict[str, Any]:
        return {"bytes": self._bytes}

    def names(self) -> list[str]:
        return [self._path.name]

    def said(self) -> tuple[str, dict[str, Any]]:
        return self._digest.hexdigest(), {}


class ParquetShelf:
    """Parquet files, compressed by zstd, in row groups of `ROW_GROUP` lists."""

    def __init__(self, folder: Path, split: str, lists: int, state: Mapping[str, Any] | None) -> None:
        self._folder, self._split, self._shard = folder, split, lists
        self._files: list[dict[str, Any]] = list(state["files"]) if state else []
        self._writer: Any = None
        self._waiting: list[Any] = []
        self._held = 0  # lists of the present shard, those that wait among them
        whole = {file["name"] for file in self._files}
        for path in folder.iterdir():
            if is_shard(path.name) and path.name.startswith(f"{split}-") and path.name not in whole:
                path.unlink()

    @property
    def room(self) -> int:
        return self._shard - self._held

    def add(self, payload: Any, kept: Sequence[int]) -> None:
        if not kept:
            return
        self._waiting.append(payload if len(kept) == payload.num_rows else payload.take(list(kept)))
        self._held += len(kept)
        if sum(batch.num_rows for batch in self._waiting) >= ROW_GROUP:
            self._write(last=False)

    def end(self) -> None:
        if not self._held:
            return
        self._write(last=True)
        self._writer.close()
        self._writer = None
        path = self._present()
        to_disk(path)
        self._files.append({"name": path.name, "lists": self._held, "sha256": sha256_of(path)})
        self._held = 0

    def state(self) -> dict[str, Any]:
        return {"files": self._files}

    def names(self) -> list[str]:
        return [file["name"] for file in self._files]

    def said(self) -> tuple[str, dict[str, Any]]:
        """The digest is that of `sha256sum SPLIT-*.parquet | sha256sum`."""
        lines = "".join(f"{file['sha256']}  {file['name']}\n" for file in self._files)
        return hashlib.sha256(lines.encode()).hexdigest(), {"files": self._files}

    def _present(self) -> Path:
        return self._folder / shard_name(self._split, len(self._files))

    def _write(self, *, last: bool) -> None:
        """Write what waits in whole row groups; at a shard's end the rest too."""
        import pyarrow as pa
        import pyarrow.parquet

        if self._writer is None:
            self._writer = pyarrow.parquet.ParquetWriter(self._present(), shard_schema(), compression="zstd")
        table = pa.Table.from_batches(self._waiting, shard_schema())
        whole = table.num_rows if last else table.num_rows // ROW_GROUP * ROW_GROUP
        if whole:
            self._writer.write_table(table.slice(0, whole), row_group_size=ROW_GROUP)
        self._waiting = table.slice(whole).to_batches()
