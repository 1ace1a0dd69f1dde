"""What a finished cell holds, and what a report is laid out by: the seam between the cells' work and the statistics.

A cell's folder has `result.json` (all but tables of numbers) and `rows.npz` (values and rankings, row by row).
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from irpo.files import atomic_file, atomic_path
from irpo.types import UserError

Kind = Literal["trial", "run", "untrained", "baseline", "external"]
RESULT, ROWS = "result.json", "rows.npz"
BROKEN = (OSError, ValueError, KeyError, EOFError, BadZipFile, zlib.error)  # what a torn file of arrays raises
FRAME, LISTS = "frame.json", "lists"  # of a suite's folder: how its report is laid out; its evaluation lists


@dataclass(frozen=True)
class Row:
    """One way in which a cell's ranker put a task's evaluation lists in order: M measures on the first n lists."""

    mode: str  # score, generate, constrain; for what is no model's "given"
    strength: str  # "1", "1.5", "reward"
    shown: tuple[str, ...]  # of a suite's strengths those that this row stands for: "1", "auto", or both
    measures: tuple[str, ...]
    values: NDArray[np.float64]  # (M, n), by list in the order of the task's lists
    rankings: NDArray[np.int16]  # (n, K), candidates best first as they stand in the list; -1: no more were named
    part: Literal["strict", "repaired"] | None = None
    order: int = (
        0  # 0: candidates in the prompt as prepared; 1, 2, ...: in other drawn orders; -1: all of them together
    )
    coverage: float = 1.0  # mean share of a list's candidates that the answer names
    exact: float = 1.0  # share of answers that are permutations
    problems: Mapping[int, str] = field(default_factory=dict)  # what was wrong with an answer, by list
    tied: int = 0  # lists in which two candidates have one score
    missing: int = 0  # lists that the ranker did not rank at all; they count 0
    seconds: float | None = None
    passes: float | None = None  # rows that went through the model for a list

    def of(self, measure: str) -> NDArray[np.float64]:
        """A measure's values by list, (n,)."""
        found: NDArray[np.float64] = self.values[self.measures.index(measure)]
        return found


@dataclass(frozen=True)
class Result:
    """What became of a cell."""

    key: str
    kind: Kind
    task: str
    method: str
    model: str = ""  # "" where none took part
    seed: int = 0
    setting: Mapping[str, float | str] = field(default_factory=dict)  # what a search chose, or tries
    trials: int = 0  # of the search that chose it
    error: str | None = None  # its last line where the cell failed
    diverged: bool = False  # a loss or a score was not finite: the trial counts 0
    lists: str = ""  # digest of the evaluation lists
    rows: tuple[Row, ...] = ()
    # {"curve": {strength: mean}, "auto": strength, "log": [[update, mean], ...], "lists": n}
    validation: Mapping[str, Any] = field(default_factory=dict)
    by_strength: Mapping[str, float] = field(default_factory=dict)  # the main measure on evaluation lists
    margins: tuple[tuple[int, float], ...] = ()  # update -> reward of relevant over other candidates, nats
    rounds: tuple[Mapping[str, Any], ...] = ()  # of an on-policy run: {"round", "answers", measure: mean, ...}
    cost: Mapping[str, float | None] = field(default_factory=dict)  # seconds, tokens, peak_bytes, joules
    made: Mapping[str, Any] = field(
        default_factory=dict
    )  # versions, commit, machine, config, digests of data and model
    note: str = ""

    def row(self, mode: str, strength: str = "1", part: str | None = None, order: int = 0) -> Row | None:
        """The row of a mode that stands for a suite's strength; None where it was not measured."""
        for row in self.rows:
            if (row.mode, row.part, row.order) == (mode, part, order) and strength in row.shown:
                return row
        return None


_ARRAYS = ("values", "rankings")


def write_result(folder: Path, result: Result) -> None:
    """The two files, each whole; `result.json` last: where it is, the cell is finished."""
    told = {name: value for name, value in vars(result).items() if name != "rows"}
    told["rows"] = [{k: v for k, v in vars(row).items() if k not in _ARRAYS} for row in result.rows]
    arrays = {f"{name}_{i}": getattr(row, name) for i, row in enumerate(result.rows) for name in _ARRAYS}
    with atomic_path(folder / ROWS) as work, work.open("wb") as file:
        np.savez_compressed(file, **arrays)
    with atomic_file(folder / RESULT) as file:
        json.dump(told, file, ensure_ascii=True, allow_nan=False)


def read_result(folder: Path) -> Result | None:
    """A finished cell's result; None where there is none, or only a part of one."""
    try:
        told = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        with np.load(folder / ROWS) as arrays:
            rows = tuple(_row(row, {n: arrays[f"{n}_{i}"] for n in _ARRAYS}) for i, row in enumerate(told["rows"]))
        more = {"rows": rows, "margins": tuple(map(tuple, told["margins"])), "rounds": tuple(told["rounds"])}
        return Result(**told | more)
    except (*BROKEN, TypeError):  # TypeError: of another version
        return None


def _row(told: Mapping[str, Any], arrays: Mapping[str, Any]) -> Row:
    lists = {name: tuple(told[name]) for name in ("shown", "measures")}
    return Row(**{**told, **arrays, **lists, "problems": {int(i): text for i, text in told["problems"].items()}})


@dataclass(frozen=True)
class TaskFrame:
    """A task as a report has it."""

    name: str
    family: str = ""  # tasks of one family stand in one table
    measures: tuple[str, ...] = ("NDCG@1", "NDCG@5", "NDCG@10")
    lists: str = ""  # digest: the lists are `lists/<digest>.jsonl`
    prepared: str = ""  # where they lie with all that was prepared: `prepared/<key>`
    evaluated: int | None = None  # of the prepared lists, the first so many; None: all
    card: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Printed:
    """A figure that a paper printed."""

    task: str
    model: str
    method: str
    measure: str
    value: float  # in 0..1


@dataclass(frozen=True)
class Frame:
    """What a report is laid out by; written beside the cells, so that a report needs nothing else."""

    title: str
    about: str
    tasks: tuple[TaskFrame, ...]
    models: tuple[str, ...]
    methods: tuple[str, ...]  # in the order of the tables, the untrained model among them
    against: tuple[str, ...]  # the methods that every other is tested against
    seeds: int = 1
    main: str = "NDCG@10"
    mode: str = "score"
    strengths: tuple[str, ...] = ("1", "auto")
    trials: Mapping[str, int] = field(default_factory=dict)  # of each method's search
    printed: tuple[Printed, ...] = ()
    source: str = ""  # of what is printed

    def as_dict(self) -> dict[str, Any]:
        """As `frame.json` has it."""
        plain = {name: value for name, value in vars(self).items() if name not in ("tasks", "printed")}
        return plain | {"tasks": [vars(t) for t in self.tasks], "printed": [vars(p) for p in self.printed]}

    @classmethod
    def read(cls, folder: Path) -> Frame:
        """The frame of a suite's folder; `UserError` where there is none."""
        try:
            told = json.loads((folder / FRAME).read_text(encoding="utf-8"))
            tasks = tuple(TaskFrame(**t | {"measures": tuple(t["measures"])}) for t in told["tasks"])
            lists = {name: tuple(told[name]) for name in ("models", "methods", "against", "strengths")}
            return cls(**told | lists | {"tasks": tasks, "printed": tuple(Printed(**p) for p in told["printed"])})
        except (OSError, ValueError, KeyError, TypeError):
            raise UserError(f"{folder}: no suite's results lie here ({FRAME} is missing or damaged)") from None


@dataclass(frozen=True)
class EvaluationList:
    """One evaluation list as reports show it: a line of `lists/<digest>.jsonl`."""

    id: str
    unit: str  # lists of one unit depend on each other
    query: str
    texts: tuple[str, ...]
    relevance: tuple[float, ...]


def read_lists(folder: Path, digest: str) -> tuple[EvaluationList, ...]:
    """A task's evaluation lists."""
    lines = (folder / LISTS / f"{digest}.jsonl").read_text(encoding="utf-8").splitlines()
    told = [json.loads(line) for line in lines]
    return tuple(EvaluationList(**t | {"texts": tuple(t["texts"]), "relevance": tuple(t["relevance"])}) for t in told)
