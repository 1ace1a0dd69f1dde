"""How long a large suite's report takes: simulated results are written as a suite's folder, read again and reported.

    python benchmarks/report_size.py [--out FOLDER] [--models 3] [--tasks 6] [--seeds 5] [--lists 1000]

18 x 6 cells with 5 seeds are the grid of the IRPO paper. A list's best candidate gets a score for being relevant (the
method's skill, the seed's luck, the difficulty of the list's group) beside noise; the values are those of the order.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from irpo.chance import fingerprint
from irpo.compare.cells import CELLS, Cell, folder_of
from irpo.compare.gather import gather, write_plan
from irpo.compare.results import FRAME, LISTS, Frame, Printed, Result, Row, TaskFrame, write_result
from irpo.files import atomic_file

MODELS = ("Llama-3.2-3B-Instruct", "Gemma-2-2B-it", "Phi-3-mini-4k")
TASKS = {"redial": "dialogues", "inspired": "dialogues", "hotpotqa": "passages", "musique": "passages"}
TASKS |= {"arc": "choices", "commonsenseqa": "choices"}
SKILLS = {"base": 0.6, "SFT": 1.2, "DPO": 1.1, "S-DPO": 1.25, "LiPO-lambda": 1.5, "IRPO": 1.7}
BASELINES = {"random": 0.0, "input order": 0.0, "BM25": 0.5, "popularity": 0.3, "query-blind table": 0.4}
CANDIDATES = 20
CUTS = (1, 5, 10)
STRENGTHS = ("0", "0.5", "1", "1.5", "2", "4")
Array = NDArray[Any]


@dataclass(frozen=True)
class Size:
    """How large a suite is."""

    models: int = 3
    tasks: int = 6
    seeds: int = 5
    lists: int = 1000


@dataclass(frozen=True)
class Drawn:
    """A task's lists as numbers."""

    name: str
    digest: str
    relevance: Array  # (n, K)
    ease: Array  # (n,), alike within a group


def simulate(folder: Path, size: Size = Size(), *, seed: int = 0) -> Frame:
    """Write a suite's folder (frame, lists, finished cells) of simulated results; what it is laid out by."""
    tasks = [_task(folder, name, size.lists, [seed, at]) for at, name in enumerate(list(TASKS)[: size.tasks])]
    frame = _frame(tasks, size)
    cells = []
    for result in _results(frame, tasks, size, seed):
        title = ".".join(p for p in (result.model, result.task, result.method, str(result.seed)) if p)
        cells.append(Cell(result.key, folder_of(title), title, {}))
        write_result(folder / CELLS / cells[-1].name, result)
    write_plan(folder, frame, cells, 0)
    return frame


def _task(folder: Path, name: str, n: int, seed: list[int]) -> Drawn:
    chance = np.random.default_rng(seed)
    groups = np.sort(chance.integers(0, max(2, n // 2), size=n))
    relevance = np.zeros((n, CANDIDATES))
    relevance[np.arange(n), chance.integers(0, CANDIDATES, size=n)] = 1.0
    digest = fingerprint(f"{name} {n} {seed}", 16)
    with atomic_file(folder / LISTS / f"{digest}.jsonl") as file:
        for i in range(n):
            texts = [
                f"{name} candidate {chance.integers(0, 5000)} of list {i}, with a title" for _ in range(CANDIDATES)
            ]
            query = f"{name}: what would you recommend to someone who asked question {i}? " * 3
            line = {"id": f"{name}-{i}", "unit": f"{name}-group-{groups[i]}", "query": query, "texts": texts}
            file.write(json.dumps(line | {"relevance": relevance[i].tolist()}) + "\n")
    return Drawn(name, digest, relevance, chance.normal(0, 0.5, n)[groups])


def _frame(tasks: list[Drawn], size: Size) -> Frame:
    models, trained = MODELS[: size.models], [name for name in SKILLS if name != "base"]
    told = [
        TaskFrame(t.name, TASKS[t.name], tuple(f"NDCG@{k}" for k in CUTS), t.digest, {"lists": size.lists})
        for t in tasks
    ]
    printed = [Printed(t.name, m, "IRPO", "NDCG@10", 0.5) for t in tasks for m in models]
    return Frame(
        title="Simulated suite",
        about="Results drawn by chance, as many as the paper's grid has.",
        tasks=tuple(told),
        models=models,
        methods=tuple(SKILLS),
        against=("SFT", "DPO"),
        seeds=size.seeds,
        trials=dict.fromkeys(trained, 8),
        printed=tuple(printed),
        source="simulated",
    )


def _results(frame: Frame, tasks: list[Drawn], size: Size, seed: int) -> Iterator[Result]:
    chance = np.random.default_rng([seed, 1])
    for task in tasks:
        for name, skill in BASELINES.items():
            rows = (_row(task, skill, chance, name, frame.strengths),)
            yield Result(
                fingerprint(f"{task.name} {name}", 16), "baseline", task.name, name, lists=task.digest, rows=rows
            )
        for model in frame.models:
            for method in frame.methods:
                for s in range(1 if method == "base" else size.seeds):
                    yield _run(task, model, method, s, chance)


def _run(task: Drawn, model: str, method: str, seed: int, chance: np.random.Generator) -> Result:
    skill = SKILLS[method] + float(chance.normal(0, 0.05))
    base = method == "base"
    shown = (("1", "auto"),) if base else (("1",), ("auto",))
    rows = [_row(task, skill + 0.1 * i, chance, "score", names) for i, names in enumerate(shown)]
    rows += [_row(task, skill, chance, "score", shown[0], order=order) for order in (1, 2, -1)]
    rows += [_row(task, skill - 0.2, chance, "generate", shown[0], part=part) for part in ("strict", "repaired")]
    updates = range(0, 200, 20)
    return Result(
        key=fingerprint(f"{task.name} {model} {method} {seed}", 16),
        kind="untrained" if base else "run",
        task=task.name,
        method=method,
        model=model,
        seed=seed,
        setting={} if base else {"learning_rate": 1e-5, "beta": 0.1},
        trials=0 if base else 8,
        lists=task.digest,
        rows=tuple(rows),
        validation={}
        if base
        else {"curve": {"1": 0.6, "2": 0.62}, "auto": "2", "log": [[u, u / (u + 90)] for u in updates]},
        by_strength={} if base else {s: 0.5 + 0.05 * float(s) - 0.01 * float(s) ** 2 for s in STRENGTHS},
        margins=() if base else tuple((u, u / 100) for u in updates),
        cost={"seconds": 3600.0, "tokens": 2e7, "peak_bytes": 6e10, "joules": 1e6},
        made={"versions": {"irpo": "0.1.0", "torch": "2.8"}, "commit": "0" * 40, "machine": "simulated"},
    )


def _row(task: Drawn, skill: float, chance: np.random.Generator, mode: str, shown: tuple[str, ...], **more: Any) -> Row:
    """A ranker of that skill on the task's lists."""
    scores = task.relevance * (skill + task.ease)[:, None] + chance.normal(size=task.relevance.shape)
    order = np.argsort(-scores, axis=1).astype(np.int16)
    gains = np.take_along_axis(task.relevance, order.astype(np.int64), 1) / np.log2(2 + np.arange(CANDIDATES))
    values = np.array([gains[:, :k].sum(1) for k in CUTS])  # one candidate is relevant: the best sum is 1
    told = {"part": "strict", "coverage": 0.9, "exact": 0.8} if more.get("part") == "strict" else more
    return Row(mode, shown[-1], shown, tuple(f"NDCG@{k}" for k in CUTS), values, order, **told)


def report(folder: Path) -> dict[str, float]:
    """Read a suite's folder and report it: seconds of each part by the clock, of the processor for all, peak memory."""
    from irpo.compare.statistics.report import report_of, viewed

    started, busy = time.perf_counter(), time.process_time()
    found = gather([folder])
    read = time.perf_counter()
    made = report_of(found.frame, found.results, found.lists)
    told = time.perf_counter()
    shown = viewed(found.frame, found.results, found.lists)
    ended = time.perf_counter()
    return {
        "cells": len(found.results),
        "lists_shown": sum(len(v.ids) for v in shown),
        "tests": sum(len(c.tests) for t in made.tables for r in t.rows for c in r.cells),
        "read_s": round(read - started, 1),
        "report_of_s": round(told - read, 1),
        "viewed_s": round(ended - told, 1),
        "cpu_s": round(time.process_time() - busy, 1),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def main() -> None:
    """Simulate, report, print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="keep the suite's folder here; used as it is where it exists")
    for name, value in vars(Size()).items():
        parser.add_argument(f"--{name}", type=int, default=value)
    told = vars(parser.parse_args())
    out = told.pop("out")
    with tempfile.TemporaryDirectory() as folder:
        folder = out or Path(folder)
        if not (folder / FRAME).exists():
            simulate(folder, Size(**told))
        print(json.dumps(report(folder)))


if __name__ == "__main__":
    main()
