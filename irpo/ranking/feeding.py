"""Prompts as transformers' `generate` is fed them, and what of them goes through the model before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, GenerationConfig

from irpo.scoring.layout import trunk_of
from irpo.scoring.prefill import prefill, rest_of
from irpo.scoring.tokens import EncodedList
from irpo.scoring.whole import one_row
from irpo.types import UserError


@dataclass(frozen=True)
class Fed:
    """Prompts padded before what `generate` is fed, since it continues from the last column.

    Of prompts of blocks it is fed what stands behind the blocks, which stand padded before it.
    """

    items: Sequence[EncodedList]
    ids: Tensor  # (R, T)
    mask: Tensor  # (R, T), 1 = real
    positions: Tensor  # (R, T)

    @classmethod
    def of(cls, items: Sequence[EncodedList], model: Any, settings: GenerationConfig) -> Fed:
        """On the model's device; `UserError` where a sliding window would count the blocks' columns as positions."""
        rests = [rest_of(item) for item in items]
        begins = [item.prompt[: len(item.prompt) - len(rest)] for item, rest in zip(items, rests, strict=True)]
        longest = max(map(len, begins))
        width = longest + max(map(len, rests))
        window = getattr(model.config.get_text_config(), "sliding_window", None)
        if longest and window is not None and window < width + int(settings.max_new_tokens or 0):
            raise UserError(
                f"prompt.attention 'block': a model with a sliding window of {window} tokens writes freely behind no "
                "prompt that is longer; take mode score or constrain"
            )
        ids = torch.full((len(items), width), int(settings.pad_token_id), dtype=torch.long)
        mask, places = torch.zeros_like(ids), torch.zeros_like(ids)
        for row, (item, begin, rest) in enumerate(zip(items, begins, rests, strict=True)):
            layout = trunk_of(item, head=False)
            for part, start in ((slice(0, len(begin)), 0), (slice(len(begin), None), width - len(rest))):
                columns = slice(start, start + len(layout.ids[part]))
                ids[row, columns] = torch.tensor(layout.ids[part], dtype=torch.long)
                places[row, columns] = torch.tensor(layout.positions[part], dtype=torch.long)
                mask[row, columns] = 1
        return cls(items, *(table.to(model.device) for table in (ids, mask, places)))

    def prefilled(self, model: Any) -> DynamicCache | None:
        """What goes through the model before `generate` does; None where that is nothing.

        Of prompts of blocks all up to their blocks' end, else the prompts but for their last token where some are the
        same: each different one is computed once. None as well for a model whose layers are not all attention: their
        states cannot be repeated.
        """
        if self.items[0].blocks:
            return prefill(model, self.items)[0]
        first = {item.prompt: row for row, item in reversed(list(enumerate(self.items)))}
        same_as = [first[item.prompt] for item in self.items]
        rows = sorted(set(same_as))
        if len(rows) == len(same_as) or self.ids.shape[1] < 2 or not one_row(model):
            return None
        cache = DynamicCache(config=model.config)
        model.get_decoder()(
            input_ids=self.ids[rows, :-1],
            attention_mask=self.mask[rows, :-1],
            position_ids=self.positions[rows, :-1],
            past_key_values=cache,
            use_cache=True,
        )
        cache.batch_select_indices(torch.tensor([rows.index(row) for row in same_as], device=self.ids.device))
        return cache
