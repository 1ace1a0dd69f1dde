"""The files of an evaluation campaign, as trec_eval and its users write them: runs, judgements, topics, collections.

Each is read a line at a time, gzipped or not, and a line that is not sound is a row with its problem, or an error.
"""

from __future__ import annotations

import gzip
import html
import re
import struct
import zlib
from collections.abc import Collection, Iterator, Sequence
from heapq import nlargest
from pathlib import Path
from typing import IO, NamedTuple, cast

from irpo.files import existing
from irpo.rows import Row
from irpo.types import UserError

_GZIP = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"
_COLUMNS = 6  # of a run: qid Q0 docid rank score tag
_SHORT = 3  # of a run as MS MARCO has it: qid docid rank
_HEADERS = ("id", "_id", "qid", "pid", "docid", "doc_id", "query_id", "query-id", "corpus-id")


def plain_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines that hold anything, with their numbers; `UserError` for what is no file, or a broken gzip file."""
    if not existing(path).is_file():
        raise UserError(f"{path}: this is a folder; a file is needed here")
    try:
        with path.open("rb") as raw:
            file = cast("IO[bytes]", gzip.GzipFile(fileobj=raw)) if is_packed(path) else raw
            for number, line in enumerate(file, start=1):
                content = line.removeprefix(_BOM) if number == 1 else line
                if content.strip():
                    yield number, content.rstrip(b"\r\n")
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise UserError(f"{path}: broken gzip file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def is_packed(path: Path) -> bool:
    """Whether a file is gzipped."""
    with path.open("rb") as file:
        return file.read(2) == _GZIP


def _text(path: Path, number: int, content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}:{number}: byte {content[error.start]:#04x} is not UTF-8; files are UTF-8 text"
        ) from None


# ---- runs ------------------------------------------------------------------------------------------------------------


class RunLine(NamedTuple):
    """A document that a run ranks for a query; ids as bytes, for trec_eval knows no encoding."""

    query: bytes
    document: bytes
    score: float
    path: Path
    line: int

    @property
    def where(self) -> str:
        """`path:line`, as an error message shows it."""
        return f"{self.path}:{self.line}"

    @property
    def place(self) -> tuple[float, bytes]:
        """What trec_eval sorts by, the highest first."""
        return self.score, self.document

    def twice(self) -> UserError:
        """The error of a document that was ranked before."""
        document, query = (word.decode(errors="backslashreplace") for word in (self.document, self.query))
        return UserError(f"{self.where}: document {document!r} is ranked twice for query {query!r}")


def run_lines(path: Path, *, short: bool = False) -> Iterator[RunLine]:
    """The lines of a run, each sound: `qid Q0 docid rank score tag`, or `qid docid rank` too where it may be `short`.

    A score is a float of 32 bits, as trec_eval holds it; a rank in its place counts downwards.
    """
    for number, content in plain_lines(path):
        columns = content.split()
        if short and len(columns) == _SHORT:
            query, document, rank = columns
            yield RunLine(query, document, -_number(rank, "rank", path, number), path, number)
        elif len(columns) == _COLUMNS:
            query, _, document, _, score, _ = columns
            yield RunLine(query, document, _single(_number(score, "score", path, number)), path, number)
        else:
            said = f"{len(columns)} columns; a line of a TREC run has {_COLUMNS}: qid Q0 docid rank score tag"
            raise UserError(f"{path}:{number}: {said}")


def first_stage(path: Path, queries: Collection[str], top_k: int) -> dict[str, list[str]]:
    """The best `top_k` documents of each of these queries, best first, in trec_eval's order (score, then id).

    What is held of a query is never more than four times as many.
    """
    found: dict[str, dict[bytes, RunLine]] = {}
    wanted = {query.encode(): query for query in queries}
    for line in run_lines(path, short=True):
        query = wanted.get(line.query)
        if query is None:
            continue
        kept = found.setdefault(query, {})
        if line.document in kept:
            raise line.twice()
        kept[line.document] = line
        if len(kept) >= 4 * top_k:
            found[query] = {best.document: best for best in _best(kept.values(), top_k)}
    return {query: [_known(line) for line in _best(kept.values(), top_k)] for query, kept in found.items()}


def _best(lines: Collection[RunLine], top_k: int) -> list[RunLine]:
    return nlargest(top_k, lines, key=lambda line: line.place)


def _known(line: RunLine) -> str:
    try:
        return line.document.decode()
    except UnicodeDecodeError:
        raise UserError(f"{line.where}: the document's id is not UTF-8; files are UTF-8 text") from None


def _number(text: bytes, what: str, path: Path, line: int) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if value != value:
        raise UserError(f"{path}:{line}: the {what} {text.decode(errors='backslashreplace')!r} is no number")
    return value


def _single(value: float) -> float:
    """The number in 32 bits, as trec_eval holds a score: what differs behind the seventh digit is equal to it.

    >>> _single(1.00000001) == _single(1.0)
    True
    """
    try:
        single: float = struct.unpack("f", struct.pack("f", value))[0]
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")
    return single


# ---- judgements, texts, topics ---------------------------------------------------------------------------------------


def judgement_rows(path: Path) -> Iterator[Row]:
    """Rows `query-id`, `corpus-id`, `score` of qrels: four columns as TREC's, or three as BEIR's with their header.

    Between tabs an id may hold blanks, as in BEIR's files.
    """
    for number, content in plain_lines(path):
        cells = [cell.strip() for cell in _text(path, number, content).strip().split("\t")]
        tabs = len(cells) in (3, 4) and all(cells)
        columns = cells if tabs else [column.decode() for column in content.split()]
        if number == 1 and columns[0].lower() in _HEADERS:
            continue
        if len(columns) == 4:
            del columns[1]
        if len(columns) == 3:
            yield Row(dict(zip(("query-id", "corpus-id", "score"), columns, strict=True)), str(path), number)
        else:
            said = f"{len(columns)} columns; a judgement is 'qid 0 docid label', or 'query-id corpus-id score'"
            yield Row({}, str(path), number, said)


def text_rows(path: Path, ids: Collection[str] | None = None) -> Iterator[Row]:
    """Rows `id`, `text` of a file without a header: an id, a tab, and the text, with more tabs or not.

    Of a large file the lines of these `ids` alone, and those without a tab, become rows; None is all of them.
    """
    wanted = None if ids is None else {id.encode() for id in ids}
    for number, content in plain_lines(path):
        id, tab, text = content.partition(b"\t")
        id = id.strip()
        if (tab and wanted is not None and id not in wanted) or (
            number == 1 and id.lower().decode("latin-1") in _HEADERS
        ):
            continue
        found = {"id": _text(path, number, id), "text": _text(path, number, text).replace("\t", " ")}
        yield Row(found, str(path), number, "" if tab else "no tab; a line is an id, a tab and a text")


def topic_rows(path: Path, field: str) -> Iterator[Row]:
    """Rows `id`, `text` of TREC's topics, `<top>` with `<num>` or `<topic number="...">`; `field` is what is asked."""
    lines = [(number, _text(path, number, content)) for number, content in plain_lines(path)]
    whole = "\n".join(text for _, text in lines)
    starts = list(re.finditer(r"<(?:top|topic)\b([^>]*)>", whole, re.IGNORECASE))
    ends = [start.start() for start in starts[1:]] + [len(whole)]
    for start, end in zip(starts, ends, strict=True):
        topic, number = whole[start.end() : end], lines[whole.count("\n", 0, start.start())][0]
        yield _topic(topic, start[1], field, (str(path), number))


def _topic(topic: str, attributes: str, field: str, place: tuple[str, int]) -> Row:
    named = re.search(r"""(?:number|id)\s*=\s*["']?([^"'\s]+)""", attributes, re.IGNORECASE)
    number = named or re.search(r"<num>\s*(?:number\s*:)?\s*([^\s<]+)", topic, re.IGNORECASE)
    asked = re.search(rf"<{re.escape(field)}>([^<]*)", topic, re.IGNORECASE)
    if number is None or asked is None:
        there = ", ".join(dict.fromkeys(re.findall(r"<(\w+)>", topic))) or "nothing"
        what = "no <num>" if number is None else f"no <{field}>"
        return Row({}, *place, f"the topic has {what}; it has {there} (topic_field says which is the query)")
    text = re.sub(r"^\s*(?:topic|description|narrative)\s*:", "", html.unescape(asked[1]), flags=re.IGNORECASE)
    return Row({"id": html.unescape(number[1]), "text": " ".join(text.split())}, *place)


def is_topics(path: Path) -> bool:
    """Whether a file holds TREC's topics in their markup."""
    head: Sequence[bytes] = [content for (_, content), _ in zip(plain_lines(path), range(20), strict=False)]
    return any(re.search(rb"<(?:top|topic)\b", line, re.IGNORECASE) for line in head)
