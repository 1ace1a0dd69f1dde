"""How a candidate gets its log-probability: layouts of a list, and whether a model can be read by them.

A scorer is a layout: which branches a list's row holds and which token belongs to which candidate. Everything else is
shared (`irpo.scoring`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from irpo.prompting.prompts import Prompt, label_names
from irpo.registry import Registry
from irpo.scoring.batching import make_batch
from irpo.scoring.forward import score_batch, score_lists
from irpo.scoring.layout import NO_PLACE, Layout, Length, Scorer, trunk_of
from irpo.scoring.models import causal_lm
from irpo.scoring.tokens import EncodedList, encode
from irpo.scoring.whole import known, only_attention, remember
from irpo.types import Style, UserError, target_order

SCORERS: Registry[Scorer] = Registry("scorer")


@SCORERS.register("independent")
@dataclass(frozen=True)
class Independent:
    """Each candidate alone as the first item of the answer: log pi(e_j | x), IRPO eq. 3; K branches of one prompt."""

    separable: ClassVar[bool] = True
    style: ClassVar[Style | None] = None
    as_given: ClassVar[bool] = False

    def layout(self, item: EncodedList) -> Layout:
        layout = trunk_of(item)
        trunk = len(layout.ids)
        for j, body in enumerate(item.bodies):
            if item.choices:
                columns = layout.add_branch(trunk, body, [NO_PLACE] * len(body))
                layout.read_choices(columns, body, item.choices[j], j)
            else:
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
            raise UserError(
                "scorer 'label' reads labels of one token each; set prompt.style to 'label', and prompt.labels to "
                "'letters' where numbers are several tokens (or take scorer independent)"
            )
        layout = trunk_of(item)
        layout.reads = [(len(layout.ids) - 1, body[0], j) for j, body in enumerate(item.bodies)]
        return layout


@SCORERS.register("yes_no")
@dataclass(frozen=True)
class YesNo:
    """log p(yes) of yes and no as the answer to a candidate's own prompt; `pointwise` style only (Qwen3-Reranker).

    log softmax of the two logits at the end of the prompt (Zhang et al. 2025, arXiv 2506.05176). The prompts share what
    they begin with: instruction and query are read once a list. What `independent` reads in that style.
    """

    separable: ClassVar[bool] = True
    style: ClassVar[Style | None] = "pointwise"
    as_given: ClassVar[bool] = False

    def layout(self, item: EncodedList) -> Layout:
        if item.tail or not item.choices:
            raise UserError("scorer 'yes_no' reads a prompt a candidate; set prompt.style to 'pointwise'")
        return Independent().layout(item)


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
        layout = trunk_of(item, head=False)
        given = tuple(range(len(item.bodies)))
        order = given if self.as_given else target_order(item.relevance)
        tokens: list[int] = []
        places: list[int] = []
        begins = []
        for rank, j in enumerate(order):
            begins.append(len(tokens) + len(item.heads[rank]))
            tokens += item.heads[rank] + item.bodies[j]
            own = NO_PLACE if item.choices else j
            places += [NO_PLACE] * len(item.heads[rank]) + [own] * len(item.bodies[j])
        columns = layout.add_branch(len(item.prompt), tokens, places)
        for begin, j in zip(begins, order, strict=True) if item.choices else ():
            layout.read_choices(columns[begin:], tokens[begin:], item.choices[j], j)
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
    the labels A, B, ... that the prompt gave them, in order; with `yes_no` a candidate is the rest of its own prompt;
    otherwise an answer is a numbered list of their texts.

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
