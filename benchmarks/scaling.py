"""How a training step grows with the list, the prompt and the model; and how much of packed batches is padding.

    python benchmarks/scaling.py                      # K = 5 ... 100, prompt 128 ... 4096, three models
    python benchmarks/scaling.py --quick              # K alone, within 50 s
    python benchmarks/scaling.py --padding FOLDER     # on real data: a folder with a folder a task

Against `limit`: the same tokens through the same model, bare (see throughput.py); ratio 1 is the limit. "K=100 vs
K=20": ours is by how much the time grew, theirs by how much the tokens did; the ratio is to stay above 1 / 1.15.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from peers import limit
from setting import Case, interleaved, our_trainer, show
from shapes import case_of, command_line, kind_of

from irpo.config.schema import load_config
from irpo.prompting.prompts import prompt_builder
from irpo.scorers import SCORERS
from irpo.scoring.batching import make_batch
from irpo.scoring.models import load_tokenizer
from irpo.scoring.tokens import prompted
from irpo.tasks.preparing import build
from irpo.training.job import method_of
from irpo.types import UserError

FOLDERS = {
    "arc_challenge": "arc",
    "commonsenseqa": "commonsenseqa",
    "hotpotqa": "hotpotqa",
    "inspired": "inspired",
    "musique": "musique",
    "redial": "redial",
}


def works_of(case: Case, model: Any) -> tuple[dict[str, Any], int]:
    """Our step (cached reference, no optimiser) and the bare one; and the tokens of a step."""
    items = case.items()
    trainer = our_trainer(model, items, "precomputed")
    bare = limit(model, items)

    def ours() -> None:
        trainer.training_step(model, items)
        model.zero_grad()

    def theirs() -> None:
        bare()
        model.zero_grad()

    return {"ours": ours, "theirs": theirs}, make_batch(items, SCORERS.build("independent")).tokens


def by_candidates(cases: dict[int, Case], repetitions: int) -> None:
    """All list lengths in turns, so that growth is measured in one run."""
    works, tokens, model = {}, {}, next(iter(cases.values())).model()
    for count, case in cases.items():
        own, tokens[count] = works_of(case, model)
        works |= {f"{count} {side}": work for side, work in own.items()}
    taken = interleaved(works, repetitions)
    for count, case in cases.items():
        figures = (taken[f"{count} ours"], taken[f"{count} theirs"])
        show("scaling", name_of(case), "limit", figures, "s/step", tokens=tokens[count])
    for count, case in cases.items():
        if count > 20:
            growth = (taken[f"{count} ours"] / taken["20 ours"], tokens[count] / tokens[20])
            show("scaling", f"{name_of(case)} vs K=20", "limit", growth, "times as much")


def name_of(case: Case) -> str:
    return f"{kind_of(case)} P={case.prompt} K={case.candidates}"


def one_by_one(cases: list[Case], repetitions: int) -> None:
    for case in cases:
        works, tokens = works_of(case, case.model())
        taken = interleaved(works, repetitions)
        show("scaling", name_of(case), "limit", (taken["ours"], taken["theirs"]), "s/step", tokens=tokens)


def padding(folder: Path) -> None:
    """Share of padding in the training batches of each task that the folder has, and one list a row beside it."""
    tokenizer = load_tokenizer("embedded")
    for name, task in FOLDERS.items():
        if not (folder / name).is_dir():
            continue
        config = load_config([f"tasks/{task}.yaml", "methods/irpo.yaml", "models/embedded.yaml"])
        try:
            lists, _ = build({**config.task, "data": str(folder / name)})
        except UserError as error:
            raise SystemExit(f"{name}: {error}") from None
        builder = prompt_builder(tokenizer, task, "text", 2048)
        items = [p.tokens for p in prompted(builder, lists["train"][:640], labels=True)]
        random.Random(0).shuffle(items)
        method = method_of(config)
        columns = real = alone = 0
        for start in range(0, len(items), 32):
            update = items[start : start + 32]
            for batch in method.batches(update, 0, 8192):
                columns += batch.lists.numel()
                real += batch.tokens
            lengths = [len(layout.ids) for layout in method.lay_out(update)]
            for first in range(0, len(lengths), 4):  # four lists a batch in the order they come, a row each
                alone += 4 * max(lengths[first : first + 4])
        shares = (1 - real / columns, 1 - real / alone)
        show("scaling", f"padding {task}, {len(items)} lists", "expanded", shares, "share of columns")


def main() -> None:
    parser = command_line(__doc__, repetitions=5)
    parser.add_argument("--padding", type=Path, metavar="FOLDER")
    options = parser.parse_args()
    if options.padding:
        padding(options.padding)
        return
    counts = (20, 100) if options.quick else (5, 10, 20, 50, 100)
    by_candidates({count: case_of(options, candidates=count) for count in counts}, options.repetitions)
    if options.quick:
        return
    cases = [case_of(options, prompt=count) for count in (128, 512, 1024, 2048, 4096)]
    if options.shape == "24m":
        cases += [case_of(options, shape=shape) for shape in ("8m", "24m", "90m")]
    one_by_one(cases, options.repetitions)


if __name__ == "__main__":
    main()
