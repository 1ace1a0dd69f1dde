"""What is seen of a suite while it runs: a panel on a terminal, elsewhere one line a finished cell."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from irpo.progress import lasting
from irpo.types import printable


@dataclass
class Pace:
    """How long cells of each kind take, from those that are finished."""

    seconds: dict[str, list[float]] = field(default_factory=dict)

    def add(self, kind: str, seconds: float) -> None:
        """A finished cell's time."""
        self.seconds.setdefault(kind, []).append(seconds)

    def of(self, kind: str) -> float | None:
        """The median of the kind, of all cells where none of it is finished; None before the first."""
        own = self.seconds.get(kind) or [s for each in self.seconds.values() for s in each]
        return median(own) if own else None


@dataclass(frozen=True)
class Running:
    """A cell that is being done."""

    title: str
    kind: str
    began: float  # time.monotonic()


@dataclass(frozen=True)
class Status:
    """Where a suite stands."""

    done: int = 0
    failed: int = 0
    elsewhere: int = 0  # taken by other processes on the same folder
    running: tuple[Running, ...] = ()
    waiting: tuple[str, ...] = ()  # kinds of the cells to come
    unknown: int = 0  # cells to come of which nothing else is known
    places: int = 1  # cells at a time
    began: float = 0.0  # time.monotonic()
    here: int = 0  # cells finished by this process

    @property
    def total(self) -> int:
        """All cells, those to be known later among them."""
        return self.done + self.failed + self.elsewhere + len(self.running) + len(self.waiting) + self.unknown

    def left(self, pace: Pace) -> float | None:
        """Seconds to the end, about: the work left, shared by the places; None before the first cell is finished."""
        if pace.of("") is None:
            return None
        now = time.monotonic()
        runs = [max(0.0, (pace.of(run.kind) or 0.0) - (now - run.began)) for run in self.running]
        kinds = (*self.waiting, *[""] * self.unknown)
        work = sum(runs) + sum(pace.of(kind) or 0.0 for kind in kinds)
        return max([work / self.places, *runs])


def left_in_words(status: Status, pace: Pace) -> str:
    """ "about 20 min left", "" where nothing is known or nothing is left."""
    seconds = status.left(pace)
    return f"about {lasting(seconds)} left" if seconds else ""


def elapsed(seconds: float) -> str:
    """A time that has passed.

    >>> elapsed(0.4), elapsed(14.2), elapsed(200), elapsed(9000)
    ('0.4 s', '14 s', '4 min', '2 h 30 min')
    """
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    return f"{seconds:.0f} s" if seconds <= 90 else lasting(seconds)


@contextmanager
def panel(status: Callable[[], Status], pace: Pace, console: Console | None = None) -> Iterator[None]:
    """The panel while the block runs, where stderr is a terminal; what is said meanwhile stands above it."""
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with Live(get_renderable=lambda: _drawn(status(), pace), console=console, refresh_per_second=2, transient=True):
        yield


def _drawn(status: Status, pace: Pace) -> Group:
    finished = status.done + status.failed
    counts = {"done": status.done, "failed": status.failed, "running": len(status.running)}
    counts |= {"elsewhere": status.elsewhere, "waiting": len(status.waiting) + status.unknown}
    minutes = (time.monotonic() - status.began) / 60
    speed = f"{status.here / minutes:.1f} cells/min" if status.here and minutes > 0 else ""
    pace_in_words = ", ".join(filter(None, [speed, left_in_words(status, pace)]))
    cells = Table.grid(padding=(0, 2))
    cells.add_column(no_wrap=True, overflow="ellipsis")
    cells.add_column(justify="right", no_wrap=True)
    for run in status.running:
        cells.add_row(Text("  " + printable(run.title)), Text(elapsed(time.monotonic() - run.began)))
    bar = Table.grid()  # a bar by itself ends no line
    bar.add_row(ProgressBar(total=max(status.total, 1), completed=finished, width=40))
    return Group(cells, bar, Text("  ".join([*_counted(counts), pace_in_words])))


def _counted(counts: Mapping[str, int]) -> list[str]:
    always = ("done", "running", "waiting")
    return [f"{number} {word}" for word, number in counts.items() if number or word in always]
