"""A training step against what others do, and against the limit, interleaved in one run.

    python benchmarks/throughput.py                      # 24M-parameter Llama, prompt 256, K = 20, 8 tokens a candidate
    python benchmarks/throughput.py --quick              # within 50 s
    python benchmarks/throughput.py --shape llama3.2-3b --tuning nf4 --checkpointing --prompt 512   # on a GPU

One JSON line a case; seconds a step, ratio above 1: we are faster. A step is layout, reference, policy, loss, backward
and AdamW on the adapter. Against `expanded` and TRL both sides take the reference by switching the adapters off; in
the cases "cached reference" ours has it from the cache. The limit is a bare forward and backward: no reference, no
optimiser.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from peers import expanded, expanded_loss, limit, trl_pairs
from setting import Case, interleaved, our_step, our_trainer, show, step_of
from shapes import case_of, command_line, kind_of

from irpo.scorers import SCORERS, causal_lm
from irpo.scoring.batching import ListBatch, make_batch
from irpo.scoring.models import trainable_parameters

PEAKS = {"H100 PCIe": 756e12, "H100": 989e12, "H200": 989e12, "A100": 312e12, "L4": 121e12, "RTX 4090": 165e12}


def against_expanded(case: Case, name: str, repetitions: int) -> None:
    """K whole sequences with full logits; the same loss."""
    model, items = case.model(), case.items()
    ours, theirs = our_step(model, items, "adapters_off"), step_of(model, expanded(model, items))
    with torch.no_grad():
        trainer = our_trainer(model, items, "adapters_off")
        mine = float(trainer.compute_loss(model, trainer.method.batch(items, 0), num_items_in_batch=len(items)))
        difference = abs(mine - float(expanded_loss(model, items)))
    tolerance = 1e-4 if next(model.parameters()).dtype == torch.float32 else 0.5
    if difference > tolerance * max(1.0, abs(mine)):
        raise SystemExit(f"the losses differ by {difference}")
    cached = our_step(model, items, "precomputed")
    works = {"ours": ours, "cached": cached, "theirs": theirs}
    taken = interleaved(works, repetitions, warm_up=repetitions > 1)  # --quick: the losses above were the warm-up
    more = {"loss": round(mine, 6), "loss_difference": float(f"{difference:.2g}")}
    show("throughput", name, "expanded", (taken["ours"], taken["theirs"]), "s/step", **more)
    show("throughput", f"{name}, cached reference", "expanded", (taken["cached"], taken["theirs"]), "s/step", **more)


def against_trl(case: Case, name: str, repetitions: int, *, pairs: int | None) -> None:
    """TRL's DPO on one pair, or on all pairs of the list: computing as we do, and as it comes."""
    items, ours, theirs, default = case.items(), case.model(), case.model(), case.model()
    works = {
        "ours": our_step(ours, items, "adapters_off"),
        "cached": our_step(ours, items, "precomputed"),
        "same": step_of(theirs, trl_pairs(theirs, items[0], pairs, defaults=False)),
        "default": step_of(default, trl_pairs(default, items[0], pairs, defaults=True)),
    }
    taken = interleaved(works, repetitions)
    against = "trl_pair" if pairs == 1 else "trl_pairs"
    if pairs is None:
        positive = sum(y > 0 for y in items[0].relevance)
        name = f"{name} {positive * (case.candidates - positive)} pairs"
    show("throughput", name, against, (taken["ours"], taken["same"]), "s/step")
    show("throughput", f"{name}, cached reference", against, (taken["cached"], taken["same"]), "s/step")
    show("throughput", f"{name}, TRL's defaults", against, (taken["ours"], taken["default"]), "s/step")


def against_limit(case: Case, name: str, repetitions: int) -> None:
    """The same tokens through the same model without lists; and what the cached reference saves."""
    model, items = case.model(), case.items()
    cached, off = our_trainer(model, items, "precomputed"), our_trainer(model, items, "adapters_off")

    def run(trainer: Any) -> None:
        trainer.training_step(model, items)
        model.zero_grad()

    bare = limit(model, items)
    works = {
        "ours": lambda: run(cached),
        "limit": lambda: (bare(), model.zero_grad()),
        "off": lambda: run(off),
    }
    taken = interleaved(works, repetitions)
    batch = make_batch(items, SCORERS.build("independent"))
    more = {"lists_per_s": round(len(items) / taken["ours"], 2), "tokens_per_s": round(batch.tokens / taken["ours"], 1)}
    if torch.cuda.is_available():
        device = torch.cuda.get_device_name()
        peak = next((flops for part, flops in PEAKS.items() if re.search(rf"\b{part}\b", device)), None)
        share = peak and round(operations(model, batch) / taken["ours"] / peak, 3)
        more |= {"device": device, "share_of_peak": share}
    show("throughput", name, "limit", (taken["ours"], taken["limit"]), "s/step", **more)
    show("throughput", name, "adapters_off", (taken["ours"], taken["off"]), "s/step")


def operations(model: Any, batch: ListBatch) -> int:
    """Multiplications and additions of a step's matrix products, without attention's and without recomputation.

    4 a frozen weight and token (forward, and the states' gradient), 6 a weight that learns. The embedding does none;
    the head does them where it is asked.
    """
    learn, whole = trainable_parameters(model)
    lm = causal_lm(model)
    table = lm.get_input_embeddings().weight.numel()
    tied = lm.get_output_embeddings().weight is lm.get_input_embeddings().weight
    body = whole - table * (1 if tied else 2)
    return (4 * body + 2 * learn) * batch.tokens + 4 * table * len(batch.cells)


def main() -> None:
    parser = command_line(__doc__, repetitions=7)
    parser.add_argument("--only", choices=["expanded", "trl", "limit"])
    options = parser.parse_args()
    repetitions = min(2, options.repetitions) if options.quick else options.repetitions
    one, eight = case_of(options), case_of(options, lists=8)
    name = f"{kind_of(one)} P={one.prompt} K={one.candidates}"
    if options.only in (None, "limit"):
        against_limit(one, name, min(3, options.repetitions) if options.quick else options.repetitions)
        if not options.quick:
            against_limit(eight, f"{name} 8 lists", repetitions)
    if options.only in (None, "expanded"):
        against_expanded(one, name, 1 if options.quick else repetitions)
        if not options.quick:
            against_expanded(eight, f"{name} 8 lists", min(2, repetitions))
    if options.only in (None, "trl"):
        against_trl(one, name, 1 if options.quick else repetitions, pairs=1)
        if not options.quick:
            against_trl(one, name, max(1, repetitions // 3), pairs=None)


if __name__ == "__main__":
    main()
