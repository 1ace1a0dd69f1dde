"""Tables of numbers by a key, more of them than memory holds: shards in a folder, read where they lie.

A shard is a safetensors file of the keys, shapes and values of some thousand tables, named by a digest of its content:
whole or not there, the same whoever wrote it, and never changed. So several processes and runs may add to a folder at
once. One whose content does not fit its name is damaged; it is left out, said, and gone.

Of a million tables some 24 MB are held, the keys and where each table lies; the values are memory-mapped.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save
from torch import Tensor

from irpo.files import atomic_path
from irpo.progress import say

SUFFIX = ".safetensors"
MOST = 8192  # tables of a shard
MOST_BYTES = 2**26  # of a shard's values
SECONDS = 60.0  # after which a shard is written, however few its tables: what a killed process loses at most
_OPEN = 256  # shards mapped at once; each holds a file open
_KEY = 16  # bytes


class Shelf:
    """The tables of a folder as they are when it is opened; what is added later is seen by who opens it then."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shards = [path for path in sorted(folder.glob(f"*{SUFFIX}")) if _sound(path)]
        parts = [_keys(path) for path in self.shards]
        keys = np.concatenate(parts) if parts else np.empty(0, f"S{_KEY}")
        self._keys, first = np.unique(keys, return_index=True)
        ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
        self._shard = np.searchsorted(ends, first, side="right").astype(np.int32)
        self._row = (first - np.concatenate([[0], ends])[self._shard]).astype(np.int32)
        self._mapped = lru_cache(_OPEN)(_Shard)

    def __len__(self) -> int:
        return len(self._keys)

    def has(self, keys: Sequence[str]) -> list[bool]:
        """Which of the keys (32 hex digits each) are there."""
        return [place is not None for place in self._places(keys)]

    def tables(self, keys: Sequence[str]) -> list[Tensor | None]:
        """Their tables (I, K) in float32; None where one is not there."""
        found = self._places(keys)
        return [None if at is None else self._mapped(self.shards[at[0]]).table(at[1]) for at in found]

    def _places(self, keys: Sequence[str]) -> list[tuple[int, int] | None]:
        """Shard and row of each key."""
        if not len(self._keys) or not keys:
            return [None] * len(keys)
        asked = np.array([bytes.fromhex(key) for key in keys], dtype=self._keys.dtype)
        at = np.minimum(np.searchsorted(self._keys, asked), len(self._keys) - 1)
        there = self._keys[at] == asked
        return [
            (int(self._shard[i]), int(self._row[i])) if found else None
            for i, found in zip(at.tolist(), there.tolist(), strict=True)
        ]


class _Shard:
    """A shard's tables, mapped."""

    def __init__(self, path: Path) -> None:
        arrays = _arrays(path)
        self._shapes, self._ends, self._values = arrays["shapes"], arrays["ends"], arrays["values"]

    def table(self, row: int) -> Tensor:
        shape = tuple(self._shapes[row].tolist())
        end = int(self._ends[row])
        values = self._values[end - shape[0] * shape[1] : end]
        return torch.from_numpy(np.array(values, dtype=np.float32)).reshape(shape)


def _arrays(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """A safetensors file's arrays where they lie: after the header's length and the header (the format's own words)."""
    whole = np.memmap(path, dtype=np.uint8, mode="r")
    start = 8 + int(whole[:8].view("<u8")[0])
    header = json.loads(whole[8:start].tobytes())
    kinds = {"U8": np.uint8, "I32": np.int32, "I64": np.int64, "F32": np.float32}
    found = {}
    for name, told in header.items():
        begin, end = (start + offset for offset in told["data_offsets"])
        found[name] = whole[begin:end].view(kinds[told["dtype"]]).reshape(told["shape"])
    return found


def _keys(path: Path) -> np.ndarray[Any, Any]:
    """A shard's keys, (N,)."""
    return np.array(_arrays(path)["keys"]).view(f"S{_KEY}").reshape(-1)


def _sound(path: Path) -> bool:
    """Whether a shard holds what its name says; one that does not is said and goes."""
    try:
        with path.open("rb") as file:
            fits = hashlib.file_digest(file, _digest).hexdigest() == path.stem
    except FileNotFoundError:  # another process found it damaged
        return False
    except OSError as error:
        say(f"reference: {path} cannot be read and is made anew ({error.strerror})")
        return False
    if not fits:
        say(f"reference: {path} is damaged and made anew (its content does not fit its name)")
        with suppress(OSError):
            path.unlink()
    return fits


def _digest(content: bytes = b"") -> Any:
    return hashlib.blake2b(content, digest_size=_KEY)


class Writer:
    """Adds tables to a folder, shard by shard; `OSError` where one cannot be written."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pending: list[tuple[str, Tensor]] = []
        self._bytes, self._since = 0, time.monotonic()

    def add(self, pairs: Iterable[tuple[str, Tensor]]) -> None:
        """Tables (I, K) by their keys, on disk when a shard is full or a minute has passed."""
        for key, table in pairs:
            self._pending.append((key, table))
            self._bytes += 4 * table.numel()
        late = time.monotonic() - self._since > SECONDS
        if late or len(self._pending) >= MOST or self._bytes >= MOST_BYTES:
            self.flush()

    def flush(self) -> None:
        """What is left, as a shard."""
        pending, self._pending = self._pending, []
        self._bytes, self._since = 0, time.monotonic()
        if pending:
            write_shard(self._folder, pending)


@contextmanager
def writing(folder: Path) -> Iterator[Writer]:
    """A writer whose last shard is written when the block is left, whatever ends it."""
    writer = Writer(folder)
    try:
        yield writer
    finally:
        writer.flush()


def write_shard(folder: Path, pairs: Sequence[tuple[str, Tensor]]) -> Path:
    """A shard of these tables, whole under its name when this returns."""
    by_key = sorted(pairs, key=lambda pair: pair[0])
    tables = [table.detach().numpy().astype(np.float32, copy=False) for _, table in by_key]
    content = save(
        {
            "keys": np.frombuffer(b"".join(bytes.fromhex(key) for key, _ in by_key), np.uint8).reshape(-1, _KEY),
            "shapes": np.array([table.shape for table in tables], np.int32).reshape(-1, 2),
            "ends": np.cumsum([table.size for table in tables], dtype=np.int64),
            "values": np.concatenate([table.reshape(-1) for table in tables]),
        }
    )
    path = folder / f"{_digest(content).hexdigest()}{SUFFIX}"
    with atomic_path(path) as work:
        work.write_bytes(content)
    return path
