"""Our settings in the Trainer's words: updates, schedule, when it validates and saves."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import TrainingArguments

from irpo.config.schema import RankingConfig, TrainingConfig
from irpo.processes import count
from irpo.progress import BEST
from irpo.scoring.forward import TOKENS_PER_BATCH
from irpo.training.tracking import TRACKERS, Trackers


@dataclass(frozen=True)
class Loop:
    """How the loop goes about it; what an update computes does not depend on these."""

    tokens_per_batch: int = TOKENS_PER_BATCH  # of one forward pass
    patience: int | None = None  # validations without a better NDCG@10 before stopping
    reference_cache: Path | None = None  # the folder that keeps a precomputed reference
    ranking: RankingConfig = field(default_factory=RankingConfig)  # how validation lists are ranked
    trackers: Trackers = field(default_factory=Trackers)  # told what the log is told


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


def every_of(config: TrainingConfig, updates: int) -> int:
    """Updates from one validation and checkpoint to the next."""
    return min(updates, config.evaluate_every or max(1, updates // 10))


def training_arguments(
    config: TrainingConfig, out: Path, *, lists: int, validates: bool, seed: int, mixed: bool = False
) -> TrainingArguments:
    """Our settings in the Trainer's words."""
    updates = updates_of(config, lists)
    every = every_of(config, updates)
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
        save_total_limit=None,  # `checkpoints.prune`, once the new one is whole
        load_best_model_at_end=validates,
        metric_for_best_model=BEST if validates else None,
        greater_is_better=True if validates else None,
        logging_steps=config.logging_every,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        report_to=[name for name in config.report_to if name not in TRACKERS],
        remove_unused_columns=False,
        seed=seed,
        data_seed=seed,
        bf16=mixed,
        dataloader_pin_memory=False,
        ddp_backend="gloo" if count() > 1 and not torch.cuda.is_available() else None,
        ddp_find_unused_parameters=False,
        restore_callback_states_from_checkpoint=True,  # early stopping goes on counting after --resume
    )
    # One process, one GPU: with several in sight the Trainer would split batches over copies of the model.
    _ = arguments.device
    arguments._n_gpu = min(arguments._n_gpu, 1)
    return arguments
