"""A TREC run of another ranker as a row of ours: read as trec_eval reads it, measured as everything else is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from irpo.evaluation.results import RankerResult
from irpo.evaluation.writing import trec_id
from irpo.files import sha256_of
from irpo.tasks.trec_files import RunLine, run_lines
from irpo.types import Ranking, RankingExample


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


def read_run(path: Path, examples: Sequence[RankingExample], name: str | None = None) -> RunFile:
    """A run of six columns (`qid Q0 docid rank score tag`), gzipped or not, on these lists; ids as `irpo` writes them.

    The order is trec_eval's, not the rank column's: by score as a float of 32 bits, highest first, then by document id,
    descending. Of what is no candidate nothing is left, so candidates move up. The row is called `name`, by default as
    the file. `UserError` with the line for what is no such line, or ranks a document twice.
    """
    found: dict[bytes, list[RunLine]] = {}
    for line in _once(run_lines(path)):
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
        sha256=sha256_of(path),
    )


def _stem(path: Path) -> str:
    """The file's name without what says its form.

    >>> _stem(Path("runs/bm25.run.gz"))
    'bm25'
    """
    return path.name.removesuffix(".gz").removesuffix(".run").removesuffix(".trec").removesuffix(".txt") or path.name


def _once(lines: Iterator[RunLine]) -> Iterator[RunLine]:
    """The lines, no document twice for a query."""
    seen: set[tuple[bytes, bytes]] = set()
    for line in lines:
        if (line.query, line.document) in seen:
            raise line.twice()
        seen.add((line.query, line.document))
        yield line
