"""The training loop: a `transformers.Trainer` whose step is the paper's, and whose validation is NDCG@10."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    ProgressCallback,
    TrainerState,
    TrainingArguments,
)

from irpo import disk, stopping
from irpo.lists import ScoredLists
from irpo.processes import agree, count, decided, gather
from irpo.progress import BEST, Tally, bars, forget_peak, say
from irpo.runs import checkpoints
from irpo.scoring.batching import ListBatch
from irpo.scoring.models import trainable_parameters
from irpo.scoring.sharding import is_sharded, within
from irpo.scoring.strength import named
from irpo.scoring.tokens import EncodedList
from irpo.training.arguments import Loop, rate_share
from irpo.training.cost import Meter
from irpo.training.figures import figures
from irpo.training.finite import Watch
from irpo.training.logbook import LastLogged, Logbook, Progress
from irpo.training.method import Method, Noise, summed, table_of
from irpo.training.pickles import opened_as_tensors
from irpo.training.reference import Known, references_of
from irpo.training.room import smaller
from irpo.training.saving import Ended, GoesOn, Saving, Stops, is_due
from irpo.training.shares import EVERY, gradient_norm, gradient_shares, shares
from irpo.training.storing import checkpoint_bytes
from irpo.training.stream import Loader, Stream, Updates
from irpo.training.together import SharedTrainer, dealt, shortest
from irpo.training.validation import Look, Validation

T = TypeVar("T")


class ListTrainer(SharedTrainer):
    """Trains on encoded lists; `compute_loss` is the method, everything else is the Trainer's."""

    def __init__(
        self,
        *,
        model: Any,
        tokenizer: Any,
        method: Method,
        lists: tuple[Sequence[EncodedList] | Stream, Sequence[EncodedList]],
        args: TrainingArguments,
        loop: Loop = Loop(),
    ) -> None:
        train, aside = lists
        self.validation = Validation(aside, method.scorer, method.length, loop.ranking)
        self.method, self.tokenizer, self.tally = method, tokenizer, Tally()
        self.meter, self.trackers = Meter(), loop.trackers
        self.reference_cache = loop.reference_cache
        self.pad_id, self.tokens_per_batch = tokenizer.pad_token_id or 0, loop.tokens_per_batch
        self.logbook, self.patience = Logbook(Path(args.output_dir).parent), loop.patience
        self.before: dict[str, float] | None = None  # the measure of each validation list before the first update
        self.at: float = 1.0  # the strength of the latest validation
        self._reference: Known = lambda _: {}
        self._latest: ListBatch | None = None  # the micro-batch that was taken last
        self.watch = Watch()  # over what of an update must be finite
        stop = [EarlyStoppingCallback(loop.patience)] if loop.patience and self.validation else []
        super().__init__(
            model=model,
            args=args,
            train_dataset=Updates(train) if isinstance(train, Stream) else list(train),
            eval_dataset=list(aside) or None,
            data_collator=tuple,
            callbacks=[*stop, LastLogged()],
        )
        for printing in (PrinterCallback, ProgressCallback):
            self.remove_callback(printing)
        if not args.disable_tqdm:
            self.add_callback(Progress(self.logbook, waits=isinstance(train, Stream)))
        self.saving, self.stops = Saving(self), Stops()
        if args.save_strategy != "no":
            self.add_callback(self.stops)
        if method.reference == "precomputed" and method.objective.needs.reference:
            # Here, because train() may load a checkpoint's weights and the reference is the policy before them.
            with self._autocast():
                self._reference = self._precompute(self.model, train)
        self.model_accepts_loss_kwargs = True  # our loss is already divided by the lists of the whole update

    def training_step(self, model: Any, inputs: Sequence[EncodedList], num_items_in_batch: Any = None) -> Tensor:
        """Forward and backward over the lists of one update, in micro-batches; returns the update's loss.

        Where memory runs out the update is taken anew with half the tokens in a batch, and so are all later ones. The
        loss is divided by the lists of the update and noise belongs to a list, so the result is the same, on any number
        of processes too.
        """
        items = self.lists_of(inputs)
        while True:
            before = replace(self.tally, sums=self.tally.sums.copy())
            own, stuck = self._share_of_update(model, items)
            loss, too_many, tokens = self.met(own, stuck, self.tally.tokens - before.tokens)
            if loss is not None:
                self.meter.count(tokens)
                return loss
            self.tally = before
            self.model.zero_grad()
            self.tokens_per_batch = smaller(self.tokens_per_batch, alone=too_many == 1)

    def lists_of(self, inputs: Sequence[EncodedList]) -> Sequence[EncodedList]:
        """The lists of an update, as the loader gave them."""
        return inputs

    def _share_of_update(self, model: Any, items: Sequence[EncodedList]) -> tuple[Tensor, int]:
        """This process's part of the loss; and how many lists were in the batch that did not fit, 0 where all did."""
        model.train()
        part = torch.zeros((), device=self.args.device)
        self.watch.begin(dealt(items))
        for batch, lists in self._waited(self.in_turn(self._batches(items))):
            try:
                self._latest = batch
                loss = self.compute_loss(model, batch, num_items_in_batch=lists)
                self.accelerator.backward(loss * count())  # gradients are averaged over processes
                part += loss.detach()
            except torch.OutOfMemoryError:  # nothing is freed in here: the error holds the whole forward pass
                return part, len(batch)
        return part, 0

    def _batches(self, items: Sequence[EncodedList]) -> Iterator[tuple[ListBatch, int | None]]:
        """The micro-batches of this process's lists, with the lists of the update.

        Where each pass is taken by all processes, those with fewer go on with a list that counts nothing.
        """
        found = self.method.batches(dealt(items), self.pad_id, self.tokens_per_batch, self.noise)
        if not self.in_lockstep:
            yield from ((batch, len(items)) for batch in found)
            return
        own = list(found)
        most = max(gather([len(own)]))
        yield from ((batch, len(items)) for batch in own)
        for _ in range(most - len(own)):
            yield self.method.batch([shortest(items)], self.pad_id, self.noise), None

    @property
    def noise(self) -> Noise:
        """The chance of this update."""
        return Noise(self.args.seed, int(self.state.epoch or 0))

    def compute_loss(
        self, model: Any, inputs: ListBatch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Sum of the lists' losses over the number of lists of the whole update; 0 where None is given for it."""

        def work() -> Tensor:
            lists = self._tables(model, inputs)
            terms = self.method.terms(lists)
            losses = summed(terms)
            if num_items_in_batch is None:
                return losses.sum() * 0.0
            self.watch.add(inputs.names, losses)
            self.tally.add(inputs, self._shown(lists) | (terms if len(terms) > 1 else {}))
            return losses.sum() / float(num_items_in_batch)

        return within(model, work)

    def _tables(self, model: Any, inputs: ListBatch) -> ScoredLists:
        """What policy and reference make of a micro-batch."""
        batch, noise = inputs.to(self.args.device), self.noise
        with self._autocast():
            reference = self.method.reference_scores(model, batch, noise, self._reference(batch.items))
            policy = self.method.policy_scores(model, batch, noise, reference)
        return table_of(batch, policy, reference, noise)

    def _precompute(self, model: Any, train: Sequence[EncodedList] | Stream) -> Known:
        """The starting policy's scores (I, K) of every training list, once."""
        model.eval()
        return references_of(model, train, self.method, self.pad_id, self.tokens_per_batch, self.reference_cache)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """A stream's updates whole; else the Trainer's own."""
        if isinstance(self.train_dataset, Updates):
            return Loader(self.train_dataset)
        loader: DataLoader[Any] = super().get_train_dataloader()
        return loader

    def get_batch_samples(self, *given: Any, **named: Any) -> tuple[list[Any], Any]:
        """The lists of the next update, as soon as they are there."""
        with self.tally.waiting():
            lists, count = super().get_batch_samples(*given, **named)
        return lists, count

    def _waited(self, batches: Iterator[T]) -> Iterator[T]:
        """The same batches; making them is waiting for them."""
        while True:
            with self.tally.waiting():
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def _autocast(self) -> Any:
        """Float32 weights computed in bfloat16, where the arguments say so."""
        return torch.autocast(self.args.device.type, torch.bfloat16) if self.args.bf16 else contextlib.nullcontext()

    def _shown(self, lists: ScoredLists) -> dict[str, Tensor]:
        """What the log shows of each list, (lists,)."""
        return figures(self.method, lists)

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """The gradient's norm, taken between the backward passes and the optimiser's step; `Diverged` ends the run."""
        norm = super()._get_grad_norm(model, grad_norm)
        self.watch.require(norm, model, self.state.global_step + 1, self._norm_of)
        return norm

    def _norm_of(self, item: EncodedList) -> float:
        """The norm of the gradient of one list's loss."""
        batch = self.method.batch([item], self.pad_id, self.noise)
        learning = [p for p in self.model.parameters() if p.requires_grad]
        return gradient_norm(summed(self.method.terms(self._tables(self.model, batch))).sum(), learning)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> int:
        return sum(len(batch) for batch in batch_samples)

    def train(self, *given: Any, **named: Any) -> Any:
        """The Trainer's own; its bar goes and its trackers are closed whatever happens."""
        with bars(), contextlib.ExitStack() as trackers:
            with self.meter.paused():
                on = named.get("resume_from_checkpoint")
                trackers.enter_context(self.trackers.opened(self.logbook.folder, on, start=self.before))
            if isinstance(self.train_dataset, Updates):
                trackers.callback(self.train_dataset.close)
            found = super().train(*given, **named)
        self.watch.require_weights(self.model, self.state.global_step)
        return found

    def go(self, checkpoint: str | Path | None) -> None:
        """Train to the end, from the start or a checkpoint; one that is already at the end takes no further step."""
        forget_peak()
        if checkpoint is None:
            self.logbook.clear()
            self.before = self._look_before() if self.validation else None
            with stopping.later():
                self.train()
            return
        checkpoint = Path(checkpoint)
        self.require_own(checkpoint)
        self.meter.go_on(checkpoint)
        state = TrainerState.load_from_json(str(checkpoint / checkpoints.STATE))
        due = is_due(state, self.validation)
        self.logbook.forget_after(state.global_step, looked=not due)
        if self.validation:  # here, because train() loads the checkpoint's weights
            self.before = decided(self.logbook.before) or self._look_before()
        self.state = state
        if due or (state.global_step < self.args.max_steps and not self._gave_up(state)):
            self.add_callback(GoesOn(self, checkpoint, due=due))
            with contextlib.suppress(Ended), stopping.later(), opened_as_tensors(checkpoint):
                self.train(resume_from_checkpoint=str(checkpoint))
                return
        self._load_from_checkpoint(self.state.best_model_checkpoint or str(checkpoint))

    def _look_before(self) -> dict[str, float]:
        """The measure before the first update, of every list; kept for a run that goes on."""
        start = time.perf_counter()
        with self.meter.paused(), self._autocast():
            values = dict(self.validation.plain(self.model, self.tokenizer).values)
        self.logbook.write_before(values, seconds=time.perf_counter() - start)
        mean = sum(values.values()) / len(values)
        say(f"before training: validation {BEST} {mean:.4f} on {len(values)} list(s)")
        self.tally.since = time.perf_counter()
        return values

    def _gave_up(self, state: TrainerState) -> bool:
        """Whether early stopping had ended the run at this state."""
        waited = state.stateful_callbacks.get("EarlyStoppingCallback", {}).get("attributes", {})
        return self.patience is not None and waited.get("early_stopping_patience_counter", 0) >= self.patience

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """The Trainer's checkpoint, then what the next log line goes on from; it appears whole."""
        self.watch.require_weights(model, self.state.global_step)
        folder = checkpoints.checkpoint_of(Path(self.args.output_dir), self.state.global_step)
        with disk.written(folder, needed=partial(checkpoint_bytes, self.model, self.args.optim)):
            self.saving.save(partial(super()._save_checkpoint, model, trial))

    def _get_output_dir(self, trial: Any) -> str:
        """Where a checkpoint is written."""
        return str(self.saving.aside or self.args.output_dir)

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
        """6 operations a parameter and token (forward and backward); a 4-bit weight is one parameter, not half."""
        _, parameters = trainable_parameters(self.model)
        return 6 * parameters * sum(len(item.prompt) + sum(map(len, item.bodies)) for item in inputs)

    def look(self) -> Look:
        """What validation lists say of the model as it is, ranked as the user will rank."""
        with self._autocast():
            return self.validation.look(self.model, self.tokenizer)

    def measure(self) -> dict[str, float]:
        """The mean NDCG@10 of `look`, as the Trainer reads it."""
        start = time.perf_counter()
        found = self.look()
        mean, self.at = agree((found.mean, found.strength.value))
        seconds = round(time.perf_counter() - start, 3)
        return {f"eval_{BEST}": mean, "eval_lists": len(found.values), "eval_seconds": seconds}

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """`measure` during training: logged, and seen by early stopping and the choice of the best checkpoint.

        The update's checkpoint comes first, so that no death and no signal within the validation loses updates.
        """
        self.watch.require_weights(self.model, self.state.global_step)
        if self.control.should_save and self.saving.at != self.state.global_step:
            self._save_checkpoint(self.model, None)
            self.stops.leave()
        start = time.perf_counter()
        with stopping.now(), self.meter.paused():
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
        if "train_loss" in logs:  # the Trainer's summary, which knows this process's updates alone
            return
        if "loss" in logs:
            logs = self._in_terms(logs)
        super().log(logs, start_time)
        # In our log alone: trackers know numbers, and `reward` is none.
        at = {"eval_strength": named(self.at)} if f"eval_{BEST}" in logs and self.at != 1 else {}
        self.logbook.write({"update": self.state.global_step} | logs | at)
        self.trackers.tell(self.state.global_step, logs)

    def _in_terms(self, logs: dict[str, float]) -> dict[str, float]:
        """A line with the tally's means; the loss in its terms, and what is a likelihood by token too."""
        means = self.tally.flush()
        tokens = means.pop("target_tokens", None)
        if tokens:
            means["nll_per_token"] = means["target_nll"] / tokens
        names = self.method.term_names
        if len(names) > 1:
            means |= shares({name: means[name] for name in names}) | self._gradient_shares()
        return logs | {name: round(value, 6) for name, value in means.items()}

    def _gradient_shares(self) -> dict[str, float]:
        """Each term's share of the gradient's norm on the latest micro-batch, every `EVERY` log lines."""
        lines = sum("loss" in line for line in self.state.log_history)
        if lines % EVERY or self._latest is None or is_sharded(self.model):  # a pass that the others do not take
            return {}
        start, batch = time.perf_counter(), self._latest
        found = gradient_shares(
            lambda: self.method.terms(self._tables(self.model, batch)), self.model.parameters(), warn=not lines
        )
        self.tally.since += time.perf_counter() - start  # speed is that of training
        return found
