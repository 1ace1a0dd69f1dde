"""The training loop: a `transformers.Trainer` whose step is the paper's, and whose validation is NDCG@10."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import EarlyStoppingCallback, Trainer, TrainingArguments

from irpo.config import TrainingConfig
from irpo.encoding import EncodedList, ListBatch
from irpo.lists import ScoredLists, implicit_reward, masked_sum
from irpo.measures import ndcg
from irpo.objectives import Objective
from irpo.objectives.irpo import importance_weights
from irpo.scorers import Length, Scorer, make_batch, score_batch, score_lists
from irpo.types import UserError

BEST = "ndcg@10"  # of the validation lists, by the scorer; decides the best checkpoint and early stopping
Reference = Literal["adapters_off", "precomputed", "none"]


@dataclass(frozen=True)
class Method:
    """What is optimised, and on which log-probabilities."""

    objective: Objective
    scorer: Scorer
    length: Length = "sum"
    reference: Reference = "adapters_off"
    nll_weight: float = 0.0  # of the target list's negative log-likelihood, added to any objective

    def __post_init__(self) -> None:
        if self.objective.needs.reference and self.reference == "none":
            name = type(self.objective).__name__
            raise UserError(f"method.reference is 'none', but {name} needs one: adapters_off or precomputed")

    @property
    def reads_target(self) -> bool:
        """Whether the target list's log-likelihood is needed."""
        return self.objective.needs.target or self.nll_weight > 0

    def batch(self, items: Sequence[EncodedList], pad_id: int) -> ListBatch:
        """Lists laid out with just what the objective reads."""
        scorer = self.scorer if self.objective.needs.scores else None
        return make_batch(items, scorer, target=self.reads_target, pad_id=pad_id)

    def loss(self, lists: ScoredLists) -> Tensor:
        """Loss of each list, (B,)."""
        loss = self.objective(lists)
        return loss if lists.target is None or not self.nll_weight else loss - self.nll_weight * lists.target


@dataclass
class Tally:
    """Running sums of what the log shows, over lists since the last line."""

    sums: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    lists: int = 0
    tokens: int = 0
    since: float = field(default_factory=time.perf_counter)

    def add(self, batch: ListBatch, values: dict[str, Tensor]) -> None:
        """Per-list values (B,) of one micro-batch."""
        self.lists += len(batch)
        self.tokens += batch.tokens
        for name, value in values.items():
            self.sums[name] += float(value.detach().sum())

    def flush(self) -> dict[str, float]:
        """Means since the last call, with speed and peak memory, and start anew."""
        seconds = max(time.perf_counter() - self.since, 1e-9)
        means = {name: total / max(self.lists, 1) for name, total in self.sums.items()}
        speed = {"tokens_per_s": self.tokens / seconds, "lists_per_s": self.lists / seconds}
        self.__init__()  # type: ignore[misc]
        return means | speed | {"peak_memory_mb": peak_memory() / 2**20}


def peak_memory() -> int:
    """Peak memory in bytes: of the GPU where there is one, else of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def list_noise(batch: ListBatch, *, seed: int, epoch: int) -> Tensor:
    """Uniform numbers (B, K) that depend on seed, pass and list alone, however lists are batched."""
    noise = torch.zeros(batch.mask.shape)
    for row, name, size in zip(noise, batch.names, batch.mask.sum(-1).tolist(), strict=True):
        digest = hashlib.sha256(f"{seed}:{epoch}:{name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        row[:size] = torch.rand(size, generator=generator)
    return noise.to(batch.mask.device)


def mean_ndcg(scores: Sequence[Tensor], items: Sequence[EncodedList], k: int = 10) -> float:
    """Mean NDCG@k of lists ranked by score; ties count against us (the less relevant first)."""
    total = 0.0
    for row, item in zip(scores, items, strict=True):
        values = row.tolist()
        order = sorted(range(len(values)), key=lambda j: (-values[j], item.relevance[j]))
        total += ndcg(order, item.relevance, k)
    return total / len(items)


class ListTrainer(Trainer):  # type: ignore[misc]
    """Trains on encoded lists; `compute_loss` is the method, everything else is the Trainer's."""

    def __init__(
        self,
        *,
        model: Any,
        tokenizer: Any,
        method: Method,
        lists: tuple[Sequence[EncodedList], Sequence[EncodedList]],
        args: TrainingArguments,
        patience: int | None = None,
    ) -> None:
        train, self.validation = lists
        self.method, self.tokenizer, self.tally = method, tokenizer, Tally()
        self.log_file = Path(args.output_dir).parent / "log.jsonl"
        self._reference = self._precompute(model, train) if method.reference == "precomputed" else {}
        stop = [EarlyStoppingCallback(patience)] if patience and self.validation else []
        super().__init__(
            model=model,
            args=args,
            train_dataset=list(train),
            eval_dataset=list(self.validation) or None,
            data_collator=lambda items: method.batch(items, tokenizer.pad_token_id or 0),
            callbacks=stop,
        )
        if self.accelerator.num_processes > 1:
            raise UserError("training runs in one process for now; launch it without torchrun or accelerate launch")
        self.model_accepts_loss_kwargs = True  # our loss is already divided by the lists of the whole update

    def compute_loss(
        self, model: Any, inputs: ListBatch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Sum of the lists' losses over the number of lists of the whole update."""
        batch = inputs.to(self.args.device)
        with self._autocast():
            policy, target = score_batch(model, batch, length=self.method.length)
            reference = self._reference_scores(model, batch, policy)
        noise = list_noise(batch, seed=self.args.seed, epoch=int(self.state.epoch or 0))
        if not self.method.objective.needs.scores:
            policy = reference = torch.zeros_like(noise)
        lists = ScoredLists(policy, reference, batch.relevance, batch.mask, noise, target)
        losses = self.method.loss(lists)
        self.tally.add(batch, self._shown(lists))
        return losses.sum() / num_items_in_batch

    def _reference_scores(self, model: Any, batch: ListBatch, policy: Tensor) -> Tensor:
        if not self.method.objective.needs.reference:
            return torch.zeros_like(policy)
        if self._reference:
            rows = [self._reference[name] for name in batch.names]
            return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(policy)
        with torch.no_grad(), model.disable_adapter():
            return score_batch(model, batch, length=self.method.length)[0]

    def _precompute(self, model: Any, train: Sequence[EncodedList]) -> dict[str, Tensor]:
        """The starting policy's scores of every training list, once."""
        scores = score_lists(model, self.tokenizer, train, self.method.scorer, length=self.method.length)
        return {item.id: row for item, row in zip(train, scores, strict=True)}

    def _autocast(self) -> Any:
        """Full tuning keeps float32 weights and computes in bfloat16 on a GPU."""
        on = self.args.device.type == "cuda" and next(self.model.parameters()).dtype == torch.float32
        return torch.autocast("cuda", torch.bfloat16) if on else contextlib.nullcontext()

    def _shown(self, lists: ScoredLists) -> dict[str, Tensor]:
        """What the log shows of each list, (B,)."""
        shown = {} if lists.target is None else {"target_nll": -lists.target}
        if not self.method.objective.needs.scores:
            return shown
        beta = getattr(self.method.objective, "beta", 1.0)
        rewards = implicit_reward(lists, beta=beta).detach()
        relevant = lists.mask & (lists.relevance > 0)
        other = lists.mask & ~relevant
        means = [masked_sum(rewards, side) / side.sum(-1).clamp(min=1) for side in (relevant, other)]
        rho = importance_weights(rewards, lists.mask)
        items = [(row[m].tolist(), y[m].tolist()) for row, y, m in zip(lists.policy, lists.relevance, lists.mask)]  # noqa: B905
        orders = [(sorted(range(len(s)), key=lambda j: (-s[j], y[j])), y) for s, y in items]
        return shown | {
            "reward_margin": means[0] - means[1],
            "rho_entropy": -(rho * rho.clamp(min=1e-30).log()).sum(-1),
            "train_ndcg@10": torch.tensor([ndcg(order, y, 10) for order, y in orders]),
        }

    def _get_num_items_in_batch(self, batch_samples: list[ListBatch], device: torch.device) -> int:
        return sum(len(batch) for batch in batch_samples)

    def floating_point_ops(self, inputs: Any) -> int:
        """6 operations a parameter and token (forward and backward)."""
        parameters: int = sum(p.numel() for p in self.model.parameters())
        return 6 * parameters * int(inputs.tokens)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """NDCG@10 of the validation lists ranked by the scorer, which never sees their labels."""
        start = time.perf_counter()
        self.model.eval()
        hidden = [item.without_labels() for item in self.validation]
        with self._autocast():
            scores = score_lists(self.model, self.tokenizer, hidden, self.method.scorer, length=self.method.length)
        metrics = {f"eval_{BEST}": mean_ndcg(scores, self.validation), "eval_lists": len(hidden)}
        metrics["eval_seconds"] = round(time.perf_counter() - start, 3)
        self.log(dict(metrics))
        self.control: Any = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add what we show, and write each line to `log.jsonl` at once: nothing is lost when a process dies."""
        if "loss" in logs:
            if not math.isfinite(logs["loss"]):
                raise UserError(
                    f"the loss is {logs['loss']} at update {self.state.global_step}; lower the learning rate"
                )
            logs = logs | {name: round(value, 6) for name, value in self.tally.flush().items()}
        super().log(logs, start_time)
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        with self.log_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"update": self.state.global_step} | logs) + "\n")


def updates_of(config: TrainingConfig, lists: int) -> int:
    """Optimiser steps of the run."""
    each = math.ceil(lists / config.lists_per_update)
    return config.updates or max(1, round(config.epochs * each))


def training_arguments(
    config: TrainingConfig, out: Path, *, lists: int, validates: bool, seed: int
) -> TrainingArguments:
    """Our settings in the Trainer's words."""
    updates = updates_of(config, lists)
    every = min(updates, config.evaluate_every or max(1, updates // 10))
    schedule = "constant_with_warmup" if config.schedule == "constant" else config.schedule
    return TrainingArguments(
        output_dir=str(out / "checkpoints"),
        max_steps=updates,
        per_device_train_batch_size=config.lists_per_batch,
        gradient_accumulation_steps=config.lists_per_update // config.lists_per_batch,
        learning_rate=config.learning_rate,
        lr_scheduler_type=schedule,
        warmup_steps=round(config.warmup_fraction * updates),
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        eval_strategy="steps" if validates else "no",
        eval_steps=every,
        save_steps=every,
        save_total_limit=2,
        load_best_model_at_end=validates,
        metric_for_best_model=BEST if validates else None,
        greater_is_better=True if validates else None,
        logging_steps=config.logging_every,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        report_to=list(config.report_to),
        remove_unused_columns=False,
        seed=seed,
        data_seed=seed,
        dataloader_pin_memory=False,
    )
