"""`irpo estimate`: what a run will take in memory and time, before anything is trained or any weight is loaded."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice, pairwise
from typing import Any

import torch

from irpo.config.schema import RunConfig
from irpo.estimate.cards import GIB, Card, matmul_rate
from irpo.estimate.memory import Build, Passes, Usage, simulate
from irpo.estimate.shapes import published
from irpo.estimate.sharing import ALONE, Sharing
from irpo.lists import ScoredLists
from irpo.online import ON_POLICY
from irpo.online.policy import as_answers
from irpo.runs import base_name, load_options
from irpo.scoring.batching import ListBatch, collate
from irpo.scoring.forward import TOKENS_PER_BATCH
from irpo.scoring.layout import in_budget, lay_out
from irpo.scoring.models import LoraOptions, hub_config
from irpo.scoring.tokens import Block, EncodedList, prompted
from irpo.scoring.whole import only_attention
from irpo.tasks import TASKS
from irpo.tasks.preparing import build as build_lists
from irpo.training.job import builder_of, method_of, split_training
from irpo.training.method import Method, SampledObjective
from irpo.training.together import shares
from irpo.types import UnknownName, UserError

LISTS_READ = 64  # training lists whose lengths are taken
CANDIDATES, CANDIDATE_TOKENS = 20, 8  # of a list, where no list can be read
PEAK_SHARE = 0.3  # of a named card's peak rate that training reaches, assumed
MATMUL_SHARE = 0.5  # of the rate of one large matrix product on this device, assumed
CONTEXT, FRAGMENTS = 0.6 * GIB, 0.05  # a GPU's driver context in bytes, and memory lost between blocks, assumed
LOADED = 0.7 * GIB  # a training process on a CPU before it has a model


@dataclass(frozen=True)
class Sample:
    """Lists like those that will be trained on, and where they come from."""

    items: tuple[EncodedList, ...]
    source: str
    count: int | None = None  # of the training lists


@dataclass(frozen=True)
class Estimate:
    """What a run takes. Bytes are of one process at its peak; `overhead` is what is there besides tensors."""

    model: str
    card: Card
    usage: Usage
    overhead: int
    lists: str
    lists_per_update: int
    tokens_per_update: int
    batches_per_update: int  # of one process
    processes: int
    launch: str
    seconds_per_update: float | None
    speed: str
    advice: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def total(self) -> int:
        """Bytes of tensors and overhead at the peak."""
        return self.usage.peak + self.overhead

    @property
    def fits(self) -> bool:
        """Whether that is within the card; processes without a GPU share this machine's memory."""
        return self.total * (1 if self.card.gpu else self.processes) <= self.card.gib * GIB

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self) | {"total": self.total, "fits": self.fits}


def shape_of(name: str) -> Any:
    """The configuration of a model by name, no weights: as `shapes` has it, else fetched; `UserError` where neither."""
    if (known := published(name)) is not None:  # asked before the hub is
        return known
    base = base_name(name)
    if (known := published(base)) is not None:
        return known
    found = hub_config(base)
    if not only_attention(found):
        raise UserError(f"model {name!r} is scored in whole sequences (not all its layers are attention): no estimate")
    return found


def sample_of(config: RunConfig) -> Sample:
    """The task's own lists where they can be read without asking anyone else, else lists as long as they may be."""
    if config.task.get("data") == "hub" or config.task.get("llm_endpoint"):
        TASKS.get(str(config.task["name"]))
        return _assumed(config, "they would have to be fetched")
    try:
        return _real(config)
    except UnknownName:
        raise
    except UserError as error:
        return _assumed(config, " ".join(str(error).split()))


def _real(config: RunConfig) -> Sample:
    lists, _ = build_lists(config.task, skip_bad_rows=config.skip_bad_rows)
    if "train" not in lists:
        raise UserError("the data hold no training split")
    t = config.training
    train = split_training(lists["train"], t.validation_fraction, t.max_validation_lists).train
    chosen = train[:: math.ceil(len(train) / LISTS_READ)]
    items = [p.tokens for p in prompted(builder_of(config), chosen, labels=True)]
    mean = sum(len(item.prompt) for item in items) / len(items)
    size = sum(len(item.bodies) for item in items) / len(items)
    source = f"{len(items)} of the {len(train):,} training lists: prompts of {mean:.0f} tokens, {size:.3g} candidates"
    return Sample(tuple(items), source, len(train))


def _assumed(config: RunConfig, reason: str) -> Sample:
    """One list as long as `prompt.max_tokens` lets it be."""
    style, most = config.prompt.style, config.prompt.max_tokens
    size = _candidates(config.task)
    body, heads, tail = {
        "text": (CANDIDATE_TOKENS, ((3,) * 2,) * size, (3,)),
        "label": (1, ((3,),) + ((3,) * 3,) * (size - 1), (3,) * 2),
        "response": (most // 2, ((),) * size, ()),
        "pointwise": (most // 2, ((),) * size, ()),
    }[style]
    answer = size * body + sum(map(len, heads)) + len(tail) if tail else body
    prompt = max(16, most - answer)
    relevance = (2.0, 1.0) + (0.0,) * (size - 2)
    choices = (((body - 1, (3, 4)),),) * size if style == "pointwise" else ()
    item = EncodedList("assumed", (3,) * prompt, heads, ((3,) * body,) * size, tail, relevance, choices)
    if config.prompt.attention == "block":
        item = dataclasses.replace(item, blocks=_blocks(prompt, size))
    source = f"assumed, {size} candidates of {body} tokens, prompt + answer of {prompt + answer} tokens ({reason})"
    return Sample((item,) * LISTS_READ, source)


def _blocks(prompt: int, size: int) -> tuple[Block, ...]:
    """The candidates of a prompt of so many tokens, an eighth of which stands around them."""
    around = prompt // 16
    ends = [around + (prompt - 2 * around) * j // size for j in range(size + 1)]
    return tuple(Block(start, start, stop) for start, stop in pairwise(ends))


def _candidates(task: Mapping[str, Any]) -> int:
    """Candidates of a list as the task's options say, else `CANDIDATES`."""
    options = TASKS.options(str(task["name"]))
    for key in ("candidates", "list_size"):
        value = task.get(key, options[key].default if key in options else None)
        if isinstance(value, int) and value >= 2:
            return value
    return CANDIDATES


def build_of(config: RunConfig, card: Card, sharing: Sharing = ALONE) -> Build:
    """How each process of `irpo train` would hold the model there."""
    m = config.model
    dtype = load_options(config, training=True).torch_dtype(torch.device("cuda" if card.gpu else "cpu"))
    return Build(
        dtype=dtype,
        attention=m.attention,
        nf4=m.quantization == "nf4",
        lora=LoraOptions(**m.lora.model_dump()) if m.tuning == "lora" else None,
        checkpointing=m.gradient_checkpointing,
        mixed=card.gpu and (m.mixed or dtype == torch.bfloat16),  # as `computes_mixed` has it
        gpu=card.gpu,
        processes=sharing.processes,
        sharded=sharing.sharded,
    )


@dataclass(frozen=True)
class Plan:
    """An update's micro-batches: the largest of them, how many, and the tokens of a usual update."""

    passes: Passes
    wide: Passes | None  # of a batch of wider rows, where lists of unlike length share them
    lists: int
    tokens: int
    batches: int  # of one process
    tokens_of_largest: int
    busiest: float = 1.0  # share of a usual update's tokens that the process with most of them has


def plan_of(config: RunConfig, method: Method, sample: Sample, processes: int = 1) -> Plan:
    """The update of the longest lists, in micro-batches of the process that has most of it."""
    t, sample = config.training, _as_drawn(config, sample)
    lists = min(t.lists_per_update, sample.count or t.lists_per_update)
    lengths = _lengths(method, sample.items)
    longest = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    items = [sample.items[i] for i in islice(cycle(longest), lists)]
    batches = max((list(method.batches(mine, 0, t.tokens_per_batch)) for mine in _dealt(items, processes)), key=len)
    largest = max(batches, key=lambda batch: batch.ids.numel())
    mixed = [
        mine
        for start in range(0, len(sample.items), lists)
        for mine in _dealt(sample.items[start : start + lists], processes)
    ]
    widest = max((b for some in mixed for b in method.batches(some, 0, t.tokens_per_batch)), key=_area)
    passes = dataclasses.replace(
        _passes(method, largest, accumulates=len(batches) > 1),
        validation=_validation(method, sample) if t.validation_fraction and config.online is None else None,
    )
    wide = _passes(method, widest, accumulates=len(batches) > 1) if _area(widest) > _area(largest) else None
    tokens = round(lists * sum(lengths) / len(lengths))
    usual = [sum(_lengths(method, mine)) for mine in _dealt(list(islice(cycle(sample.items), lists)), processes)]
    return Plan(passes, wide, lists, tokens, len(batches), largest.tokens, max(usual) / sum(usual))


def _lengths(method: Method, items: Sequence[EncodedList]) -> list[int]:
    return [len(layout.ids) for layout in method.lay_out(items)]


def _dealt(items: Sequence[EncodedList], processes: int) -> list[list[EncodedList]]:
    return [mine for mine in shares(items, processes) if mine]


def _area(batch: ListBatch) -> int:
    """What a mask over all pairs of columns grows with."""
    rows, width = batch.ids.shape
    return rows * width**2


def _passes(method: Method, batch: ListBatch, *, accumulates: bool) -> Passes:
    live, before = _live(method, batch)
    adapted = method.reference == "adapters_off" and method.objective.needs.reference
    return Passes(live, before, method.scored(batch.items) if adapted else None, accumulates=accumulates)


def _as_drawn(config: RunConfig, sample: Sample) -> Sample:
    """The lists as on-policy rounds train on them: whole answers, LarPO's of earlier rounds too."""
    online = config.online
    course = None if online is None else ON_POLICY.build(online.method).course
    if online is None or course is None or not course.compares:
        return sample
    rounds = online.rounds if course.earlier is None else min(online.rounds, 1 + course.earlier)
    count = online.samples * rounds

    def drawn(item: EncodedList) -> EncodedList:
        whole = item.answer(range(len(item.bodies))) if item.tail else (0,) * (online.max_response_tokens or 1)
        return as_answers(item, [whole] * count, [1.0] + [0.0] * (count - 1))

    return dataclasses.replace(sample, items=tuple(drawn(item) for item in sample.items))


def _live(method: Method, batch: ListBatch) -> tuple[tuple[ListBatch, ...], tuple[ListBatch, ...]]:
    """The batches that need a gradient, and those that are scored before without one."""
    if not isinstance(method.objective, SampledObjective):
        return (batch,), ()
    zeros = torch.zeros_like(batch.relevance)
    noise = torch.rand(zeros.shape, generator=torch.Generator().manual_seed(0))
    chosen = method.objective.select(ScoredLists(zeros, zeros, batch.relevance, batch.mask, noise))
    return method.live(batch.items, chosen), (method.scored(batch.items),)


def _validation(method: Method, sample: Sample) -> ListBatch:
    """The largest batch of a validation, which has a budget of its own."""
    items = [item.without_labels() for item in sample.items]
    layouts = lay_out(items, method.scorer)
    first = in_budget(layouts, TOKENS_PER_BATCH)[0]  # the longest lists come first
    return collate([items[i] for i in first], [layouts[i] for i in first])


def rate_of(card: Card, build: Build, width: int) -> tuple[float | None, str]:
    """Operations a second that training reaches, and where the number comes from."""
    if card.tflops is not None:
        return card.tflops * 1e12 * PEAK_SHARE, f"{PEAK_SHARE:.0%} of {card.tflops:g} TFLOP/s"
    if card.name.startswith("a GPU of"):
        return None, "unknown: give the card's name"
    dtype = torch.bfloat16 if build.mixed else build.dtype
    rate = matmul_rate(torch.device("cuda" if card.gpu else "cpu"), dtype, width)
    return rate * MATMUL_SHARE, f"{MATMUL_SHARE:.0%} of {rate / 1e12:.2g} TFLOP/s, measured here on a matrix product"


def usage_of(shape: Any, build: Build, plan: Plan) -> Usage:
    """Of the batch that takes more: the one of most columns, or of the widest rows; operations are of the first."""
    usage = simulate(shape, build, plan.passes)
    if plan.wide is None:
        return usage
    wide = simulate(shape, build, plan.wide)
    return dataclasses.replace(wide, operations=usage.operations) if wide.peak > usage.peak else usage


def estimate(config: RunConfig, card: Card, sharing: Sharing = ALONE) -> Estimate:
    """Everything that can be said of a run before it."""
    method = method_of(config)
    shape, build = shape_of(config.model.name), build_of(config, card, sharing)
    sample = sample_of(config)
    plan = plan_of(config, method, sample, sharing.processes)
    usage = usage_of(shape, build, plan)
    rate, speed = rate_of(card, build, shape.get_text_config().hidden_size)
    work = usage.operations * plan.tokens / plan.tokens_of_largest * plan.busiest
    if rate is not None and not card.gpu:
        rate /= sharing.processes  # they share the cores
    return Estimate(
        model=config.model.name,
        card=card,
        usage=usage,
        overhead=round(CONTEXT + FRAGMENTS * usage.peak if card.gpu else LOADED),
        lists=sample.source,
        lists_per_update=plan.lists,
        tokens_per_update=plan.tokens,
        batches_per_update=plan.batches,
        processes=sharing.processes,
        launch=sharing.launch,
        seconds_per_update=None if rate is None else work / rate,
        speed=speed,
        advice=_advice(config, usage, sharing),
        notes=(*_notes(config, card), *sharing.notes),
    )


def _advice(config: RunConfig, usage: Usage, sharing: Sharing) -> tuple[str, ...]:
    """What to change for less memory, the most useful first."""
    m, t = config.model, config.training
    found = []
    if m.tuning == "full":
        found.append("model.tuning=lora with method.reference=adapters_off")
    if not m.gradient_checkpointing:
        found.append("model.gradient_checkpointing=true")
    if t.tokens_per_batch > config.prompt.max_tokens:
        found.append(f"training.tokens_per_batch={max(config.prompt.max_tokens, t.tokens_per_batch // 2)}")
    if m.tuning == "lora" and m.quantization == "none":
        found.append("model.quantization=nf4")
    if sharing.processes > 1 and not sharing.sharded:
        found.append("--launch fsdp2")
    return tuple(found) or (f"prompt.max_tokens={config.prompt.max_tokens // 2}", "a smaller model")


def _notes(config: RunConfig, card: Card) -> tuple[str, ...]:
    notes = []
    if config.online is not None:
        notes.append("drawing answers between rounds is not counted")
    if config.model.attention == "flex_attention":
        notes.append("flex_attention is counted as sdpa, which holds a dense mask as well")
    if card.name == "T4":
        notes.append("a T4 has no bfloat16, and float16 is refused: it computes at the rate of float32")
    if not card.gpu:
        notes.append(
            "glibc's malloc keeps freed blocks, which was seen to take 2.4 times the memory; "
            "the environment variable MALLOC_MMAP_THRESHOLD_=65536 has it give them back"
        )
    return tuple(notes)
