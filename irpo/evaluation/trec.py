"""A TREC run of another ranker as a row of ours: read as trec_eval reads it, measured as everything else is."""

from __future__ import annotations

import gzip
import hashlib
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from irpo.evaluation.results import RankerResult
from irpo.evaluation.writing import trec_id
from irpo.files import existing
from irpo.types import Ranking, RankingExample, UserError

_GZIP = b"\x1f\x8b"
_COLUMNS = 6  # qid Q0 docid rank score tag


@dataclass(frozen=True)
class RunFile:
    """The row that a run file makes, and where the file and the lists do not match."""

    result: RankerResult  # no model of ours took part: a baseline, to tables
    missing_queries: int = 0  # lists of ours of which the run ranks nothing: they count 0
    unknown_queries: int = 0  # queries of the run that are not ours
    unknown_documents: int = 0  # lines that rank what is no candidate of our list
    unranked: int = 0  # candidates that the run leaves out, of the queries that it has: they earn nothing
    sha256: str = ""  # of the file as it lies there

    @property
    def tied(self) -> int:
        """Lists in which two candidates have the same score."""
        return self.result.tied_lists

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of its row should know, a line each; none where file and lists match."""
        told = (
            (self.missing_queries, "lists are not in the run and count 0"),
            (self.unknown_queries, "queries of the run are not among the lists and are ignored"),
            (self.unknown_documents, "lines rank documents that are no candidates and are ignored"),
            (self.unranked, "candidates are not ranked and earn nothing"),
            (self.tied, "lists have equal scores, put in order by document id, descending, as trec_eval does"),
        )
        return tuple(f"{self.result.name}: {count} {what}" for count, what in told if count)


@dataclass(frozen=True)
class _Line:
    query: bytes
    document: bytes
    score: float
    where: str

    @property
    def place(self) -> tuple[float, bytes]:
        """What trec_eval sorts by, the highest first."""
        return self.score, self.document


def read_run(path: Path, examples: Sequence[RankingExample], name: str | None = None) -> RunFile:
    """A run of six columns (`qid Q0 docid rank score tag`), gzipped or not, on these lists; ids as `irpo` writes them.

    The order is trec_eval's, not the rank column's: by score as a float of 32 bits, highest first, then by document id,
    descending. Of what is no candidate nothing is left, so candidates move up. The row is called `name`, by default as
    the file. `UserError` with the line for what is no such line, or ranks a document twice.
    """
    content = existing(path).read_bytes()
    found: dict[bytes, list[_Line]] = {}
    for line in _lines(path, _unpacked(path, content)):
        found.setdefault(line.query, []).append(line)
    ours = {trec_id(example.id).encode(): example for example in examples}
    rankings: dict[str, Ranking] = {}
    unknown = unranked = tied = 0
    for query, example in ours.items():
        known = {trec_id(candidate.id).encode(): j for j, candidate in enumerate(example.candidates)}
        lines = found.get(query, [])
        kept = sorted((line for line in lines if line.document in known), key=lambda line: line.place, reverse=True)
        rankings[example.id] = Ranking(tuple(known[line.document] for line in kept))
        unknown += len(lines) - len(kept)
        unranked += len(known) - len(kept) if lines else 0
        tied += len({line.score for line in kept}) < len(kept)
    return RunFile(
        RankerResult(name or _stem(path), rankings, tied_lists=tied),
        missing_queries=len(ours.keys() - found.keys()),
        unknown_queries=len(found.keys() - ours.keys()),
        unknown_documents=unknown,
        unranked=unranked,
        sha256=hashlib.sha256(content).hexdigest(),
    )


def _stem(path: Path) -> str:
    """The file's name without what says its form.

    >>> _stem(Path("runs/bm25.run.gz"))
    'bm25'
    """
    return path.name.removesuffix(".gz").removesuffix(".run").removesuffix(".trec").removesuffix(".txt") or path.name


def _unpacked(path: Path, content: bytes) -> bytes:
    if not content.startswith(_GZIP):
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error):
        raise UserError(f"{path}: broken gzip file") from None


def _lines(path: Path, content: bytes) -> Iterator[_Line]:
    """The lines, each sound, no document twice for a query; empty ones are passed over."""
    seen: set[tuple[bytes, bytes]] = set()
    for number, text in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not (columns := text.split()):
            continue
        line = _line(columns, f"{path}:{number}")
        if (line.query, line.document) in seen:
            document, query = (_shown(word) for word in (line.document, line.query))
            raise UserError(f"{line.where}: document {document!r} is ranked twice for query {query!r}")
        seen.add((line.query, line.document))
        yield line


def _line(columns: Sequence[bytes], where: str) -> _Line:
    if len(columns) != _COLUMNS:
        raise UserError(
            f"{where}: {len(columns)} columns; a line of a TREC run has {_COLUMNS}: qid Q0 docid rank score tag"
        )
    query, _, document, _, score, _ = columns
    try:
        value = float(score)
    except ValueError:
        value = float("nan")
    if value != value:
        raise UserError(f"{where}: the score {_shown(score)!r} is no number")
    return _Line(query, document, _single(value), where)


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


def _shown(word: bytes) -> str:
    return word.decode(errors="backslashreplace")
