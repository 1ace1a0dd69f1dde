"""Kernels that a micro-batch starts and bytes that they read and write, on tensors that have shapes but no memory.

    python benchmarks/traffic.py                       # the Llama-3.2-3B shape in NF4, as a card would take it
    python benchmarks/traffic.py --shape gemma2-2b --lists 4

One JSON line for each way of packing and computing: parts of so many columns, padding that is taken for narrower rows,
the adapter in float32 or under bfloat16 autocast. Every operation that writes memory of its own counts as a kernel, its
operands and results as traffic; what a real kernel keeps in a cache is not known here.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import torch
from setting import SHAPES, config_of, random_list
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from irpo.estimate.ledger import Ledger
from irpo.estimate.memory import Build, Passes, _hold, _run, build_model
from irpo.scorers import SCORERS
from irpo.scoring import attention
from irpo.scoring import batching as encoding
from irpo.scoring.batching import make_batch
from irpo.scoring.models import LoraOptions

GIB = 2**30
PROMPTS = (1193, 1058, 1008, 958, 938)  # rows of 1,335 columns or less with 20 candidates of 8 tokens


class Traffic(TorchDispatchMode):
    """Counts operations that are no views, and the bytes of their operands and results."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels = self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        made = [t for t in tree_leaves(out) if isinstance(t, torch.Tensor)]
        if not func.is_view and "empty" not in func._schema.name and made:
            self.kernels += 1
            self.bytes += sum(t.numel() * t.element_size() for t in (*given, *made))
        return out


def measured(shape: str, lists: int, *, mixed: bool) -> dict[str, Any]:
    """A micro-batch as it would be trained: reference, policy, backward, with checkpointing."""
    items = [random_list(str(i), SHAPES[shape]["vocab_size"], PROMPTS[i % 5], 20, 8) for i in range(lists)]
    batch = make_batch(items, SCORERS.build("independent"))
    options = LoraOptions(r=16)
    build = Build(torch.bfloat16, nf4=True, lora=options, checkpointing=True, mixed=mixed, gpu=True)
    passes = Passes((batch,), adapters_off=batch)
    model, _, _ = build_model(config_of(shape), build)
    with FakeTensorMode(allow_non_fake_inputs=True), Ledger() as ledger:
        _hold(model, ledger, build, passes)
        with Traffic() as traffic:
            _run(model, ledger, build, passes)
    rows = "{} x {}".format(*batch.ids.shape)
    peak = sum(ledger.history.at_peak().values())
    return {
        "rows": rows,
        "kernels": traffic.kernels,
        "gib": round(traffic.bytes / GIB),
        "peak_gib": round(peak / GIB, 2),
    }


def main() -> None:
    """One line a variant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="llama3.2-3b")
    parser.add_argument("--lists", type=int, default=5)
    options = parser.parse_args()
    for columns, padding, mixed in ((128, 0.05, False), (512, 0.05, False), (512, 0.15, False), (512, 0.15, True)):
        attention.PART_COLUMNS.update(cpu=columns)
        encoding.MAX_PADDING = padding
        found = measured(options.shape, options.lists, mixed=mixed)
        about = {"columns": columns, "padding": padding, "autocast": mixed}
        print(json.dumps({"benchmark": "traffic", "shape": options.shape} | about | found), flush=True)


if __name__ == "__main__":
    main()
