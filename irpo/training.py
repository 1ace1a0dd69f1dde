"""The training loop: a `transformers.Trainer` whose step is the paper's, and whose validation is NDCG@10."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerState,
    TrainingArguments,
)

from irpo.config import TrainingConfig
from irpo.encoding import EncodedList, ListBatch
from irpo.figures import figures
from irpo.lists import ScoredLists
from irpo.measures import ndcg
from irpo.method import Method, Noise, table_of
from irpo.models import default_device
from irpo.modes import by_score, key_of
from irpo.progress import BEST, Lines, Progress, Tally
from irpo.reference import reference_tables
from irpo.room import as_it_fits, smaller
from irpo.scorers import TOKENS_PER_BATCH, lay_out, score_lists
from irpo.types import UserError


def ndcg_of(scores: Tensor, relevance: Sequence[float], k: int, key: object = "") -> float:
    """NDCG@k of a list ranked by score, equal scores in the order that `irpo evaluate` and `irpo rank` put them in."""
    return ndcg(by_score(scores.tolist(), key)[0].order, relevance, k)


@dataclass(frozen=True)
class Loop:
    """How the loop goes about it; what it computes does not depend on these."""

    tokens_per_batch: int = TOKENS_PER_BATCH  # of one forward pass
    patience: int | None = None  # validations without a better NDCG@10 before stopping
    reference_cache: Path | None = None  # the folder that keeps a precomputed reference


class ListTrainer(Trainer):
    """Trains on encoded lists; `compute_loss` is the method, everything else is the Trainer's."""

    def __init__(
        self,
        *,
        model: Any,
        tokenizer: Any,
        method: Method,
        lists: tuple[Sequence[EncodedList], Sequence[EncodedList]],
        args: TrainingArguments,
        loop: Loop = Loop(),
    ) -> None:
        train, self.validation = lists
        self.method, self.tokenizer, self.tally = method, tokenizer, Tally()
        self.reference_cache = loop.reference_cache
        self.pad_id, self.tokens_per_batch = tokenizer.pad_token_id or 0, loop.tokens_per_batch
        self.tokens_to_validate = TOKENS_PER_BATCH
        self.log_file = Path(args.output_dir).parent / "log.jsonl"
        self._reference: dict[str, Tensor] = {}
        stop = [EarlyStoppingCallback(loop.patience)] if loop.patience and self.validation else []
        super().__init__(
            model=model,
            args=args,
            train_dataset=list(train),
            eval_dataset=list(self.validation) or None,
            data_collator=tuple,
            callbacks=stop,
        )
        if self.accelerator.num_processes > 1:
            raise UserError("training runs in one process for now; launch it without torchrun or accelerate launch")
        for printing in (PrinterCallback, ProgressCallback):
            self.remove_callback(printing)
        if not args.disable_tqdm:
            self.add_callback(Progress() if sys.stderr.isatty() else Lines())
        if method.reference == "precomputed" and method.objective.needs.reference:
            # Here, because train() may load a checkpoint's weights and the reference is the policy before them.
            with self._autocast():
                self._reference = self._precompute(self.model, train)
        self.model_accepts_loss_kwargs = True  # our loss is already divided by the lists of the whole update

    def training_step(self, model: Any, inputs: Sequence[EncodedList], num_items_in_batch: Any = None) -> Tensor:
        """Forward and backward over the lists of one update, in micro-batches; returns the update's loss.

        Where memory runs out the update is taken anew with half the tokens in a batch, and so are all later ones. The
        loss is divided by the lists of the update and noise belongs to a list, so the result is the same.
        """
        items = self.lists_of(inputs)
        while True:
            before = replace(self.tally, sums=self.tally.sums.copy())
            loss, too_many = self._whole_update(model, items)
            if loss is not None:
                return loss
            self.tally = before
            self.model.zero_grad()
            self.tokens_per_batch = smaller(self.tokens_per_batch, alone=too_many == 1)

    def lists_of(self, inputs: Sequence[EncodedList]) -> Sequence[EncodedList]:
        """The lists of an update, as the loader gave them."""
        return inputs

    def _whole_update(self, model: Any, items: Sequence[EncodedList]) -> tuple[Tensor | None, int]:
        """The update's loss; where memory ran out None, and how many lists were in the batch that did not fit."""
        model.train()
        total = torch.zeros((), device=self.args.device)
        for batch in self.method.batches(items, self.pad_id, self.tokens_per_batch, self.noise):
            try:
                loss = self.compute_loss(model, batch, num_items_in_batch=len(items))
                self.accelerator.backward(loss)
                total += loss.detach()
            except torch.OutOfMemoryError:  # nothing is freed in here: the error holds the whole forward pass
                return None, len(batch)
        return total, 0

    @property
    def noise(self) -> Noise:
        """The chance of this update."""
        return Noise(self.args.seed, int(self.state.epoch or 0))

    def compute_loss(
        self, model: Any, inputs: ListBatch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Sum of the lists' losses over the number of lists of the whole update."""
        batch, noise = inputs.to(self.args.device), self.noise
        with self._autocast():
            reference = self.method.reference_scores(model, batch, noise, self._reference)
            policy = self.method.policy_scores(model, batch, noise, reference)
        lists = table_of(batch, policy, reference, noise)
        losses = self.method.loss(lists)
        self.tally.add(inputs, self._shown(lists))
        return losses.sum() / num_items_in_batch

    @torch.no_grad()
    def _precompute(self, model: Any, train: Sequence[EncodedList]) -> dict[str, Tensor]:
        """The starting policy's scores (I, K) of every training list, once."""
        model.eval()

        def tables(tokens: int) -> dict[str, Tensor]:
            return reference_tables(
                model,
                train,
                self.method.scorer,
                length=self.method.length,
                pad_id=self.pad_id,
                tokens_per_batch=tokens,
                cache=self.reference_cache,
            )

        return as_it_fits(tables, self.tokens_per_batch, partial(lay_out, train, self.method.scorer))[0]

    def _autocast(self) -> Any:
        """Float32 weights computed in bfloat16, where the arguments say so."""
        return torch.autocast(self.args.device.type, torch.bfloat16) if self.args.bf16 else contextlib.nullcontext()

    def _shown(self, lists: ScoredLists) -> dict[str, Tensor]:
        """What the log shows of each list, (lists,)."""
        return figures(self.method, lists)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> int:
        return sum(len(batch) for batch in batch_samples)

    def go(self, checkpoint: str | None) -> None:
        """Train to the end from the start or a checkpoint; one that is already at the end takes no further step."""
        if checkpoint is None:
            self.log_file.unlink(missing_ok=True)
            self.train()
            return
        state = TrainerState.load_from_json(str(Path(checkpoint) / "trainer_state.json"))
        self._forget_after(state.global_step)
        if state.global_step < self.args.max_steps:
            self.train(resume_from_checkpoint=checkpoint)
        else:
            self.state = state
            self._load_from_checkpoint(state.best_model_checkpoint or checkpoint)

    def _forget_after(self, update: int) -> None:
        """Drop log lines of updates that will be taken anew."""
        if self.log_file.is_file():
            lines = self.log_file.read_text(encoding="utf-8").splitlines(keepends=True)
            whole = [line for line in lines if line.endswith("\n")]  # a process may have died within the last
            kept = [line for line in whole if json.loads(line)["update"] <= update]
            self.log_file.write_text("".join(kept), encoding="utf-8")

    def floating_point_ops(self, inputs: Any) -> int:
        """6 operations a parameter and token (forward and backward)."""
        parameters: int = sum(p.numel() for p in self.model.parameters())
        return 6 * parameters * sum(len(item.prompt) + sum(map(len, item.bodies)) for item in inputs)

    def measure(self) -> dict[str, float]:
        """NDCG@10 of the validation lists ranked by the scorer, which never sees their labels."""
        start = time.perf_counter()
        self.model.eval()
        hidden = [item.without_labels() for item in self.validation]

        def scored(tokens: int) -> list[Tensor]:
            of, length = self.method.scorer, self.method.length
            return score_lists(self.model, self.tokenizer, hidden, of, tokens_per_batch=tokens, length=length)

        with self._autocast():
            layouts = partial(lay_out, hidden, self.method.scorer)
            scores, self.tokens_to_validate = as_it_fits(scored, self.tokens_to_validate, layouts)
        pairs = zip(scores, self.validation, strict=True)
        each = [ndcg_of(row, item.relevance, 10, key_of(item)) for row, item in pairs]
        seconds = round(time.perf_counter() - start, 3)
        return {f"eval_{BEST}": sum(each) / len(each), "eval_lists": len(hidden), "eval_seconds": seconds}

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """`measure` during training: logged, and seen by early stopping and the choice of the best checkpoint."""
        start = time.perf_counter()
        metrics = self.measure()
        self.tally.since += time.perf_counter() - start  # speed is that of training
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


def require_optimizer(config: TrainingConfig) -> None:
    """`UserError` where the optimiser keeps its moments in a GPU's pages and there is no GPU."""
    if config.optimizer == "paged_adamw_8bit" and default_device().type != "cuda":
        raise UserError("training.optimizer 'paged_adamw_8bit' needs a GPU, and there is none here; set it to adamw")


def training_arguments(
    config: TrainingConfig, out: Path, *, lists: int, validates: bool, seed: int, mixed: bool = False
) -> TrainingArguments:
    """Our settings in the Trainer's words."""
    updates = updates_of(config, lists)
    every = min(updates, config.evaluate_every or max(1, updates // 10))
    schedule = "constant_with_warmup" if config.schedule == "constant" else config.schedule
    arguments = TrainingArguments(
        output_dir=str(out / "checkpoints"),
        max_steps=updates,
        per_device_train_batch_size=config.lists_per_update,  # the Trainer sees whole updates; we cut them
        learning_rate=config.learning_rate,
        lr_scheduler_type=schedule,
        warmup_steps=round(config.warmup_fraction * updates),
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        **({} if config.optimizer == "adamw" else {"optim": config.optimizer}),
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
        bf16=mixed,
        dataloader_pin_memory=False,
        restore_callback_states_from_checkpoint=True,  # early stopping goes on counting after --resume
    )
    # One process, one GPU: with several in sight the Trainer would split batches over copies of the model.
    _ = arguments.device
    arguments._n_gpu = min(arguments._n_gpu, 1)
    return arguments
