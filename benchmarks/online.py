"""On-policy methods from the same start: NDCG and coverage of free generation by round (the IRPO paper's Figure 1).

    python benchmarks/online.py run --shard 0/3 &      # processes share the methods
    python benchmarks/online.py run --shard 1/3 &
    python benchmarks/online.py run --shard 2/3 &
    python benchmarks/online.py table                  # -> benchmarks/results/online.md, online.png

The embedded model trained by rounds on the synthetic world, measured on lists of the training split that are set
aside. The learning rate of each is the one of three with which seed 0 got furthest, then the best there; the curves are
those of seeds 1 to 3. All get the same number of updates and lists an update. A list is a drawn ranking for iterative
IRPO, and four drawn answers for REINFORCE, which therefore draws four times as many. `iterative_irpo`
is the paper's; `anchored` is what ships: beta 0.1 and the NLL of the target list, which the rounds' labels give.
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

from irpo.config.schema import load_config
from irpo.pipeline import train
from irpo.types import UserError

RESULTS = Path(__file__).resolve().parent / "results"
METHODS: dict[str, tuple[str, list[str]]] = {
    "iterative_irpo": ("iterative_irpo", ["method.objective.beta=1.0", "method.nll_weight=0"]),
    "reinforce": ("reinforce", []),
    "iterative_irpo, anchored": ("iterative_irpo", []),
}
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
    file, own = METHODS[method]
    overrides = [*SETTINGS, *own, f"training.learning_rate={rate}", f"seed={seed}"]
    config = load_config([f"methods/{file}.yaml", "quickstart.yaml"], overrides)
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


def reached(found: dict[str, Any]) -> tuple[int, float]:
    """How far a run got, and its main measure there."""
    return len(found["curve"]), float(found["curve"][-1][MAIN])


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

    for method in list(METHODS)[part::parts]:
        for rate in RATES:
            work(method, rate, 0)
        for seed in SEEDS:
            work(method, best_rate(method, done), seed)


def best_rate(method: str, done: dict[str, Any]) -> float:
    return max(RATES, key=lambda rate: (*reached(done[f"{method}/{rate}/0"]), -rate))


def interval(values: list[float]) -> tuple[float, float]:
    """Mean and half the width of its 95 % t interval over seeds."""
    if len(values) < 2:
        return values[0], math.nan
    half = float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return statistics.fmean(values), half


def table() -> str:
    """Markdown: a row a method and round, over the seeds that got there."""
    done = {line["key"]: line for line in lines()}
    rows = ["| method | rate | round | NDCG@1 | NDCG@10 | complete lists | seeds |", "|---|---|---|---|---|---|---|"]
    series: dict[str, list[list[float]]] = {}
    for method in METHODS:
        if any(f"{method}/{rate}/0" not in done for rate in RATES):
            continue
        rate = best_rate(method, done)
        runs = [d["curve"] for seed in SEEDS if (d := done.get(f"{method}/{rate}/{seed}"))]
        series[method] = [[state[MAIN] for state in run] for run in runs]
        for number in range(ROUNDS + 1):
            there = [run[number] for run in runs if number < len(run)]
            if not there:
                break
            cells = [interval([state[name] for state in there]) for name in ("generate strict NDCG@1", MAIN)]
            complete = statistics.fmean(state["exact permutations"] for state in there)
            shown = " | ".join(
                f"{mean:.3f}" if math.isnan(half) else f"{mean:.3f} ± {half:.3f}" for mean, half in cells
            )
            rows.append(f"| {method} | {rate:g} | {number} | {shown} | {100 * complete:.0f} % | {len(there)} |")
    draw(series)
    return "\n".join(rows) + "\n"


def draw(series: dict[str, list[list[float]]]) -> None:
    """A thin line a seed; their mean, thick, as far as all of them got."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    for (name, runs), colour in zip(series.items(), ("#d1495b", "#1b6ca8", "#3a7d44"), strict=False):
        for run in runs:
            axes.plot(run, color=colour, alpha=0.35, linewidth=1)
            if len(run) <= ROUNDS:  # too few valid lists for another round
                axes.plot(len(run) - 1, run[-1], color=colour, marker="x", markersize=8, linestyle="none")
        means = [statistics.fmean(values) for values in zip(*runs, strict=False)]
        axes.plot(means, label=name, color=colour, marker="o", markersize=4, linewidth=2)
    axes.set(xlabel="round of 10 updates (0: before training)", ylabel="NDCG@10 of free generation, strict")
    axes.set_title("Three seeds and their mean; x: too few complete lists to go on", fontsize="medium")
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
