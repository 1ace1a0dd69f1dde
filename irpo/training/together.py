"""An update on several processes: which lists are whose, and how gradients meet.

An update is the same set of lists on any number of processes. They are dealt by tokens, each process goes through its
own, and the gradients are averaged once, by DDP, when all have come to the end; what FSDP2 shards it reduces itself. So
no process waits for another within an update, unless layers are put together for each pass, and one that runs out of
memory leaves nobody behind: all take the update anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import Trainer
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME

from irpo.processes import count, is_first, rank, total, wait
from irpo.scoring.batching import balanced
from irpo.scoring.sharding import is_sharded, load_whole, spread_like, whole, whole_state
from irpo.scoring.tokens import EncodedList
from irpo.types import UserError

T = TypeVar("T")


def dealt(items: Sequence[EncodedList]) -> list[EncodedList]:
    """This process's lists of an update, in its order: the longest first to whoever has least (Graham 1969)."""
    return shares(items, count())[rank()]


def shares(items: Sequence[EncodedList], processes: int) -> list[list[EncodedList]]:
    """Each process's lists of an update, as `dealt` has them."""
    sizes = [len(item.prompt) + sum(map(len, item.bodies)) for item in items]
    dealt = balanced(sizes, sorted(range(len(items)), key=lambda i: -sizes[i]), processes)
    return [[items[i] for i in sorted(mine)] for mine in dealt]


def shortest(items: Sequence[EncodedList]) -> EncodedList:
    """The list that costs least to keep the others company with."""
    return min(items, key=lambda item: len(item.prompt) + sum(map(len, item.bodies)))


class Learning(torch.nn.Module):
    """The weights that learn and that each process holds whole: all that DDP is shown of a model."""

    def __init__(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        super().__init__()
        self.held = torch.nn.ParameterList(parameters)

    def forward(self, _: None = None) -> Tensor:
        """0, whose backward pass adds nothing to the gradients, and has DDP average them.

        It takes an argument because DDP moves the first one to its device, where it has one.
        """
        return torch.stack([0.0 * weight.flatten()[0] for weight in self.held]).sum()


def exchange(model: Any, wrapped: Callable[[Any], Any]) -> Callable[[], None]:
    """What averages the gradients over all processes; `wrapped` makes DDP of a module.

    The weights are the first process's from here on.
    """
    from torch.distributed.tensor import DTensor

    own = [p for p in model.parameters() if p.requires_grad and not isinstance(p.data, DTensor)]
    if not own:  # FSDP2 shards all that learns
        return lambda: None
    together = wrapped(Learning(own))
    return lambda: together(None).backward()


class SharedTrainer(Trainer):
    """The Trainer whose updates are seen whole by every process: it deals, reduces and saves as this module says.

    `model` is never wrapped: it comes sharded, or it is whole everywhere.
    """

    _average: Callable[[], None] = staticmethod(lambda: None)  # of gradients over processes

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        # To the Trainer this says: leave the model as it is, its gradients are looked after. DeepSpeed does it itself.
        self.is_distributed_loading_by_transformers = count() > 1 and not self.is_deepspeed_enabled

    def get_train_dataloader(self) -> Any:
        """The updates in one order, each of them whole on every process."""
        loader = super().get_train_dataloader()
        dealers: tuple[Any, ...] = (getattr(loader, "batch_sampler", None), getattr(loader, "dataset", None))
        for dealer in dealers:
            if hasattr(dealer, "num_processes"):
                dealer.num_processes, dealer.process_index, dealer.even_batches = 1, 0, False
        return loader

    def _sync_replicated_trainable_parameters(self, model: Any) -> None:
        """Where the Trainer would average after each backward pass, we do once an update."""
        if count() > 1:
            self._average = exchange(model, self.accelerator.prepare_model)

    @property
    def in_lockstep(self) -> bool:
        """Whether each pass through the model is taken by all processes, so that all need as many micro-batches."""
        return is_sharded(self.model) or self.is_deepspeed_enabled

    def in_turn(self, batches: Iterable[T]) -> Iterator[T]:
        """An update's micro-batches; DeepSpeed is told which is the last, for it takes the step after that one."""
        if not self.is_deepspeed_enabled:
            yield from batches
            return
        every = list(batches)
        for number, batch in enumerate(every, start=1):
            self.accelerator.gradient_state._set_sync_gradients(number == len(every))
            yield batch

    def met(self, loss: Tensor, too_many: int, tokens: int) -> tuple[Tensor | None, int, int]:
        """After a process's share of an update: the update's loss, and its tokens, gradients being averaged.

        `too_many` are the lists of a batch that did not fit into memory, 0 where all did. Where one process had such a
        batch the loss is None everywhere, and the number 1 where a list was alone in it.
        """
        if count() == 1:
            return (None if too_many else loss), too_many, tokens
        if too_many and self.in_lockstep:  # the others are in the midst of what they do together
            raise UserError(
                f"out of memory on process {rank()}: micro-batches are taken by all processes together, so this one "
                f"cannot try again alone; go on with --resume training.tokens_per_batch={self.tokens_per_batch // 2}"
            )
        value, short, alone, taken = total([float(loss), float(too_many > 0), float(too_many == 1), tokens])
        if short:
            return None, 1 if alone else 2, 0
        self._average()
        return torch.tensor(value, dtype=loss.dtype, device=loss.device), 0, int(taken)

    def require_own(self, checkpoint: Path) -> None:
        """`UserError` where the optimiser's state there is cut otherwise than this run's: DeepSpeed's goes on alike."""
        parts = len(list(checkpoint.glob("global_step*/*optim_states.pt")))
        mine = count() if self.is_deepspeed_enabled else 0
        if parts != mine:
            was, now = (f"zero2 on {n} process(es)" if n else "another --launch than zero2" for n in (parts, mine))
            raise UserError(f"--resume: {checkpoint} was written by {was} and this is {now}; go on as it began")

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        state_dict = state_dict or whole_state(self.model)  # by all processes
        if is_first():
            super()._save(output_dir, state_dict)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not is_sharded(self.model):
            super()._save_optimizer_and_scheduler(output_dir)
            return
        state = whole(self.optimizer.state_dict())  # by all processes
        if is_first():
            torch.save(state, Path(output_dir) / OPTIMIZER_NAME)
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        for weight, state in self.optimizer.state.items():
            for name, value in state.items():
                if isinstance(value, Tensor) and value.shape == weight.shape:
                    state[name] = spread_like(value, weight)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if not load_whole(self.model, resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        wait()  # until it has been written
        if not load_whole(self.model, str(self.state.best_model_checkpoint)):
            super()._load_best_model()
