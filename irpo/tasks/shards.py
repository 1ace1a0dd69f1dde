"""Prepared lists read as a stream: a folder that `irpo prepare` wrote, of any size, in a bounded part of memory.

A split is one JSON lines file or several Parquet files, its *shards*. A row of a shard is a list: `id`, `query`,
`candidates` (`id`, `text`, `relevance`, `source`, `teacher`), `group` and `unlisted`, as in the JSON form.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from irpo.files import sha256_of
from irpo.tasks.jsonl import parse_list
from irpo.types import Candidate, RankingExample, UserError

if TYPE_CHECKING:
    import pyarrow

CARD = "card.json"
FILES = {"train": "train.jsonl", "eval": "eval.jsonl"}
ROW_GROUP = 500  # lists; what is read at once, and what a shuffle moves
_SLICE = 32  # lists of a row group that are Python objects at once
_BLOCK = 4 * 2**20  # bytes of a JSON lines file that a shuffle moves


def shard_name(split: str, number: int) -> str:
    """The file of a split's shard, from 0; the names' order is that of the lists."""
    return f"{split}-{number:05d}.parquet"


def is_shard(name: str) -> bool:
    """Whether a file's name is one that `shard_name` gives."""
    return re.fullmatch(r"(train|eval)-\d{5,}\.parquet", name) is not None


def shard_schema() -> pyarrow.Schema:
    """The columns of a shard."""
    import pyarrow as pa

    candidate = pa.struct(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("text", pa.string(), nullable=False),
            pa.field("relevance", pa.float64(), nullable=False),
            pa.field("source", pa.string(), nullable=False),
            pa.field("teacher", pa.float64()),
        ]
    )
    missed = pa.struct(
        [pa.field("id", pa.string(), nullable=False), pa.field("relevance", pa.float64(), nullable=False)]
    )
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("query", pa.string(), nullable=False),
            pa.field("candidates", pa.list_(candidate), nullable=False),
            pa.field("group", pa.string()),
            pa.field("unlisted", pa.list_(missed), nullable=False),
        ]
    )


@dataclass(frozen=True)
class Place:
    """A part of a file that is read in one go: a row group of a shard, or a range of bytes of a JSON lines file."""

    path: str
    start: int  # the row group's number, or the byte from which lines may begin
    end: int  # the byte at which none begins any more; not read of a row group
    row: int = 0  # how many of the shard's rows stand before


@dataclass(frozen=True)
class ShardedLists:
    """The lists of one split of a prepared folder, gone through without holding them."""

    folder: Path
    split: str

    @classmethod
    def of(cls, folder: Path | str, split: str = "train") -> ShardedLists:
        """The lists of a folder's split; `UserError` for what `irpo prepare` did not write, or not whole.

        Files and their footers are looked at, rows are not (see `verify`).
        """
        found = cls(Path(folder), split)
        found._places  # noqa: B018 - a file that is missing is found now
        return found

    def __len__(self) -> int:
        """How many lists there are, by the card."""
        return int(self._said["lists"])

    @property
    def sha256(self) -> str:
        """The card's digest of the split: another one, other lists (or another form of them)."""
        return str(self._said["sha256"])

    @property
    def relevant_from(self) -> float:
        """The label from which an item counts as relevant in Recall, P, MRR and MAP."""
        return float(self._card["relevant_from"])

    def __iter__(self) -> Iterator[RankingExample]:
        """The lists in the files' order."""
        return chain.from_iterable(map(read_place, self._places))

    def shuffled(self, seed: int, epoch: int, buffer: int) -> Iterator[RankingExample]:
        """The lists in an order that depends on seed and epoch alone; `buffer` of them are held at once.

        By `datasets`: row groups (of a JSON lines file: ranges of 4 MB) come in random order, ten of them are read in
        turn, and what comes is mixed in the buffer. The same on every machine with the same version of `datasets`.
        """
        from datasets import IterableDataset

        if buffer < 1:
            raise UserError(f"a shuffle buffer of {buffer} lists; give 1 or more")
        stream = IterableDataset.from_generator(_boxed, gen_kwargs={"places": list(self._places)})
        stream = stream.shuffle(seed=seed, buffer_size=buffer)
        stream.set_epoch(epoch)
        return (box["list"] for box in stream)

    def verify(self) -> None:
        """`UserError` where a file is not the one that the card was written for, found by its SHA-256."""
        shards = self._said.get("files")
        digests = {shard["name"]: shard["sha256"] for shard in shards} if shards else {FILES[self.split]: self.sha256}
        for name, digest in digests.items():
            if sha256_of(self.folder / name) != digest:
                raise UserError(
                    f"{self.folder / name}: it was changed after {CARD} was written; prepare the lists anew"
                )

    @cached_property
    def _card(self) -> Mapping[str, Any]:
        return read_card(self.folder)

    @cached_property
    def _said(self) -> Mapping[str, Any]:
        """What the card says of the split."""
        splits = self._card["splits"]
        if self.split not in splits:
            raise UserError(f"{self.folder}: there is no split {self.split!r} here; there is {', '.join(splits)}")
        said: Mapping[str, Any] = splits[self.split]
        return said

    @cached_property
    def _places(self) -> tuple[Place, ...]:
        shards = self._said.get("files")
        if not shards:
            return tuple(_blocks(_there(self.folder / FILES[self.split])))
        return tuple(
            place for shard in shards for place in _row_groups(_there(self.folder / shard["name"]), int(shard["lists"]))
        )


def read_card(folder: Path) -> dict[str, Any]:
    """The card of a prepared folder; `UserError` where there is none, or none of ours."""
    path = folder / CARD
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: this is no file; give a folder that `irpo prepare` wrote")
    try:
        card: dict[str, Any] = json.loads(path.read_bytes())
        for split, said in card["splits"].items():
            shards = said.get("files", ())
            if split not in FILES or int(said["lists"]) < 1 or not said["sha256"] or not all(map(_is_named, shards)):
                raise ValueError
            if shards and sum(int(shard["lists"]) for shard in shards) != int(said["lists"]):
                raise ValueError
        float(card["relevant_from"])
    except FileNotFoundError:
        raise UserError(f"{folder}: no {CARD} lies here; give a folder that `irpo prepare` wrote") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, OverflowError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{path}: this is no card of `irpo prepare`; give a folder that it wrote") from None
    return card


def _is_named(shard: Mapping[str, Any]) -> bool:
    return is_shard(shard["name"]) and int(shard["lists"]) > 0 and bool(shard["sha256"])


def _there(path: Path) -> Path:
    if not path.is_file():
        raise UserError(f"{path}: {CARD} names this file, and it is not here; prepare the lists anew")
    return path


def _row_groups(path: Path, lists: int) -> Iterator[Place]:
    import pyarrow.parquet

    try:
        footer = pyarrow.parquet.read_metadata(path)
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from None
    if footer.num_rows != lists:
        raise UserError(f"{path}: it holds {footer.num_rows} lists, {CARD} says {lists}; prepare the lists anew")
    row = 0
    for number in range(footer.num_row_groups):
        yield Place(str(path), number, 0, row)
        row += footer.row_group(number).num_rows


def _blocks(path: Path) -> Iterator[Place]:
    size = path.stat().st_size
    for start in range(0, size, _BLOCK):
        yield Place(str(path), start, min(start + _BLOCK, size))


def _boxed(places: list[Place]) -> Iterator[dict[str, RankingExample]]:
    for place in places:
        for example in read_place(place):
            yield {"list": example}  # a row of `datasets` is a mapping


def read_place(place: Place) -> Iterator[RankingExample]:
    """The lists of one place, each knowing its file and line, or byte."""
    return _shard_lists(place) if is_shard(Path(place.path).name) else _line_lists(place)


def _shard_lists(place: Place) -> Iterator[RankingExample]:
    import pyarrow.parquet

    number = place.row
    try:
        with pyarrow.parquet.ParquetFile(place.path) as file:
            table = file.read_row_group(place.start, use_threads=False)
        records = chain.from_iterable(batch.to_pylist() for batch in table.to_batches(max_chunksize=_SLICE))
        for number, record in enumerate(records, start=place.row + 1):
            yield _example(record, f"{place.path}:{number}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(Path(f"{place.path}:{number}"), error) from None


def _example(record: Mapping[str, Any], where: str) -> RankingExample:
    candidates = tuple(
        Candidate(c["id"], c["text"], c["relevance"], c["source"], c["teacher"]) for c in record["candidates"]
    )
    unlisted = tuple((one["id"], one["relevance"]) for one in record.get("unlisted") or ())
    return RankingExample(record["id"], record["query"], candidates, record["group"], where, unlisted)


def _line_lists(place: Place) -> Iterator[RankingExample]:
    """The lists whose lines begin within the place."""
    with Path(place.path).open("rb") as file:
        if place.start:
            file.seek(place.start - 1)
            file.readline()  # the line that began before, or the line's end that stands right before
        at = file.tell()
        while at < place.end and (line := file.readline()):
            where = f"{place.path}:byte {at}"
            try:
                found = parse_list(json.loads(line))
            except (ValueError, RecursionError, AttributeError) as error:
                raise UserError(f"{where}: {str(error).splitlines()[0]}; prepare the lists anew") from None
            yield replace(found, where=where)
            at = file.tell()


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"{path}: broken parquet file: {(str(error).splitlines() or [type(error).__name__])[0]}")
