"""What a user is told while a run goes on: lines and bars on stderr, and the figures of the log.

Nothing here loads torch.
"""

from __future__ import annotations

import itertools
import logging
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console, ConsoleOptions
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn
from rich.progress import Progress as Bars
from rich.table import Column
from rich.text import Text

from irpo.processes import gather, is_first, peak_of_process
from irpo.types import printable

if TYPE_CHECKING:
    from torch import Tensor

    from irpo.scoring.batching import ListBatch

T = TypeVar("T")

BEST = "NDCG@10"  # of the validation lists, by the scorer; decides the best checkpoint and early stopping
LINE = 80  # letters that a line of figures has at most
# The most telling first: on a narrow screen the bar's end is cut off, and of a line what is beyond `LINE`.
SHOWN = {
    f"eval_{BEST}": f"val {BEST}",
    "loss": "loss",
    f"train_{BEST}": f"train {BEST}",
    "objective": "objective",
    "anchor": "anchor",
    "nll_per_token": "NLL/token",  # nosec B105 # a count of tokens
    "teacher_pairs": "teacher's pairs",
}


def say(text: str) -> None:
    """Tell the user, on stderr, what was decided: one line, however wide the screen; one process speaks for all."""
    if is_first():
        print(printable(text), file=sys.stderr, flush=True)  # noqa: T201 - this is the one place that does


def lasting(seconds: float) -> str:
    """A time as one speaks of it, rounded up.

    >>> lasting(6.2), lasting(41), lasting(200), lasting(9000), lasting(400_000)
    ('7 s', '50 s', '4 min', '2 h 30 min', '112 h')
    """
    if seconds <= 20:
        return f"{max(1, math.ceil(seconds))} s"
    if seconds <= 90:
        return f"{max(1, math.ceil(seconds / 10)) * 10} s"
    minutes = math.ceil(seconds / 60)
    if minutes > 24 * 60:
        return f"{math.ceil(minutes / 60):,} h"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


@dataclass
class Course:
    """The stages of a long job in turn, by kind; those to come take as long as those of their kind have taken."""

    kinds: Sequence[str]
    now: Callable[[], float] = time.perf_counter
    _began: list[float] = field(default_factory=list)  # when each stage so far did

    def begin(self) -> int:
        """The next stage begins, and what was before it is done; its number, from 1."""
        self._began.append(self.now())
        return len(self._began)

    def left(self, share: float = 0.0) -> float | None:
        """Seconds to the end; None while nothing is known of a kind that is to come.

        `share` of the present stage that is done says how long its kind takes while none of it is finished.
        """
        if not self._began:
            return None
        at, spent = len(self._began) - 1, self.now() - self._began[-1]
        took: dict[str, list[float]] = {self.kinds[at]: [spent / share]} if share > 0 else {}
        for kind, (start, end) in zip(self.kinds, itertools.pairwise(self._began), strict=False):
            took.setdefault(kind, []).append(end - start)
        if any(kind not in took for kind in self.kinds[at:]):
            return None
        means = {kind: sum(times) / len(times) for kind, times in took.items()}
        return max(0.0, means[self.kinds[at]] - spent) + sum(means[kind] for kind in self.kinds[at + 1 :])


class _Left(ProgressColumn):
    """How long a bar still takes: what is left of the course that it shows, or what its own speed says."""

    def render(self, task: Task) -> Text:
        course = task.fields.get("course")
        seconds = course.left(_share()) if course else task.time_remaining
        return Text("" if seconds is None or task.finished else f"{lasting(seconds)} left", style="progress.remaining")


class _Fitting:
    """Words apart by commas, as many of the first as there is room for."""

    def __init__(self, words: str) -> None:
        self._parts = words.split(", ")

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(1, options.max_width)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        shown = self._parts[0]
        for part in self._parts[1:]:
            if len(shown) + 2 + len(part) > options.max_width:
                break
            shown += f", {part}"
        yield Text(shown, no_wrap=True, overflow="ellipsis")


class _Figures(ProgressColumn):
    """The figures of a bar, the last ones left out where the screen is narrow."""

    def render(self, task: Task) -> Any:
        return _Fitting(task.fields["figures"])


_bars: Bars | None = None  # those on stderr now


def _share() -> float:
    """How much of the present stage is done, where its bar is of the whole of it."""
    tasks = [task for task in (_bars.tasks if _bars else ()) if task.fields.get("whole")]
    return tasks[-1].completed / tasks[-1].total if tasks and tasks[-1].total else 0.0


@contextmanager
def bars() -> Iterator[Bars]:
    """The bars on stderr, where that is a terminal; inside others these. They go when the outermost is left."""
    global _bars
    if _bars is not None:
        yield _bars
        return
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=16),
        MofNCompleteColumn(),
        _Left(),
        # What room there is goes to the figures, so that they push nothing else off a narrow screen.
        _Figures(table_column=Column(ratio=1, no_wrap=True)),
    )
    disable = not (console.is_terminal and is_first())
    shown = Bars(*columns, console=console, transient=True, expand=True, disable=disable)
    with shown as _bars:
        try:
            yield shown
        finally:
            _bars = None


def watched(batches: Sequence[T], what: str) -> Iterable[T]:
    """The batches one by one, with a bar where a person looks on."""
    with bars() as shown:
        task = shown.add_task(what, total=len(batches), figures="")
        try:
            for batch in batches:
                yield batch
                shown.advance(task)
        finally:
            shown.remove_task(task)


@contextmanager
def stages(course: Course) -> Iterator[Callable[[str], None]]:
    """A job of many stages: calling what is given begins one, and says which of how many and how long is left."""
    with bars() as shown:
        task = shown.add_task("in all", total=len(course.kinds), course=course, figures="")

        def begin(what: str) -> None:
            number = course.begin()
            left = course.left()
            told = "" if left is None else f", about {lasting(left)} left in all"
            say(f"\n[{number} of {len(course.kinds)}] {what}{told}")
            shown.update(task, completed=number - 1)

        yield begin
        shown.remove_task(task)


@dataclass
class Tally:
    """Running sums of what the log shows, over lists since the last line."""

    sums: dict[str, Tensor] = field(default_factory=dict)  # on the model's device until they are shown
    lists: int = 0
    tokens: int = 0
    since: float = field(default_factory=time.perf_counter)
    waited: float = 0.0  # seconds in which the step had no batch to compute

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """What is done in here, the step waits for."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.waited += time.perf_counter() - start

    def add(self, batch: ListBatch, values: dict[str, Tensor]) -> None:
        """Per-list values (B,) of one micro-batch, which is still on the host; nothing here waits for a device."""
        self.lists += len(batch)
        self.tokens += batch.tokens
        for name, value in values.items():
            total = value.detach().double().sum()
            self.sums[name] = self.sums[name] + total if name in self.sums else total

    def told(self) -> dict[str, Any]:
        """The sums of all processes for a checkpoint; `of` reads them back."""
        return {**self._joined(), "seconds": time.perf_counter() - self.since}

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Tally:
        """The tally that `told` tells of, its clock going on; the first process takes the sums of all."""
        import torch

        since = time.perf_counter() - told["seconds"]
        if not is_first():
            return cls(since=since)
        sums = {name: torch.tensor(total, dtype=torch.float64) for name, total in told["sums"].items()}
        return cls(sums, told["lists"], told["tokens"], since, told.get("waited", 0.0))

    def flush(self) -> dict[str, float]:
        """Means over the lists of all processes since the last call, with speed and peak memory, and start anew.

        `waiting` is the share of the time that processes spent waiting for lists, the mean over them.
        """
        whole, peak = self._joined(), max(gather([peak_memory()]))
        seconds, lists = max(time.perf_counter() - self.since, 1e-9), whole["lists"]
        means = {name: total / max(lists, 1) for name, total in whole["sums"].items()}
        speed = {"tokens_per_s": whole["tokens"] / seconds, "lists_per_s": lists / seconds}
        speed["waiting"] = min(1.0, whole["waited"] / seconds)
        self.sums.clear()
        self.lists, self.tokens, self.waited = 0, 0, 0.0
        self.since = time.perf_counter()
        return means | speed | {"peak_memory_mb": peak / 2**20}

    def _joined(self) -> dict[str, Any]:
        """The sums of all processes; one that had no list yet knows no name."""
        own = {name: float(total) for name, total in self.sums.items()}
        parts = gather([(own, self.lists, self.tokens, self.waited)])
        sums: dict[str, float] = {}
        for part, *_ in parts:
            for name, value in part.items():
                sums[name] = sums.get(name, 0.0) + value
        lists, tokens = sum(part[1] for part in parts), sum(part[2] for part in parts)
        waited = sum(part[3] for part in parts) / len(parts)
        return {"sums": sums, "lists": lists, "tokens": tokens, "waited": waited}


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
