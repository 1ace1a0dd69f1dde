"""A loop's checkpoints: when they are written, what the next process goes on from, and how a signal ends the loop."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from irpo import processes, stopping
from irpo.progress import BEST
from irpo.runs import checkpoints, write_text
from irpo.runs.key import read_json
from irpo.training.cost import write_cost


class Ended(Exception):
    """A loop that went on from a checkpoint has no update left to take."""


class Saving:
    """Writes a loop's checkpoints, each once, in time for what may end the process."""

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self.aside: Path | None = None  # where one is being written
        self.at = -1  # the update of the last one

    def save(self, write: Callable[[], None]) -> None:
        """The update's checkpoint, whole: what `write` makes, the cost, and the sums of the next log line.

        Where it is there already, from before the update's validation, that validation is told to it.
        """
        trainer, update = self._trainer, self._trainer.state.global_step
        home = Path(trainer.args.output_dir)
        if self.at == update:
            self._tell(checkpoints.checkpoint_of(home, update))
        else:
            try:
                with checkpoints.written(home, update) as self.aside:
                    write()
                    self._add(checkpoints.checkpoint_of(self.aside, update))
            finally:
                self.aside = None
            self.at = update
        if processes.is_first() and not trainer.control.should_evaluate:
            checkpoints.prune(home, trainer.state.best_model_checkpoint)

    def _add(self, folder: Path) -> None:
        trainer = self._trainer
        sums = {"since": trainer._globalstep_last_logged, "loss": float(trainer._tr_loss)}
        sums["tally"] = trainer.tally.told()  # by all processes
        if processes.is_first():
            write_text(folder / checkpoints.PARTIAL, json.dumps(sums))
        write_cost(folder, trainer.meter.read())

    def _tell(self, folder: Path) -> None:
        """What the Trainer's state says by now, in a checkpoint that was written before."""
        trainer, state = self._trainer, self._trainer.state
        if state.best_global_step == state.global_step:
            state.best_model_checkpoint = str(folder)
        for held in (*trainer.callback_handler.callbacks, trainer.control):
            if isinstance(held, ExportableState):
                state.stateful_callbacks[type(held).__name__] = held.state()
        if processes.is_first():
            checkpoints.amend(folder, state)


def is_due(state: Any, validation: Any) -> bool:
    """Whether a checkpoint's update is to be looked at by validation lists, and its process died before it was."""
    at = state.global_step
    known = any(line.get("step") == at and f"eval_{BEST}" in line for line in state.log_history)
    looks = at > 0 and (at % state.eval_steps == 0 or at >= state.max_steps)
    return bool(validation) and looks and not known


class GoesOn(TrainerCallback):
    """Gives a loop that goes on from a checkpoint the sums of its next log line, and the validation that is `due`."""

    def __init__(self, trainer: Any, checkpoint: Path, *, due: bool) -> None:
        self._trainer, self._due = trainer, due
        self._partial = read_json(checkpoint / checkpoints.PARTIAL)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The Trainer has just set its own to 0, and has the checkpoint's weights."""
        trainer = self._trainer
        trainer.go_on(self._partial)
        trainer.saving.at = state.global_step
        if not self._due:
            return
        metrics = trainer.evaluate()
        trainer._determine_best_metric(metrics, None)
        trainer._save_checkpoint(trainer.model, None)
        if control.should_training_stop or state.global_step >= state.max_steps:
            raise Ended


class Stops(TrainerCallback):
    """Ends a loop after the update in which a signal came to any of its processes, its checkpoint saved."""

    def __init__(self) -> None:
        self._number = 0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """All processes agree, so that none waits for another."""
        self._number = _any_of(stopping.asked())
        if self._number:
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The checkpoint is whole."""
        self.leave()

    def leave(self) -> None:
        """Raise `Stopped` where it was agreed on."""
        if self._number:
            raise stopping.Stopped(self._number)


def _any_of(number: int) -> int:
    """The first of `SIGNALS` that came to any process, 0 where none did."""
    told = processes.total([float(number == each) for each in stopping.SIGNALS])
    return next((each for each, heard in zip(stopping.SIGNALS, told, strict=True) if heard), 0)
