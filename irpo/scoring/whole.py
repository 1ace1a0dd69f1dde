"""Whole sequences: the slow, right way for models whose layers are not all attention.

A mask keeps a row's branches apart in attention alone. A convolution, a recurrent layer or positions counted by column
carry one branch into the next, so such a model is given each branch behind its prompt as a sequence of its own; what
comes back are the same cells' states.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from irpo.scoring.batching import PAD_LIST, ListBatch
from irpo.scoring.models import causal_lm
from irpo.types import UserError

MASKED = frozenset({"full_attention", "sliding_attention"})  # the kinds of layers that our masks keep apart
COLUMNS = 4096  # of one forward pass over sequences; a longer one goes alone
NO_BLOCKS = (
    "prompt.attention 'block': not all of this model's layers are attention, or they pass our masks by, so that "
    "candidates would see each other; set it to full"
)
_FOUND = "irpo_one_row"  # the attribute in which `check_model` leaves what it found


def one_row(model: Any) -> bool:
    """Whether the branches of a list may share a row: as `remember` was told, else as the layers' kinds say."""
    found = known(model)
    return only_attention(causal_lm(model).config) if found is None else found


def known(model: Any) -> bool | None:
    """What `remember` was told, None where nothing."""
    found: bool | None = getattr(causal_lm(model), _FOUND, None)
    return found


def only_attention(config: Any) -> bool:
    """Whether every layer is attention of a kind that our masks know."""
    return set(getattr(config.get_text_config(), "layer_types", None) or ()) <= MASKED


def remember(model: Any, found: bool | None) -> None:
    """Leave with the model whether branches may share a row; None forgets it."""
    setattr(causal_lm(model), _FOUND, found)


def whole_states(model: Any, batch: ListBatch) -> Tensor:
    """Last hidden states of the batch's cells, (N, H), each branch in a sequence of its own.

    `UserError` for prompts of blocks, which are no sequence.
    """
    if batch.blocks:
        raise UserError(NO_BLOCKS)
    cells = {place: number for number, place in enumerate(batch.cells.tolist())}
    tokens = batch.ids.flatten().tolist()
    order: list[int] = []
    sequences, columns = [], []
    for places in apart(batch):
        read = [(column, cells.pop(place)) for column, place in enumerate(places) if place in cells]
        if not read:
            continue
        order += [number for _, number in read]
        sequences.append([tokens[place] for place in places])
        columns.append([column for column, _ in read])
    states = sequence_states(model, sequences, columns)
    back = torch.empty(len(order), dtype=torch.long)
    back[torch.tensor(order, dtype=torch.long)] = torch.arange(len(order))
    return states[back.to(states.device)]


def apart(batch: ListBatch) -> list[list[int]]:
    """Each branch of the batch behind its trunk, as flat (row * T + column) places; a trunk that none takes, alone."""
    keys = zip(batch.lists.flatten().tolist(), batch.branches.flatten().tolist(), strict=True)
    parts: dict[tuple[int, int], list[int]] = {}
    for place, key in enumerate(keys):
        parts.setdefault(key, []).append(place)
    positions = batch.positions.flatten().tolist()
    found, taken = [], set()
    for (number, branch), places in parts.items():
        if branch == 0 or number == PAD_LIST:
            continue
        trunk = parts.get((number, 0), [])
        begin = positions[places[0]]  # positions restart behind what a branch sees of its trunk
        found.append(trunk[:begin] + places)
        if begin == len(trunk):
            taken.add(number)
    alone = [places for (n, branch), places in parts.items() if branch == 0 and n != PAD_LIST and n not in taken]
    return found + alone


def sequence_states(model: Any, sequences: Sequence[Sequence[int]], columns: Sequence[Sequence[int]]) -> Tensor:
    """Last hidden states of each sequence's `columns`, in the order of sequences and columns, (N, H).

    Padding stands behind a sequence, where no causal layer sees it. With gradients, each pass is run anew in the
    backward pass, so that memory is that of one.
    """
    lm = causal_lm(model)
    found: list[Tensor] = [torch.empty(0)] * len(sequences)
    for group in _groups([len(sequence) for sequence in sequences]):
        width = max(len(sequences[i]) for i in group)
        ids = torch.tensor([[*sequences[i], *[0] * (width - len(sequences[i]))] for i in group], device=lm.device)
        cells = [row * width + column for row, i in enumerate(group) for column in columns[i]]
        arguments = (lm.get_decoder(), ids, torch.tensor(cells, device=lm.device))
        grad = torch.is_grad_enabled()
        states: Tensor = checkpoint(_states, *arguments, use_reentrant=False) if grad else _states(*arguments)
        for i, part in zip(group, torch.split(states, [len(columns[i]) for i in group]), strict=True):
            found[i] = part
    return torch.cat(found)


def _groups(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Sequences of like length, as many as fit `COLUMNS` with their padding."""
    group: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if group and lengths[group[0]] * (len(group) + 1) > COLUMNS:
            yield group
            group = []
        group.append(index)
    if group:
        yield group


def _states(decoder: Any, ids: Tensor, cells: Tensor) -> Tensor:
    states: Tensor = decoder(input_ids=ids, use_cache=False).last_hidden_state
    return states.flatten(0, 1)[cells]
