"""From rows to what is written: the part of `prepare` that depends on the rows alone and may run in any process."""

from __future__ import annotations

import pickle  # nosec B403 # tries whether a function can be sent; reads none
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, islice
from typing import Any, NamedTuple

from irpo.files import json_line
from irpo.rows import Chunk, Row, rows_of
from irpo.tasks import Collected, Refused, Rows
from irpo.tasks._intake import outcome_of
from irpo.tasks._statistics import Numbers, numbers_of
from irpo.tasks._workers import Workers
from irpo.tasks.jsonl import list_as_json
from irpo.tasks.shards import shard_schema
from irpo.types import RankingExample

FORMATS = ("jsonl", "parquet")
_LISTS = 64  # of a batch whose lists were made here


class Entry(NamedTuple):
    """What there is to know of a list where it is decided whether it is kept."""

    id: str
    unit: str
    where: str
    numbers: Numbers


@dataclass(frozen=True)
class Batch:
    """What became of some rows, in their order, and the lists among it as they are written."""

    outcomes: Sequence[Entry | Row | Refused]
    payload: Any  # JSON lines as a list of bytes, or an Arrow record batch


def batches(found: Iterable[RankingExample], form: str, workers: Workers, passed: int) -> Iterator[Batch]:
    """A split's batches but for the first `passed` outcomes; what can be made by other processes is made there.

    They do not depend on how many processes there are.
    """
    if isinstance(found, Collected) and isinstance(found.rows, Rows) and _travels(found.parse):
        yield from workers.map(partial(_made, found.parse, form), _after(found.rows.chunks(), passed))
    else:
        rest = islice(found, passed, None)
        yield from workers.map(partial(_described, form), iter(lambda: list(islice(rest, _LISTS)), []))


def _travels(parse: Callable[[Row], object]) -> bool:
    """Whether another process can be told how rows are parsed; a function within a function cannot."""
    try:
        pickle.dumps(parse)
    except (pickle.PicklingError, AttributeError, TypeError):
        return False
    return True


def _after(chunks: Iterable[Chunk], passed: int) -> Iterator[tuple[Chunk, int]]:
    """The chunks with how many of their first rows are passed over; a chunk that is passed altogether is not read."""
    for chunk in chunks:
        if passed < chunk.count:
            yield chunk, passed
        passed = max(0, passed - chunk.count)


def _made(parse: Callable[[Row], RankingExample], form: str, task: tuple[Chunk, int]) -> Batch:
    chunk, passed = task
    outcomes = [outcome_of(row, parse) for row in islice(rows_of(chunk), passed, None)]
    examples = [outcome for outcome in outcomes if isinstance(outcome, RankingExample)]
    entries = [_entry(outcome) if isinstance(outcome, RankingExample) else outcome for outcome in outcomes]
    return Batch(entries, _payload(examples, form))


def _described(form: str, examples: list[RankingExample]) -> Batch:
    return Batch([_entry(example) for example in examples], _payload(examples, form))


def _entry(example: RankingExample) -> Entry:
    return Entry(example.id, example.unit, example.where, numbers_of(example))


def _payload(examples: Sequence[RankingExample], form: str) -> Any:
    return [line_of(example) for example in examples] if form == "jsonl" else _record_batch(examples)


def line_of(example: RankingExample) -> bytes:
    """A list as a JSON line."""
    return (json_line(list_as_json(example)) + "\n").encode("utf-8", "backslashreplace")


def _record_batch(examples: Sequence[RankingExample]) -> Any:
    import pyarrow as pa

    schema = shard_schema()
    names = [field.name for field in schema.field("candidates").type.value_type]
    lists = _lists(
        [[[getattr(c, name) for name in names] for c in e.candidates] for e in examples], schema, "candidates"
    )
    unlisted = _lists([e.unlisted for e in examples], schema, "unlisted")
    ids, queries, groups = (
        pa.array([getattr(e, name) for e in examples], pa.string()) for name in ("id", "query", "group")
    )
    return pa.record_batch([ids, queries, lists, groups, unlisted], schema=schema)


def _lists(of: Sequence[Sequence[Sequence[Any]]], schema: Any, name: str) -> Any:
    """A column of lists of objects, from each list's objects as tuples of their fields."""
    import pyarrow as pa

    column = schema.field(name).type
    fields = list(column.value_type)
    objects = [one for some in of for one in some]
    parts = [pa.array([one[i] for one in objects], field.type) for i, field in enumerate(fields)]
    offsets = pa.array([0, *accumulate(map(len, of))], pa.int32())
    return pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays(parts, fields=fields), type=column)
