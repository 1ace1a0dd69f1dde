"""The jobs behind `irpo compare` and `irpo report`."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from irpo import stopping
from irpo.compare.cells import CELLS
from irpo.compare.engine.running import Options, Waiting, run_cells
from irpo.compare.external import keep_files
from irpo.compare.forecast import Forecast, forecast, require_disk
from irpo.compare.gather import gather, write_plan
from irpo.compare.page import REPORT, VIEWED, Report
from irpo.compare.planning import Planner
from irpo.compare.results import Frame, Result
from irpo.compare.statistics.report import report_of, viewed
from irpo.compare.suite import BEST, Suite, narrowed
from irpo.compare.terminal import chosen_by_validation, grids
from irpo.compare.writing.html import write_html
from irpo.compare.writing.texts import write_texts
from irpo.estimate.cards import Card
from irpo.files import atomic_file
from irpo.progress import say
from irpo.types import UserError

HTML = "report.html"
OWN = "suite.json"  # of a suite's folder: whose results lie there


@stopping.telling(lambda: "the same command goes on from the cells that are done")
def compare(
    suite: Suite,
    out: Path,
    *,
    only: Sequence[str] = (),
    options: Options | None = None,
    runs: Mapping[str, Path] | None = None,
) -> Report:
    """Do what is missing of a suite in a folder, and write its report.

    `only` narrows what is done ("task=arc"); the report shows all that is there, and TREC run files beside it.
    """
    fresh = not out.exists()
    whole = planner_of(suite, out)
    options = options or Options()
    part = Planner(narrowed(suite, only), out, whole.lists, since=time.time() if options.retry_failed else 0.0)
    for task, found in whole.lists.items():
        if isinstance(found, UserError):
            say(f"note: task {task}: no list, so no cell: {found}")
    if all(isinstance(found, UserError) for found in whole.lists.values()):
        if fresh:
            shutil.rmtree(out)
        raise UserError(f"no task of this suite has lists here: {next(iter(whole.lists.values()))}")

    noted(whole)
    keep_files(out, whole.frame(), runs or {})  # a mistake in them is told before the cells run, not after
    require_disk(part, len(options.gpus) or options.jobs)

    def plan() -> Waiting:
        noted(whole)
        return part.waiting()

    outcome = run_cells(out, plan, options)
    for ranker, why in part.unready.items():
        say(f"note: ranker {ranker} was not asked: {why}")
    noted(whole)
    made = report([out], out)
    failed = f", {outcome.failed} failed ({out / CELLS} has their logs; --retry-failed)" if outcome.failed else ""
    say(f"{outcome.done + outcome.skipped} cells done{failed}")
    show(made, out)
    return made


def show(made: Report, out: Path) -> None:
    """The tables on the screen, what was found, and where the rest is."""
    for grid in grids(made):
        grid.show()
    say(made.found)
    say(f"written to {out}: {HTML}, report.md, {REPORT}, tables")


def planner_of(suite: Suite, out: Path) -> Planner:
    """The suite in its folder, its lists built; `UserError` where something else lies there."""
    require_suites(out)
    planner = Planner(suite, out)
    planner.require_configs()
    planner.prepare()
    return planner


def require_suites(out: Path) -> None:
    """`UserError` where a folder holds something, and no suite's results."""
    if out.is_file():
        raise UserError(f"--out {out}: this is a file; give a folder")
    if out.is_dir() and any(out.iterdir()) and not (out / OWN).is_file():
        raise UserError(f"--out {out}: the folder is not empty and holds no suite; give a new one")
    out.mkdir(parents=True, exist_ok=True)
    if not (out / OWN).is_file():
        with atomic_file(out / OWN) as file:
            file.write(json.dumps({"irpo": "a suite's cells, lists and report"}) + "\n")


def noted(planner: Planner) -> None:
    """Write what the suite is made of, as far as it is known."""
    waiting = planner.waiting()
    write_plan(planner.out, planner.frame(), waiting.ready, waiting.unknown)


def foresee(suite: Suite, out: Path, card: Card, *, only: Sequence[str] = (), jobs: int = 1) -> Forecast:
    """What `compare` would take; lists are built (the hub's are fetched), in the suite's folder if it is one."""
    with tempfile.TemporaryDirectory() as elsewhere:
        place = out if (out / OWN).is_file() else Path(elsewhere)
        Planner(suite, place).require_configs()
        planner = Planner(narrowed(suite, only), place)
        planner.prepare()
        return forecast(planner, card, jobs)


def with_best(frame: Frame, results: Sequence[Result]) -> Frame:
    """The frame with the name of the method that validation lists choose where it tests against the `best`."""
    if BEST not in frame.against:
        return frame
    best = chosen_by_validation(results, frame.strengths[-1])
    names = [best if name == BEST else name for name in frame.against]
    return replace(frame, against=tuple(dict.fromkeys(name for name in names if name is not None)))


def report(folders: Sequence[Path], out: Path, runs: Mapping[str, Path] | None = None) -> Report:
    """Make the report of one suite's results, perhaps from several folders, into `out`; from files alone."""
    if runs:
        keep_files(folders[0], gather(folders[:1]).frame, runs)
    found = gather(folders)
    frame = with_best(found.frame, found.results)
    made = report_of(frame, found.results, found.lists, found.missing, found.unknown)
    lists = viewed(frame, found.results, found.lists)
    out.mkdir(parents=True, exist_ok=True)
    with atomic_file(out / VIEWED) as file:
        json.dump([vars(v) | {"rankers": [vars(r) for r in v.rankers]} for v in lists], file, default=dict)
    write_texts(out, made)
    write_html(out / HTML, made, lists)
    with atomic_file(out / REPORT) as file:
        json.dump(made.as_dict(), file, default=dict, allow_nan=False)
    return made
