"""How a candidate gets its log-probability: layouts of a list, and the one forward pass that reads them.

A scorer is a layout: which branches a list's row holds and which token belongs to which candidate. Everything else is
shared: mask, forward, item-only logits in chunks, soft-cap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from irpo.encoding import NO_SLOT, EncodedList, Layout, ListBatch, add_target, collate, encode, visible
from irpo.prompting import Prompt, Style, label_names
from irpo.registry import Registry
from irpo.types import UserError, target_order

Length = Literal["sum", "mean"]
HEAD_BYTES = 256 * 2**20  # float32 logits held at once, in bytes


class Scorer(Protocol):
    """A way of laying out a list; its fields are its options.

    `separable`: a candidate's score does not depend on which others are scored with it.
    """

    separable: ClassVar[bool]

    def layout(self, item: EncodedList) -> Layout:
        """The list's columns and reads."""
        ...


SCORERS: Registry[Scorer] = Registry("scorer")


@SCORERS.register("independent")
@dataclass(frozen=True)
class Independent:
    """Each candidate alone as the first item of the answer: log pi(e_j | x), IRPO eq. 3; K branches of one prompt."""

    separable: ClassVar[bool] = True

    def layout(self, item: EncodedList) -> Layout:
        layout = _trunk(item)
        trunk = len(layout.ids)
        for slot, body in enumerate(item.bodies):
            layout.add_branch(trunk, body, [slot] * len(body))
        return layout


@SCORERS.register("label")
@dataclass(frozen=True)
class Label:
    """All scores from the logits of the labels at one position (FIRST, arXiv 2406.15657); `label` style only."""

    separable: ClassVar[bool] = True

    def layout(self, item: EncodedList) -> Layout:
        if any(len(body) != 1 for body in item.bodies):
            raise UserError("scorer 'label' reads labels of one token each; set prompt.style to 'label'")
        layout = _trunk(item)
        layout.reads = [(len(layout.ids) - 1, body[0], slot) for slot, body in enumerate(item.bodies)]
        return layout


@SCORERS.register("list")
@dataclass(frozen=True)
class WholeList:
    """The whole list in one order; a candidate's score is its span's log-probability given what stands before it.

    `order: target` writes the list as labelled (the paper's single in-context list), `given` in the prompt's order.
    Where labels are withheld, as in evaluation, both are the prompt's order.
    """

    separable: ClassVar[bool] = False

    order: Literal["target", "given"] = "target"

    def layout(self, item: EncodedList) -> Layout:
        item.require_list("scorer 'list'")
        layout = _trunk(item, head=False)
        given = tuple(range(len(item.bodies)))
        order = target_order(item.relevance) if self.order == "target" else given
        tokens: list[int] = []
        slots: list[int] = []
        for rank, slot in enumerate(order):
            tokens += item.heads[rank] + item.bodies[slot]
            slots += [NO_SLOT] * len(item.heads[rank]) + [slot] * len(item.bodies[slot])
        layout.add_branch(len(item.prompt), tokens, slots)
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

    def layout(self, item: EncodedList) -> Layout:
        layout = Label().layout(item)
        if not any(item.relevance):
            return layout
        order = target_order(item.relevance)
        layout.ranks = len(order)
        tokens: list[int] = []
        predicts = [len(layout.ids) - 1]  # the column that predicts the label, at each rank
        for rank, slot in enumerate(order[:-1], start=1):
            tokens += item.bodies[slot] + item.heads[rank]
            predicts.append(len(layout.ids) + len(tokens) - 1)
        layout.feed(len(layout.ids), tokens)
        layout.reads = [
            (predicts[rank], item.bodies[slot][0], rank * layout.size + slot)
            for rank in range(len(order))
            for slot in order[rank:]
        ]
        return layout


def _trunk(item: EncodedList, *, head: bool = True) -> Layout:
    """A layout that holds the prompt, and with `head` what stands before the first candidate."""
    layout = Layout(size=len(item.bodies))
    layout.grow_trunk(item.prompt + (item.heads[0] if head else ()))
    return layout


def make_batch(
    items: Sequence[EncodedList], scorer: Scorer | None, *, target: bool = False, pad_id: int = 0, left: bool = False
) -> ListBatch:
    """Lists as a scorer lays them out, with the target list as one more branch where `target`; no scorer, no scores."""
    layouts = [scorer.layout(item) if scorer is not None else _trunk(item, head=False) for item in items]
    if target:
        for item, layout in zip(items, layouts, strict=True):
            add_target(layout, item)
    return collate(items, layouts, pad_id=pad_id, left=left)


def causal_lm(model: Any) -> Any:
    """The causal LM inside a PEFT or DDP wrapper (LoRA layers live in it)."""
    inner = getattr(model, "module", model)
    return inner.get_base_model() if hasattr(inner, "get_base_model") else inner


def attention_masks(config: Any, batch: ListBatch, dtype: torch.dtype) -> Tensor | dict[str, Tensor]:
    """The batch's additive 4-D mask as this model family takes it: one, or one a layer type (Gemma, Qwen)."""

    def additive(window: int | None) -> Tensor:
        seen = visible(batch, window)[:, None]
        return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, torch.finfo(dtype).min)

    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        return additive(window)
    return {kind: additive(window if kind == "sliding_attention" else None) for kind in sorted(set(kinds))}


def hidden_states(model: Any, batch: ListBatch) -> Tensor:
    """Last hidden states of the batch's cells, (N, H)."""
    lm = causal_lm(model)
    config = lm.config.get_text_config()
    masks = attention_masks(config, batch, lm.dtype)
    states: Tensor = lm.get_decoder()(
        input_ids=batch.ids, position_ids=batch.positions, attention_mask=masks, use_cache=False
    ).last_hidden_state
    return states.flatten(0, 1)[batch.cells]


def soft_cap(logits: Tensor, config: Any) -> Tensor:
    """The family's last step on logits: Gemma-2's tanh cap, Granite's divisor, Cohere's factor."""
    cap = getattr(config, "final_logit_softcapping", None)
    if cap is not None:
        logits = torch.tanh(logits / cap) * cap
    if (divisor := getattr(config, "logits_scaling", None)) is not None:
        logits = logits / divisor
    if (factor := getattr(config, "logit_scale", None)) is not None:
        logits = logits * factor
    return logits


def token_logprobs(model: Any, states: Tensor, cell: Tensor, token: Tensor) -> Tensor:
    """log p of `token[m]` at the hidden state `states[cell[m]]`; (N, H), (M,), (M,) -> (M,) float32.

    The head runs over chunks of cells, so that no more than `HEAD_BYTES` of logits are ever held; with gradient, a
    chunk is recomputed in the backward pass.
    """
    lm = causal_lm(model)
    head, config = float_head(lm.get_output_embeddings()), lm.config.get_text_config()
    order = cell.argsort(stable=True)
    cell, token = cell[order], token[order]
    size = max(1, HEAD_BYTES // (4 * config.vocab_size))
    parts = []
    for start in range(0, len(states), size):
        inside = (cell >= start) & (cell < start + size)
        arguments = (head, config, states[start : start + size], cell[inside] - start, token[inside])
        if torch.is_grad_enabled() and len(states) > size:
            parts.append(checkpoint(_chunk_logprobs, *arguments, use_reentrant=False))
        else:
            parts.append(_chunk_logprobs(*arguments))
    return torch.cat(parts)[order.argsort()] if parts else states.new_zeros(0).float()


def float_head(head: Any) -> Callable[[Tensor], Tensor]:
    """The output head computed in float32: in bfloat16 a logit of 20 has steps of 0.125, and labels would tie.

    A head that is quantized or carries an adapter computes as it does, and its logits are widened.
    """
    if type(head) is not torch.nn.Linear:
        return lambda states: head(states).float()
    weight, bias = head.weight.float(), getattr(head, "bias", None)

    def linear(states: Tensor) -> Tensor:
        with torch.autocast(states.device.type, enabled=False):
            logits = torch.nn.functional.linear(states.float(), weight)
            return logits if bias is None else logits + bias.float()

    return linear


def _chunk_logprobs(head: Any, config: Any, states: Tensor, cell: Tensor, token: Tensor) -> Tensor:
    logits = soft_cap(head(states), config)
    return logits[cell, token] - logits.logsumexp(-1)[cell]


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
    logp = token_logprobs(model, hidden_states(model, batch), batch.read_cell, batch.read_token)
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
    lists_per_batch: int = 8,
    length: Length = "sum",
) -> list[Tensor]:
    """Scores of each list's candidates, (K,) each, in the given order of lists; higher is better.

    Give it lists `without_labels()` wherever the scores will be evaluated.
    """
    by_size = sorted(range(len(items)), key=lambda i: len(items[i].prompt))
    device = causal_lm(model).device
    found: dict[int, Tensor] = {}
    for start in range(0, len(items), lists_per_batch):
        chosen = by_size[start : start + lists_per_batch]
        batch = make_batch([items[i] for i in chosen], scorer, pad_id=tokenizer.pad_token_id or 0)
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
    style: Style = "label" if isinstance(built, (Label, Stepwise)) else "text"
    names = label_names(tokenizer, len(candidates)) if style == "label" else tuple(candidates)
    chat = tokenizer.bos_token is not None and prompt.startswith(tokenizer.bos_token)
    item = encode(tokenizer, Prompt(prompt, names, style, chat), [0.0] * len(names))
    return score_lists(model, tokenizer, [item], built, length=length)[0]


@torch.no_grad()
def check_model(model: Any) -> None:
    """`UserError` where this model family does not take our mask and head as its own forward pass would.

    Two branches of one prompt are scored in one row and as two sequences by the model's own logits. A family whose
    logits have a last step that we do not know, or that ignores a 4-D mask, is found out here and not in the results.
    """
    lm = causal_lm(model)
    vocabulary = lm.config.get_text_config().vocab_size
    words = torch.randint(3, vocabulary, (70,), generator=_seeded()).tolist()
    bodies = tuple(tuple(words[start : start + 8]) for start in range(6, 70, 8))
    item = EncodedList("check", tuple(words[:5]), ((words[5],),) * 8, bodies, (), (0.0,) * 8)
    family = lm.config.model_type
    try:
        batch = make_batch([item], Independent()).to(lm.device)
        ours = score_batch(model, batch).first[0].tolist()
        theirs = [_alone(lm, words[:6], body) for body in bodies]
    except (ValueError, TypeError, AttributeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"model family {family!r} cannot be scored in one pass: {reason}") from None
    tolerance = 1e-3 if lm.dtype == torch.float32 else 1.0  # two roundings of the same 8 tokens, and no more
    worst = max(range(8), key=lambda j: abs(ours[j] - theirs[j]))
    if not abs(ours[worst] - theirs[worst]) <= tolerance + 1e-3 * abs(theirs[worst]):
        raise UserError(
            f"model family {family!r} cannot be scored in one pass: a candidate got "
            f"{ours[worst]:.4f} nats, {theirs[worst]:.4f} alone; try model.attention=eager"
        )


def _alone(lm: Any, before: Sequence[int], body: Sequence[int]) -> float:
    """log p(body | before) by the model's own forward pass over one sequence."""
    ids = torch.tensor([[*before, *body]], device=lm.device)
    logp = lm(input_ids=ids).logits[0, len(before) - 1 : -1].float().log_softmax(-1)
    return float(logp.gather(-1, ids[0, len(before) :, None]).sum())


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)
