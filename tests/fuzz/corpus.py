"""Variants of damaged data by their number: each is made, prepared twice and judged."""

from __future__ import annotations

import importlib
import random
import resource
import shutil
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

from tests.fuzz.cases import Case, cases, without
from tests.fuzz.damage import damaged, write
from tests.fuzz.judging import wrong
from tests.fuzz.options import OPTIONS, damaged_options
from tests.fuzz.running import Outcome, command, prepare

MEMORY = 6 * 2**30  # bytes of addresses that one process may have beyond what it began with


@dataclass(frozen=True)
class Found:
    """What came of one variant: `faults` is empty where all is well."""

    number: int
    group: str  # of the table's row
    damage: str
    ended: str  # "right" or "error", of the run that skips bad rows
    seconds: float  # of the slower run
    faults: tuple[str, ...] = ()
    said: str = ""


def groups(seed: int) -> list[str]:
    """The names of what is damaged, a row of the table each."""
    return [*(case.name for case in cases(seed)), OPTIONS]


def variant(number: int, seed: int) -> Found:
    """One variant: case by case in turn, the damage by chance."""
    known = _cases(seed)
    place, chance = number % (len(known) + 1), random.Random(f"{seed}/{number}")
    if place == len(known):
        return _options(number, chance)
    case = known[place]
    try:
        return _judged(number, seed, place, chance)
    except Exception:  # noqa: BLE001 - a fault of this script's is told by its number, too
        return Found(number, case.name, "", "error", 0.0, (traceback.format_exc(limit=-3),))


def _judged(number: int, seed: int, place: int, chance: random.Random) -> Found:
    case = _cases(seed)[place]
    with _folder() as folder:
        damage = damaged(case, folder / "data", chance)
        strict = prepare(case, folder, damage)
        skip = prepare(case, folder, damage, skip=True)

        def reference(file: str, row: int | None) -> Outcome:
            return _reference(place, seed, file, row)

        faults = tuple(wrong(case, damage, strict, skip, reference, folder / "data"))
    ended = "right" if skip.code == 0 else "error"
    what = f"{damage.name} in {damage.file}" + (
        f", rows {sorted(damage.touched)}" if damage.touched is not None else ""
    )
    said = f"strict: {strict.said.strip()[:400]}\nskip: {skip.said.strip()[:400]}"
    return Found(number, case.name, what, ended, max(strict.seconds, skip.seconds), faults, said)


def _options(number: int, chance: random.Random) -> Found:
    """A task's options instead of its data."""
    with _folder() as folder:
        words = damaged_options(chance)
        outcome = command([*words, "--out", str(folder / "out")])
        faults = []
        if outcome.code not in (0, 2):
            faults.append(f"exit code {outcome.code}: {outcome.said}")
        elif outcome.code == 2 and (outcome.said.count("\n") != 1 or not outcome.said.startswith("error: ")):
            faults.append(f"not one line: {outcome.said[:500]!r}")
        elif outcome.code == 2 and any(folder.iterdir()):
            faults.append("something was left")
        if len(outcome.said) > 1500 and outcome.code is not None:
            faults.append(f"a message of {len(outcome.said)} characters")
    ended = "right" if outcome.code == 0 else "error"
    return Found(number, OPTIONS, " ".join(words)[:200], ended, outcome.seconds, tuple(faults), outcome.said[:400])


class _folder:
    """A folder of its own, in memory where there is such a place."""

    def __enter__(self) -> Path:
        memory = Path("/dev/shm")
        self._path = Path(tempfile.mkdtemp(prefix="irpo-fuzz-", dir=memory if memory.is_dir() else None))
        return self._path

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._path, ignore_errors=True)


@lru_cache(maxsize=1)
def _cases(seed: int) -> tuple[Case, ...]:
    return tuple(cases(seed))


@cache
def _reference(place: int, seed: int, file: str, row: int | None) -> Outcome:
    """What comes of the undamaged data, without one row of a file."""
    case = _cases(seed)[place]
    if row is not None:
        case = without(case, file, row)
    with _folder() as folder:
        write(case, folder / "data")
        return prepare(case, folder)


def bounded() -> None:
    """In a worker: a file that asks for more memory than there is meets an error, not the machine's end."""
    warm()
    used = (
        int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() if Path("/proc").is_dir() else 0
    )
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, hard))


def warm() -> None:
    """Import what commands import when they need it, so that no variant pays for it."""
    for name in ("irpo.api", "irpo.tasks.preparing", "bm25s", "datasets", "pyarrow.parquet", "scipy.optimize"):
        importlib.import_module(name)


def undamaged(seed: int) -> Iterator[tuple[str, Outcome]]:
    """What every case gives as it is."""
    for place, case in enumerate(_cases(seed)):
        yield case.name, _reference(place, seed, case.files[0].name, None)
