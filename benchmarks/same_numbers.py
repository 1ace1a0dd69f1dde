"""Cells of `suites/methods.yaml` or `online.yaml` beside the lines of the studies made before there were suites.

    python benchmarks/same_numbers.py runs/methods

A line of `results/study.0.jsonl` (`online.*.jsonl`) and a cell are of one training run where method, setting and seed
are the same; on-policy trials were told by another value, so runs alone are compared there. Prints a JSON line: how
many there are of both, and the largest difference of the validation curve by strength, of NDCG@10 by score at strength
1, constrained and free, and of coverage. The lines hold five decimals.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from irpo.compare.gather import gather
from irpo.compare.results import Result

RESULTS = Path(__file__).resolve().parent / "results"
LINES = ("study.0.jsonl", "online.0.jsonl", "online.1.jsonl")
NAMES = {"SFT": "sft", "DPO": "dpo", "S-DPO": "sdpo", "LiPO-lambda": "lipo_lambda", "IRPO": "irpo"}
KINDS = {"trial": "trial", "run": "final"}
MODES = {"score": None, "constrain": None, "generate": "strict"}


def key_of(result: Result) -> str:
    """The line's key of a cell; SimPO's beta was written a tenth as large."""
    if result.rounds:
        name = result.method.replace("iterative IRPO", "iterative").replace("REINFORCE", "reinforce")
        return f"{name}/{result.setting['learning_rate']:g}/{result.seed}"
    name, published, _ = result.method.partition(" as published")
    scale = {"beta": 0.1} if result.method == "simpo" else {}
    setting = " ".join(f"{n} {float(v) * scale.get(n, 1):g}" for n, v in result.setting.items())
    return f"{KINDS[result.kind]}/{NAMES.get(name, name)}{published}/{setting}/{result.seed}"


def differences(result: Result, line: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """By what is compared, the absolute difference."""
    for strength, value in line.get("curve", {}).items():
        yield "validation", abs(value - result.validation["curve"][strength])
    told = line["rounds"][-1]["rows"] if "rounds" in line else line.get("rows", ())  # the last round's
    rows = {(row["mode"], row["strength"]): row for row in told}
    for mode, part in MODES.items():
        own, other = result.row(mode, "1", part), rows.get((mode, "1"))
        if own is not None and other is not None:
            yield mode, abs(float(own.of("NDCG@10").mean()) - other["ndcg"]["10"])
            if "coverage" in other:
                yield "coverage", abs(own.coverage - other["coverage"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the suite")
    files = ((RESULTS / name).read_text(encoding="utf-8").splitlines() for name in LINES)
    lines = {line["key"]: line for line in map(json.loads, chain.from_iterable(files))}
    found = gather([parser.parse_args().folder])
    cells = {key_of(r): r for r in found.results if r.kind in KINDS and not r.error and not r.diverged}
    both = [key for key in cells if key in lines and not lines[key].keys().isdisjoint(("curve", "rounds"))]
    worst: dict[str, float] = {}
    for key in both:
        for what, difference in differences(cells[key], lines[key]):
            worst[what] = max(worst.get(what, 0.0), difference)
    told = {"cells": len(cells), "in both": len(both), "largest difference": {k: round(v, 7) for k, v in worst.items()}}
    print(json.dumps(told | {"finals": sum(cells[key].kind == "run" for key in both)}))


if __name__ == "__main__":
    main()
