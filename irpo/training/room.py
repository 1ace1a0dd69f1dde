"""Work in batches of tokens, made smaller where memory runs out. What comes out never depends on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

import torch

from irpo.processes import require_second_try
from irpo.progress import say
from irpo.scoring.layout import Layout
from irpo.types import UserError

T = TypeVar("T")


def as_it_fits(work: Callable[[int], T], tokens: int, layouts: Callable[[], Sequence[Layout]]) -> tuple[T, int]:
    """`work` in batches of at most `tokens` tokens, or of half as many until they fit; and how many did.

    `layouts` are those of the lists: below the longest of them no batch gets smaller.
    """
    while True:
        # Out of this block the error is gone, and with it the forward pass that it holds.
        with suppress(torch.OutOfMemoryError):
            return work(tokens), tokens
        tokens = smaller(tokens, alone=tokens <= max(len(layout.ids) for layout in layouts()))


def smaller(tokens: int, *, alone: bool) -> int:
    """Half the tokens in a batch, and nothing left of what did not fit; `UserError` where a list was alone in it."""
    require_second_try()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if alone:
        raise UserError(
            "out of memory with one list a batch; set model.gradient_checkpointing=true, shorten prompt.max_tokens, "
            "or take a smaller model"
        )
    say(f"out of memory: batches of {tokens // 2} tokens from now on; the result is the same")
    return tokens // 2
