"""The one forward pass that reads a batch's log-probabilities: mask, item-only logits in chunks, soft-cap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from irpo.scoring.batching import ListBatch, collate
from irpo.scoring.head import read_logprobs
from irpo.scoring.layout import Length, Scorer, in_budget, lay_out
from irpo.scoring.masks import attention_masks
from irpo.scoring.models import causal_lm
from irpo.scoring.tokens import EncodedList
from irpo.scoring.whole import one_row, whole_states

TOKENS_PER_BATCH = 8192  # columns of one forward pass where nothing is said
LISTS_LAID_OUT = 256  # lists that are laid out at once


def hidden_states(model: Any, batch: ListBatch) -> Tensor:
    """Last hidden states of the batch's cells, (N, H)."""
    if not one_row(model):
        return whole_states(model, batch)
    lm = causal_lm(model)
    config = lm.config.get_text_config()
    masks = attention_masks(config, batch, lm.dtype)
    states: Tensor = lm.get_decoder()(
        input_ids=batch.ids, position_ids=batch.positions, attention_mask=masks, use_cache=False
    ).last_hidden_state
    return states.flatten(0, 1)[batch.cells]


@dataclass(frozen=True)
class Scores:
    """What one forward pass gives for B lists, float32, nats."""

    table: Tensor  # (B, I, K); I is 1, or a row a rank where the scorer scores anew at each
    present: Tensor  # (B, I, K) bool, the candidates that were scored
    target: Tensor | None  # (B,) log-likelihood of the target list's text
    target_tokens: Tensor | None = None  # (B,) how many tokens it has

    @property
    def first(self) -> Tensor:
        """The scores at the first rank, (B, K)."""
        return self.table[:, 0]


def score_batch(model: Any, batch: ListBatch, *, length: Length = "sum") -> Scores:
    """One forward pass over a batch. `length: mean` divides a candidate's sum by its tokens; the target stays a sum.

    A place that is read by choices gets log p(token) - log sum p(allowed) of each: the log-probability of the walk.
    """
    return read_scores(model, batch, hidden_states(model, batch), length)


def read_scores(model: Any, batch: ListBatch, states: Tensor, length: Length) -> Scores:
    """`score_batch` of the hidden states (N, H) of the batch's cells."""
    lm = causal_lm(model)
    reads = (batch.read_cell, batch.read_token)
    head, config = lm.get_output_embeddings(), lm.config.get_text_config()
    logp = read_logprobs(head, config, states, reads, batch.read_ends)
    lists, size = batch.mask.shape
    places = lists * batch.ranks * size
    ends = places + lists  # of the table, and of the target lists behind it
    flat = logp.new_zeros(ends + len(batch.among_place)).index_add(0, batch.read_place, logp)
    tokens = torch.zeros_like(flat).index_add(0, batch.read_place, torch.ones_like(logp))
    if len(batch.among_place):
        flat = flat.index_add(0, batch.among_place, -_allowed(logp, batch, ends))
    counts = tokens[:places]
    table = flat[:places] / counts.clamp(min=1) if length == "mean" else flat[:places]
    shape = (lists, batch.ranks, size)
    target = (flat[places:ends], tokens[places:ends]) if batch.target else (None, None)
    return Scores(table.view(shape), (counts > 0).view(shape), *target)


def _allowed(logp: Tensor, batch: ListBatch, ends: int) -> Tensor:
    """log sum p of the tokens allowed at each choice, (C,)."""
    values, choice = logp[batch.among_read], batch.read_place[batch.among_read] - ends
    peak = values.new_full(batch.among_place.shape, -torch.inf)
    peak = peak.scatter_reduce(0, choice, values.detach(), "amax")
    return peak + torch.zeros_like(peak).index_add(0, choice, (values - peak[choice]).exp()).log()


@torch.no_grad()
def score_lists(
    model: Any,
    tokenizer: Any,
    items: Sequence[EncodedList],
    scorer: Scorer,
    *,
    tokens_per_batch: int = TOKENS_PER_BATCH,
    length: Length = "sum",
) -> list[Tensor]:
    """Scores of each list's candidates, (K,) each, in the given order of lists; higher is better.

    Give it lists `without_labels()` wherever the scores will be evaluated.
    """
    by_size = sorted(range(len(items)), key=lambda i: len(items[i].prompt))
    device, pad = causal_lm(model).device, tokenizer.pad_token_id or 0
    found: dict[int, Tensor] = {}
    for start in range(0, len(items), LISTS_LAID_OUT):
        some = by_size[start : start + LISTS_LAID_OUT]
        layouts = lay_out([items[i] for i in some], scorer)
        for group in in_budget(layouts, tokens_per_batch):
            chosen = [some[k] for k in group]
            batch = collate([items[i] for i in chosen], [layouts[k] for k in group], pad_id=pad)
            scores = score_batch(model, batch.to(device), length=length).first
            for i, row in zip(chosen, scores.cpu(), strict=True):
                found[i] = row[: len(items[i].bodies)]
    return [found[i] for i in range(len(items))]
