"""Work of no time for suites of the tests; as a script, a suite's process: fake_work.py FOLDER CELLS.json JOBS."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from irpo.compare.cells import Cell
from irpo.compare.engine.running import Options, Waiting, run_cells
from irpo.compare.results import Result, Row
from irpo.disk import NoRoom
from irpo.types import UserError


def cell(name, *steps, **spec):
    """A cell that does the steps in turn; `journal` is a file to which each start of it adds a line."""
    return Cell(f"key-of-{name}", name, f"the cell {name}", {"kind": "run", "steps": list(steps)} | spec)


def do(folder, spec):
    """The steps, then a result that depends on nothing else than the cell."""
    if journal := spec.get("journal"):
        with Path(journal).open("a", encoding="utf-8") as file:
            file.write(f"{folder.name} {os.getpid()} {os.getppid()}\n")
    for step in spec["steps"]:
        word, _, rest = step.partition(" ")
        _STEPS[word](rest, folder)
    values = np.arange(6, dtype=float).reshape(2, 3) / len(folder.name)
    row = Row("given", "1", ("1",), ("NDCG@1", "NDCG@5"), values, np.zeros((3, 2), np.int16))
    return Result(folder.name, spec["kind"], "task", "method", rows=(row,))


def _mistake(text, _):
    raise UserError(text)


def _full_until(name, folder):
    if not (folder.parents[1] / name).exists():
        raise NoRoom(folder / "run" / "checkpoint-5", 28, needed=12 * 10**15)


def _fail_once(_, folder):
    if not (folder / "failed once").exists():
        (folder / "failed once").touch()
        raise RuntimeError("the first\ntime")


_STEPS = {
    "sleep": lambda seconds, _: time.sleep(float(seconds)),
    "mistake": _mistake,
    "full": _full_until,
    "divide": lambda *_: 1 / 0,
    "exit": lambda code, _: sys.exit(int(code)),
    "leave": lambda code, _: os._exit(int(code)),
    "kill": lambda number, _: os.kill(os.getpid(), int(number)),
    "say": lambda text, _: print(text),
    "shout": lambda text, _: subprocess.run(["echo", text], check=True),
    "tell": lambda name, _: print(name, "is", os.environ.get(name)),
    "once": _fail_once,
}


def options(**changed):
    """Those of a suite of this work, whose processes share no heavy module."""
    return Options(**{"work": "fake_work:do", "preload": ("numpy",)} | changed)


if __name__ == "__main__":
    cells = tuple(Cell(**told) for told in json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")))
    print(run_cells(Path(sys.argv[1]), lambda: Waiting(cells), options(jobs=int(sys.argv[3]))))
