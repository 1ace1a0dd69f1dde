"""What a user sees while a run goes on: lines on stderr, the progress bar, and the figures of the log."""

from __future__ import annotations

import resource
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import torch
from rich.console import Console
from torch import Tensor
from transformers import ProgressCallback, TrainerCallback

from irpo.encoding import ListBatch
from irpo.types import printable

BEST = "ndcg@10"  # of the validation lists, by the scorer; decides the best checkpoint and early stopping
SHOWN = {"loss": "loss", "train_ndcg@10": "train NDCG@10", f"eval_{BEST}": "validation NDCG@10"}
_console = Console(stderr=True, highlight=False)


def say(text: str) -> None:
    """Tell the user, on stderr, what was decided."""
    _console.print(printable(text), markup=False)


@dataclass
class Tally:
    """Running sums of what the log shows, over lists since the last line."""

    sums: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    lists: int = 0
    tokens: int = 0
    since: float = field(default_factory=time.perf_counter)

    def add(self, batch: ListBatch, values: dict[str, Tensor]) -> None:
        """Per-list values (B,) of one micro-batch."""
        self.lists += len(batch)
        self.tokens += batch.tokens
        for name, value in values.items():
            self.sums[name] += float(value.detach().sum())

    def flush(self) -> dict[str, float]:
        """Means since the last call, with speed and peak memory, and start anew."""
        seconds = max(time.perf_counter() - self.since, 1e-9)
        means = {name: total / max(self.lists, 1) for name, total in self.sums.items()}
        speed = {"tokens_per_s": self.tokens / seconds, "lists_per_s": self.lists / seconds}
        self.sums.clear()
        self.lists = self.tokens = 0
        self.since = time.perf_counter()
        return means | speed | {"peak_memory_mb": peak_memory() / 2**20}


def peak_memory() -> int:
    """Peak memory in bytes: of the GPU where there is one, else of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class Progress(ProgressCallback):
    """The Trainer's bar, with the latest figures beside it instead of a line of text for each."""

    def __init__(self) -> None:
        super().__init__()
        self._latest: dict[str, str] = {}

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Show what is new."""
        self._latest |= {shown: f"{logs[key]:.4g}" for key, shown in SHOWN.items() if key in (logs or {})}
        if self.training_bar is not None:
            self.training_bar.set_postfix(self._latest)


class Lines(TrainerCallback):
    """The same figures, a line each, where stderr is no terminal."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Say what is new."""
        figures = [f"{name} {logs[key]:.4g}" for key, name in SHOWN.items() if key in (logs or {})]
        if figures:
            say(f"update {state.global_step} of {state.max_steps}: {', '.join(figures)}")
