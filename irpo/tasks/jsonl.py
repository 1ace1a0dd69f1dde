"""The user's own lists, and the form that `irpo prepare` writes: one JSON object a line.

`{"id", "query", "candidates": [{"id", "text", "relevance", "source", "teacher"}], "group"}`; `schema.json` beside this
module is its JSON schema. `source` may be left out ("user"), and `group` where a list depends on no other one.
`teacher`, a number a candidate, is what another ranker gave it: all candidates of a list have one, or none has. A
training list that has it may leave out every `relevance`. `"unlisted": [{"id", "relevance"}]` are relevant documents
that are no candidates (see `RankingExample`): an evaluation list with this key may have no relevant candidate. Where
nothing is relevant at all it is `[]`, and the list counts 0, as in trec_eval.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from irpo.chance import Chance
from irpo.rows import Row, need, shown
from irpo.tasks import TASKS, Collected, Intake, Release, split_files
from irpo.tasks._hub import is_hub
from irpo.types import MAX_LABEL, MAX_TEACHER, Candidate, RankingExample, UnknownName, UserError, require_relevant

RELEASE = Release(
    eval_names=("test", "dev"),
    suffixes=(".jsonl", ".json"),
    form='; this task reads one list a line, {"id", "query", "candidates": [{"id", "text", "relevance"}, ...]}: '
    "the task table reads CSV, TSV and Parquet files, trec reads TREC's, beir BEIR's folders",
)
SCHEMA = Path(__file__).with_name("schema.json")

_KEYS = ("id", "query", "candidates", "group", "unlisted")
_CANDIDATE_KEYS = ("id", "text", "relevance", "source", "teacher")


@TASKS.register("jsonl")
@dataclass(frozen=True)
class Jsonl:
    """Lists as they are written, in their order; a list without a relevant candidate is an error.

    But a training list may have none where its candidates have a teacher's scores, and an evaluation list where it says
    which relevant documents are `unlisted`.
    `data` is a folder with train.jsonl and/or eval.jsonl, or one file, whose split is `split` or, where that is not
    given, told by its name (eval, dev, valid, test: eval; else train).
    """

    as_given: ClassVar[bool] = True

    data: str
    split: Literal["train", "eval"] | None = None
    shuffle: bool = False  # candidates by (seed, id): for data whose order tells the labels
    seed: int = 0
    relevant_from: float = 1.0  # the label from which an item counts as relevant in Recall, P, MRR and MAP

    def __post_init__(self) -> None:
        if not 0 < self.relevant_from < float("inf"):
            raise UserError(f"relevant_from is {self.relevant_from}; it is a label above 0")

    def build(self, intake: Intake) -> Mapping[str, Collected[RankingExample]]:
        """See `irpo.tasks.Task`."""
        if is_hub(self.data):
            raise UserError("data: 'hub': the jsonl task reads files; give a folder or a file")
        files = split_files(Path(self.data), RELEASE)
        if self.split is not None:
            if Path(self.data).is_dir():
                raise UserError(f"{self.data}: split: {self.split!r} is for a single file; this is a folder")
            files = {self.split: [Path(self.data)]}
        self._note_relevant(intake)
        return {
            split: intake.collect(
                split, intake.file_rows(paths), self._training_example if split == "train" else self._example
            )
            for split, paths in files.items()
        }

    def _note_relevant(self, intake: Intake) -> None:
        """Warn where the card of prepared lists counts as relevant from another label."""
        try:
            folder = Path(self.data) if Path(self.data).is_dir() else Path(self.data).parent
            if not (card := folder / "card.json").is_file():
                return
            said = float(json.loads(card.read_bytes())["relevant_from"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return
        if said != self.relevant_from:
            intake.note(
                f"card.json beside these lists counts as relevant from label {said:g}, this task from "
                f"{self.relevant_from:g}; give task.relevant_from={said:g} (train), relevant_from={said:g} (evaluate)"
            )

    def _training_example(self, row: Row) -> RankingExample:
        example = parse_list(row.value)
        return self._placed(require_relevant(example) if example.teacher is None else example, row)

    def _example(self, row: Row) -> RankingExample:
        example = parse_list(row.value)
        return self._placed(example if "unlisted" in row.value else require_relevant(example), row)

    def _placed(self, example: RankingExample, row: Row) -> RankingExample:
        example = replace(example, where=row.where)
        if not self.shuffle:
            return example
        mixed = Chance("order", self.seed, example.id).shuffled(example.candidates)
        return replace(example, candidates=tuple(mixed))


def parse_list(value: Mapping[str, Any]) -> RankingExample:
    """One JSON object as an example; `UserError` says which key is wrong, what was given and what is allowed."""
    _only(value, _KEYS, "a list")
    example_id, query = need(value, "id", str), need(value, "query", str)
    if not query.strip():
        raise UserError("'query' is empty; it must be a text")
    given = need(value, "candidates", list)
    labelled = any("relevance" in c or "teacher" not in c for c in given if isinstance(c, dict))
    candidates = tuple(_candidate(c, n, labelled) for n, c in enumerate(given, start=1))
    group = need(value, "group", str) if "group" in value else None
    return RankingExample(example_id, query, candidates, group, unlisted=_unlisted(value))


def list_as_json(example: RankingExample) -> dict[str, Any]:
    """The JSON object of an example: the inverse of `parse_list`."""
    candidates = [_candidate_as_json(c) for c in example.candidates]
    group = {} if example.group is None else {"group": example.group}
    unlisted = [{"id": id, "relevance": _number(label)} for id, label in example.unlisted]
    # Of a list without a relevant candidate it says that this is known, though nothing be relevant at all.
    missed = {"unlisted": unlisted} if unlisted or not (example.labelled or example.teacher) else {}
    return {"id": example.id, "query": example.query, "candidates": candidates, **group, **missed}


def _candidate_as_json(c: Candidate) -> dict[str, Any]:
    teacher = {} if c.teacher is None else {"teacher": _number(c.teacher)}
    return {"id": c.id, "text": c.text, "relevance": _number(c.relevance), "source": c.source, **teacher}


def _candidate(value: Any, number: int, labelled: bool) -> Candidate:
    if not isinstance(value, dict):
        raise UserError(f"candidate {number} is {shown(value)}; it must be an object")
    try:
        _only(value, _CANDIDATE_KEYS, "a candidate")
        teacher = need(value, "teacher", (int, float)) if "teacher" in value else 0
        if not abs(teacher) <= MAX_TEACHER:
            allowed = f"a score is a number from {-MAX_TEACHER:g} to {MAX_TEACHER:g}"
            raise UserError(f"'teacher' is {shown(teacher)}; {allowed}")
        label = need(value, "relevance", (int, float)) if labelled else 0
        if not 0 <= label <= MAX_LABEL:  # before it is a float, which holds no 10**400
            raise UserError(f"'relevance' is {shown(label)}; a label is a number from 0 to {MAX_LABEL:g}")
        source, own = need(value, "source", str, "user"), float(teacher) if "teacher" in value else None
        return Candidate(need(value, "id", str), need(value, "text", str), float(label), source, own)
    except UserError as error:
        raise UserError(f"candidate {number}: {error}") from None


def _unlisted(value: Mapping[str, Any]) -> tuple[tuple[str, float], ...]:
    found = []
    for number, one in enumerate(need(value, "unlisted", list, []), start=1):
        if not isinstance(one, dict):
            raise UserError(f"unlisted {number} is {shown(one)}; it must be an object")
        _only(one, ("id", "relevance"), "an unlisted document")
        id, label = need(one, "id", str), need(one, "relevance", (int, float))
        if not 0 < label <= MAX_LABEL:
            raise UserError(f"unlisted {number}: 'relevance' is {shown(label)}; it is above 0, to {MAX_LABEL:g}")
        found.append((id, float(label)))
    return tuple(found)


def _only(value: Mapping[str, Any], allowed: tuple[str, ...], what: str) -> None:
    for key in value:
        if key not in allowed:
            raise UnknownName(
                f"unknown key {shown(key)}; the keys of {what} are {', '.join(allowed)} "
                '(see "Your own data" in the README)'
            )


def _number(label: float) -> int | float:
    return int(label) if label.is_integer() else label
