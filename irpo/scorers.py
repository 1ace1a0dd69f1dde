"""How a candidate gets its log-probability: layouts of a list, and the one forward pass that reads them.

A scorer is a layout: which branches a list's row holds and which token belongs to which candidate. Everything else is
shared: mask, forward, item-only logits in chunks, soft-cap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor

from irpo.attention import SPLIT, aligned, in_parts
from irpo.encoding import NO_PLACE, EncodedList, Layout, ListBatch, add_target, block_mask, collate, encode, visible
from irpo.head import read_logprobs
from irpo.models import causal_lm, per_layer_type
from irpo.prompting import Prompt, label_names
from irpo.registry import Registry
from irpo.types import Style, UserError, target_order
from irpo.whole import known, one_row, only_attention, remember, whole_states

Length = Literal["sum", "mean"]
TOKENS_PER_BATCH = 8192  # columns of one forward pass where nothing is said
LISTS_LAID_OUT = 256  # lists that are laid out at once


class Scorer(Protocol):
    """A way of laying out a list; its fields are its options.

    `separable`: a candidate's score does not depend on which others are scored with it. `style`: the only prompt style
    whose answers it reads, None where it reads any. It may say `walks`: that it scores anew at each rank of the target
    list, so that the order of ties is a matter of its layout.
    """

    separable: ClassVar[bool]
    style: ClassVar[Style | None]

    @property
    def as_given(self) -> bool:
        """Whether it scores the answer that names the candidates in the given order, whatever their labels."""
        ...

    def layout(self, item: EncodedList) -> Layout:
        """The list's columns and reads."""
        ...


SCORERS: Registry[Scorer] = Registry("scorer")


@SCORERS.register("independent")
@dataclass(frozen=True)
class Independent:
    """Each candidate alone as the first item of the answer: log pi(e_j | x), IRPO eq. 3; K branches of one prompt."""

    separable: ClassVar[bool] = True
    style: ClassVar[Style | None] = None
    as_given: ClassVar[bool] = False

    def layout(self, item: EncodedList) -> Layout:
        layout = _trunk(item)
        trunk = len(layout.ids)
        for j, body in enumerate(item.bodies):
            layout.add_branch(trunk, body, [j] * len(body))
        return layout


@SCORERS.register("label")
@dataclass(frozen=True)
class Label:
    """All scores from the logits of the labels at one position (FIRST, arXiv 2406.15657); `label` style only."""

    separable: ClassVar[bool] = True
    style: ClassVar[Style | None] = "label"
    as_given: ClassVar[bool] = False

    def layout(self, item: EncodedList) -> Layout:
        if any(len(body) != 1 for body in item.bodies):
            raise UserError("scorer 'label' reads labels of one token each; set prompt.style to 'label'")
        layout = _trunk(item)
        layout.reads = [(len(layout.ids) - 1, body[0], j) for j, body in enumerate(item.bodies)]
        return layout


@SCORERS.register("list")
@dataclass(frozen=True)
class WholeList:
    """The whole list in one order; a candidate's score is its span's log-probability given what stands before it.

    `order: target` writes the list as labelled (the paper's single in-context list), `given` in the prompt's order.
    Where labels are withheld, as in evaluation, both are the prompt's order.
    """

    separable: ClassVar[bool] = False
    style: ClassVar[Style | None] = None

    order: Literal["target", "given"] = "target"

    @property
    def as_given(self) -> bool:
        """Whether the list is written in the prompt's order."""
        return self.order == "given"

    def layout(self, item: EncodedList) -> Layout:
        item.require_list("scorer 'list'")
        layout = _trunk(item, head=False)
        given = tuple(range(len(item.bodies)))
        order = given if self.as_given else target_order(item.relevance)
        tokens: list[int] = []
        places: list[int] = []
        for rank, j in enumerate(order):
            tokens += item.heads[rank] + item.bodies[j]
            places += [NO_PLACE] * len(item.heads[rank]) + [j] * len(item.bodies[j])
        layout.add_branch(len(item.prompt), tokens, places)
        return layout


@SCORERS.register("stepwise")
@dataclass(frozen=True)
class Stepwise:
    """At every rank of the target list, the labels of the candidates still unplaced; `label` style, one pass.

    IRPO eq. 4 taken at its word: the item at rank i against the others, given what is already ranked. It scores what
    constrained decoding chooses from. A rank is a list of its own for the objective. Where labels are withheld, as in
    evaluation, there is no target list to walk, and the scores are those of the first rank: the scorer `label`.
    """

    separable: ClassVar[bool] = False
    style: ClassVar[Style | None] = "label"
    as_given: ClassVar[bool] = False
    walks: ClassVar[bool] = True

    def layout(self, item: EncodedList) -> Layout:
        layout = Label().layout(item)
        if not any(item.relevance):
            return layout
        order = target_order(item.relevance)
        layout.ranks = len(order)
        tokens: list[int] = []
        predicts = [len(layout.ids) - 1]  # the column that predicts the label, at each rank
        for rank, j in enumerate(order[:-1], start=1):
            tokens += item.bodies[j] + item.heads[rank]
            predicts.append(len(layout.ids) + len(tokens) - 1)
        layout.feed(len(layout.ids), tokens)
        layout.reads = [
            (predicts[rank], item.bodies[j][0], rank * layout.size + j)
            for rank in range(len(order))
            for j in order[rank:]
        ]
        return layout


def _trunk(item: EncodedList, *, head: bool = True) -> Layout:
    """A layout that holds the prompt, and with `head` what stands before the first candidate."""
    layout = Layout(size=len(item.bodies))
    layout.grow_trunk(item.prompt + (item.heads[0] if head else ()))
    return layout


def lay_out(items: Sequence[EncodedList], scorer: Scorer | None, *, target: bool = False) -> list[Layout]:
    """Lists as a scorer lays them out, with the target list as one more branch where `target`; no scorer, no scores."""
    layouts = [scorer.layout(item) if scorer is not None else _trunk(item, head=False) for item in items]
    if target:
        for item, layout in zip(items, layouts, strict=True):
            add_target(layout, item)
    return layouts


def make_batch(
    items: Sequence[EncodedList], scorer: Scorer | None, *, target: bool = False, pad_id: int = 0, left: bool = False
) -> ListBatch:
    """All the lists in one batch; see `lay_out`."""
    return collate(items, lay_out(items, scorer, target=target), pad_id=pad_id, left=left)


def in_budget(layouts: Sequence[Layout], tokens: int) -> list[list[int]]:
    """Groups of lists of at most `tokens` tokens together, a longer list alone; lists of like length meet."""
    groups: list[list[int]] = []
    room = 0
    for index in sorted(range(len(layouts)), key=lambda i: -len(layouts[i].ids)):
        length = len(layouts[index].ids)
        if length > room:
            groups.append([])
            room = max(tokens, length)
        groups[-1].append(index)
        room -= length
    return groups


def attention_masks(config: Any, batch: ListBatch, dtype: torch.dtype) -> Any:
    """The batch's mask as this model family takes it: one, or one a layer type (Gemma, Qwen).

    A block mask for FlexAttention, which skips what no column sees; an additive 4-D mask for the others, of which
    `split_attention` gets the rows behind the trunk, where no sliding window ends within it.
    """
    kind = config._attn_implementation

    def additive(window: int | None) -> Tensor:
        split = kind == SPLIT and (window is None or window >= batch.trunk)
        seen = visible(batch, window, first=batch.trunk if split else 0)[:, None]
        mask = aligned(torch.zeros(seen.shape, dtype=dtype, device=seen.device))
        mask.masked_fill_(~seen, torch.finfo(dtype).min)
        return in_parts(mask, batch.reach) if split else mask

    return per_layer_type(config, partial(block_mask, batch) if kind == "flex_attention" else additive)


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

    @property
    def first(self) -> Tensor:
        """The scores at the first rank, (B, K)."""
        return self.table[:, 0]


def score_batch(model: Any, batch: ListBatch, *, length: Length = "sum") -> Scores:
    """One forward pass over a batch. `length: mean` divides a candidate's sum by its tokens; the target stays a sum."""
    lm = causal_lm(model)
    reads = (batch.read_cell, batch.read_token)
    head, config = lm.get_output_embeddings(), lm.config.get_text_config()
    logp = read_logprobs(head, config, hidden_states(model, batch), reads, batch.read_ends)
    lists, size = batch.mask.shape
    places = lists * batch.ranks * size
    flat = logp.new_zeros(places + lists * batch.target).index_add(0, batch.read_place, logp)
    counts = torch.zeros_like(flat).index_add(0, batch.read_place, torch.ones_like(logp))[:places]
    table = flat[:places] / counts.clamp(min=1) if length == "mean" else flat[:places]
    shape = (lists, batch.ranks, size)
    return Scores(table.view(shape), (counts > 0).view(shape), flat[places:] if batch.target else None)


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


def score(
    model: Any,
    tokenizer: Any,
    prompt: str,
    candidates: Sequence[str],
    scorer: str | Scorer = "independent",
    length: Length = "sum",
) -> Tensor:
    """log pi(candidate | prompt) of each candidate, (K,) float32 in nats (per token with `length="mean"`).

    `prompt` is the complete text that stands before the answer, chat markup included. With `label` the candidates go by
    the labels A, B, ... that the prompt gave them, in order; otherwise an answer is a numbered list of their texts.

    Raises `UnknownName` for an unknown scorer, and `UserError` for a tokenizer without a token for every label.
    """
    built = SCORERS.build(scorer)
    style = built.style or "text"
    names = label_names(tokenizer, len(candidates)) if style == "label" else tuple(candidates)
    chat = tokenizer.bos_token is not None and prompt.startswith(tokenizer.bos_token)
    item = encode(tokenizer, Prompt(prompt, names, style, chat), [0.0] * len(names))
    return score_lists(model, tokenizer, [item], built, length=length)[0]


@torch.no_grad()
def check_model(model: Any) -> str | None:
    """How this model family is to be scored: found out once, kept with the model, and None or the note to say.

    Eight branches of one prompt are scored in one row and as sequences by the model's own logits. A family that mixes
    attention with other layers, or ignores our mask, is scored in whole sequences from then on. `UserError` where those
    differ as well: its logits have a last step that we do not know.
    """
    lm = causal_lm(model)
    family = lm.config.model_type
    if known(model) is False:
        return None  # and said already
    remember(model, True)
    problem = _difference(model) if only_attention(lm.config) else "it mixes attention with other layers"
    if problem is None:
        return None
    remember(model, False)
    if (left := _difference(model)) is not None:
        remember(model, None)
        raise UserError(f"model family {family!r} cannot be scored: {left}; try model.attention=eager")
    return (
        f"note: model family {family!r} is scored in whole sequences, one a candidate: the same numbers, slower and "
        f"without sharing the prompt ({problem})"
    )


def _difference(model: Any) -> str | None:
    """Where our scores of eight candidates differ from the model's own logits, None where they do not."""
    lm = causal_lm(model)
    vocabulary = lm.config.get_text_config().vocab_size
    words = torch.randint(3, vocabulary, (70,), generator=_seeded()).tolist()
    bodies = tuple(tuple(words[start : start + 8]) for start in range(6, 70, 8))
    item = EncodedList("check", tuple(words[:5]), ((words[5],),) * 8, bodies, (), (0.0,) * 8)
    try:
        batch = make_batch([item], Independent()).to(lm.device)
        ours = score_batch(model, batch).first[0].tolist()
        theirs = [_alone(lm, words[:6], body) for body in bodies]
    except torch.OutOfMemoryError:
        raise UserError("out of memory with the model alone and 70 tokens; take a smaller model, or 4 bits") from None
    except (ValueError, TypeError, AttributeError, LookupError, RuntimeError) as error:
        return " ".join(str(error).split())[:160] or type(error).__name__
    tolerance = 1e-3 if lm.dtype == torch.float32 else 1.0  # two roundings of the same 8 tokens, and no more
    worst = max(range(8), key=lambda j: abs(ours[j] - theirs[j]))
    if abs(ours[worst] - theirs[worst]) <= tolerance + 1e-3 * abs(theirs[worst]):
        return None
    return f"in one pass a candidate got {ours[worst]:.4f} nats, {theirs[worst]:.4f} alone"


def _alone(lm: Any, before: Sequence[int], body: Sequence[int]) -> float:
    """log p(body | before) by the model's own forward pass over one sequence."""
    ids = torch.tensor([[*before, *body]], device=lm.device)
    logp = lm(input_ids=ids).logits[0, len(before) - 1 : -1].float().log_softmax(-1)
    return float(logp.gather(-1, ids[0, len(before) :, None]).sum())


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)
