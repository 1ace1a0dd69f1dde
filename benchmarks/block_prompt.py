"""What a prompt in blocks saves: ranking and training by `label`, K candidates of 60 tokens, a 24M Llama.

    OMP_NUM_THREADS=2 python benchmarks/block_prompt.py            # K = 100, 200, 500; about 25 minutes on 2 cores
    OMP_NUM_THREADS=2 python benchmarks/block_prompt.py --quick    # K = 20, 40
    ... --work ranking --sizes 100 --repetitions 5

`full`: the same prompt in one, through the causal kernel without a mask, as it is scored otherwise. `rows`: the same
tokens, bare, as rows of a candidate each: less than any prompt can take. `linear`: what a token takes at each K, over
what it takes at the first. `cached`: a new query over candidates whose keys and values are kept, against `full`.
Two settings of the process change what is measured. OMP_WAIT_POLICY=passive: waiting threads that spin cost short
passes most. MALLOC_TRIM_THRESHOLD_=8000000000 MALLOC_MMAP_THRESHOLD_=4000000000: without them glibc gives freed memory
back to the system after some passes and not after others, and a pass of blocks takes it anew, page by page.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any

import torch
from setting import Case, interleaved, our_trainer, show

from irpo.scorers import SCORERS
from irpo.scoring.batching import make_batch
from irpo.scoring.forward import score_batch
from irpo.scoring.kept import Kept, score_kept
from irpo.scoring.models import causal_lm
from irpo.scoring.tokens import Block, EncodedList

BEFORE, EACH, BEHIND = 40, 60, 40  # tokens of instruction and query, of a candidate, of what stands behind
SIZES, QUICK = (100, 200, 500), (20, 40)


def block_list(candidates: int, vocabulary: int, *, query: int = 0) -> EncodedList:
    """A list of random tokens in blocks, with two relevant candidates; another query, another end."""
    texts = torch.randint(
        3, vocabulary, (BEFORE + candidates * EACH,), generator=torch.Generator().manual_seed(candidates)
    )
    behind = torch.randint(3, vocabulary, (BEHIND,), generator=torch.Generator().manual_seed(query))
    starts = range(BEFORE, BEFORE + candidates * EACH, EACH)
    blocks = tuple(Block(start, start + EACH - 3, start + EACH) for start in starts)
    bodies = tuple((3 + j,) for j in range(candidates))
    heads = ((4,),) + ((5, 6),) * (candidates - 1)
    relevance = (2.0, 1.0) + (0.0,) * (candidates - 2)
    prompt = tuple(texts.tolist() + behind.tolist())
    return EncodedList(f"list-{candidates}", prompt, heads, bodies, (2,), relevance, blocks=blocks)


def rows_of(item: EncodedList) -> torch.Tensor:
    """The tokens of its candidates, a row each."""
    return torch.tensor([item.prompt[block.start : block.stop] for block in item.blocks])


def ranking(model: Any, item: EncodedList) -> dict[str, Callable[[], Any]]:
    """A forward pass each way, layout and mask included."""
    decoder, ids = causal_lm(model).get_decoder(), rows_of(item)

    def scored(asked: EncodedList) -> Callable[[], Any]:
        @torch.no_grad()
        def work() -> Any:
            return score_batch(model, make_batch([asked], SCORERS.build("label")))

        return work

    @torch.no_grad()
    def bare() -> Any:
        return decoder(input_ids=ids, use_cache=False).last_hidden_state

    return {
        "block": scored(item),
        "full": scored(replace(item, blocks=())),
        "rows": bare,
        "cached": cached(model, item),
    }


def cached(model: Any, item: EncodedList) -> Callable[[], Any]:
    """Another query over the same candidates, again and again; their keys and values are there."""
    kept, scorer, queries = Kept(4 * 2**30), SCORERS.build("label"), count(1)
    behind = item.blocks[-1].stop
    score_kept(model, [item], scorer, kept)

    def work() -> Any:
        asked = block_list(len(item.blocks), Case("24m").vocabulary, query=next(queries))
        assert asked.prompt[:behind] == item.prompt[:behind]
        return score_kept(model, [asked], scorer, kept)

    return work


def training(model: Any, item: EncodedList) -> dict[str, Callable[[], Any]]:
    """Forward and backward each way, the reference at hand, no optimiser."""
    decoder, ids = causal_lm(model).get_decoder(), rows_of(item)

    def trained(asked: EncodedList) -> Callable[[], Any]:
        trainer = our_trainer(model, [asked], "precomputed", scorer="label")

        def work() -> None:
            trainer.training_step(model, [asked])
            model.zero_grad()

        return work

    def bare() -> None:
        decoder(input_ids=ids, use_cache=False).last_hidden_state.sum().backward()
        model.zero_grad()

    return {"block": trained(item), "full": trained(replace(item, blocks=())), "rows": bare}


def measure(what: str, sizes: tuple[int, ...], repetitions: int) -> None:
    """All sizes in turns, so that growth is measured in one run."""
    case = Case("24m")
    works: dict[str, Callable[[], Any]] = {}
    for size in sizes:
        item = block_list(size, case.vocabulary)
        made = {"ranking": ranking, "training": training}[what](case.model(), item)
        works |= {f"{name} {size}": work for name, work in made.items()}
    seconds = interleaved(works, repetitions)
    tokens = {size: BEFORE + size * EACH + BEHIND for size in sizes}
    for size in sizes:
        ours = seconds[f"block {size}"]
        for other in ("full", "rows"):
            show("block_prompt", f"{what}, K = {size}", other, (ours, seconds[f"{other} {size}"]), "s")
        if what == "ranking":
            figures = (seconds[f"cached {size}"], seconds[f"full {size}"])
            show("block_prompt", f"{what}, K = {size}, cached", "full", figures, "s")
        first = seconds[f"block {sizes[0]}"] / tokens[sizes[0]]
        show("block_prompt", f"{what}, K = {size}", "linear", (1e6 * ours / tokens[size], 1e6 * first), "us/token")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", choices=("ranking", "training", "both"), default="both")
    parser.add_argument("--sizes", type=int, nargs="+")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    sizes = tuple(given.sizes or (QUICK if given.quick else SIZES))
    for what in ("ranking", "training") if given.work == "both" else (given.work,):
        measure(what, sizes, given.repetitions)


if __name__ == "__main__":
    main()
