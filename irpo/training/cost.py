"""What training costs: seconds, tokens, memory, and energy where the device tells it.

Counted is what the method takes: reference scores, drawing, updates and their checkpoints; not loading the model, and
not validation. A checkpoint carries the cost so far, so a run that goes on from it has the cost of the updates that
made its weights, however often its process died; what a dead process did after its last checkpoint is not in it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from irpo.processes import is_first
from irpo.progress import peak_memory
from irpo.runs import COST, write_text
from irpo.runs.key import read_json

_RAPL = Path("/sys/class/powercap")


@dataclass(frozen=True)
class Cost:
    """What some training cost."""

    seconds: float = 0.0
    tokens: int = 0  # of prompts and bodies in the policy's forward passes
    peak_bytes: int = 0  # of the GPU's memory where there is one, else of the process, the model included
    joules: float | None = 0.0  # of the whole GPU, else of the CPU's packages; None where not all of it is known

    def __add__(self, later: Cost) -> Cost:
        known = self.joules is not None and later.joules is not None
        return Cost(
            self.seconds + later.seconds,
            self.tokens + later.tokens,
            max(self.peak_bytes, later.peak_bytes),
            self.joules + later.joules if known else None,  # type: ignore[operator]
        )


def read_cost(folder: Path) -> dict[str, Any] | None:
    """`seconds`, `tokens`, `peak_bytes` and `joules` of a run, a round or a checkpoint; None where they are not known.

    `joules` alone may be None. A run that goes on from a checkpoint without a cost has none.
    """
    found = read_json(folder / COST)
    return found if found.keys() == asdict(Cost()).keys() else None


def write_cost(folder: Path, cost: Cost | None) -> None:
    """Keep a cost, or that it is not known."""
    if not is_first():
        return
    if cost is None:
        (folder / COST).unlink(missing_ok=True)
        return
    told = asdict(cost) | {"seconds": round(cost.seconds, 3)}
    write_text(folder / COST, json.dumps(told, indent=2) + "\n")


def total_cost(folders: Iterable[Path]) -> Cost | None:
    """The sum of what lies in the folders, None where one of them has no cost."""
    whole = Cost()
    for folder in folders:
        if (told := read_cost(folder)) is None:
            return None
        whole += Cost(**told)
    return whole


class Energy(Protocol):
    """A counter of joules since its birth."""

    def joules(self) -> float | None:
        """None where the device does not tell."""
        ...


@dataclass
class Meter:
    """Measures from its birth on, but for what is `paused`."""

    energy: Energy | None = field(default_factory=lambda: energy_counter())
    _before: Cost | None = field(default_factory=Cost)  # of the processes before this one, None where not known
    _tokens: int = 0
    _since: float = field(default_factory=time.perf_counter)
    _idle: float = 0.0  # seconds of pauses
    _idle_joules: float | None = 0.0

    def go_on(self, checkpoint: Path) -> None:
        """From what the checkpoint cost."""
        told = read_cost(checkpoint)
        self._before = None if told is None else Cost(**told)

    def count(self, tokens: int) -> None:
        """Tokens of an update. A counter that wraps is read often enough by this."""
        self._tokens += tokens
        self._joules()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside costs nothing."""
        since, joules = time.perf_counter(), self._joules()
        try:
            yield
        finally:
            self._idle += time.perf_counter() - since
            now = self._joules()
            known = joules is not None and now is not None and self._idle_joules is not None
            self._idle_joules = self._idle_joules + now - joules if known else None  # type: ignore[operator]

    def read(self) -> Cost | None:
        """The cost so far, with that of the processes before; None where theirs is not known."""
        return None if self._before is None else self._before + self.spent()

    def spent(self) -> Cost:
        """What this process has spent."""
        joules, idle = self._joules(), self._idle_joules
        spent = None if joules is None or idle is None else joules - idle
        seconds = time.perf_counter() - self._since - self._idle
        return Cost(seconds, self._tokens, peak_memory(), spent)

    def _joules(self) -> float | None:
        return None if self.energy is None else self.energy.joules()


def energy_counter() -> Energy | None:
    """The GPU's own where there is a GPU, else that of the CPU's packages; None where there is none to read."""
    import torch

    return Nvml.open() if torch.cuda.is_available() else Rapl.open(_RAPL)


@dataclass
class Rapl:
    """The packages' counters of Linux's powercap, in microjoules; each begins anew at its own range."""

    domains: tuple[Path, ...]
    _last: list[int] = field(default_factory=list)
    _sum: float = 0.0

    @classmethod
    def open(cls, root: Path) -> Rapl | None:
        """None where they are not there, or not ours to read."""
        named = [path for path in sorted(root.glob("intel-rapl:*")) if path.name.count(":") == 1]
        try:
            packages = tuple(p for p in named if (p / "name").read_text(encoding="ascii").startswith("package"))
            counter = cls(packages)
            counter._last = counter._read("energy_uj")
        except (OSError, ValueError):
            return None
        return counter if packages else None

    def _read(self, name: str) -> list[int]:
        return [int((path / name).read_text(encoding="ascii")) for path in self.domains]

    def joules(self) -> float | None:
        """Right where it is called at least once in a turn of the counters (minutes)."""
        try:
            now, ranges = self._read("energy_uj"), self._read("max_energy_range_uj")
        except (OSError, ValueError):
            return None
        turns = zip(now, self._last, ranges, strict=True)
        self._sum += sum(new - old if new >= old else new - old + most for new, old, most in turns) / 1e6
        self._last = now
        return self._sum


@dataclass(frozen=True)
class Nvml:
    """A GPU's own counter, in millijoules since its driver was loaded; of all that runs on it."""

    library: Any
    handle: Any
    began: float

    @classmethod
    def open(cls) -> Nvml | None:
        """That of the present GPU; None without `pynvml` (the package nvidia-ml-py), or where the GPU does not tell."""
        try:
            pynvml: Any = import_module("pynvml")
        except ModuleNotFoundError:
            return None
        import torch

        try:
            pynvml.nvmlInit()
            uuid = torch.cuda.get_device_properties(torch.cuda.current_device()).uuid
            handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}".encode())
            return cls(pynvml, handle, pynvml.nvmlDeviceGetTotalEnergyConsumption(handle))
        except pynvml.NVMLError:
            return None

    def joules(self) -> float | None:
        """Since it was opened."""
        try:
            return float(self.library.nvmlDeviceGetTotalEnergyConsumption(self.handle) - self.began) / 1e3
        except self.library.NVMLError:
            return None
