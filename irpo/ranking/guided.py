"""Decoding along walks, one forward pass a decision: what is forced between two decisions is fed together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache

from irpo.ranking.walk import Walk
from irpo.scoring.head import soft_cap
from irpo.scoring.models import per_layer_type
from irpo.scoring.prefill import NOBODY, by_position, prefill, rest_of
from irpo.scoring.strength import PLAIN, Strength, Way
from irpo.scoring.tokens import EncodedList
from irpo.scoring.whole import NO_BLOCKS, one_row, sequence_states
from irpo.types import UserError

# Walks by their number, and the logits (R, A) of the tokens that each may take, -inf behind them: the columns taken.
Pick = Callable[[Sequence[int], Tensor], list[int]]


def most_likely(_: Sequence[int], logits: Tensor) -> list[int]:
    """The highest of each row, the first of equals."""
    best: list[int] = logits.masked_fill(logits.isnan(), -torch.inf).argmax(-1).tolist()
    return best


def follow(
    model: Any,
    items: Sequence[EncodedList],
    walks: Sequence[Walk],
    strength: Strength = PLAIN,
    pick: Pick = most_likely,
) -> int:
    """Take every list's walk, behind its prompt, to its end by the tokens that `pick` takes of those allowed.

    Returns the number of passes.

    A row's tokens up to its next decision go through the model in one pass, padded on the left, so that the last column
    of a pass is a decision in every row. A row that is done leaves the batch. A pass waits for the device once, for its
    decisions. At a strength that takes a reference, that makes passes of its own.
    """
    ways = strength.ways(model)
    rows = list(range(len(walks)))
    runs = [[*rest_of(item), *walk.advance()] for item, walk in zip(items, walks, strict=True)]
    rows = [row for row in rows if not walks[row].done]
    text = (_Cached if one_row(model) else _Whole)(model, ways, [items[row] for row in rows])
    passes = 0
    while rows:
        allowed = [walks[row].allowed() for row in rows]
        logits = text.extend([runs[row] for row in rows], allowed)
        passes += len(ways)
        for row, tokens, taken in zip(rows, allowed, pick(rows, strength.of(logits)), strict=True):
            walks[row].step(tokens[taken])
            runs[row] = [tokens[taken], *walks[row].advance()]
        going = [index for index, row in enumerate(rows) if not walks[row].done]
        if 0 < len(going) < len(rows):
            text.keep(going)
        rows = [rows[index] for index in going]
    return passes


class _Cached:
    """The rows' texts in a cache, one for each way of running the model.

    Columns know their positions: a sliding window counts those, and the gaps between runs do not count. Prompts of
    blocks begin in it.
    """

    def __init__(self, model: Any, ways: Sequence[Way], items: Sequence[EncodedList]) -> None:
        self.model, self.ways = model, ways
        # Of no configuration: with one, layers would drop columns behind a window of columns.
        self.caches = [DynamicCache() for _ in ways]
        # (R, C) position of each column
        self.held = torch.zeros(len(items), 0, dtype=torch.long, device=model.device)
        self.fed = [0] * len(items)  # positions of each row that are cached
        if any(item.blocks for item in items):
            for number, way in enumerate(ways):
                with way():
                    self.caches[number], self.held = prefill(model, items)
            self.fed = (self.held.amax(1) + 1).tolist()

    def extend(self, runs: Sequence[Sequence[int]], allowed: Sequence[Sequence[int]]) -> list[Tensor]:
        """The allowed tokens' logits behind the rows' new runs, for each way; see `_logits`.

        Texts that begin alike, as answers drawn to one prompt do, go through the model once.
        """
        begins = [(tuple(run), tuple(tokens)) for run, tokens in zip(runs, allowed, strict=True)]
        different = list(dict.fromkeys(begins))
        if self.held.shape[1] or len(different) == len(begins):
            return self._extend(runs, allowed)
        self.held, self.fed = self.held[: len(different)], self.fed[: len(different)]
        found = self._extend([run for run, _ in different], [tokens for _, tokens in different])
        places = [different.index(begin) for begin in begins]
        self.keep(places)
        return [logits[places] for logits in found]

    def _extend(self, runs: Sequence[Sequence[int]], allowed: Sequence[Sequence[int]]) -> list[Tensor]:
        width = max(map(len, runs))
        ids = torch.zeros(len(runs), width, dtype=torch.long)
        positions = torch.full_like(ids, NOBODY)
        for row, run in enumerate(runs):
            ids[row, width - len(run) :] = torch.tensor(run)
            positions[row, width - len(run) :] = torch.arange(self.fed[row], self.fed[row] + len(run))
        self.fed = [begin + len(run) for begin, run in zip(self.fed, runs, strict=True)]
        ids, positions = ids.to(self.model.device), positions.to(self.model.device)
        self.held = torch.cat([self.held, positions], 1)
        config = self.model.config.get_text_config()
        masks = per_layer_type(config, lambda window: by_position(positions, self.held, window, self.model.dtype))
        found = []
        for way, cache in zip(self.ways, self.caches, strict=True):
            with way():
                states: Tensor = self.model.get_decoder()(
                    input_ids=ids,
                    position_ids=positions.clamp(min=0),
                    attention_mask=masks,
                    past_key_values=cache,
                    use_cache=True,
                ).last_hidden_state
                found.append(_logits(self.model, states[:, -1], allowed))
        return found

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows."""
        for cache in self.caches:
            cache.batch_select_indices(torch.tensor(rows, device=self.held.device))
        self.held, self.fed = self.held[list(rows)], [self.fed[row] for row in rows]


class _Whole:
    """The rows' texts without a cache, which other layers than attention keep in ways of their own."""

    def __init__(self, model: Any, ways: Sequence[Way], items: Sequence[EncodedList]) -> None:
        self.model, self.ways = model, ways
        self.texts: list[list[int]] = [[] for _ in items]
        if any(item.blocks for item in items):
            raise UserError(NO_BLOCKS)

    def extend(self, runs: Sequence[Sequence[int]], allowed: Sequence[Sequence[int]]) -> list[Tensor]:
        """As `_Cached.extend`."""
        self.texts = [[*text, *run] for text, run in zip(self.texts, runs, strict=True)]
        found = []
        for way in self.ways:
            with way():
                states = sequence_states(self.model, self.texts, [[len(text) - 1] for text in self.texts])
                found.append(_logits(self.model, states, allowed))
        return found

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows."""
        self.texts = [self.texts[row] for row in rows]


def _logits(model: Any, states: Tensor, allowed: Sequence[Sequence[int]]) -> Tensor:
    """Logits of each row's allowed tokens and of no others, float32; (R, H) -> (R, A), -inf where a row has fewer.

    They differ from log-probabilities by one number a row, which changes neither an order nor what is made of it by
    normalising over the allowed tokens, at any strength.
    """
    row = torch.tensor([index for index, tokens in enumerate(allowed) for _ in tokens], device=states.device)
    token = torch.tensor([token for tokens in allowed for token in tokens], device=states.device)
    head = model.get_output_embeddings()
    if type(head) is torch.nn.Linear:
        bias: Tensor | None = head.bias
        logits = (head.weight[token].float() * states[row].float()).sum(-1)
        logits = logits if bias is None else logits + bias[token].float()
    else:  # quantized, or with an adapter
        logits = head(states)[row, token].float()
    values = torch.split(soft_cap(logits, model.config.get_text_config()), [len(tokens) for tokens in allowed])
    return pad_sequence(list(values), batch_first=True, padding_value=-torch.inf)
