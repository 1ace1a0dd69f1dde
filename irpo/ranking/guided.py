"""Decoding along walks, one forward pass a decision: what is forced between two decisions is fed together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache

from irpo.ranking.walk import Walk
from irpo.scoring.models import per_layer_type
from irpo.scoring.whole import one_row, sequence_states

_NOBODY = -1  # the position of a column that is padding

Pick = Callable[[Sequence[int], Sequence[Tensor]], list[int]]  # rows, logits of what each may take: indices into these


def most_likely(_: Sequence[int], values: Sequence[Tensor]) -> list[int]:
    """The highest of each row, the first of equals."""
    best: list[int] = pad_sequence(list(values), batch_first=True, padding_value=-torch.inf).argmax(-1).tolist()
    return best


def follow(model: Any, prompts: Sequence[Sequence[int]], walks: Sequence[Walk], pick: Pick = most_likely) -> int:
    """Take every walk to its end, by the allowed token that `pick` takes at each choice; returns the number of passes.

    A row's tokens up to its next decision go through the model in one pass, padded on the left, so that the last column
    of a pass is a decision in every row. Columns know their positions: a sliding window counts those, and the gaps
    between runs do not count. A row that is done leaves the batch. A pass waits for the device once, for its decisions.
    """
    if not one_row(model):
        return _follow_whole(model, prompts, walks, pick)
    rows = list(range(len(walks)))
    runs = [[*prompt, *walk.advance()] for prompt, walk in zip(prompts, walks, strict=True)]
    rows = [row for row in rows if not walks[row].done]
    cache = DynamicCache()  # of no configuration: with one, layers would drop columns behind a window of columns
    held = torch.zeros(len(rows), 0, dtype=torch.long, device=model.device)  # (R, C) position of each cached column
    fed = [0] * len(walks)  # tokens of each row that are cached
    passes = 0
    while rows:
        states, held = _feed(model, [(runs[row], fed[row]) for row in rows], cache, held)
        passes += 1
        for row in rows:
            fed[row] += len(runs[row])
        for row, token in zip(rows, _choose(model, states, rows, walks, pick), strict=True):
            walks[row].step(token)
            runs[row] = [token, *walks[row].advance()]
        going = [index for index, row in enumerate(rows) if not walks[row].done]
        if 0 < len(going) < len(rows):
            cache.batch_select_indices(torch.tensor(going, device=states.device))
            held = held[going]
        rows = [rows[index] for index in going]
    return passes


def _follow_whole(model: Any, prompts: Sequence[Sequence[int]], walks: Sequence[Walk], pick: Pick) -> int:
    """`follow` without a cache, which other layers than attention keep in ways of their own."""
    texts = [[*prompt, *walk.advance()] for prompt, walk in zip(prompts, walks, strict=True)]
    passes = 0
    while rows := [row for row, walk in enumerate(walks) if not walk.done]:
        states = sequence_states(model, [texts[row] for row in rows], [[len(texts[row]) - 1] for row in rows])
        passes += 1
        for row, token in zip(rows, _choose(model, states, rows, walks, pick), strict=True):
            walks[row].step(token)
            texts[row] += [token, *walks[row].advance()]
    return passes


def _feed(
    model: Any, runs: Sequence[tuple[Sequence[int], int]], cache: DynamicCache, held: Tensor
) -> tuple[Tensor, Tensor]:
    """The last column's hidden states (R, H) after the runs, and the positions of all columns that are cached now.

    A run comes with the position at which it begins.
    """
    width = max(len(run) for run, _ in runs)
    ids = torch.zeros(len(runs), width, dtype=torch.long)
    positions = torch.full_like(ids, _NOBODY)
    for row, (run, begin) in enumerate(runs):
        ids[row, width - len(run) :] = torch.tensor(run)
        positions[row, width - len(run) :] = torch.arange(begin, begin + len(run))
    ids, positions = ids.to(model.device), positions.to(model.device)
    held = torch.cat([held, positions], 1)
    config = model.config.get_text_config()
    masks = per_layer_type(config, lambda window: _additive(positions, held, window, model.dtype))
    states: Tensor = model.get_decoder()(
        input_ids=ids,
        position_ids=positions.clamp(min=0),
        attention_mask=masks,
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    return states[:, -1], held


def _additive(queries: Tensor, keys: Tensor, window: int | None, dtype: torch.dtype) -> Tensor:
    """The mask (R, 1, Q, K) of the last Q of K columns: real, not later, within the window. Padding sees itself."""
    apart = queries[:, :, None] - keys[:, None, :]
    seen = (keys[:, None, :] != _NOBODY) & (apart >= 0)
    if window is not None:
        seen &= apart < window
    count, total = queries.shape[1], keys.shape[1]
    column = torch.arange(total, device=keys.device)
    seen |= column == column[total - count :, None]
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, torch.finfo(dtype).min)[:, None]


def _choose(model: Any, states: Tensor, rows: Sequence[int], walks: Sequence[Walk], pick: Pick) -> list[int]:
    """The token that each row's walk takes; logits of those allowed alone, in float32, before any cap."""
    allowed = [walks[row].allowed() for row in rows]
    of = torch.tensor([index for index, tokens in enumerate(allowed) for _ in tokens], device=states.device)
    token = torch.tensor([token for tokens in allowed for token in tokens], device=states.device)
    head = model.get_output_embeddings()
    if type(head) is torch.nn.Linear:
        bias: Tensor | None = head.bias
        logits = (head.weight[token].float() * states[of].float()).sum(-1)
        logits = logits if bias is None else logits + bias[token].float()
    else:  # quantized, or with an adapter
        logits = head(states)[of, token].float()
    values = torch.split(logits.nan_to_num(nan=-torch.inf), [len(tokens) for tokens in allowed])
    return [tokens[index] for tokens, index in zip(allowed, pick(rows, values), strict=True)]
