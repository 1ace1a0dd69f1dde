"""Work of no time for suites of the tests: what it does is in the cell's `spec`."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from irpo.compare.cells import Cell
from irpo.compare.results import Result, Row
from irpo.types import UserError


def cell(name, **spec):
    """A cell; `spec` may have `steps` (words, done in turn) and `journal` (a file that each start adds a line to)."""
    return Cell(key=f"{name:>16}".replace(" ", "0"), name=name, title=f"the cell {name}", spec={"kind": "run"} | spec)


def do(folder, spec):
    """The steps in turn, then a result that depends on nothing else than the cell."""
    if journal := spec.get("journal"):
        with Path(journal).open("a", encoding="utf-8") as file:
            file.write(f"{folder.name} {os.getpid()}\n")
    for step in spec.get("steps", ()):
        word, _, rest = step.partition(" ")
        _STEPS[word](rest, folder)
    values = np.arange(6, dtype=float).reshape(2, 3) / len(folder.name)
    row = Row("given", "1", ("1",), ("NDCG@1", "NDCG@5"), values, np.zeros((3, 2), np.int16))
    return Result(folder.name, spec["kind"], "task", "method", rows=(row,))


def _fail_once(_, folder):
    if not (folder / "was here").exists():
        (folder / "was here").touch()
        raise RuntimeError("the first time")


def _mistake(text, _):
    raise UserError(text)


def _print_as_c(text, _):
    subprocess.run(["echo", text], check=True)


_STEPS = {
    "sleep": lambda seconds, _: time.sleep(float(seconds)),
    "mistake": _mistake,
    "divide": lambda *_: 1 / 0,
    "exit": lambda code, _: sys.exit(int(code)),
    "leave": lambda code, _: os._exit(int(code)),
    "kill": lambda number, _: os.kill(os.getpid(), int(number)),
    "say": lambda text, _: print(text),
    "echo": _print_as_c,
    "wait for": lambda *_: None,
    "once": _fail_once,
    "no result": lambda *_: None,
    "segfault": lambda *_: os.kill(os.getpid(), signal.SIGSEGV),
}
