"""What others do on the same model and lists: K whole sequences, TRL's pairs, and the limit of any code."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from irpo.lists import ScoredLists
from irpo.objectives import OBJECTIVES
from irpo.scorers import SCORERS, causal_lm
from irpo.scoring.batching import make_batch
from irpo.scoring.head import soft_cap
from irpo.scoring.tokens import EncodedList

FULL_LOGITS = 8 * 2**30  # bytes of float32 logits; 20 sequences of 528 tokens over 128,256 words take 5 GiB, twice


def expanded_loss(model: Any, items: Sequence[EncodedList]) -> Tensor:
    """IRPO as S-DPO's code would take it: K whole sequences a list, float32 logits of every token.

    Where those would be larger than `FULL_LOGITS` (107 GB were seen to be asked for), of the answers' tokens alone.
    """
    rows = [(item.prompt + item.heads[0], body) for item in items for body in item.bodies]
    width = max(len(prompt) + len(body) for prompt, body in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask, scored = torch.zeros_like(ids), torch.zeros_like(ids)
    for row, (prompt, body) in enumerate(rows):
        ids[row, : len(prompt) + len(body)] = torch.tensor(prompt + body)
        mask[row, : len(prompt) + len(body)] = 1
        scored[row, len(prompt) : len(prompt) + len(body)] = 1
    lm = causal_lm(model)
    device, vocabulary = lm.device, lm.config.get_text_config().vocab_size
    ids, mask, scored = ids.to(device), mask.to(device), scored.to(device)
    logprobs = partial(_all_logprobs if 4 * ids.numel() * vocabulary <= FULL_LOGITS else _answer_logprobs, model)

    def summed() -> Tensor:
        logp = logprobs(ids, mask, scored[:, 1:].bool())
        return (logp * scored[:, 1:]).sum(-1).view(len(items), -1)

    policy = summed()
    with torch.no_grad(), model.disable_adapter():
        reference = summed()
    relevance = torch.tensor([item.relevance for item in items], device=device)
    present = torch.ones_like(policy, dtype=torch.bool)
    lists = ScoredLists(policy, reference, relevance, present, torch.zeros_like(policy), None)
    return OBJECTIVES.build("irpo")(lists).mean()


def _all_logprobs(model: Any, ids: Tensor, mask: Tensor, _: Tensor) -> Tensor:
    """log p of every token but the first, (N, T - 1)."""
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float()
    found: Tensor = logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
    return found


def _answer_logprobs(model: Any, ids: Tensor, mask: Tensor, scored: Tensor) -> Tensor:
    """The same where `scored` (N, T - 1) says so, 0 elsewhere."""
    lm, at = causal_lm(model), scored.nonzero(as_tuple=True)
    states = lm.get_decoder()(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state[:, :-1][at]
    logits = soft_cap(lm.get_output_embeddings()(states).float(), lm.config.get_text_config())
    found = logits.log_softmax(-1).gather(-1, ids[:, 1:][at][:, None])[:, 0]
    return found.new_zeros(scored.shape).index_put(at, found)


def expanded(model: Any, items: Sequence[EncodedList]) -> Callable[[], Tensor]:
    """Forward and backward of `expanded_loss`, a list at a time: more lists at once need its memory as many times."""

    def run() -> Tensor:
        total = torch.zeros((), device=causal_lm(model).device)
        for item in items:
            loss = expanded_loss(model, [item]) / len(items)
            loss.backward()
            total += loss.detach()
        return total

    return run


def trl_pairs(model: Any, item: EncodedList, count: int | None, *, defaults: bool) -> Callable[[], Tensor]:
    """TRL's `DPOTrainer` on the first `count` (positive, negative) pairs of a list, None for all of them.

    It gets the batches that its collator would make of these tokens, of as many pairs as its default: all 36 pairs of
    a list at once would need about 28 GB. `defaults` leaves `DPOConfig` as it comes (bfloat16 and gradient
    checkpointing); else it computes as we do.
    """
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    from irpo.scoring.models import load_tokenizer

    same = {} if defaults else {"bf16": False, "gradient_checkpointing": False}
    where = {"output_dir": tempfile.mkdtemp(), "report_to": [], "use_cpu": not torch.cuda.is_available()}
    settings = DPOConfig(**where, **same, max_length=None)
    rows = Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}])
    trainer = DPOTrainer(model=model, args=settings, train_dataset=rows, processing_class=load_tokenizer("embedded"))
    positive = [body for body, y in zip(item.bodies, item.relevance, strict=True) if y > 0]
    negative = [body for body, y in zip(item.bodies, item.relevance, strict=True) if y == 0]
    pairs = list(product(positive, negative))[:count]
    prompt = item.prompt + item.heads[0]
    size, device = settings.per_device_train_batch_size, causal_lm(model).device
    batches = [_collated(prompt, pairs[start : start + size], device) for start in range(0, len(pairs), size)]

    def run() -> Tensor:
        return torch.stack([trainer.training_step(trainer.model, dict(batch)) for batch in batches]).mean()

    trainer.current_gradient_accumulation_steps = 1  # as its train() sets
    if settings.gradient_checkpointing:  # as its train() does
        trainer.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return run


def _collated(prompt: tuple[int, ...], pairs: Sequence[tuple[Any, Any]], device: Any) -> dict[str, Tensor]:
    """Pairs as TRL's collator makes them: all chosen, then all rejected."""
    answers = [chosen for chosen, _ in pairs] + [rejected for _, rejected in pairs]
    ids = torch.tensor([prompt + body for body in answers], device=device)
    scored = torch.zeros_like(ids)
    scored[:, len(prompt) :] = 1
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "completion_mask": scored}


def limit(model: Any, items: Sequence[EncodedList]) -> Callable[[], Tensor]:
    """A bare forward and backward over rows of the same shape, causal, with the head on as many places."""
    batch = make_batch(items, SCORERS.build("independent")).to(causal_lm(model).device)
    lm = causal_lm(model)
    head = lm.get_output_embeddings()
    targets = torch.zeros(len(batch.cells), dtype=torch.long, device=batch.ids.device)

    def run() -> Tensor:
        model.train()
        states = lm.get_decoder()(input_ids=batch.ids, use_cache=False).last_hidden_state
        loss = cross_entropy(head(states.flatten(0, 1)[batch.cells]).float(), targets, reduction="sum")
        loss.backward()
        return loss.detach()

    return run
