"""The data that are damaged: a task, its files in one of the forms in which they come, and its options."""

from __future__ import annotations

import copy
import csv
import io
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal

from tests.fuzz import rows
from tests.fuzz.rows import Inventor, Row

Form = Literal["lines", "list", "pretty", "tsv", "csv", "parquet", "hub", "prepared"]


@dataclass(frozen=True)
class File:
    """A file's rows and how they are written; `hub` is no file: its rows come from a hub that is stood in for.

    What `irpo prepare` wrote is its `content`.
    """

    name: str
    form: Form
    rows: tuple[Row, ...]
    content: bytes = b""


@dataclass(frozen=True)
class Case:
    """A task over files. `alone`: a row's list depends on no other row. `at` is the file given as data, else all."""

    name: str
    task: str
    files: tuple[File, ...]
    options: tuple[str, ...] = ()
    alone: bool = True
    at: str = ""
    damaged: tuple[str, ...] = field(default=())  # names of the files that are damaged; none: all of them

    @property
    def targets(self) -> list[File]:
        """The files that may be damaged."""
        return [file for file in self.files if not self.damaged or file.name in self.damaged]


@dataclass(frozen=True)
class Text:
    """A file of text in pieces: `head`, the rows' `chunks` with `joint` between them, `tail`."""

    head: bytes
    chunks: tuple[bytes, ...]
    joint: bytes
    tail: bytes

    def bytes(self) -> bytes:
        """The file."""
        return self.head + self.joint.join(self.chunks) + self.tail

    def span(self, row: int) -> tuple[int, int]:
        """Where a row's bytes begin and end."""
        start = len(self.head) + sum(len(chunk) + len(self.joint) for chunk in self.chunks[:row])
        return start, start + len(self.chunks[row])


def written(form: Form, given: Sequence[Row], *, columns: Sequence[str] = ()) -> Text:
    """Rows as a text file; a table has the `columns`, and cells that are no text are JSON."""
    if form == "lines":
        return Text(b"", tuple(json.dumps(row).encode() for row in given), b"\n", b"\n")
    if form in ("list", "pretty"):
        indent = 1 if form == "pretty" else None
        return Text(b"[", tuple(json.dumps(row, indent=indent).encode() for row in given), b",\n ", b"]\n")
    cells = [[_cell(value) for value in row.values()] for row in given]
    if form == "tsv":
        lines = ["\t".join(line) for line in [list(columns), *cells]]
        chunks = [line.encode("utf-8", "backslashreplace") for line in lines]
        return Text(chunks[0] + b"\r\n", tuple(chunks[1:]), b"\r\n", b"\r\n")
    chunks = [_csv_line(line) for line in [list(columns), *cells]]
    return Text(chunks[0] + b"\n", tuple(chunks[1:]), b"\n", b"\n")


def _cell(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _csv_line(cells: Sequence[str]) -> bytes:
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator="\n").writerow(cells)  # which says, too, that a cell with a line end is quoted
    return out.getvalue()[:-1].encode("utf-8", "backslashreplace")


def _many(make: Callable[[Inventor], Row], invent: Inventor, count: int) -> tuple[Row, ...]:
    return tuple(make(invent) for _ in range(count))


def _two(name: str, task: str, make: Callable[[Inventor], Row], form: Form, seed: int, **more: object) -> Case:
    """A case of a training and an evaluation file of the same form."""
    invent = Inventor((name, seed))
    suffix = {"lines": "jsonl", "list": "json", "pretty": "json", "parquet": "parquet", "hub": "hub"}.get(form, form)
    names = ("train", "dev") if form == "hub" else (f"train.{suffix}", f"dev.{suffix}")
    files = tuple(File(which, form, _many(make, invent, count)) for which, count in zip(names, (6, 5), strict=True))
    return Case(name, task, files, **more)  # type: ignore[arg-type]


def _one(name: str, task: str, make: Callable[[Inventor], Row], form: Form, seed: int) -> Case:
    """A case of one file, which is given as data."""
    file = File(f"train_rows.{form}", form, _many(make, Inventor((name, seed)), 6))
    return Case(name, task, (file,), at=file.name, options=("eval_fraction=0",))


def _films(seed: int) -> list[Case]:
    """The recommendation tasks, with what lies beside their dialogues."""
    invent = Inventor(("films", seed))
    dialogues = _many(rows.redial, invent, 5)
    test = File("test_data.jsonl", "lines", dialogues)
    suggested = tuple(rows.suggestion(invent, row["conversationId"]) for row in dialogues)
    mentions = File("movies_with_mentions.csv", "csv", _many(rows.mention, invent, 12))
    said = tuple(rows.inspired(invent, 7))
    spoken = {form: tuple(File(f"{n}.{form}", form, said[a:b]) for n, a, b in (("train", 0, 12), ("test", 12, 21)))
              for form in ("tsv", "csv")}  # fmt: skip
    own = tuple(rows.suggestion(invent, name) for name in dict.fromkeys(row["dialog_id"] for row in said))
    turns = File("train.csv", "csv", _many(rows.situation, invent, 5))
    return [
        Case("redial mentions", "redial", (test, mentions), alone=False, damaged=(mentions.name,)),
        Case("redial suggestions", "redial", (test, File("llm.jsonl", "lines", suggested)), alone=False,
             damaged=("llm.jsonl",)),
        Case("redial suggestions named", "redial", (test, File("mine.jsonl", "lines", suggested)), alone=False,
             damaged=("mine.jsonl",), options=("suggestions={}/mine.jsonl",)),
        Case("inspired tsv", "inspired", spoken["tsv"], alone=False),
        Case("inspired csv", "inspired", spoken["csv"], alone=False),
        Case("inspired turns", "inspired", (turns,), alone=False),
        Case("inspired suggestions", "inspired", (*spoken["tsv"], File("suggestions.jsonl", "lines", own)), alone=False,
             damaged=("suggestions.jsonl",)),
    ]  # fmt: skip


def _tables(seed: int) -> list[Case]:
    """One's own tables, and a collection with a query of every document's words."""
    invent = Inventor(("tables", seed))
    long = tuple(row for _ in range(5) for row in rows.judged(invent))
    wide = _many(rows.lists, invent, 6)
    corpus = _many(rows.document, invent, 8)
    asked = tuple({"_id": invent.word(), "text": " ".join(row["text"].split()[:3])} for row in corpus[:5])
    judged = tuple(
        {"query-id": q["_id"], "corpus-id": d["_id"], "score": "1"} for q, d in zip(asked, corpus, strict=False)
    )
    beir = (
        File("corpus.jsonl", "lines", corpus),
        File("queries.jsonl", "lines", asked),
        File("qrels/test.tsv", "tsv", judged),
    )
    by_id = ("eval_fraction=0", "query_id=id")
    return [
        *(Case(f"table {form}", "table", (File(f"train.{form}", form, long),), by_id, alone=False)
          for form in ("csv", "tsv", "parquet")),
        *(Case(f"table lists {form}", "table", (File(f"train.{form}", form, wide),), by_id)
          for form in ("csv", "parquet")),
        Case("beir corpus", "beir", beir, alone=False, damaged=("corpus.jsonl",)),
    ]  # fmt: skip


@lru_cache(maxsize=4)
def _prepared(layout: str, seed: int) -> Case:
    """A folder that `irpo prepare` wrote of lists."""
    from irpo import api

    with tempfile.TemporaryDirectory(prefix="irpo-fuzz-") as folder:
        data, out = Path(folder) / "data", Path(folder) / "out"
        data.mkdir()
        invent = Inventor(("prepared", seed))
        for name, count in (("train.jsonl", 7), ("eval.jsonl", 5)):
            (data / name).write_bytes(written("lines", _many(rows.own_whole, invent, count)).bytes())
        api.prepare({"name": "jsonl", "data": str(data)}, out, format=layout, shard_lists=3)
        files = tuple(File(path.name, "prepared", (), path.read_bytes()) for path in sorted(out.iterdir()))
    return Case(f"prepared {layout}", "prepared", files)


def cases(seed: int) -> list[Case]:
    """Every adapter in every form in which its data come."""
    none, far = {"options": ("eval_fraction=0",)}, {"alone": False}
    return [
        _two("own jsonl", "jsonl", rows.own, "lines", seed),
        _two("own json list", "jsonl", rows.own, "list", seed),
        _two("own pretty list", "jsonl", rows.own_whole, "pretty", seed),
        _two("own teacher", "jsonl", rows.own_whole, "lines", seed, options=("shuffle=true",)),
        _two("own csv", "jsonl", rows.own, "csv", seed, at="train.csv"),
        _two("arc website", "arc", rows.question, "lines", seed, **far),
        _two("arc json list", "arc", rows.question, "list", seed, **far),
        _two("arc parquet", "arc", rows.hub_question, "parquet", seed, **far),
        _two("arc hub", "arc", rows.hub_question, "hub", seed, **far),
        _two("commonsenseqa website", "commonsenseqa", rows.question, "lines", seed, **far),
        _two("commonsenseqa parquet", "commonsenseqa", rows.hub_question, "parquet", seed, **far),
        _two("hotpotqa website", "hotpotqa", rows.hotpot, "list", seed),
        _two("hotpotqa pretty list", "hotpotqa", rows.hotpot, "pretty", seed),
        _two("hotpotqa sentences", "hotpotqa", rows.hotpot, "lines", seed, options=("unit=sentence",)),
        _two("hotpotqa parquet", "hotpotqa", rows.hub_hotpot, "parquet", seed),
        _two("hotpotqa hub", "hotpotqa", rows.hub_hotpot, "hub", seed, options=("level=hard",)),
        _two("musique website", "musique", rows.musique, "lines", seed),
        _two("musique sentences", "musique", rows.musique, "list", seed, options=("unit=sentence",)),
        _two("musique parquet", "musique", rows.musique, "parquet", seed),
        _two("redial website", "redial", rows.redial, "lines", seed, **far),
        _two("redial hub rows", "redial", rows.hub_redial, "list", seed, **far),
        _two("redial parquet", "redial", rows.hub_redial, "parquet", seed, **far),
        _two("redial hub", "redial", rows.hub_redial, "hub", seed, **far),
        *_films(seed),
        _two("preferences scored", "preferences", rows.scored, "lines", seed, **none),
        _two("preferences parallel", "preferences", rows.parallel, "lines", seed, options=("labels=difference",)),
        _two("preferences pairs", "preferences", rows.pair, "list", seed, **none),
        _two("preferences messages", "preferences", rows.messages, "parquet", seed, **none),
        _two("preferences transcripts", "preferences", rows.transcript, "lines", seed, **none),
        _two("preferences nectar", "preferences", rows.nectar, "parquet", seed, **none),
        _two("preferences helpsteer", "preferences", rows.helpsteer, "hub", seed, **none),
        _one("preferences csv", "preferences", rows.pair, "csv", seed),
        _one("preferences tsv", "preferences", rows.pair, "tsv", seed),
        *_tables(seed),
        _prepared("jsonl", seed),
        _prepared("parquet", seed),
    ]  # fmt: skip


def without(case: Case, name: str, row: int) -> Case:
    """The case without one row of one file."""
    return replaced(case, name, [r for n, r in enumerate(_file(case, name).rows) if n != row])


def replaced(case: Case, name: str, given: Sequence[Row]) -> Case:
    """The case with other rows in one file."""
    files = tuple(File(f.name, f.form, tuple(given)) if f.name == name else f for f in case.files)
    return Case(case.name, case.task, files, case.options, case.alone, case.at, case.damaged)


def _file(case: Case, name: str) -> File:
    return next(file for file in case.files if file.name == name)


def copied(given: Sequence[Row]) -> list[Row]:
    """The rows, to be changed."""
    return copy.deepcopy(list(given))
