"""First weights under which a small Llama can copy: two heads look one token back, four find and repeat what followed.

One more looks two tokens back, where a label stands before its text ("[B] text"), another can say what that was.

An induction head (Olsson et al. 2022) is what writing a list of given candidates rests on. To find one by chance takes
a small model most of a short training; laid by hand it is there at step 0, and training shapes the rest around it.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

LOOK = 1.5  # of query and key of a head that looks back
CARRY = 2.0  # length of the carried token beside a token's own embedding
MATCH = 2.4  # of query and key of a head that finds the same token earlier
REPEAT = 0.5  # of what such a head writes


@torch.no_grad()
def lay_copying(model: Any) -> None:
    """Overwrite the embeddings and parts of the first four layers of a new model, heads of 32 channels."""
    width = model.config.hidden_size
    embeddings = model.model.embed_tokens.weight
    # Tied to the head, embeddings must be long enough for a confident guess among all tokens.
    torch.nn.init.normal_(embeddings, std=width**-0.5)
    embeddings[:, 0] = 4 * width**-0.5  # a constant, for position-only attention to stand on
    seen, place, said = (_basis(width) for _ in range(3))
    first, second = (model.model.layers[i].self_attn for i in (0, 1))
    for head, distance in ((0, 1), (1, 1), (2, 2)):
        rows = _rows(model, head)
        _look_back(model, first, head, distance)
        first.v_proj.weight[rows] = seen[rows]
        first.o_proj.weight[:, rows] = place[rows].T * (CARRY / math.sqrt(width))
    for head in range(4):
        rows = _rows(model, head)
        _match(second, rows, seen[head * 16 : head * 16 + 16], place[head * 16 : head * 16 + 16])
        second.v_proj.weight[rows] = said[rows]
        second.o_proj.weight[:, rows] = said[rows].T * REPEAT
    rows, third = _rows(model, 2), model.model.layers[min(3, len(model.model.layers) - 1)].self_attn
    third.v_proj.weight[rows] = place[rows]
    third.o_proj.weight[:, rows] = seen[rows].T * REPEAT


def _basis(width: int) -> Tensor:
    """Random orthonormal rows, blind to the constant channel."""
    basis = torch.linalg.qr(torch.randn(width, width)).Q
    basis[:, 0] = 0
    return basis


def _rows(model: Any, head: int) -> slice:
    size = model.config.hidden_size // model.config.num_attention_heads
    return slice(head * size, (head + 1) * size)


def _look_back(model: Any, attention: Any, head: int, distance: int) -> None:
    """Attend to the token so far before, whatever it is.

    Query and key read the constant channel; their rotary phases differ by so many positions, so the score is the sum of
    cos(f * (apart - distance)) over the highest frequencies f, times a scale.
    """
    rows = _rows(model, head)
    half = (rows.stop - rows.start) // 2
    attention.q_proj.weight[rows] = 0
    attention.k_proj.weight[rows] = 0
    for pair, frequency in enumerate(model.model.rotary_emb.inv_freq[:4].tolist()):
        attention.q_proj.weight[rows.start + pair, 0] = LOOK
        attention.k_proj.weight[rows.start + pair, 0] = LOOK * math.cos(distance * frequency)
        attention.k_proj.weight[rows.start + pair + half, 0] = LOOK * math.sin(distance * frequency)


def _match(attention: Any, rows: slice, seen: Tensor, place: Tensor) -> None:
    """Attend to where the token before was this one: the carried copy against one's own embedding.

    Only slow rotary pairs are used, which hardly turn over the length of a list.
    """
    quarter = (rows.stop - rows.start) // 4
    slow = [*range(rows.start + quarter, rows.start + 2 * quarter), *range(rows.stop - quarter, rows.stop)]
    for weight, sketch in ((attention.q_proj.weight, seen), (attention.k_proj.weight, place)):
        weight[rows] = 0
        weight[slow] = sketch * MATCH
