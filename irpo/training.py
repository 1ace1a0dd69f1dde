"""The training loop: a `transformers.Trainer` whose step is the paper's, and whose validation is NDCG@10."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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

from irpo import checkpoints
from irpo.config import TrainingConfig
from irpo.encoding import EncodedList, ListBatch
from irpo.lists import ScoredLists, implicit_reward, masked_sum
from irpo.logbook import GoesOn, Lines, Logbook, Progress
from irpo.measures import ndcg
from irpo.method import Method, Sampled, list_noise, table_of
from irpo.objectives.irpo import importance_weights
from irpo.processes import gather, share
from irpo.progress import BEST, Tally, say
from irpo.reference import reference_tables
from irpo.scorers import (
    TOKENS_PER_BATCH,
    Scores,
    make_batch,
    score_batch,
    score_lists,
)
from irpo.types import UserError


def ndcg_of(scores: Tensor, relevance: Sequence[float], k: int) -> float:
    """NDCG@k of a list ranked by score; ties count against us (the less relevant first)."""
    values = scores.tolist()
    return ndcg(sorted(range(len(values)), key=lambda j: (-values[j], relevance[j])), relevance, k)


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
        self.logbook, self.patience = Logbook(Path(args.output_dir).parent), loop.patience
        self.before: dict[str, float] | None = None  # the measure of each validation list before the first update
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
        while True:
            try:
                return self._whole_update(model, self.lists_of(inputs))
            except torch.OutOfMemoryError:
                self._halve()

    def lists_of(self, inputs: Sequence[EncodedList]) -> Sequence[EncodedList]:
        """The lists of an update, as the loader gave them."""
        return inputs

    def _whole_update(self, model: Any, items: Sequence[EncodedList]) -> Tensor:
        model.train()
        tally = replace(self.tally, sums=self.tally.sums.copy())
        total = torch.zeros((), device=self.args.device)
        try:
            for batch in self.method.batches(items, self.pad_id, self.tokens_per_batch):
                loss = self.compute_loss(model, batch, num_items_in_batch=len(items))
                self.accelerator.backward(loss)
                total += loss.detach()
        except torch.OutOfMemoryError:
            self.tally = tally
            raise
        return total

    def _halve(self) -> None:
        """Half the tokens in a batch from now on, and nothing left of the update that did not fit."""
        longest_alone = self.tokens_per_batch <= 1
        self.model.zero_grad()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if longest_alone:
            raise UserError(
                "out of memory with one list a batch; set model.gradient_checkpointing=true, shorten "
                "prompt.max_tokens, or take a smaller model"
            )
        self.tokens_per_batch //= 2
        say(f"out of memory: batches of {self.tokens_per_batch} tokens from now on; the result is the same")

    def compute_loss(
        self, model: Any, inputs: ListBatch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Sum of the lists' losses over the number of lists of the whole update."""
        batch = inputs.to(self.args.device)
        noise = list_noise(batch, seed=self.args.seed, epoch=int(self.state.epoch or 0))
        with self._autocast():
            reference = self._reference_table(model, batch)
            if isinstance(self.method.objective, Sampled):
                policy = self._sampled_scores(model, batch, self.method.objective, (reference, noise))
            else:
                policy = score_batch(model, batch, length=self.method.length)
        lists = table_of(batch, policy, reference, noise)
        losses = self.method.loss(lists)
        shown = self._shown(lists)
        if "target_nll" in shown:
            shown["target_tokens"] = torch.tensor([len(item.answer(range(len(item.bodies)))) for item in batch.items])
        self.tally.add(batch, shown)
        return losses.sum() / num_items_in_batch

    def _sampled_scores(
        self, model: Any, batch: ListBatch, objective: Sampled, tables: tuple[Tensor, Tensor]
    ) -> Scores:
        """All candidates' scores, of which only those that the objective selects carry a gradient."""
        length, pad = self.method.length, self.pad_id
        reference, noise = tables
        with torch.no_grad():
            scores = score_batch(model, make_batch(batch.items, self.method.scorer).to(noise.device), length=length)
        chosen = objective.select(table_of(batch, scores, reference, noise))
        if not chosen.any():  # no list has a relevant candidate: all losses are 0
            return score_batch(model, batch, length=length)
        parts = [item.only(row.nonzero()[:, 0].tolist()) for item, row in zip(batch.items, chosen, strict=True)]
        live = score_batch(model, make_batch(parts, self.method.scorer, pad_id=pad).to(noise.device), length=length)
        lists, columns = chosen.nonzero(as_tuple=True)
        values = live.first[lists, chosen.cumsum(-1)[lists, columns] - 1]
        table = scores.table.index_put((lists, torch.zeros_like(lists), columns), values)
        if not self.method.reads_target:
            return Scores(table, scores.present, None)
        whole = make_batch(batch.items, None, target=True, pad_id=pad).to(noise.device)
        return Scores(table, scores.present, score_batch(model, whole).target)

    def _reference_table(self, model: Any, batch: ListBatch) -> Tensor:
        """The reference's scores, (B, I, K)."""
        found = torch.zeros(len(batch), batch.ranks, batch.mask.shape[1], device=batch.mask.device)
        if not self.method.objective.needs.reference:
            return found
        if self._reference:
            for row, name in zip(found, batch.names, strict=True):
                table = self._reference[name]
                row[: table.shape[0], : table.shape[1]] = table
            return found
        alone = batch  # without the target list's branch, which nobody reads
        if batch.target:
            alone = make_batch(batch.items, self.method.scorer, pad_id=self.pad_id).to(found.device)
        with torch.no_grad(), model.disable_adapter():
            return score_batch(model, alone, length=self.method.length).table

    @torch.no_grad()
    def _precompute(self, model: Any, train: Sequence[EncodedList]) -> dict[str, Tensor]:
        """The starting policy's scores (I, K) of every training list, once."""
        model.eval()
        return reference_tables(
            model,
            train,
            self.method.scorer,
            length=self.method.length,
            pad_id=self.pad_id,
            tokens_per_batch=self.tokens_per_batch,
            cache=self.reference_cache,
        )

    def _autocast(self) -> Any:
        """Float32 weights computed in bfloat16, where the arguments say so."""
        return torch.autocast(self.args.device.type, torch.bfloat16) if self.args.bf16 else contextlib.nullcontext()

    def _shown(self, lists: ScoredLists) -> dict[str, Tensor]:
        """What the log shows of each list, (B,); of a list in slots, its first."""
        shown = {} if lists.target is None else {"target_nll": -lists.per_list(lists.target)}
        if not self.method.objective.needs.scores:
            return shown
        rewards = implicit_reward(lists, beta=getattr(self.method.objective, "beta", 1.0)).detach()
        policy, relevance, mask = lists.policy.detach(), lists.relevance, lists.mask
        if lists.owner is not None:
            rewards, policy, relevance, mask = (t[lists.starts] for t in (rewards, policy, relevance, mask))
        relevant, other = mask & (relevance > 0), mask & ~(relevance > 0)
        means = [masked_sum(rewards, side) / side.sum(-1).clamp(min=1) for side in (relevant, other)]
        rho = importance_weights(rewards, mask)
        shown |= {
            "reward_margin": means[0] - means[1],
            "rho_entropy": -(rho * rho.clamp(min=1e-30).log()).sum(-1),
        }
        if self.method.scorer.separable or lists.owner is not None:  # else the scores were taken in the gold order
            rows = [(row[m], y[m].tolist()) for row, y, m in zip(policy, relevance, mask, strict=True)]
            shown["train_ndcg@10"] = torch.tensor([ndcg_of(row, y, 10) for row, y in rows])
        return shown

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> int:
        return sum(len(batch) for batch in batch_samples)

    def go(self, checkpoint: str | Path | None) -> None:
        """Train to the end, from the start or a checkpoint; one that is already at the end takes no further step."""
        if checkpoint is None:
            self.logbook.clear()
            self.before = self._look_before() if self.validation else None
            self.train()
            return
        checkpoint = Path(checkpoint)
        state = TrainerState.load_from_json(str(checkpoint / checkpoints.STATE))
        self.logbook.forget_after(state.global_step)
        if self.validation:  # here, because train() loads the checkpoint's weights
            self.before = self.logbook.before() or self._look_before()
        if state.global_step < self.args.max_steps and not self._gave_up(state):
            self.add_callback(GoesOn(self, checkpoint))
            self.train(resume_from_checkpoint=str(checkpoint))
        else:
            self.state = state
            self._load_from_checkpoint(state.best_model_checkpoint or str(checkpoint))

    def _look_before(self) -> dict[str, float]:
        """The measure before the first update, of every list; kept for a run that goes on."""
        start = time.perf_counter()
        values = self.values()
        self.logbook.write_before(values, seconds=time.perf_counter() - start)
        mean = sum(values.values()) / len(values)
        say(f"before training: validation {BEST.upper()} {mean:.4f} on {len(values)} list(s)")
        self.tally.since = time.perf_counter()
        return values

    def _gave_up(self, state: TrainerState) -> bool:
        """Whether early stopping had ended the run at this state."""
        waited = state.stateful_callbacks.get("EarlyStoppingCallback", {}).get("attributes", {})
        return self.patience is not None and waited.get("early_stopping_patience_counter", 0) >= self.patience

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """The Trainer's checkpoint, then what the next log line goes on from, then the seal that says it is whole."""
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        shutil.rmtree(folder, ignore_errors=True)  # what a killed process left of it
        super()._save_checkpoint(model, trial)
        partial = {"since": self._globalstep_last_logged, "loss": float(self._tr_loss), "tally": self.tally.told()}
        (folder / checkpoints.PARTIAL).write_text(json.dumps(partial), encoding="utf-8")
        checkpoints.seal(folder)
        checkpoints.prune(folder.parent, self.state.best_model_checkpoint)

    def go_on(self, partial: Mapping[str, Any]) -> None:
        """Take up the sums of a checkpoint, so that the next log line speaks of the same updates as without a break."""
        self._tr_loss += partial["loss"]
        self._globalstep_last_logged = partial["since"]
        self.tally = Tally.of(partial["tally"])
        if self.state.best_model_checkpoint is None:  # it was lost: the next validation is the best so far
            self.state.best_metric = self.state.best_global_step = None

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The learning rate by update; the first update learns too."""
        if getattr(self, "lr_scheduler", None) is None:
            kind, warmup = str(self.args.lr_scheduler_type.value), self.args.get_warmup_steps(num_training_steps)
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                optimizer or self.optimizer, lambda update: rate_share(update, kind, warmup, num_training_steps)
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def floating_point_ops(self, inputs: Any) -> int:
        """6 operations a parameter and token (forward and backward)."""
        parameters: int = sum(p.numel() for p in self.model.parameters())
        return 6 * parameters * sum(len(item.prompt) + sum(map(len, item.bodies)) for item in inputs)

    def values(self) -> dict[str, float]:
        """NDCG@10 of each validation list, by id, ranked by the scorer, which never sees their labels."""
        self.model.eval()
        mine = share(self.validation)
        hidden = [item.without_labels() for item in mine]
        with self._autocast():
            scores = score_lists(self.model, self.tokenizer, hidden, self.method.scorer, length=self.method.length)
        pairs = zip(scores, mine, strict=True)
        return dict(gather([(item.id, ndcg_of(row, item.relevance, 10)) for row, item in pairs]))

    def measure(self) -> dict[str, float]:
        """The mean of `values`, as the Trainer reads it."""
        start = time.perf_counter()
        each = self.values()
        seconds = round(time.perf_counter() - start, 3)
        return {f"eval_{BEST}": sum(each.values()) / len(each), "eval_lists": len(each), "eval_seconds": seconds}

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """`measure` during training: logged, and seen by early stopping and the choice of the best checkpoint."""
        start = time.perf_counter()
        metrics = self.measure()
        self.tally.since += time.perf_counter() - start  # speed is that of training
        self.log(dict(metrics))
        self.control: Any = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    @property
    def log_file(self) -> Path:
        """Where each logged update is a line."""
        return self.logbook.path

    @property
    def validations(self) -> int:
        """How many validations the kept weights were chosen from."""
        return sum(f"eval_{BEST}" in line for line in self.state.log_history)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add what we show, and write each line to `log.jsonl` at once: nothing is lost when a process dies."""
        if "loss" in logs:
            if not math.isfinite(logs["loss"]):
                raise UserError(
                    f"the loss is {logs['loss']} at update {self.state.global_step}; lower the learning rate"
                )
            logs = self._in_terms(logs)
        super().log(logs, start_time)
        self.logbook.write({"update": self.state.global_step} | logs)

    def _in_terms(self, logs: dict[str, float]) -> dict[str, float]:
        """A line with the tally's means; the loss in its terms, and what is a likelihood by token too."""
        means = self.tally.flush()
        tokens = means.pop("target_tokens", None)
        if tokens:
            means["nll_per_token"] = means["target_nll"] / tokens
        if self.method.nll_weight and "target_nll" in means:
            means["anchor"] = self.method.nll_weight * means["target_nll"]
            means["objective"] = logs["loss"] - means["anchor"]
        return logs | {name: round(value, 6) for name, value in means.items()}


def rate_share(update: int, schedule: str, warmup: int, updates: int) -> float:
    """The share of the peak learning rate at an update, counted from 0; after warm-up it falls as `schedule` says.

    >>> [rate_share(update, "linear", 1, 5) for update in range(5)]
    [0.5, 1.0, 0.75, 0.5, 0.25]
    """
    if update < warmup:
        return (update + 1) / (warmup + 1)
    done = (update - warmup) / max(1, updates - warmup)
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return max(0.0, 1 - done) if schedule == "linear" else 1.0


def updates_of(config: TrainingConfig, lists: int) -> int:
    """Optimiser steps of the run."""
    each = math.ceil(lists / config.lists_per_update)
    return config.updates or max(1, round(config.epochs * each))


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
        eval_strategy="steps" if validates else "no",
        eval_steps=every,
        save_steps=every,
        save_total_limit=None,  # `checkpoints.prune`, once the new one is whole
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
