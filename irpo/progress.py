"""What a user is told while a run goes on: lines on stderr, and the figures of the log. Nothing here loads torch."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from irpo.processes import is_first, peak_of_process
from irpo.types import printable

if TYPE_CHECKING:
    from torch import Tensor

    from irpo.scoring.batching import ListBatch

BEST = "NDCG@10"  # of the validation lists, by the scorer; decides the best checkpoint and early stopping
# The most telling first: on a narrow screen the bar's end is cut off.
SHOWN = {
    f"eval_{BEST}": f"val {BEST}",
    "loss": "loss",
    "objective": "objective",
    "anchor": "anchor",
    "nll_per_token": "NLL/token",
    f"train_{BEST}": f"train {BEST}",
}


def say(text: str) -> None:
    """Tell the user, on stderr, what was decided: one line, however wide the screen; one process speaks for all."""
    if is_first():
        print(printable(text), file=sys.stderr, flush=True)  # noqa: T201 - this is the one place that does


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

    def told(self) -> dict[str, Any]:
        """The sums for a checkpoint; `of` reads them back."""
        seconds = time.perf_counter() - self.since
        sums = {name: float(total) for name, total in self.sums.items()}
        return {"sums": sums, "lists": self.lists, "tokens": self.tokens, "seconds": seconds}

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Tally:
        """The tally that `told` tells of, its clock going on."""
        import torch

        since = time.perf_counter() - told["seconds"]
        sums = {name: torch.tensor(total, dtype=torch.float64) for name, total in told["sums"].items()}
        return cls(sums, told["lists"], told["tokens"], since)

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
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return peak_of_process()


def forget_peak() -> None:
    """From here on `peak_memory` of a GPU is that of what follows; what loading took is past."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


# The library's logger -> how such a line begins.
_LINES = {
    # On a CPU with AVX512-BF16: its own 4-bit kernel serves, the one of the hub is not looked for.
    "bitsandbytes.backends.cpu.ops": "Failed to load CPU gemm_4bit_forward from kernels-community",
    # Checkpoints written within one second of each other are ordered by number, as they should be.
    "transformers.trainer_utils": "mtime may not be reliable",
}


def hush() -> None:
    """Drop those lines, and no other; again and again changes nothing."""
    for name in _LINES:
        logging.getLogger(name).addFilter(_wanted)


def _wanted(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(_LINES[record.name])
