"""What the speed and memory benchmarks share: shapes with random weights, lists, our step, interleaved timing."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from irpo.config.schema import TrainingConfig
from irpo.estimate.shapes import PUBLISHED
from irpo.objectives import OBJECTIVES
from irpo.scorers import SCORERS
from irpo.scoring.attention import use_split_attention
from irpo.scoring.models import (
    LoraOptions,
    add_lora,
    default_device,
    load_tokenizer,
    require_four_bit,
    use_checkpointing,
)
from irpo.scoring.tokens import EncodedList
from irpo.training.arguments import Loop, training_arguments
from irpo.training.method import Method
from irpo.training.trainer import ListTrainer

_LLAMA = {"model_type": "llama", "tie_word_embeddings": True}
SHAPES: dict[str, dict[str, Any]] = {
    "24m": _LLAMA
    | {
        "vocab_size": 32000,
        "hidden_size": 384,
        "intermediate_size": 1152,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
    },
    "8m": _LLAMA
    | {
        "vocab_size": 16000,
        "hidden_size": 256,
        "intermediate_size": 768,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
    },
    "tiny": _LLAMA
    | {
        "vocab_size": 1024,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
    "90m": _LLAMA
    | {
        "vocab_size": 32000,
        "hidden_size": 768,
        "intermediate_size": 2304,
        "num_hidden_layers": 9,
        "num_attention_heads": 12,
    },
    "llama3.2-3b": PUBLISHED["meta-llama/Llama-3.2-3B-Instruct"],
    "gemma2-2b": PUBLISHED["google/gemma-2-2b-it"],
    "phi3-mini": PUBLISHED["microsoft/Phi-3-mini-4k-instruct"],
}


def random_list(name: str, vocabulary: int, prompt: int, candidates: int, tokens: int) -> EncodedList:
    """A list of random tokens with two relevant candidates."""
    generator = torch.Generator().manual_seed(sum(name.encode()))

    def draw(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, vocabulary, (count,), generator=generator).tolist())

    heads = tuple(draw(2) for _ in range(candidates))
    bodies = tuple(draw(tokens) for _ in range(candidates))
    return EncodedList(name, draw(prompt), heads, bodies, (2,), (2.0, 1.0) + (0.0,) * (candidates - 2))


@dataclass(frozen=True)
class Case:
    """A model and the lists that it is trained on; tokens are those of the prompt and of each candidate."""

    shape: str = "24m"
    tuning: str = "lora"  # or nf4: LoRA on 4-bit weights
    checkpointing: bool = False
    prompt: int = 256
    candidates: int = 20
    tokens: int = 8
    lists: int = 1

    @property
    def vocabulary(self) -> int:
        return int(SHAPES[self.shape]["vocab_size"])

    def items(self) -> list[EncodedList]:
        """Lists of random tokens; heads of two tokens as in "1. "."""
        sizes = (self.vocabulary, self.prompt, self.candidates, self.tokens)
        return [random_list(f"list-{i}", *sizes) for i in range(self.lists)]

    def base(self) -> Any:
        """The model with random weights: bfloat16 on a GPU, float32 on a CPU."""
        device = default_device()
        model = made_on(device, self.shape, torch.bfloat16 if device.type == "cuda" else torch.float32)
        return (in_four_bits(model) if self.tuning == "nf4" else model).eval()

    def model(self) -> Any:
        """With a LoRA of rank 16 that is no longer idle, so that policy and reference differ."""
        model = add_lora(self.base(), LoraOptions(r=16), seed=0)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator).to(parameter))
        if self.checkpointing:
            use_checkpointing(model)
        return model


def made_on(device: torch.device, shape: str, dtype: torch.dtype, **other: Any) -> Any:
    """A model of that shape, `other` in its configuration, whose random weights are drawn where they will stay."""
    torch.manual_seed(0)
    with torch.device(device):
        return use_split_attention(AutoModelForCausalLM.from_config(config_of(shape, **other), dtype=dtype))


def config_of(shape: str, **other: Any) -> Any:
    """The configuration of a shape."""
    told = {**SHAPES[shape], "max_position_embeddings": 8192, **other}
    return CONFIG_MAPPING[told.pop("model_type")](**told)


def in_four_bits(model: Any) -> Any:
    """The model with its linear layers, but for the head, in NF4 with double quantization: made in place."""
    import bitsandbytes as bnb

    head = model.get_output_embeddings()
    for parent in list(model.modules()):
        for name, old in list(parent.named_children()):
            if type(old) is not torch.nn.Linear or old is head:
                continue
            weight, sizes = old.weight, (old.in_features, old.out_features)
            new = bnb.nn.Linear4bit(*sizes, bias=False, compute_dtype=weight.dtype, quant_type="nf4", device="meta")
            packed = bnb.nn.Params4bit(weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True)
            new.weight, new.bias = packed.to(weight.device), old.bias
            setattr(parent, name, new)
    model.is_loaded_in_4bit = True  # what peft asks before it puts its 4-bit layer there
    require_four_bit(model)
    return model


def our_trainer(
    model: Any, items: Sequence[EncodedList], reference: str, *, tokens: int = 8192, scorer: str = "independent"
) -> ListTrainer:
    """The trainer that `irpo train` runs, on IRPO."""
    method = Method(OBJECTIVES.build("irpo"), SCORERS.build(scorer), reference=reference)  # type: ignore[arg-type]
    config = TrainingConfig(updates=1, lists_per_update=len(items), learning_rate=1e-6)
    settings = training_arguments(config, Path(tempfile.mkdtemp()), lists=len(items), validates=False, seed=0)
    settings.disable_tqdm = True
    tokenizer = load_tokenizer("embedded")  # for its padding alone: the tokens are random
    return ListTrainer(
        model=model, tokenizer=tokenizer, method=method, lists=(items, []), args=settings, loop=Loop(tokens)
    )


def trained(model: Any, items: list[EncodedList], steps: int, out: Path) -> list[dict[str, float]]:
    """The log's lines, one an update, of a run of `ListTrainer` with every list in each update."""
    config = TrainingConfig(updates=steps, lists_per_update=len(items), learning_rate=1e-4, logging_every=1)
    mixed = default_device().type == "cuda"  # as `irpo.training.job.computes_mixed` has it
    settings = training_arguments(config, out / "checkpoints", lists=len(items), validates=False, seed=0, mixed=mixed)
    settings.disable_tqdm, settings.save_strategy = True, "no"
    method = Method(OBJECTIVES.build("irpo"), SCORERS.build("independent"))
    tokenizer = load_tokenizer("embedded")  # for its padding alone: the tokens are random
    trainer = ListTrainer(model=model, tokenizer=tokenizer, method=method, lists=(items, []), args=settings)
    trainer.go(None)
    found = [json.loads(line) for line in trainer.log_file.read_text(encoding="utf-8").splitlines()]
    return [line for line in found if "loss" in line]


def step_of(model: Any, loss_and_backward: Callable[[], Any]) -> Callable[[], float]:
    """A training step: gradients, then AdamW on the adapter. Returns the loss."""
    learn = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learn, lr=1e-9)  # so small that repetitions stay comparable

    def step() -> float:
        loss = loss_and_backward()
        optimizer.step()
        optimizer.zero_grad()
        return float(loss)

    return step


def our_step(model: Any, items: Sequence[EncodedList], reference: str) -> Callable[[], float]:
    """Our whole step: layout, reference, policy, loss, backward, optimiser."""
    trainer = our_trainer(model, items, reference)
    return step_of(model, lambda: trainer.training_step(trainer.model, items))


def interleaved(works: Mapping[str, Callable[[], Any]], repetitions: int, *, warm_up: bool = True) -> dict[str, float]:
    """Median seconds of each, taken in turns after one round of warming up."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for repetition in range(0 if warm_up else 1, repetitions + 1):
        for name, work in works.items():
            synchronize()
            start = time.perf_counter()
            work()
            synchronize()
            if repetition:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(taken) for name, taken in times.items()}


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def show(benchmark: str, case: str, against: str, figures: tuple[float, float], unit: str, **more: Any) -> None:
    """One JSON line. `figures` are ours and theirs, in a unit of which less is better."""
    ours, theirs = figures
    row = {"benchmark": benchmark, "case": case, "against": against, "ours": round(ours, 5), "theirs": round(theirs, 5)}
    print(json.dumps(row | {"unit": unit, "ratio": round(theirs / ours, 3)} | more), flush=True)
