"""Everything that only a GPU can show, in one command of a few minutes, without a network.

    python benchmarks/on_gpu.py                      # the shapes of Llama-3.2-3B, Gemma-2-2B and Phi-3-mini, 9 minutes
    python benchmarks/on_gpu.py --shape tiny         # the same code on a CPU, within a minute
    python benchmarks/on_gpu.py --only parity,steps --shape llama3.2-3b --lines found.jsonl

Prints one JSON line for each finding as soon as it is there, so that what was found survives being cut off. A stage
that fails leaves a line with its error, and the next one goes on; a stage for which there is no time says so. Weights
are random, drawn on the card once for each shape and quantized in place. It needs torch, transformers, accelerate,
peft, pydantic, jinja2, pyyaml, rich and safetensors; without bitsandbytes the 4-bit stages take bfloat16.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import gpu_stages as on
import torch
from gpu_stages import GIB, Findings, Held, cleaned_up, synchronize

REAL = ("llama3.2-3b", "gemma2-2b", "phi3-mini")
PACKAGES = ("torch", "transformers", "accelerate", "peft", "bitsandbytes", "triton")


@dataclass
class Stage:
    """One thing to find out: `work` yields findings, ends after `most` seconds, needs `least` to start."""

    name: str
    work: Callable[[], Findings]
    least: float = 5
    most: float = 120


@dataclass
class Clock:
    """What is left of the time, and where the lines go."""

    minutes: float
    lines: Path | None = None
    since: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        return self.minutes * 60 - (time.monotonic() - self.since)

    def show(self, stage: str, **found: Any) -> None:
        """One line, at once."""
        line = json.dumps({"stage": stage, "at_s": round(time.monotonic() - self.since, 1)} | found, default=str)
        print(line, flush=True)
        if self.lines is not None:
            with self.lines.open("a", encoding="utf-8") as file:
                file.write(line + "\n")

    def run(self, stage: Stage) -> None:
        """A stage's findings, or why there are none; never an exception of its own."""
        if self.left < stage.least:
            self.show(stage.name, skipped=f"{self.left:.0f} s left")
            return
        start = time.monotonic()
        try:
            with limited(min(stage.most, self.left)):
                for found in stage.work():
                    self.show(stage.name, **found)
        except Exception as error:  # noqa: BLE001 - the next stage goes on whatever this one met
            frames = traceback.extract_tb(error.__traceback__)
            where = [f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in frames[-4:]]
            reason = " ".join(str(error).split())[:400]
            self.show(stage.name, error=type(error).__name__, reason=reason, where=where)
        cleaned_up()
        self.show(stage.name, done=True, seconds=round(time.monotonic() - start, 1))


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """`TimeoutError` after so many seconds, as far as Python gets a word in."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def stop(*_: Any) -> None:
        raise TimeoutError(f"stopped after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# What the machine is ------------------------------------------------------------------------------------------------


def machine() -> Findings:
    """Versions, the card, and what it reaches on one matrix product."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    yield {"python": platform.python_version(), **versions}
    from irpo.estimate.cards import matmul_rate

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        about = torch.cuda.get_device_properties(0)
        yield {
            "card": about.name,
            "gib": round(about.total_memory / GIB, 1),
            "capability": f"{about.major}.{about.minor}",
        }
    dtype, width = (torch.bfloat16, 8192) if device.type == "cuda" else (torch.float32, 512)
    yield {"matmul_tflops": round(matmul_rate(device, dtype, width) / 1e12, 2), "dtype": str(dtype)}


def doctor() -> Findings:
    """What `irpo doctor` says of device, 4 bits and attention."""
    from irpo import doctor as checks

    for check in checks.examine():
        if check.state != "ok" or check.topic.startswith(("device", "4-bit", "attention")):
            yield {"topic": check.topic, "state": check.state, "detail": check.detail}


def cudnn() -> Findings:
    """Masked attention at 24 new lengths, forward and backward, with cuDNN's kernel and without: seconds, and NaN."""
    if not torch.cuda.is_available():
        yield {"skipped": "no GPU"}
        return
    before = torch.backends.cuda.cudnn_sdp_enabled()
    try:
        for on in (True, False):
            torch.backends.cuda.enable_cudnn_sdp(on)
            start, broken = time.perf_counter(), 0
            for length in range(300, 1500, 50):
                broken += not masked_attention_is_finite(length + on)
            synchronize()
            yield {"cudnn": on, "seconds": round(time.perf_counter() - start, 2), "shapes_with_nan": broken}
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


def masked_attention_is_finite(length: int) -> bool:
    query = torch.randn(1, 24, length, 128, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    mask = torch.zeros(1, 1, length, length, device="cuda", dtype=torch.bfloat16)
    mask.masked_fill_(torch.ones_like(mask, dtype=torch.bool).triu(1), torch.finfo(mask.dtype).min)
    out = torch.nn.functional.scaled_dot_product_attention(query, query, query, attn_mask=mask)
    (found,) = torch.autograd.grad(out.float().sum(), query)
    return bool(found.isfinite().all())


def stages(options: argparse.Namespace) -> list[Stage]:
    """All of them, what matters most first."""
    from setting import Case

    found = [Stage("machine", machine), Stage("doctor", doctor, most=60), Stage("cudnn", cudnn, most=60)]
    shapes = [options.shape] if options.shape else list(REAL)
    held = []
    for shape in shapes:
        small = shape == "tiny"
        case = Case(shape, prompt=24, candidates=4, tokens=3, lists=2) if small else Case(shape, prompt=512, lists=4)
        one = Held(shape, case, steps=3 if small else 20, repetitions=1 if small else 3)
        held.append(one)
        for work in (on.float32_parity, on.weights, on.parity, on.four_bits, on.parity, on.steps, on.throughput):
            found.append(Stage(f"{work.__name__} {shape}", lambda work=work, one=one: work(one)))
    for work in (on.stops, on.lora_precision, on.parts, on.adapter_off, on.modes, on.flex):
        found.append(Stage(f"{work.__name__} {shapes[0]}", lambda work=work: work(held[0]), least=10))
    wanted = options.only and {*options.only.split(","), "weights", "four_bits"}
    return [stage for stage in found if not wanted or stage.name.split()[0] in wanted]


def main() -> None:
    """Run every stage, in order, as long as there is time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--shape", help="one shape of setting.py instead of the three; 'tiny' for a CPU")
    parser.add_argument("--only", help="stages by name, a comma between them")
    parser.add_argument("--lines", type=Path, help="a file that gets every line as well")
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here is on a hub, and nobody may wait for one
    clock = Clock(options.minutes, options.lines)
    try:
        found = stages(options)
    except Exception as error:  # noqa: BLE001 - a package that is missing is a finding
        clock.show("imports", error=type(error).__name__, reason=str(error)[:400])
        found = [Stage("machine", machine)]
    for stage in found:
        clock.run(stage)
    clock.show("end", left_s=round(clock.left))


if __name__ == "__main__":
    main()
