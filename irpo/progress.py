"""What a user sees while a run goes on: lines on stderr, the progress bar, and the figures of the log."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import torch
from rich.console import Console
from torch import Tensor
from transformers import ProgressCallback, TrainerCallback

from irpo.encoding import ListBatch
from irpo.machine import peak_of_process

BEST = "NDCG@10"  # of the validation lists, by the scorer; decides the best checkpoint and early stopping
SHOWN = {"loss": "loss", f"train_{BEST}": f"train {BEST}", f"eval_{BEST}": f"validation {BEST}"}
_console = Console(stderr=True, highlight=False)


def say(text: str) -> None:
    """Tell the user, on stderr, what was decided."""
    _console.print(text, markup=False)


@dataclass
class Tally:
    """Running sums of what the log shows, over lists since the last line."""

    sums: dict[str, Tensor] = field(default_factory=dict)  # on the model's device until they are shown
    lists: int = 0
    tokens: int = 0
    since: float = field(default_factory=time.perf_counter)

    def add(self, batch: ListBatch, values: dict[str, Tensor]) -> None:
        """Per-list values (B,) of one micro-batch, which is still on the host; nothing here waits for a device."""
        self.lists += len(batch)
        self.tokens += batch.tokens
        for name, value in values.items():
            total = value.detach().double().sum()
            self.sums[name] = self.sums[name] + total if name in self.sums else total

    def flush(self) -> dict[str, float]:
        """Means since the last call, with speed and peak memory, and start anew."""
        seconds = max(time.perf_counter() - self.since, 1e-9)
        means = {name: float(total) / max(self.lists, 1) for name, total in self.sums.items()}
        speed = {"tokens_per_s": self.tokens / seconds, "lists_per_s": self.lists / seconds}
        self.sums.clear()
        self.lists = self.tokens = 0
        self.since = time.perf_counter()
        return means | speed | {"peak_memory_mb": peak_memory() / 2**20}


def peak_memory() -> int:
    """Peak memory in bytes: of the GPU where there is one, else of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return peak_of_process()


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
