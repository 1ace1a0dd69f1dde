"""Lists beyond memory: peak memory and speed of each stage, at one number of lists and at ten times as many.

    python benchmarks/beyond_memory.py --lists 100000 1000000             # prepare and read, one JSON line each
    python benchmarks/beyond_memory.py --stage prepare --processes 2 --format jsonl

Synthetic lists of 20 candidates (about 2.2 kB of JSON a list), written into a temporary folder below `--folder` and
removed at the end. A stage runs in a process of its own; `peak_mb` is the most resident memory that it and its children
held together, looked at every 50 ms, `cpu_seconds` what all of them computed: on a machine with other work the time by
the clock says little. Flat is what it should be: the same peak at both numbers.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

CANDIDATES = 20
BYTES_PER_LIST = 2_400  # of the source; as much again for the lists, and for what is written aside
WORDS = ("river", "amber", "engine", "valley", "copper", "signal", "harbor", "winter", "orchard", "paper", "gentle")


def source_lines(lists: int) -> Iterator[str]:
    """The lists of the `jsonl` task's form; the same ones for the same number."""
    texts = [" ".join(WORDS[(n // 11**k + k) % 11] for k in range(6)) for n in range(4096)]
    for i in range(lists):
        candidates = ", ".join(
            f'{{"id": "c{k}", "text": "{texts[(7919 * i + 101 * k) % 4096]} {i + k}", "relevance": {int(k < 3)}}}'
            for k in range(CANDIDATES)
        )
        yield f'{{"id": "q{i}", "query": "which of {i}, {texts[i % 4096]}?", "candidates": [{candidates}]}}\n'


def write_source(folder: Path, lists: int) -> None:
    """A train.jsonl of so many lists."""
    free, needed = shutil.disk_usage(folder.parent).free, 3 * lists * BYTES_PER_LIST
    if free < needed:
        sys.exit(f"{folder}: {needed / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB are free")
    folder.mkdir()
    with (folder / "train.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(source_lines(lists))


def prepare(folder: Path, options: argparse.Namespace) -> int:
    """From the source to a prepared folder."""
    from irpo import api

    task = {"name": "jsonl", "data": str(folder / "source")}
    card = api.prepare(task, folder / "lists", format=options.format, processes=options.processes)
    return int(card["splits"]["train"]["lists"])


def read(folder: Path, options: argparse.Namespace) -> int:
    """One epoch, shuffled."""
    from irpo.tasks.shards import ShardedLists

    return sum(1 for _ in ShardedLists.of(folder / "lists").shuffled(0, 0, options.buffer))


Stage = Callable[[Path, argparse.Namespace], int]  # a folder with source/ and what earlier stages wrote -> lists
STAGES: dict[str, Stage] = {"prepare": prepare, "read": read}  # in the order in which they need each other


def measured(stage: str, folder: Path, words: list[str]) -> dict[str, Any]:
    """A stage in a process of its own: lists, seconds, and the peak of its memory."""
    before, start, peak, first = os.times(), time.perf_counter(), 0, 0
    command = [sys.executable, __file__, "--inner", stage, "--folder", str(folder), *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            peak = max(peak, resident(watched))
            first = max(first, own(watched))
            time.sleep(0.05)
        told = process.stdout.read() if process.stdout else ""
    if process.returncode:
        sys.exit(f"stage {stage} ended with {process.returncode}")
    seconds, after = time.perf_counter() - start, os.times()
    lists = int(told.split()[-1])
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return {
        "stage": stage,
        "lists": lists,
        "peak_mb": round(peak / 2**20),
        "first_process_peak_mb": round(first / 2**20),
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu, 1),
        "lists_per_second": round(lists / seconds),
        "lists_per_cpu_second": round(lists / cpu),
    }


def resident(process: psutil.Process) -> int:
    """Bytes that a process and its descendants hold."""
    try:
        family = [process, *process.children(recursive=True)]
    except psutil.Error:
        return 0
    return sum(map(own, family))


def own(process: psutil.Process) -> int:
    """Bytes that a process holds; 0 where it is gone."""
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def command_line() -> argparse.ArgumentParser:
    """The command's words."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--lists", nargs="+", type=int, default=[100_000])
    parser.add_argument("--format", choices=("jsonl", "parquet"), default="parquet")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--buffer", type=int, default=1000, help="lists of the shuffle buffer")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--inner", choices=STAGES, help=argparse.SUPPRESS)
    return parser


def main() -> None:
    """Each stage at each number of lists."""
    options = command_line().parse_args()
    if options.inner:
        print(STAGES[options.inner](options.folder, options))
        return
    words = ["--format", options.format, "--processes", str(options.processes), "--buffer", str(options.buffer)]
    last = max(list(STAGES).index(stage) for stage in options.stage)
    for lists in options.lists:
        with tempfile.TemporaryDirectory(prefix="beyond-memory-", dir=options.folder) as name:
            write_source(Path(name) / "source", lists)
            for stage in list(STAGES)[: last + 1]:
                found = measured(stage, Path(name), words)
                if stage in options.stage:
                    setting = {"format": options.format, "processes": options.processes}
                    print(json.dumps(found | setting), flush=True)


if __name__ == "__main__":
    main()
