"""Parquet files: sound ones of other make, and broken ones."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.fuzz.rows import Row


def write(path: Path, rows: Sequence[Row], **options: Any) -> bool:
    """A file of row groups of two; False where it does not give the same rows back.

    Rows that fit no schema are written with every cell as JSON, and a key that one row has in a struct all rows have.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.Table.from_pylist(_filled(rows))
        table.validate(full=True)
        fits = repr(table.to_pylist()) == repr(list(rows))
        pyarrow.parquet.write_table(table, path, **({"row_group_size": 2} | options))
    except (pyarrow.ArrowException, ValueError, TypeError, OverflowError):
        fits = False
        cells = [
            {str(key).encode(errors="replace").decode(): json.dumps(value) for key, value in row.items()}
            for row in _filled(rows)
        ]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(cells), path)
    return fits


def _filled(rows: Sequence[Row]) -> list[Row]:
    """All with the keys of any of them: the first row alone would say what the columns are."""
    keys = dict.fromkeys(key for row in rows for key in row)
    return [{key: row.get(key) for key in keys} for row in rows]


def _flipped(path: Path, rows: Sequence[Row], chance: random.Random) -> bool:
    content = bytearray(path.read_bytes())
    for _ in range(chance.choice([1, 3, 30])):
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)
    return False


def _footer(path: Path, rows: Sequence[Row], chance: random.Random) -> bool:
    content = bytearray(path.read_bytes())
    length = int.from_bytes(content[-8:-4], "little")
    for _ in range(chance.choice([1, 2, 8])):
        content[len(content) - 8 - chance.randrange(1, length + 1)] = chance.randrange(256)
    path.write_bytes(content)
    return False


def _length(path: Path, rows: Sequence[Row], chance: random.Random) -> bool:
    content = path.read_bytes()
    new = chance.choice([0, 1, 2**31 - 1, 2**32 - 1, len(content), chance.randrange(len(content))])
    path.write_bytes(content[:-8] + new.to_bytes(4, "little") + chance.choice([b"PAR1", b"PARE", b"XXXX"]))
    return False


def _group(path: Path, rows: Sequence[Row], chance: random.Random) -> bool:
    """Other bytes in the first rows, before the footer."""
    content = bytearray(path.read_bytes())
    end = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    start = chance.randrange(4, end)
    stop = min(end, start + chance.choice([1, 4, 200]))
    content[start:stop] = bytes(chance.choice([0, 255, chance.randrange(256)]) for _ in range(stop - start))
    path.write_bytes(content)
    return False


def _cut(path: Path, rows: Sequence[Row], chance: random.Random) -> bool:
    content = path.read_bytes()
    a, b = sorted(chance.randrange(len(content) + 1) for _ in range(2))
    path.write_bytes(
        chance.choice(
            [content[:a], content[:a] + content[b:], b"PAR1" + content[a:], content[:4], content + content[a:]]
        )
    )
    return False


def _other_make(path: Path, rows: Sequence[Row], chance: random.Random) -> bool:
    options: dict[str, Any] = chance.choice(
        [
            {"compression": "zstd"}, {"compression": "gzip"}, {"compression": "none"}, {"use_dictionary": False},
            {"row_group_size": 1}, {"row_group_size": 1000}, {"data_page_version": "2.0"}, {"version": "1.0"},
            {"write_page_checksum": True},
        ]
    )  # fmt: skip
    return write(path, rows, **options)


def _dictionaries(path: Path, rows: Sequence[Row], chance: random.Random) -> bool:
    """Texts as dictionary columns or as large texts, which mean the same."""
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.Table.from_pylist(list(rows))
    new = chance.choice(
        [pyarrow.dictionary(pyarrow.int32(), pyarrow.string()), pyarrow.large_string(), pyarrow.string_view()]
    )
    for at, kind in enumerate(table.schema):
        if kind.type == pyarrow.string():
            table = table.set_column(at, kind.name, table.column(at).cast(new))
    pyarrow.parquet.write_table(table, path, row_group_size=2)
    return True


def _schema(path: Path, rows: Sequence[Row], chance: random.Random) -> bool:
    """Other columns than the dataset's."""
    import datetime
    import decimal

    import pyarrow
    import pyarrow.parquet

    values: list[Any] = [1, 2.5, b"\xff\xfe", True, None, datetime.datetime(1, 1, 1), datetime.date(9999, 12, 31)]
    values += [decimal.Decimal("1.5"), datetime.timedelta(1), [b"x"], {"a": {"b": [1]}}]
    column = chance.choice(list(rows[0]))
    given = [value for row, value in zip(rows, [chance.choice(values)] * len(rows), strict=True) if row is not None]
    table = pyarrow.Table.from_pylist(list(rows))
    at = table.schema.names.index(column)
    kind = chance.choice(["replaced", "twice", "gone", "none", "far times", "map"])
    new = pyarrow.array(given)
    if kind == "far times":
        new = pyarrow.array([2**62] * len(rows)).cast(pyarrow.timestamp("us"))
    elif kind == "map":
        new = pyarrow.array([[("a", 1), ("a", 2)]] * len(rows), pyarrow.map_(pyarrow.string(), pyarrow.int64()))
    if kind == "twice":
        table = table.append_column(column, table.column(at))
    elif kind == "gone":
        table = table.remove_column(at)
    elif kind == "none":
        table = table.slice(0, 0)
    else:
        table = table.set_column(at, column, new)
    pyarrow.parquet.write_table(table, path)
    return False


def _nulls(path: Path, rows: Sequence[Row], chance: random.Random) -> bool:
    """Nulls deep inside, in all rows."""
    from tests.fuzz.values import at, put, ways

    mine = json.loads(json.dumps(list(rows)))
    for row in mine:
        put(row, way := chance.choice(ways(row)), None if len(way) < 3 else at(row, way) and None)
    write(path, mine)
    return False


DAMAGE: dict[str, Callable[[Path, Sequence[Row], random.Random], bool]] = {
    "bits flipped": _flipped,
    "footer broken": _footer,
    "footer's length": _length,
    "row group broken": _group,
    "bytes gone": _cut,
    "other make": _other_make,
    "other kinds of text": _dictionaries,
    "another schema": _schema,
    "nested nulls": _nulls,
}
BYTES = {name: change for name, change in DAMAGE.items() if change in (_flipped, _footer, _group, _cut)}
ANY_BYTES = {name: change for name, change in DAMAGE.items() if change in (_flipped, _cut)}
