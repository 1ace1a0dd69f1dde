"""From the folders of suites to results: what `irpo report` needs, and nothing but files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from irpo.compare.cells import CELL, CELLS, ERROR, Cell
from irpo.compare.engine.attending import read_error
from irpo.compare.page import Source
from irpo.compare.results import FRAME, EvaluationList, Frame, Result, read_lists, read_result
from irpo.files import atomic_file
from irpo.runs.key import read_json
from irpo.types import UserError

EXTERNAL = "external.json"  # the cells that come from run files
PLAN = "plan.json"  # the cells that the suite is made of: others in its folder belong to other suites


@dataclass(frozen=True)
class Gathered:
    """All that a report is made of."""

    frame: Frame
    results: tuple[Result, ...]
    lists: Mapping[str, tuple[EvaluationList, ...]]  # by digest
    missing: tuple[Source, ...] = ()
    unknown: int = 0  # runs whose setting no search has chosen yet


def write_plan(out: Path, frame: Frame, cells: Sequence[Cell], unknown: int) -> None:
    """What the suite is made of and how its report is laid out, for a report that has nothing but the folder."""
    known = [{"key": cell.key, "name": cell.name, "title": cell.title} for cell in cells]
    told = {PLAN: {"cells": known, "unknown": unknown}, FRAME: frame.as_dict()}
    for name, value in told.items():
        with atomic_file(out / name) as file:
            json.dump(value, file, default=dict)


def gather(folders: Sequence[Path]) -> Gathered:
    """The results of one suite, perhaps from several folders; `UserError` where they are not of one."""
    frames = [Frame.read(folder) for folder in folders]
    frame = frames[0]
    for folder, other in zip(folders, frames, strict=True):
        if replace(other, tasks=()) != replace(frame, tasks=()) or _names(other) != _names(frame):
            raise UserError(f"{folder}: another suite's results than those of {folders[0]} lie here")
    frame = replace(frame, tasks=tuple(_known(frame, frames, place) for place in range(len(frame.tasks))))
    found: dict[tuple[str, str], Result] = {}  # by key and name: two methods may come to one configuration
    missing: dict[tuple[str, str], Source] = {}
    for folder in folders:
        for told in (row for name in (PLAN, EXTERNAL) for row in read_json(folder / name).get("cells", ())):
            result, cell = _result(folder, told), (told["key"], told["name"])
            if isinstance(result, Source):
                missing[cell] = result
            elif cell not in found or found[cell].error:
                found[cell] = result
    results = tuple(part for result in found.values() for part in _parts(result))
    unknown = min(int(read_json(folder / PLAN).get("unknown", 0)) for folder in folders)
    left = tuple(m for k, m in missing.items() if k not in found)
    return Gathered(frame, results, _lists(folders, frame), left, unknown)


def _names(frame: Frame) -> list[str]:
    return [task.name for task in frame.tasks]


def _known(frame: Frame, frames: Sequence[Frame], place: int) -> Any:
    """A task as the first folder has it that has its lists."""
    several = [other.tasks[place] for other in frames]
    return next((task for task in several if task.lists), several[0])


def _result(folder: Path, told: Mapping[str, str]) -> Result | Source:
    """A cell's result, that it failed, or that it is not there."""
    home = folder / CELLS / told["name"]
    if (result := read_result(home)) is not None:
        return result
    if not (home / ERROR).is_file():
        return Source(told["key"], told["title"], "missing")
    error, spec = read_error(home) or "it failed", read_json(home / CELL).get("spec", {})
    if not spec:  # its process died before it wrote down what it was
        return Source(told["key"], told["title"], "failed", error)
    names = ("kind", "task", "method", "model", "seed", "setting", "trials")
    return Result(told["key"], **{name: spec[name] for name in names}, error=error)


def _parts(result: Result) -> list[Result]:
    """The result itself; of a cell of baselines one for each of them."""
    if result.kind != "baseline" or result.error:
        return [result]
    return [replace(result, method=row.mode, rows=(replace(row, mode="given"),)) for row in result.rows]


def _lists(folders: Sequence[Path], frame: Frame) -> dict[str, tuple[EvaluationList, ...]]:
    found = {}
    for digest in {task.lists for task in frame.tasks if task.lists}:
        for folder in folders:
            try:
                found[digest] = read_lists(folder, digest)
                break
            except OSError:
                continue
    return found
