"""On-policy methods from the same start: NDCG and coverage of free generation by round (the IRPO paper's Figure 1).

    python benchmarks/online.py run --shard 0/2 &      # two processes share the work
    python benchmarks/online.py run --shard 1/2 &
    python benchmarks/online.py table                  # -> benchmarks/results/online.md, online.png

The embedded model trained by rounds on the synthetic world, measured on lists of the training split that are set
aside. The learning rate of each is the best of three with seed 0 after the last round; the curves are those of seeds 1
to 3, which chose nothing. All get the same number of updates, lists an update and answers a list.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from scipy import stats
from transformers.utils import logging

from irpo.config import load_config
from irpo.pipeline import train
from irpo.types import UserError

RESULTS = Path(__file__).resolve().parent / "results"
METHODS = ("iterative_irpo", "reinforce")
RATES = (0.0003, 0.001, 0.003)
SEEDS = (1, 2, 3)  # seed 0 chooses the rate
ROUNDS = 5
MAIN = "generate strict NDCG@10"
SETTINGS = [
    f"online.rounds={ROUNDS}",
    "online.updates_per_round=10",
    "online.samples=4",
    "training.lists_per_update=8",
    "training.max_validation_lists=60",
    "training.schedule=constant",
    "training.warmup_fraction=0.0",
]


def curve(method: str, rate: float, seed: int) -> list[dict[str, Any]]:
    """The measures of every round, the start first; [] where a round could not be trained."""
    overrides = [*SETTINGS, f"training.learning_rate={rate}", f"seed={seed}"]
    config = load_config([f"methods/{method}.yaml", "quickstart.yaml"], overrides)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        try:
            train(config, out)
        except UserError as error:  # too few valid answers, or a loss that is not finite
            print(f"{method} {rate} {seed}: {error}")
        rounds = out / "rounds.jsonl"
        lines = rounds.read_text(encoding="utf-8").splitlines() if rounds.is_file() else []
    return [json.loads(line)["measures"] for line in lines]


def lines() -> Iterator[dict[str, Any]]:
    for path in sorted(RESULTS.glob("online.*.jsonl")):
        yield from (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())


def last(found: dict[str, Any]) -> float:
    """The main measure after the last round; -1 where the run did not get there."""
    whole = len(found["curve"]) == ROUNDS + 1
    return float(found["curve"][-1][MAIN]) if whole else -1.0


def run(shard: str) -> None:
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    part, parts = (int(n) for n in shard.split("/"))
    done = {line["key"]: line for line in lines()}

    def work(method: str, rate: float, seed: int) -> None:
        key = f"{method}/{rate}/{seed}"
        if key not in done:
            done[key] = {"key": key, "method": method, "rate": rate, "seed": seed, "curve": curve(method, rate, seed)}
            with (RESULTS / f"online.{part}.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(done[key]) + "\n")

    for method in METHODS[part::parts]:
        for rate in RATES:
            work(method, rate, 0)
        for seed in SEEDS:
            work(method, best_rate(method, done), seed)


def best_rate(method: str, done: dict[str, Any]) -> float:
    return max(RATES, key=lambda rate: (last(done[f"{method}/{rate}/0"]), -rate))


def interval(values: list[float]) -> tuple[float, float]:
    """Mean and half the width of its 95 % t interval over seeds."""
    if len(values) < 2:
        return values[0], math.nan
    half = float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return statistics.fmean(values), half


def table() -> str:
    """Markdown: a row a method and round."""
    done = {line["key"]: line for line in lines()}
    rows = ["| method | rate | round | NDCG@1 | NDCG@10 | complete lists | seeds |", "|---|---|---|---|---|---|---|"]
    series: dict[str, list[tuple[float, float]]] = {}
    for method in METHODS:
        if any(f"{method}/{rate}/0" not in done for rate in RATES):
            continue
        rate = best_rate(method, done)
        runs = [d["curve"] for s in SEEDS if (d := done.get(f"{method}/{rate}/{s}")) and last(d) >= 0]
        for number in range(ROUNDS + 1 if runs else 0):
            cells = [interval([r[number][name] for r in runs]) for name in ("generate strict NDCG@1", MAIN)]
            complete = statistics.fmean(r[number]["exact permutations"] for r in runs)
            shown = " | ".join(f"{mean:.3f} ± {half:.3f}" for mean, half in cells)
            rows.append(f"| {method} | {rate:g} | {number} | {shown} | {100 * complete:.0f} % | {len(runs)} |")
            series.setdefault(method, []).append(cells[1])
    draw(series)
    return "\n".join(rows) + "\n"


def draw(series: dict[str, list[tuple[float, float]]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    for (name, points), colour in zip(series.items(), ("#d1495b", "#1b6ca8", "#3a7d44"), strict=False):
        means = [mean for mean, _ in points]
        rounds = range(len(points))
        axes.plot(rounds, means, label=name, color=colour, marker="o", markersize=4)
        low, high = [m - h for m, h in points], [m + h for m, h in points]
        axes.fill_between(rounds, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.set(xlabel="round of 10 updates (0: before training)", ylabel="NDCG@10 of free generation, strict")
    axes.set_title("From the same start: mean and 95 % interval of 3 seeds", fontsize="medium")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(RESULTS / "online.png", dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "table"])
    parser.add_argument("--shard", default="0/1", help="part/parts of the methods")
    options = parser.parse_args()
    if options.what == "run":
        run(options.shard)
    else:
        text = table()
        (RESULTS / "online.md").write_text(text, encoding="utf-8")
        print(text)


if __name__ == "__main__":
    main()
