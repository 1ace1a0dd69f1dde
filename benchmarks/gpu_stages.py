"""What `on_gpu.py` finds out about one shape: parity, steps, memory, speed, and what the CUDA path's defects ask.

Each function yields its findings one by one; the packages that they need are imported inside, so that one that is
missing costs the stages that need it and no other.
"""

from __future__ import annotations

import gc
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

GIB = 2**30
Findings = Iterator[dict[str, Any]]


@dataclass
class Held:
    """A shape's model as it goes from bfloat16 through 4 bits to an adapter, and the lists that it is given."""

    shape: str
    case: Any
    steps: int
    repetitions: int
    tuning: str = "lora"  # nf4 once it is
    model: Any = None

    @property
    def cuda(self) -> bool:
        return torch.cuda.is_available()

    def items(self, **other: Any) -> Any:
        """Random lists; `other` than the case's."""
        return replace(self.case, **other).items()


def cleaned_up() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds_of(work: Callable[[], Any], repetitions: int) -> float:
    """Median, after one to warm up."""
    taken = []
    for _ in range(repetitions + 1):
        synchronize()
        start = time.perf_counter()
        work()
        synchronize()
        taken.append(time.perf_counter() - start)
    return round(statistics.median(taken[1:] or taken), 5)


# A shape: from random weights to steps ------------------------------------------------------------------------------


def weights(held: Held) -> Findings:
    """Draw the weights where they stay."""
    from setting import made_on

    device = torch.device("cuda" if held.cuda else "cpu")
    start = time.perf_counter()
    held.model = made_on(device, held.shape, torch.bfloat16 if held.cuda else torch.float32).eval()
    synchronize()
    size = sum(p.numel() * p.element_size() for p in held.model.parameters())
    attention = held.model.config.get_text_config()._attn_implementation
    yield {"seconds": round(time.perf_counter() - start, 1), "gib": round(size / GIB, 2), "attention": attention}


def parity(held: Held) -> Findings:
    """One row with all branches against whole sequences, as the model is held now."""
    from irpo.scoring.models import four_bit_layers

    try:
        bits = f"nf4 in {four_bit_layers(held.model)} layers" if held.tuning == "nf4" else "none"
    except ImportError:
        bits = "none"
    for count in (held.case.candidates, 6 * held.case.candidates):
        yield {"quantization": bits, "candidates": count} | difference(
            held.model, held.items(candidates=count, lists=1)[0]
        )


@torch.no_grad()
def difference(model: Any, item: Any) -> dict[str, Any]:
    """Nats between our scores and those of whole sequences, 20 at a time; `rounding` is between those and one alone."""
    from irpo.scorers import SCORERS, causal_lm
    from irpo.scoring.batching import make_batch
    from irpo.scoring.forward import score_batch

    lm = causal_lm(model)
    ours = score_batch(lm, make_batch([item], SCORERS.build("independent")).to(lm.device)).first[0]
    before = len(item.prompt) + len(item.heads[0])

    def whole(bodies: Any) -> Any:
        ids = torch.tensor([[*item.prompt, *item.heads[0], *body] for body in bodies], device=lm.device)
        logp = lm(input_ids=ids, use_cache=False).logits[:, before - 1 : -1].float().log_softmax(-1)
        return logp.gather(-1, ids[:, before:, None])[..., 0].sum(-1)

    theirs = torch.cat([whole(item.bodies[start : start + 20]) for start in range(0, len(item.bodies), 20)])
    apart, alone = (ours - theirs).abs(), torch.cat([whole([body]) for body in item.bodies[:4]])
    figures = {
        "worst": apart.max(),
        "mean": apart.mean(),
        "rounding": (theirs[:4] - alone).abs().max(),
        "nats": theirs.mean(),
    }
    return {"dtype": str(lm.dtype)} | {name: round(float(value), 5) for name, value in figures.items()}


def float32_parity(held: Held) -> Findings:
    """Two layers of the shape in float32 without TF32, where nothing but the order of sums may differ."""
    from setting import made_on

    device = torch.device("cuda" if held.cuda else "cpu")
    kinds = {"layer_types": ["sliding_attention", "full_attention"]} if held.shape.startswith("gemma2") else {}
    model = made_on(device, held.shape, torch.float32, num_hidden_layers=2, **kinds).eval()
    for count in (held.case.candidates, 6 * held.case.candidates):
        yield {"candidates": count} | difference(model, held.items(candidates=count, lists=1)[0])


def four_bits(held: Held) -> Findings:
    """Quantize in place."""
    from setting import in_four_bits

    from irpo.scoring.models import four_bit_layers

    start = time.perf_counter()
    in_four_bits(held.model)
    held.tuning = "nf4"
    cleaned_up()
    found = {"layers": four_bit_layers(held.model), "seconds": round(time.perf_counter() - start, 1)}
    yield found | ({"allocated_gib": round(torch.cuda.memory_allocated() / GIB, 2)} if held.cuda else {})


def steps(held: Held) -> Findings:
    """Twenty updates by the real trainer with checkpointing: loss, speed, and memory against `irpo estimate`."""
    from setting import trained

    from irpo.scoring.models import LoraOptions, add_lora, trainable_parameters, use_checkpointing

    held.model = add_lora(held.model, LoraOptions(r=16), seed=0)
    use_checkpointing(held.model)
    learn, whole = trainable_parameters(held.model)
    yield {"tuning": held.tuning, "trainable": learn, "parameters": whole}
    cleaned_up()
    items = held.items()
    with tempfile.TemporaryDirectory() as folder:
        lines = trained(held.model, items, held.steps, Path(folder))
    usual = {
        name: round(statistics.median(line[name] for line in lines), 2) for name in ("lists_per_s", "tokens_per_s")
    }
    finite = all(bool(p.isfinite().all()) for p in held.model.parameters() if p.requires_grad)
    yield {
        "steps": len(lines),
        "first_loss": lines[0]["loss"],
        "last_loss": lines[-1]["loss"],
        "finite": finite,
    } | usual
    yield memory(held, items)


def memory(held: Held, items: Any) -> dict[str, Any]:
    """Peak of the steps just taken, and what the simulation says of them."""
    from setting import config_of

    from irpo.estimate.memory import Build, Passes, simulate
    from irpo.scorers import SCORERS
    from irpo.scoring.batching import make_batch
    from irpo.scoring.models import LoraOptions

    batch = make_batch(items, SCORERS.build("independent"))
    dtype = torch.bfloat16 if held.cuda else torch.float32
    nf4 = held.tuning == "nf4"
    build = Build(dtype=dtype, nf4=nf4, lora=LoraOptions(r=16), checkpointing=True, mixed=held.cuda, gpu=held.cuda)
    guess = simulate(config_of(held.shape), build, Passes((batch,), adapters_off=batch)).peak
    found: dict[str, Any] = {"estimated_gib": round(guess / GIB, 3)}
    if held.cuda:
        peak, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
        found |= {
            "peak_gib": round(peak / GIB, 3),
            "reserved_gib": round(reserved / GIB, 3),
            "ratio": round(guess / peak, 3),
        }
    return found


def throughput(held: Held) -> Findings:
    """A step against the bare model on the same tokens and against K whole sequences."""
    from peers import expanded, limit
    from setting import our_step, step_of

    model, items = held.model, held.items()
    works = {
        "ours": our_step(model, items, "adapters_off"),
        "limit": step_of(model, limit(model, items)),
        "cached": our_step(model, items, "precomputed"),
        "expanded": step_of(model, expanded(model, items)),
    }
    taken: dict[str, float] = {}
    for name, work in works.items():
        cleaned_up()
        taken[name] = seconds_of(work, held.repetitions if name != "expanded" else 1)
        peak = {"peak_gib": round(torch.cuda.max_memory_allocated() / GIB, 2)} if held.cuda else {}
        share = {"of_ours": round(taken[name] / taken["ours"], 3)}
        yield {"side": name, "lists": len(items), "s_per_step": taken[name]} | share | peak


# What the defects of the CUDA path ask, on one shape ----------------------------------------------------------------


def stops(held: Held) -> Findings:
    """How often a step waits for the card, how many kernels it starts, and whether the same step twice is the same."""
    from setting import our_trainer

    if not held.cuda:
        yield {"skipped": "no GPU"}
        return
    items = held.items()
    trainer = our_trainer(held.model, items, "adapters_off")

    def gradients() -> list[Any]:
        held.model.zero_grad()
        trainer.training_step(held.model, items)
        return [p.grad.clone() for p in held.model.parameters() if p.grad is not None]

    first = gradients()
    apart = max(float((a - b).abs().max()) for a, b in zip(first, gradients(), strict=True))
    yield {"same_step_twice_differs_by": apart}
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            gradients()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    places = [f"{Path(w.filename).name}:{w.lineno}" for w in seen if "synchroniz" in str(w.message)]
    yield {"synchronisations": len(places), "where": {place: places.count(place) for place in sorted(set(places))}}
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        gradients()
        synchronize()
    events = [e for e in profile.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    yield {"kernels": len(events), "busy_s": round(sum(e.device_time for e in events) / 1e6, 3)}


def lora_precision(held: Held) -> Findings:
    """The adapter in float32 against bfloat16 autocast."""
    from setting import our_trainer

    items = held.items()
    trainer = our_trainer(held.model, items, "adapters_off")
    kind = "cuda" if held.cuda else "cpu"

    def step() -> float:
        held.model.zero_grad()
        return float(trainer.training_step(held.model, items))

    for name in ("float32", "autocast bfloat16"):
        with torch.autocast(kind, torch.bfloat16) if name != "float32" else nullcontext():
            yield {"adapter": name, "s_per_step": seconds_of(step, held.repetitions), "loss": round(step(), 6)}


def parts(held: Held) -> Findings:
    """Attention behind the trunk in parts of so many columns, and with one wide row or several narrow ones."""
    from setting import our_trainer

    from irpo.scoring import attention
    from irpo.scoring import batching as encoding

    lengths = [held.case.prompt * tenths // 10 for tenths in (5, 6, 8, 10, 13, 15, 17, 20)]
    items = [held.items(prompt=length, candidates=3 * held.case.candidates, lists=1)[0] for length in lengths]
    trainer = our_trainer(held.model, items, "adapters_off", tokens=16384)
    before = dict(attention.PART_COLUMNS)
    padding = encoding.MAX_PADDING, encoding.CARD_PADDING
    try:
        for columns in (128, 512, 4096):
            attention.PART_COLUMNS.update(cpu=columns, cuda=columns)
            for most in (0.05, 0.15):
                encoding.MAX_PADDING = encoding.CARD_PADDING = most
                taken = seconds_of(lambda: trainer.training_step(held.model, items), held.repetitions)
                rows = list(next(iter(trainer.method.batches(items, 0, 16384))).ids.shape)
                yield {"columns": columns, "padding": most, "s_per_step": taken, "rows": rows}
    finally:
        attention.PART_COLUMNS.update(before)
        encoding.MAX_PADDING, encoding.CARD_PADDING = padding


def adapter_off(held: Held) -> Findings:
    """Milliseconds of switching the adapter off and on."""

    def peft_way() -> None:
        with held.model.disable_adapter():
            pass

    yield {"way": "peft", "ms": round(1000 * seconds_of(peft_way, 5), 2)}
    from irpo.scoring import models

    if hasattr(models, "adapter_off"):

        def our_way() -> None:
            with models.adapter_off(held.model):
                pass

        yield {"way": "ours", "ms": round(1000 * seconds_of(our_way, 5), 3)}


def modes(held: Held) -> Findings:
    """Lists a second of every mode, by lists in a batch."""
    from ranking import labelled

    from irpo.ranking import answer_tokens, constrained_ranking, generate_text
    from irpo.scorers import SCORERS
    from irpo.scoring.forward import score_lists
    from irpo.scoring.models import load_tokenizer

    tokenizer, model = load_tokenizer("embedded"), held.model.eval()
    for count in (8, 64) if held.cuda else (2,):
        items = held.items(lists=count)
        labels = [labelled(item) for item in items]
        length = min(answer_tokens(items[0]), 120 if held.cuda else 4)
        works = {
            "label": lambda labels=labels: score_lists(model, tokenizer, labels, SCORERS.build("label")),
            "score": lambda items=items: score_lists(model, tokenizer, items, SCORERS.build("independent")),
            "constrain": lambda items=items, n=count: constrained_ranking(model, tokenizer, items, lists_per_batch=n),
            "generate": lambda items=items, n=count, length=length: generate_text(
                model, tokenizer, items, lists_per_batch=n, max_new_tokens=length
            ),
        }
        for name, work in works.items():
            taken = seconds_of(work, 1)
            yield {
                "mode": name,
                "lists_per_batch": count,
                "lists_per_s": round(count / taken, 2),
                "tokens_written": length,
            }


def flex(held: Held) -> Findings:
    """FlexAttention's block masks against parts: the first step, with compiling, and later ones."""
    from setting import our_trainer

    from irpo.scorers import causal_lm

    if not held.cuda:
        yield {"skipped": "no GPU"}
        return
    items = held.items()
    trainer = our_trainer(held.model, items, "adapters_off")
    yield {
        "attention": "parts",
        "s_per_step": seconds_of(lambda: trainer.training_step(held.model, items), held.repetitions),
    }
    causal_lm(held.model).set_attn_implementation("flex_attention")
    start = time.perf_counter()
    trainer.training_step(held.model, items)
    synchronize()
    yield {"attention": "flex", "first_step_s": round(time.perf_counter() - start, 1)}
    yield {
        "attention": "flex",
        "s_per_step": seconds_of(lambda: trainer.training_step(held.model, items), held.repetitions),
    }
