"""Prompts of blocks in a cache, for whoever goes on behind them: what follows sees all of it, as of any prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from irpo.scoring.batching import PAD_LIST, collate
from irpo.scoring.layout import begun
from irpo.scoring.masks import attention_masks
from irpo.scoring.models import causal_lm
from irpo.scoring.tokens import EncodedList
from irpo.scoring.whole import NO_BLOCKS, one_row
from irpo.types import UserError

NOBODY = -1  # the position of a column that is padding


def prefill(model: Any, items: Sequence[EncodedList]) -> tuple[DynamicCache, Tensor]:
    """The prompts up to the end of their blocks, a row a list, and the position (R, C) of each column.

    A prompt that stands there several times goes through the model once. `UserError` for a model whose layers are not
    all attention.
    """
    if not one_row(model):
        raise UserError(NO_BLOCKS)
    first = {item.prompt: row for row, item in reversed(list(enumerate(items)))}
    rows = sorted(first.values())
    different = [items[row] for row in rows]
    lm = causal_lm(model)
    batch = collate(different, [begun(item) for item in different], alone=True).to(lm.device)
    cache = DynamicCache()  # of no configuration: with one, layers would drop columns behind a window of columns
    lm.get_decoder()(
        input_ids=batch.ids,
        position_ids=batch.positions,
        attention_mask=attention_masks(lm.config.get_text_config(), batch, lm.dtype),
        past_key_values=cache,
        use_cache=True,
    )
    held = batch.positions.masked_fill(batch.lists == PAD_LIST, NOBODY)
    if len(rows) < len(items):
        again = torch.tensor([rows.index(first[item.prompt]) for item in items], device=lm.device)
        cache.batch_select_indices(again)
        held = held[again]
    return cache, held


def rest_of(item: EncodedList) -> tuple[int, ...]:
    """The prompt behind its blocks; all of it where it has none."""
    return item.prompt[item.blocks[-1].stop :] if item.blocks else item.prompt


def by_position(queries: Tensor, keys: Tensor, window: int | None, dtype: torch.dtype) -> Tensor:
    """The mask (R, 1, Q, K) of the last Q of K columns: real, not later, within the window. Padding sees itself."""
    apart = queries[:, :, None] - keys[:, None, :]
    seen = (keys[:, None, :] != NOBODY) & (apart >= 0)
    if window is not None:
        seen &= apart < window
    count, total = queries.shape[1], keys.shape[1]
    column = torch.arange(total, device=keys.device)
    seen |= column == column[total - count :, None]
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, torch.finfo(dtype).min)[:, None]
