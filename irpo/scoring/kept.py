"""Candidates of a corpus, kept between queries as the keys and values of their columns.

In a prompt of blocks a candidate sees what stands before the candidates and itself. Where the query stands behind them
(`prompt.template=behind`) its columns are the same for every query, up to its label, which is dealt anew: what is kept
ends before it. A new query takes the labels and what stands behind the candidates in one pass, and no candidate again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from irpo.prompting.prompts import PromptBuilder
from irpo.scoring.attention import SPLIT
from irpo.scoring.batching import ListBatch, collate, make_batch
from irpo.scoring.forward import read_scores
from irpo.scoring.layout import Layout, Length, Scorer
from irpo.scoring.masks import Bounds, additive, attention_masks, in_parts, visible_between
from irpo.scoring.models import adapter_layers, causal_lm, per_layer_type
from irpo.scoring.tokens import EncodedList, Tokens, prompted
from irpo.scoring.whole import NO_BLOCKS, one_row
from irpo.types import Candidate, RankingExample, UserError

TEXTS = 512  # columns of candidates whose labels go in one part


@dataclass(frozen=True)
class Table:
    """Keys and values of columns in all layers; those whose heads are of one size, mostly all, are one stack."""

    stacks: tuple[Tensor, ...]  # (layers of one size, 2, heads, columns, D)
    order: tuple[int, ...]  # of each layer, in which stack it is the next

    @property
    def bytes(self) -> int:
        """What it holds of memory."""
        return sum(stack.untyped_storage().nbytes() for stack in self.stacks)


class Kept:
    """Keys and values, a `Table` each, by the model's state and their tokens; of at most `room` bytes.

    Those asked for least recently go first. The state are the weights, by place and version in memory, and which
    adapters are on: after an update, without the adapter or with another, nothing of before is found. A write through
    `.data` raises no version: whoever writes so says `clear`.
    """

    def __init__(self, room: int = 2**30) -> None:
        self.room, self.bytes = room, 0
        self._held: OrderedDict[Hashable, Table] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def get(self, key: Hashable) -> Table | None:
        """What is held of it, which from now on was asked for last."""
        if key in self._held:
            self._held.move_to_end(key)
        return self._held.get(key)

    def clear(self) -> None:
        """Let go of all."""
        self._held.clear()
        self.bytes = 0

    def put(self, key: Hashable, value: Table) -> None:
        """Hold it, and let go of others where there is no room; what is larger than all room is not held."""
        size = value.bytes
        if key in self._held or size > self.room:
            return
        self._held[key] = value
        self.bytes += size
        while self.bytes > self.room:
            self.bytes -= self._held.popitem(last=False)[1].bytes


@torch.no_grad()
def score_kept(
    model: Any, items: Sequence[EncodedList], scorer: Scorer, kept: Kept, *, length: Length = "sum"
) -> list[Tensor]:
    """`score_lists` of prompts of blocks, one at a time, with the candidates that are kept, and keeping the others.

    `UserError` for other prompts, for labels that stand before the texts, and for a model whose layers are not all
    attention.
    """
    if not one_row(model):
        raise UserError(NO_BLOCKS)
    lm = causal_lm(model)
    found = []
    for item in items:
        _require_kept(item)
        batch = make_batch([item], scorer).to(lm.device)
        held, asked = _columns(item, batch.ids.shape[1])
        table = _table(model, item, kept, len(asked))
        held, asked = held.to(lm.device), asked.to(lm.device)
        states = lm.get_decoder()(
            input_ids=batch.ids[:, asked],
            position_ids=batch.positions[:, asked],
            attention_mask=_masks(lm, batch, held, asked),
            past_key_values=_cache_of(table, len(held)),
            use_cache=True,
        ).last_hidden_state
        scores = read_scores(model, batch, states[0, torch.searchsorted(asked, batch.cells)], length).first
        found.append(scores[0].cpu())
    return found


def _columns(item: EncodedList, width: int) -> tuple[Tensor, Tensor]:
    """The columns up to the end of the blocks without the labels, and the others."""
    asked = torch.ones(width, dtype=torch.bool)
    asked[: item.blocks[0].start] = False
    for block in item.blocks:
        asked[block.start : block.own] = False
    return (~asked).nonzero()[:, 0], asked.nonzero()[:, 0]


def _masks(lm: Any, batch: ListBatch, held: Tensor, asked: Tensor) -> Any:
    """Which of the columns that are held, and behind those of the ones that ask, each of the latter sees."""
    config, keys = lm.config.get_text_config(), torch.cat([held, asked])

    def of_window(window: int | None) -> Tensor:
        if config._attn_implementation != SPLIT:
            return additive(visible_between(batch, window, asked, keys), lm.dtype)
        bounds = _bounds(batch.items[0], len(held), len(asked))
        return in_parts(batch, window, asked, keys, bounds, lm.dtype)

    return per_layer_type(config, of_window)


def _bounds(item: EncodedList, held: int, asked: int) -> list[Bounds]:
    """The labels, some candidates' at a time with their texts, and what stands behind the candidates."""
    prefix = item.blocks[0].start
    text = stop = prefix  # keys of texts from `text` to `stop`, labels from `label` to `end`
    label = end = 0
    found: list[Bounds] = []
    for block in item.blocks:
        stop, end = stop + block.own - block.start, end + block.stop - block.own
        if end > label and (stop - text >= TEXTS or block is item.blocks[-1]):
            found.append((label, end, ((0, prefix), (text, stop), (held + label, held + end))))
            text, label = stop, end
    return [*found, (end, asked, ((0, held + asked),))]


def require_kept(builder: PromptBuilder) -> None:
    """`UserError` where the candidates of such prompts cannot be kept."""
    shown = RankingExample("shown", "query", (Candidate("1", "one"), Candidate("2", "two")))
    (prompt,) = prompted(builder, [shown], labels=False)
    _require_kept(prompt.tokens)


def _require_kept(item: EncodedList) -> None:
    if not item.blocks:
        raise UserError("candidates are kept in prompts of blocks alone: set prompt.attention to block")
    if any(block.own == block.start for block in item.blocks):
        raise UserError(
            "candidates are kept up to their labels, which this template writes first: set prompt.template to behind"
        )


def _table(model: Any, item: EncodedList, kept: Kept, room: int) -> Table:
    """Keys and values of the prompt up to the end of its blocks without the labels.

    Behind them is room for more columns.
    """
    prefix = item.prompt[: item.blocks[0].start]
    texts = [item.prompt[block.start : block.own] for block in item.blocks]
    begin, found = _texts(model, prefix, texts, kept)
    stacks = []
    for n, first in enumerate(begin.stacks):
        empty = first.new_empty(*first.shape[:-2], room, first.shape[-1])
        stacks.append(torch.cat([first, *(found[text].stacks[n] for text in texts), empty], -2))
    return Table(tuple(stacks), begin.order)


class _Room(DynamicLayer):
    """A layer whose new columns are written into the room behind those that are held, which are not copied."""

    def __init__(self, table: Tensor, held: int) -> None:
        super().__init__()
        self.lazy_initialization(*table)
        self.keys, self.values = table[:, None]
        self.held = held

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        self.keys[:, :, self.held :], self.values[:, :, self.held :] = key_states, value_states
        return self.keys, self.values

    def get_seq_length(self) -> int:
        return self.held


def _cache_of(table: Table, held: int) -> DynamicCache:
    """A table as transformers takes it, of whose columns so many are held."""
    cache = DynamicCache()
    stacks = [iter(stack) for stack in table.stacks]
    cache.layers = [_Room(next(stacks[n]), held) for n in table.order]
    return cache


def _texts(model: Any, prefix: Tokens, texts: Sequence[Tokens], kept: Kept) -> tuple[Table, dict[Tokens, Table]]:
    """Keys and values of the prefix and of each different text behind it; what is not kept in one pass."""
    state = _state(model)
    begin = kept.get((state, prefix))
    held = {text: kept.get((state, prefix, text)) for text in dict.fromkeys(texts)}
    missing = [text for text, table in held.items() if table is None]
    if missing or (begin is None and prefix):
        layout = Layout(size=1)
        layout.grow_trunk(prefix)
        for text in missing:
            layout.add_block(len(prefix), text)
        lm = causal_lm(model)
        empty = EncodedList("", (), (), (), (), ())
        batch, cache = collate([empty], [layout], alone=True).to(lm.device), DynamicCache()
        lm.get_decoder()(
            input_ids=batch.ids,
            position_ids=batch.positions,
            attention_mask=attention_masks(lm.config.get_text_config(), batch, lm.dtype),
            past_key_values=cache,
            use_cache=True,
        )
        sizes = [len(prefix), *map(len, missing)]
        begin, *fresh = _split_up(cache, sizes)
        kept.put((state, prefix), begin)
        for text, table in zip(missing, fresh, strict=True):
            held[text] = table
            kept.put((state, prefix, text), table)
    found = {text: table for text, table in held.items() if table is not None}
    if begin is None:
        one = next(iter(found.values()))
        begin = Table(tuple(stack[..., :0, :] for stack in one.stacks), one.order)
    return begin, found


def _split_up(cache: DynamicCache, sizes: Sequence[int]) -> list[Table]:
    """Tables of so many columns each, one behind the other, which share no memory."""
    layers = [torch.stack([layer.keys[0], layer.values[0]]) for layer in cache.layers]
    shapes = list(dict.fromkeys(layer.shape for layer in layers))
    order = tuple(shapes.index(layer.shape) for layer in layers)
    stacks = [torch.stack([layer for layer in layers if layer.shape == shape]) for shape in shapes]
    parts = zip(*(torch.split(stack, list(sizes), -2) for stack in stacks), strict=True)
    return [Table(tuple(part.clone() for part in each), order) for each in parts]


def _state(model: Any) -> Hashable:
    """The weights, by place and version in memory, and which adapters are on, merged, and how they are scaled."""
    weights = tuple((p.data_ptr(), p._version) for p in model.parameters())
    adapters = tuple(
        (
            layer.get("_disable_adapters"),
            str(layer.get("_active_adapter")),
            tuple(layer.get("merged_adapters", ())),
            tuple(layer.get("scaling", {}).items()),
        )
        for layer in adapter_layers(model)
    )
    return hash((weights, adapters))
