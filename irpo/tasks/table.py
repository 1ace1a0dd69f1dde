"""Your own table, CSV, TSV or Parquet: a row for each judged document of a query, or a row for each query.

- `query, document, label` [`, query_id, document_id, group`]: the rows of one query become one list
- `query, positives, negatives` [`, query_id, group`]: lists, in Parquet's list columns or as `['a', 'b']` in a cell; a
  cell may hold one text; rows of one query id (triples, say) become one list

A CSV's names are parted by commas, semicolons or bars, and its cells may be quoted and hold line breaks; a TSV's hold
neither tabs nor line breaks, and are quoted where they hold quotes, as pandas does, or not. Both have a header, and are
UTF-8.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, groupby
from pathlib import Path
from typing import ClassVar, Literal

from irpo.chance import Chance, fingerprint, in_test_split, number_of
from irpo.rows import Row, read_rows, shown
from irpo.sameness import text_key
from irpo.tasks import TASKS, Elsewhere, Intake, Refused, Release, split_files
from irpo.tasks._cells import label_in, text_in, texts_in
from irpo.tasks._columns import NAMES, WIDE, columns_of
from irpo.tasks._hub import is_hub
from irpo.tasks.mining import Draft, distinct
from irpo.types import Candidate, RankingExample, UserError

RELEASE = Release(
    eval_names=("test", "dev"),
    suffixes=(".csv", ".tsv", ".parquet"),
    form="; this task reads tables with a header, by the names of their columns",
)
TOO_FEW = "query with fewer than two documents"
UNLABELLED = "query without a relevant document"
ALIKE = "query whose documents are all as good"
AGAIN = "row that says what an earlier one said"


@dataclass(frozen=True)
class _Judged:
    """A row: a document of a query, or several."""

    key: str  # what the rows of one query have in common
    query: str
    documents: tuple[Draft, ...]
    group: str
    row: Row


@TASKS.register("table")
@dataclass(frozen=True)
class Table:
    """Lists from a table's rows; a query without a relevant and another document is counted and left out.

    Where the data hold no evaluation split, `eval_fraction` of the queries are set aside, by a hash of them. Rows of a
    query are read as a stream where they stand together, and held until the end where they do not. Without a column of
    ids a document's id is a hash of its text, and a query's of its own.
    """

    words: ClassVar[tuple[str, ...]] = tuple(NAMES)

    data: str
    query: str = ""  # the column's name, here and below; "" finds it by common names
    document: str = ""
    label: str = ""
    positives: str = ""
    negatives: str = ""
    query_id: str = ""
    document_id: str = ""
    group: str = ""
    split: Literal["train", "eval"] | None = None  # of a single file; None: as its name tells
    eval_fraction: float = 0.1
    shuffle: bool = True  # candidates by (seed, id); false keeps the rows' order, or positives first
    seed: int = 0
    relevant_from: float = 1.0  # the label from which an item counts as relevant in Recall, P, MRR and MAP

    def __post_init__(self) -> None:
        if not 0 <= self.eval_fraction < 1:
            raise UserError(f"eval_fraction is {self.eval_fraction}; it is a share of the queries, from 0 to below 1")
        if not 0 < self.relevant_from < float("inf"):
            raise UserError(f"relevant_from is {self.relevant_from}; it is a label above 0")
        if is_hub(self.data):
            raise UserError("data: 'hub': the table task reads files; give a folder or a file")

    def build(self, intake: Intake) -> Mapping[str, Iterable[RankingExample]]:
        """See `irpo.tasks.Task`."""
        files = split_files(Path(self.data), RELEASE)
        if self.split is not None:
            if Path(self.data).is_dir():
                raise UserError(f"{self.data}: split: {self.split!r} is for a single file; this is a folder")
            files = {self.split: [Path(self.data)]}
        makers = {split: self._maker(split, paths) for split, paths in files.items()}
        if "eval" in files or self.split or not self.eval_fraction:
            return {split: maker(intake, None) for split, maker in makers.items()}
        # The rows are gone through once for each part, and accounted for by the training part alone.
        aside = makers["train"](Intake(skip_bad_rows=True), True)
        if next(iter(aside), None) is None:
            return {"train": makers["train"](intake, None)}
        intake.note(f"no evaluation split in the data: {self.eval_fraction:g} of the queries set aside, by a hash")
        return {"train": makers["train"](intake, False), "eval": makers["train"](Intake(skip_bad_rows=True), True)}

    def _maker(self, split: str, paths: Sequence[Path]) -> Callable[[Intake, bool | None], Iterable[RankingExample]]:
        """What makes a split's lists: all of them, or those set aside, or the others."""
        first = next((row for path in paths for row in read_rows(path) if not row.problem), None)
        given = {role: getattr(self, role) for role in NAMES}
        try:
            columns = columns_of(given, list(first.value)) if first else {}
        except UserError as error:
            raise UserError(f"{paths[0]}: {error}") from None
        return partial(self._wide if WIDE[0] in columns else self._long, paths, split, columns)

    def _taken(self, example: RankingExample, aside: bool | None) -> bool:
        """Whether a list is of the part that is asked for."""
        # A salt: the validation lists of a run are chosen by the hash of the bare id.
        return aside is None or in_test_split(f"evaluation/{example.unit}", self.eval_fraction) == aside

    def _long(
        self, paths: Sequence[Path], split: str, columns: Mapping[str, str], intake: Intake, aside: bool | None
    ) -> Iterator[RankingExample]:
        """The lists of a file with a row for each document."""
        return self._joined(partial(self._document, columns), paths, split, intake, aside)

    def _wide(
        self, paths: Sequence[Path], split: str, columns: Mapping[str, str], intake: Intake, aside: bool | None
    ) -> Iterable[RankingExample]:
        """The lists of a file with a row for each query, or with several that have its id."""
        judged = partial(self._documents, columns)
        if "query_id" in columns:
            return self._joined(judged, paths, split, intake, aside)

        def parse(row: Row) -> RankingExample:
            example = self._of_rows([judged(row)], split, intake)
            if not self._taken(example, aside):
                raise Elsewhere
            return example

        return intake.collect(split, intake.file_rows(paths), parse)

    # ---- rows --------------------------------------------------------------------------------------------------------

    def _document(self, columns: Mapping[str, str], row: Row) -> _Judged:
        value = row.value
        query, document = text_in(value, columns["query"]), text_in(value, columns["document"])
        name, own, group = (
            text_in(value, columns[role]) if role in columns else "" for role in ("query_id", "document_id", "group")
        )
        draft = Draft(own or fingerprint(text_key(document)), document, label_in(value, columns["label"]), "user")
        return _Judged(name or fingerprint(query), query, (draft,), group, row)

    def _documents(self, columns: Mapping[str, str], row: Row) -> _Judged:
        value = row.value
        query = text_in(value, columns["query"])
        good, bad = (texts_in(value, columns[role]) for role in WIDE)
        if both := {text_key(text) for text in bad} & {text_key(text) for text in good}:
            text = next(text for text in good if text_key(text) in both)
            raise UserError(f"{shown(text)} is in {columns[WIDE[0]]!r} and in {columns[WIDE[1]]!r}; it has one label")
        labelled = [*((text, 1.0) for text in good), *((text, 0.0) for text in bad)]
        drafts = tuple(Draft(fingerprint(text_key(text)), text, label, "user") for text, label in labelled)
        name, group = (text_in(value, columns[role]) if role in columns else "" for role in ("query_id", "group"))
        name = name or f"{fingerprint(query)}#{fingerprint(chr(0).join([*good, chr(0), *bad]))}"
        return _Judged(name, query, drafts, group, row)

    # ---- lists -------------------------------------------------------------------------------------------------------

    def _joined(
        self,
        parse: Callable[[Row], _Judged],
        paths: Sequence[Path],
        split: str,
        intake: Intake,
        aside: bool | None,
    ) -> Iterator[RankingExample]:
        """A list of the rows of each query."""
        judged = intake.collect(split, intake.file_rows(paths), parse)
        keys = (parse(row).key for row in chain.from_iterable(map(read_rows, paths)) if _is_sound(row, parse))
        for rows in _together(judged) if stand_together(keys) else _gathered(judged):
            try:
                example = self._of_rows(rows, split, intake)
            except Refused as refusal:
                intake.drop(split, str(refusal))
                continue
            if self._taken(example, aside):
                yield example

    def _of_rows(self, rows: Sequence[_Judged], split: str, intake: Intake) -> RankingExample:
        """The list of one query's rows."""
        # Of texts that contradict each other most rows are right, and the first one where as many say either.
        asked = Counter((one.query, one.group) for one in rows).most_common(1)[0][0]
        first, drafts = next(one for one in rows if (one.query, one.group) == asked), list[Draft]()
        kept: dict[str, tuple[Draft, Row]] = {}
        for one in rows:
            new = [draft for draft in one.documents if draft.id not in kept]
            if one.query != first.query:
                intake.bad(one.row, f"query id {one.key!r} stands for another query in line {first.row.line}")
            elif one.group != first.group:
                told = f"group {one.group!r}; line {first.row.line}, of the same query, has {first.group!r}"
                intake.bad(one.row, f"{told} (lists of their own need a query_id)")
            elif contradiction := _contradiction(one, kept):
                intake.bad(one.row, contradiction)
            elif one.documents and not new:
                intake.drop(split, AGAIN)
            else:
                drafts += new
                kept |= {draft.id: (draft, one.row) for draft in new}
        return self._listed(first.key, first.query, first.group, drafts, partial(intake.drop, split))

    def _listed(
        self, name: str, query: str, group: str, drafts: Sequence[Draft], drop: Callable[[str, int], None]
    ) -> RankingExample:
        """The list of drafts, or why there is none."""
        dropped: Counter[str] = Counter()
        candidates: list[Candidate] = distinct(drafts, dropped, tidied=False)
        for reason, count in dropped.items():
            drop(reason, count)
        labels = {c.relevance for c in candidates}
        if len(candidates) < 2 or not any(labels) or len(labels) == 1:
            raise Refused(TOO_FEW if len(candidates) < 2 else ALIKE if any(labels) else UNLABELLED)
        if self.shuffle:
            candidates = Chance("order", self.seed, name).shuffled(candidates)
        return RankingExample(name, query, tuple(candidates), group or fingerprint(text_key(query)))


def stand_together(keys: Iterable[str]) -> bool:
    """Whether equal keys follow one another; of each a number is held, never the key.

    >>> stand_together(["a", "a", "b"]), stand_together(["a", "b", "a"])
    (True, False)
    """
    seen: set[int] = set()
    for key, _ in groupby(keys):
        if (number := number_of(key)) in seen:
            return False
        seen.add(number)
    return True


def _contradiction(one: _Judged, kept: Mapping[str, tuple[Draft, Row]]) -> str:
    """What a row says differently of a document than an earlier one; blanks and case of a text are no difference."""
    for draft in one.documents:
        before, row = kept.get(draft.id, (draft, one.row))
        if text_key(draft.text) != text_key(before.text):
            where = f"in line {row.line} with another text"
            return f"document {draft.id!r} stands for the same query {where}, {shown(before.text)}"
        if draft.relevance != before.relevance:
            return f"{shown(draft.text)} has label {draft.relevance:g} here and {before.relevance:g} in line {row.line}"
    return ""


def _is_sound(row: Row, parse: Callable[[Row], _Judged]) -> bool:
    try:
        return not row.problem and bool(parse(row))
    except UserError:
        return False


def _together(judged: Iterable[_Judged]) -> Iterator[list[_Judged]]:
    return (list(rows) for _, rows in groupby(judged, key=lambda one: one.key))


def _gathered(judged: Iterable[_Judged]) -> Iterator[list[_Judged]]:
    by_key: dict[str, list[_Judged]] = {}
    for one in judged:
        by_key.setdefault(one.key, []).append(one)
    return iter(by_key.values())
