"""TREC run files of other rankers as cells of a suite: kept in its folder, so that every later report has them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from irpo.compare.cells import CELLS, folder_of
from irpo.compare.gather import EXTERNAL
from irpo.compare.measuring import Protocol, filled
from irpo.compare.results import Frame, Result, Row, TaskFrame, write_result
from irpo.compare.shared import digest_of, lists_of
from irpo.evaluation.trec import RunFile, read_run
from irpo.files import atomic_file
from irpo.progress import say
from irpo.runs.key import read_json
from irpo.types import RankingExample, UserError


def keep_files(folder: Path, frame: Frame, runs: Mapping[str, Path]) -> None:
    """Measure run files on the tasks whose lists they rank, and keep them beside the suite's own cells."""
    told = {row["name"]: row for row in read_json(folder / EXTERNAL).get("cells", ())}
    for name, path in runs.items():
        if name in frame.methods:
            raise UserError(f"--run {name}={path}: the suite has a method of this name; give it another")
        found = [row for task in frame.tasks if (row := _kept(folder, task, name, path, frame.strengths)) is not None]
        if not found:
            raise UserError(
                f"--run {name}={path}: it ranks no list of this suite's tasks; their ids are those of "
                f"{folder}/prepared/*/eval.jsonl"
            )
        told = {cell: row for cell, row in told.items() if row["method"] != name} | {row["name"]: row for row in found}
    if runs:
        with atomic_file(folder / EXTERNAL) as file:
            json.dump({"cells": list(told.values())}, file)


def _kept(folder: Path, task: TaskFrame, name: str, path: Path, strengths: tuple[str, ...]) -> dict[str, str] | None:
    """The cell of a run file on a task; None where it ranks none of the task's lists."""
    if not task.prepared:
        return None
    examples = lists_of(folder, task.prepared)[0]["eval"][: task.evaluated]
    read = read_run(path, examples, name)
    if not any(read.result.rankings[example.id].order for example in examples):
        return None
    for note in read.notes:
        say(f"note: {task.name}, {note}")
    key = digest_of(["run file", read.sha256, task.lists, list(task.measures), task.card.get("relevant_from")])
    cell = folder_of(f"{task.name}.{name}.external.{key[:8]}")
    others = read.notes[1:] if read.missing_queries else read.notes  # missing lists have a mark of their own
    result = Result(key, "external", task.name, name, lists=task.lists, note="; ".join(others))
    home = folder / CELLS / cell
    home.mkdir(parents=True, exist_ok=True)
    write_result(home, _measured(result, read, examples, task, strengths))
    return {"key": key, "name": cell, "title": f"{name} on {task.name}: {path.name}", "method": name}


def _measured(
    result: Result, read: RunFile, examples: list[RankingExample], task: TaskFrame, strengths: tuple[str, ...]
) -> Result:
    protocol = Protocol((), task.measures, strengths, relevant_from=float(task.card.get("relevant_from", 1.0)))
    row = Row("given", "1", strengths, (), np.zeros((0, 0)), np.zeros((0, 0), dtype=np.int16))
    rankings = [read.result.rankings[example.id] for example in examples]
    found = filled(row, examples, rankings, protocol, tied=read.tied, missing=read.missing_queries)
    made = {"file": {"sha256": read.sha256}}
    return Result(**vars(result) | {"rows": (found,), "made": made})
