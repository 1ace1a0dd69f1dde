"""Fair comparisons on the embedded model: a search of equal size for every objective, then five seeds at what it chose.

    python benchmarks/study.py run                        # every group, in the order of what it says; resumable
    python benchmarks/study.py run main measure           # two of them (--help names all)
    python benchmarks/study.py run --shard 0/2            # on two machines: half of the pieces each
    python benchmarks/study.py table                      # markdown of what is there

A finished piece is a line of `benchmarks/results/study.<shard>.jsonl`, with the base model's sha256, the commit and the
protocol; a run that was stopped goes on where it was. Lines of another model or protocol stay where they are and count
for nothing. `main`, `measure` (objectives that are the measure), `published` (with the reference and without an anchor,
as the papers have it), `others` and `scorers` search and then measure in three modes; `adapter` scales the adapter of
the published ones instead; `policy` measures at the setting that was best ranked by the policy itself; `lists`, `early`
and `labels` follow NDCG against training lists and updates, a few updates and the learning rate, and labels of which
less is known.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import study_trial
from study_cases import GROUPS, QUICK, Protocol, cases, pieces
from study_tables import report

from irpo.files import sha256_of
from irpo.resources import embedded_dir

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
STYLES = ("text", "label")

Call = tuple[Callable[..., dict[str, Any]], Any, Protocol]


def about(protocol: Protocol) -> dict[str, Any]:
    """What a line's figures depend on: the model and the protocol."""
    return {"base": sha256_of(embedded_dir() / "model.safetensors"), "protocol": protocol.shared()}


def commit() -> str:
    """The commit of the code that runs; a + behind it where that was changed since."""

    def git(*words: str) -> str:
        asked = ["git", "-C", str(HERE.parent), *words]
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()

    changed = git("status", "--porcelain", "--", "irpo", "configs", "prompts", "benchmarks/*.py")
    return git("rev-parse", "--short=12", "HEAD") + "+" * bool(changed)


def finished(folder: Path, protocol: Protocol) -> dict[str, dict[str, Any]]:
    """The lines of this model and protocol by key."""
    own = about(protocol)
    found = {}
    for path in sorted(folder.glob("study.*.jsonl")):
        for text in path.read_text(encoding="utf-8").splitlines():
            line = json.loads(text)
            if {name: line[name] for name in own} == own:
                found[line["key"]] = line
    return found


@dataclass
class Work:
    """The pieces that are done, and those to come."""

    groups: Sequence[str]
    protocol: Protocol
    shard: tuple[int, int]
    done: dict[str, dict[str, Any]]
    running: set[str] = field(default_factory=set)

    def waiting(self) -> Iterator[tuple[str, Call]]:
        """Key and call of what can be done and is neither done nor begun, the most important first."""
        for key, case, call in self._all():
            mine = case is None or list(cases()).index(case) % self.shard[1] == self.shard[0]
            if mine and key not in self.done and key not in self.running:
                yield key, call

    def _all(self) -> Iterator[tuple[str, str | None, Call]]:
        for style in STYLES:
            yield f"base/{style}", None, (study_trial.base, style, self.protocol)
        for group in self.groups:
            for piece in pieces(group, self.protocol, self.done):
                yield piece.key, piece.case, (study_trial.work, piece, self.protocol)


def run(work: Work, folder: Path, workers: int) -> None:
    """Do what is waiting, `workers` pieces at a time; every finished one is written at once."""
    path, more = folder / f"study.{work.shard[0]}.jsonl", about(work.protocol) | {"commit": commit()}
    began, count = time.perf_counter(), 0
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        futures: dict[Future[dict[str, Any]], str] = {}
        while True:
            for key, call in islice(work.waiting(), workers - len(futures)):
                futures[pool.submit(*call)] = key
                work.running.add(key)
            if not futures:
                return
            for future in wait(futures, return_when=FIRST_COMPLETED).done:
                key = futures.pop(future)
                work.done[key] = {"key": key} | future.result() | more
                work.running.discard(key)
                with path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(work.done[key]) + "\n")
                count += 1
                ready = sum(1 for _ in work.waiting())
                print(f"{time.perf_counter() - began:7.0f} s  {count:4} done, {ready:4} ready  {key}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "table"])
    parser.add_argument(
        "groups", nargs="*", metavar="GROUP", help=f"of {', '.join(GROUPS)}; default: all, in this order"
    )
    parser.add_argument("--trials", type=int, default=Protocol.trials, help="of the search of each case")
    parser.add_argument("--shard", default="0/1", help="part/parts")
    parser.add_argument("--workers", type=int, default=2, help="processes, of one thread each")
    parser.add_argument("--quick", action="store_true", help="a few lists and updates, to see that it runs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder of the lines")
    options = parser.parse_args()
    if unknown := set(options.groups) - set(GROUPS):
        parser.error(f"no group {', '.join(sorted(unknown))}; choose from {', '.join(GROUPS)}")
    protocol = QUICK if options.quick else replace(Protocol(), trials=options.trials)
    done = finished(options.results, protocol)
    if options.what == "table":
        print(report(done, protocol))
        return
    part, parts = (int(number) for number in options.shard.split("/"))
    work = Work(options.groups or GROUPS, protocol, (part, parts), done)
    run(work, options.results, options.workers)


if __name__ == "__main__":
    main()
