"""`python -m tests.fuzz`: damaged data, answers, configurations and HTTP requests; counts, and exit code 1 on failures.

Another kind of input is one more function in `_JOBS`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from tests.fuzz import answers, corpus, requests, settings
from tests.fuzz.running import LIMIT
from tests.fuzz.workers import Died, run

PARTS = ("data", "answers", "settings", "requests")


def main() -> int:
    """All parts, or those that are asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], help="which; default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=int, default=6000, metavar="N", help="variants of damaged data")
    parser.add_argument("--answers", type=int, default=1_000_000, metavar="N", help="strings for the parser")
    parser.add_argument("--settings", type=int, default=20_000, metavar="N", help="configurations")
    parser.add_argument("--requests", type=int, default=5000, metavar="N", help="HTTP requests")
    parser.add_argument("--only", type=int, metavar="NUMBER", help="of one part: this variant alone, and all of it")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--failures", type=Path, default=Path("fuzz-failures.txt"), help="where failures are written")
    given = parser.parse_args()
    failures = Failures(given.failures)
    for part in given.parts or PARTS:
        _JOBS[part](given, failures)
    if failures.count:
        print(f"{failures.count} failures, written to {given.failures}")
    return bool(failures.count)


class Failures:
    """The file of failures, which is there only if there are any; each is written as it is found."""

    def __init__(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self._path, self.count = path, 0

    def add(self, *lines: str) -> None:
        """One more."""
        self.count += 1
        with self._path.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write("\n".join(lines) + "\n\n")


def _numbers(given: argparse.Namespace, count: int) -> Iterable[int]:
    return range(count) if given.only is None else [given.only]


def _data(given: argparse.Namespace, failures: Failures) -> None:
    start = time.monotonic()
    rows: dict[str, Counter[str]] = {name: Counter() for name in corpus.groups(given.seed)}
    names, slowest = list(rows), dict.fromkeys(rows, (0.0, 0))
    job = partial(corpus.variant, seed=given.seed)
    for found in run(_numbers(given, given.data), job, count=given.processes, limit=8 * LIMIT, prepare=corpus.bounded):
        if isinstance(found, Died):
            rows[names[found.number % len(names)]]["failed"] += 1
            failures.add(f"data {found.number}: {found.why}")
            continue
        rows[found.group]["failed" if found.faults else found.ended] += 1
        slowest[found.group] = max(slowest[found.group], (found.seconds, found.number))
        if found.faults or given.only is not None:
            failures.add(f"data {found.number}: {found.group}: {found.damage}", *found.faults, found.said)
    _table("data", rows, slowest, time.monotonic() - start)


def _answers(given: argparse.Namespace, failures: Failures) -> None:
    if given.only is not None:
        found = answers.Batch(0)
        answers._one(given.only, given.seed, found)
        failures.add(str(answers.answer(given.only, given.seed)), str(found.counts), *found.faults)
        return
    start, counts, before = time.monotonic(), Counter[str](), failures.count
    slowest: dict[int, tuple[float, int]] = {}
    jobs = range(-(-given.answers // answers.BATCH))
    for done in run(
        jobs, partial(answers.batch, seed=given.seed), count=given.processes, limit=3600, prepare=answers.warm
    ):
        if isinstance(done, Died):
            failures.add(f"answers {done.number * answers.BATCH} and the next {answers.BATCH}: {done.why}")
            continue
        counts.update(done.counts)
        for fault in done.faults:
            failures.add(fault)
        for size, slow in done.slowest.items():
            slowest[size] = max(slowest.get(size, (0.0, 0)), slow)
    named = ", ".join(f"{counts[kind]} {kind}" for kind in ("right", "partial", "nothing"))
    print(f"\nanswers: {counts.total()} strings: {named}, {failures.count - before} failed")
    for size, (seconds, number) in sorted(slowest.items()):
        print(f"  up to {size} characters: slowest {seconds:.3f} s (number {number})")
    print(f"{time.monotonic() - start:.0f} s")


def _settings(given: argparse.Namespace, failures: Failures) -> None:
    if given.only is not None:
        with tempfile.TemporaryDirectory() as folder:
            found = settings.Batch(0)
            settings._one(given.only, given.seed, Path(folder), found)
        failures.add(str(settings.setting(given.only, given.seed)), str(found.counts), *found.faults)
        return
    start, counts, slowest = time.monotonic(), Counter[str](), (0.0, 0)
    jobs = range(-(-given.settings // settings.BATCH))
    job = partial(settings.batch, seed=given.seed)
    for done in run(jobs, job, count=given.processes, limit=3600, prepare=settings.warm):
        if isinstance(done, Died):
            failures.add(f"settings {done.number * settings.BATCH} and the next {settings.BATCH}: {done.why}")
            continue
        counts.update(done.counts)
        for fault in done.faults:
            failures.add(fault)
        slowest = max(slowest, done.slowest)
    print(
        f"\nsettings: {counts.total()}: " + ", ".join(f"{counts[kind]} {kind}" for kind in ("valid", "error", "failed"))
    )
    print(f"  slowest {slowest[0]:.2f} s (number {slowest[1]})\n{time.monotonic() - start:.0f} s")


def _requests(given: argparse.Namespace, failures: Failures) -> None:
    if given.only is not None:
        request = requests.damaged(given.only, given.seed)
        found = requests.judged(0, [(given.only, request)])
        failures.add(str(request), str(found.counts), *found.faults)
        return
    start, counts, slowest = time.monotonic(), Counter[str](), (0.0, 0)
    jobs = range(-(-given.requests // requests.BATCH))
    job = partial(requests.batch, seed=given.seed)
    limit = requests.BATCH * requests.SECONDS
    for done in run(jobs, job, count=given.processes, limit=limit, prepare=requests.warm):
        if isinstance(done, Died):
            failures.add(f"requests {done.number * requests.BATCH} and the next {requests.BATCH}: {done.why}")
            continue
        counts.update(done.counts)
        for fault in done.faults:
            failures.add(fault)
        slowest = max(slowest, done.slowest)
    named = ", ".join(f"{counts[kind]} {kind}" for kind in ("ranked", "refused", "failed"))
    print(f"\nrequests: {counts.total()}: {named}")
    print(f"  slowest {slowest[0]:.2f} s (number {slowest[1]})\n{time.monotonic() - start:.0f} s")


def _table(title: str, rows: dict[str, Counter[str]], slowest: dict[str, tuple[float, int]], seconds: float) -> None:
    kinds = ("right", "error", "failed")
    print(f"\n{title:<28}{'variants':>9}" + "".join(f"{kind:>9}" for kind in kinds) + "  slowest (s)  number")
    total = sum(rows.values(), Counter[str]())
    for name, counts in [*rows.items(), ("all", total)]:
        slow, number = max(slowest.values()) if name == "all" else slowest[name]
        cells = "".join(f"{counts[kind]:>9}" for kind in kinds)
        print(f"{name:<28}{counts.total():>9}{cells}  {slow:>11.2f}  {number}")
    print(f"{seconds:.0f} s")


_JOBS: dict[str, Callable[[Any, Failures], None]] = {
    "data": _data,
    "answers": _answers,
    "settings": _settings,
    "requests": _requests,
}

if __name__ == "__main__":
    sys.exit(main())
