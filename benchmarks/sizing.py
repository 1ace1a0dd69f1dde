"""The table of the guide `sizing`: what cards train of each shipped model, and how many lists a day.

    python benchmarks/sizing.py                        # prints the table; minutes of one core, nothing is downloaded
    python benchmarks/sizing.py --only llama3.2-1b     # one model's rows
    python benchmarks/sizing.py --write                # writes it between the guide's marks

Every figure is `irpo estimate`'s; a model whose shape does not stand in `irpo.estimate.shapes` has a row that says so.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path

from irpo.config.schema import RunConfig, load_config
from irpo.estimate.cards import Card, card_of
from irpo.estimate.ledger import LEARNING, WEIGHTS
from irpo.estimate.plan import Estimate, estimate
from irpo.estimate.shapes import published
from irpo.estimate.sharing import Sharing
from irpo.resources import configs_dir

GUIDE = Path(__file__).resolve().parents[1] / "irpo" / "guides" / "sizing.md"
BEGIN, END = "<!-- sizing -->\n", "<!-- /sizing -->"

SMALL, LARGE, CARDS = "RTX 4090", "H100", 8  # 24 GB, 80 GB, and so many of these
PROMPT = 2048  # tokens of a prompt and its answer
BUDGETS = (8192, 4096, 2048)  # training.tokens_per_batch: the default, and what is tried where that does not fit
DAY = 86_400

_COMMON = (f"prompt.max_tokens={PROMPT}", "task.data=lists.jsonl", "model.gradient_checkpointing=true")
# Ways of training, with how several cards share them.
TUNINGS = {
    "LoRA on NF4": (("model.quantization=nf4",), "ddp"),
    "LoRA, bfloat16": (("model.quantization=none",), "ddp"),
    "full": (
        ("model.tuning=full", "model.quantization=none", "model.dtype=auto", "method.reference=precomputed"),
        "fsdp2",
    ),
}


def config_of(model: str, tuning: str, budget: int) -> RunConfig:
    """A run of IRPO over assumed lists of 20 candidates."""
    files = [f"models/{model}.yaml", "tasks/jsonl.yaml", "methods/irpo.yaml"]
    return load_config(files, [*_COMMON, *TUNINGS[tuning][0], f"training.tokens_per_batch={budget}"])


@cache
def on_one(model: str, tuning: str, budget: int) -> Estimate:
    """The estimate of one large card."""
    return estimate(config_of(model, tuning, budget), card_of(LARGE))


def elsewhere(found: Estimate, card: Card, processes: int = 1) -> Estimate:
    """One card's estimate on another card, or on several by DDP: each holds what one does (its gradients, not added up
    over micro-batches, but once more in DDP's buckets), and the assumed lists, all alike, are dealt evenly.
    """
    assert found.seconds_per_update is not None
    assert found.card.tflops is not None
    assert card.tflops is not None
    seconds = found.seconds_per_update * found.card.tflops / card.tflops / processes
    return dataclasses.replace(found, card=card, processes=processes, seconds_per_update=seconds)


def cell(of: Callable[[int], Estimate]) -> str:
    """What one place says of one way of training, in the largest batches that fit; `of` estimates by their tokens."""
    for budget in BUDGETS:
        found = of(budget)
        if found.fits:
            return _said(found, budget)
        if found.usage.bytes[WEIGHTS] + found.usage.bytes[LEARNING] > found.card.gib * 2**30:
            break  # smaller batches would not help
    return f"no: {_gib(found)} of {found.card.gib:g}"


def _said(found: Estimate, budget: int) -> str:
    assert found.seconds_per_update is not None
    lists = DAY * found.lists_per_update / found.seconds_per_update
    batches = "" if budget == BUDGETS[0] else f", batches of {budget}"
    return f"{_gib(found)}, {_round(lists):,} lists{batches}"


def _gib(found: Estimate) -> str:
    return f"{found.total / 2**30:.1f} GiB"


def _round(number: float) -> int:
    """To two digits, for a rough figure has no more.

    >>> _round(123456.0)
    120000
    """
    return int(float(f"{number:.1e}"))


def row(model: str, tuning: str) -> str:
    """One model trained in one way, on each of the places."""
    one = partial(on_one, model, tuning)

    def several(budget: int) -> Estimate:
        launch = TUNINGS[tuning][1]
        if launch == "ddp":
            return elsewhere(one(budget), card_of(LARGE), CARDS)
        return estimate(config_of(model, tuning, budget), card_of(LARGE), Sharing(CARDS, launch))

    cells = [cell(lambda budget: elsewhere(one(budget), card_of(SMALL))), cell(one), cell(several)]
    return f"| {model} | {tuning} | {' | '.join(f'{found} (est.)' for found in cells)} |"


def models() -> list[str]:
    """The shipped models that are downloaded; the embedded one needs no card."""
    return sorted(path.stem for path in (configs_dir() / "models").glob("*.yaml") if path.stem != "embedded")


def known(model: str) -> bool:
    """Whether a model's shape is told without asking anyone."""
    return published(config_of(model, "LoRA on NF4", BUDGETS[0]).model.name) is not None


def table(names: Iterable[str]) -> str:
    """The table in markdown."""
    header = ["", "trained", f"one 24 GB ({SMALL})", f"one 80 GB ({LARGE})", f"{CARDS} x 80 GB ({LARGE})"]
    lines = [f"| {' | '.join(header)} |", "|" + " --- |" * len(header)]
    wanted = [(model, tuning) for model in names for tuning in TUNINGS if known(model)]
    with ProcessPoolExecutor(2) as workers:
        lines += workers.map(_of_pair, wanted)
    for model in names:
        if not known(model):
            asked = f"`irpo estimate models/{model}.yaml ...`"
            lines.append(f"| {model} | any | not here: its shape is downloaded by {asked} | | |")
    return "\n".join(lines) + "\n"


def _of_pair(pair: tuple[str, str]) -> str:
    return row(*pair)


def rewritten(text: str, made: str) -> str:
    """A guide with the table between its marks."""
    return re.sub(f"({BEGIN}).*?({END})", lambda m: f"{m[1]}{made}{m[2]}", text, flags=re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=models(), action="append", help="these models")
    parser.add_argument("--write", action="store_true", help="put it into the guide")
    options = parser.parse_args()
    made = table(options.only or models())
    if options.write and options.only:
        parser.error("--write is of all models")
    if options.write:
        GUIDE.write_text(rewritten(GUIDE.read_text(encoding="utf-8"), made), encoding="utf-8")
    print(made)


if __name__ == "__main__":
    main()
