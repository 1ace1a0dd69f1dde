"""Lists in blocks for tests, and what their prompt means: one pass with an explicit mask and explicit positions."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from irpo.prompting.prompts import PromptBuilder, load_template
from irpo.ranking.walk import Walk
from irpo.resources import prompts_dir
from irpo.scoring.tokens import EncodedList, prompted
from irpo.types import Attention, Candidate, RankingExample, Style
from tests.tiny import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
WORDS = ["Alien", "Heat", "space", "dog", "the", "moon", "a", "quiet", "river"]
ALL, BEHIND = -1, -2  # whose a column is that all see, and one that sees all
KINDS = ("full_attention", "sliding_attention")


def builder(style: Style = "label", attention: Attention = "block", most: int = 2048) -> PromptBuilder:
    """The shipped templates, in blocks."""
    return PromptBuilder(
        TOKENIZER, load_template(prompts_dir(), "default", style), style, max_tokens=most, attention=attention
    )


def example(count: int, seed: int = 0, query: str = "a funny film") -> RankingExample:
    """Candidates of one to nine words and a number, so that none is another."""
    chance = random.Random(seed)
    texts = [" ".join([*chance.choices(WORDS, k=chance.randint(1, 9)), str(j)]) for j in range(count)]
    candidates = tuple(Candidate(str(j), text, float(j % 3)) for j, text in enumerate(texts))
    return RankingExample(f"list-{seed}-{count}", query, candidates)


def reordered(given: RankingExample, order: Sequence[int]) -> RankingExample:
    """The same candidates in another order."""
    return replace(given, candidates=tuple(given.candidates[j] for j in order))


def encoded(*examples: RankingExample, style: Style = "label") -> list[EncodedList]:
    """Their tokens."""
    return [p.tokens for p in prompted(builder(style), examples, labels=True)]


def by_hand(model: Any, item: EncodedList, answer: Sequence[int]) -> Tensor:
    """log p of each token of the answer, (n,)."""
    return logp_by_hand(model, item, answer)[:-1].gather(-1, torch.tensor(answer)[:, None]).squeeze(-1)


def logp_by_hand(model: Any, item: EncodedList, answer: Sequence[int]) -> Tensor:
    """log p of every token at each place of the answer and behind it, (n + 1, V).

    Who sees whom, and where everything stands, is spelt out column by column.
    """
    prefix, ends = item.blocks[0].start, item.blocks[-1].stop
    positions, owner = list(range(prefix)), [ALL] * prefix
    for j, block in enumerate(item.blocks):
        positions += [prefix + n for n in range(block.stop - block.start)]
        owner += [j] * (block.stop - block.start)
    behind = [*item.prompt[ends:], *answer]
    first = prefix + max(block.stop - block.start for block in item.blocks)
    positions += [first + n for n in range(len(behind))]
    owner += [BEHIND] * len(behind)
    width, of = len(owner), torch.tensor(owner)
    seen = (of[None, :] == ALL) | (of[:, None] == BEHIND) | (of[:, None] == of[None, :])
    seen &= torch.ones(width, width, dtype=torch.bool).tril()
    states = model.get_decoder()(
        input_ids=torch.tensor([[*item.prompt[:ends], *behind]]),
        position_ids=torch.tensor([positions]),
        attention_mask=_masks(model, seen, torch.tensor(positions)),
        use_cache=False,
    ).last_hidden_state
    logits = model.get_output_embeddings()(states)[0].float()
    cap = getattr(model.config, "final_logit_softcapping", None)
    logits = logits if cap is None else cap * torch.tanh(logits / cap)
    return logits.log_softmax(-1)[width - len(answer) - 1 :]


def _masks(model: Any, seen: Tensor, positions: Tensor) -> Any:
    """One additive mask, or one a kind of layer where the family has several."""
    near = positions[:, None] - positions[None, :] < (getattr(model.config, "sliding_window", None) or 10**9)

    def additive(visible: Tensor) -> Tensor:
        return torch.zeros(visible.shape).masked_fill(~visible, torch.finfo(torch.float32).min)[None, None]

    if getattr(model.config, "layer_types", None) is None:
        return additive(seen & near)
    return dict(zip(KINDS, (additive(seen), additive(seen & near)), strict=True))


def walked_by_hand(model: Any, item: EncodedList) -> tuple[int, ...]:
    """The order of the best allowed token at every step, each by one pass over prompt and answer so far."""
    walk = Walk(item)
    written = list(walk.advance())
    while not walk.done:
        last = logp_by_hand(model, item, written)[-1]
        token = max(walk.allowed(), key=last.__getitem__)
        walk.step(token)
        written += [token, *walk.advance()]
    return walk.order
