"""Where a run's figures go beside its log: TensorBoard, Weights & Biases, trackio.

A tracker is told the numbers of each line of `log.jsonl` at the line's update: `eval_NDCG@10` as `eval/NDCG@10`, all
that is not of validation as `train/loss`. TensorBoard and wandb write into the run's folder (`tensorboard/`, `wandb/`;
with WANDB_MODE=offline all of it stays there). trackio keeps the runs of all folders in one store, which it chooses
when it is imported (TRACKIO_DIR). A run bears its folder's name, in the project `irpo` (or WANDB_PROJECT).

A run that goes on from a checkpoint goes on in its trackers: TensorBoard drops what the process before told after the
checkpoint; wandb and trackio keep it beside the same updates' new values.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, redirect_stdout
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from irpo.processes import is_first
from irpo.progress import BEST
from irpo.runs import ROUNDS
from irpo.runs.checkpoints import update_of
from irpo.types import UserError

PROJECT = "irpo"
Teller = Callable[[int, Mapping[str, float]], None]  # takes an update and its figures by name


@dataclass(frozen=True)
class Subject:
    """What a tracker is opened for."""

    folder: Path
    settings: Mapping[str, Any]  # shown beside the figures
    after: int | None  # the update that the run goes on from, None where it begins

    @property
    def name(self) -> str:
        """The folder's name; of a round its run's, with the round's number."""
        here = self.folder.resolve()
        return f"{here.parents[1].name}-round-{here.name}" if here.parent.name == ROUNDS else here.name


@dataclass
class Trackers:
    """The trackers of one training run; told of nothing unless they are `opened`."""

    names: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    _open: list[Teller] = field(default_factory=list)

    @contextmanager
    def opened(self, folder: Path, checkpoint: str | None, *, start: Mapping[str, float] | None) -> Iterator[None]:
        """Open all of ours by name, and close them whatever happens; the Trainer serves names that are not ours.

        A run that does not go on from a checkpoint begins with the `start`'s measure of every list.
        """
        after = None if checkpoint is None else update_of(Path(checkpoint))
        subject = Subject(folder, self.settings, after)
        with ExitStack() as stack:
            ours = [TRACKERS[name] for name in self.names if name in TRACKERS and is_first()]
            self._open = [stack.enter_context(tracker(subject)) for tracker in ours]
            try:
                if start and after is None:
                    self.tell(0, {f"eval_{BEST}": sum(start.values()) / len(start)})
                yield
            finally:
                self._open = []

    def tell(self, update: int, line: Mapping[str, Any]) -> None:
        """The numbers of a line of the log."""
        numbers = {_spelt(name): float(value) for name, value in line.items() if isinstance(value, (int, float))}
        for told in self._open:
            told(update, numbers)


def _spelt(name: str) -> str:
    """As dashboards group; different names stay different (`loss` of an update, `train_loss` of the whole run)."""
    return f"eval/{name.removeprefix('eval_')}" if name.startswith("eval_") else f"train/{name}"


@contextmanager
def _tensorboard(run: Subject) -> Iterator[Teller]:
    from torch.utils.tensorboard import SummaryWriter

    folder = run.folder / "tensorboard"
    if run.after is None:
        shutil.rmtree(folder, ignore_errors=True)  # of a process that died before its first checkpoint
    writer: Any = SummaryWriter(str(folder), purge_step=None if run.after is None else run.after + 1)

    def tell(update: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            writer.add_scalar(name, value, update)
        writer.flush()

    with closing(writer):
        yield tell


@contextmanager
def _wandb(run: Subject) -> Iterator[Teller]:
    import wandb

    began = sorted(run.folder.glob("wandb/*run-*-*")) if run.after is not None else []
    try:
        held = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.name,
            dir=str(run.folder),
            config=dict(run.settings),
            id=began[-1].name.rpartition("-")[2] if began else None,
            resume="allow",
            reinit="create_new",  # a run that the caller holds open is left alone
            settings=wandb.Settings(console="off"),
        )
    except wandb.Error as error:
        raise UserError(f"training.report_to: wandb: {error}; WANDB_MODE=offline needs no account") from None
    with held:  # ends as failed where an error comes out of the block
        held.define_metric("update")
        held.define_metric("*", step_metric="update")
        yield lambda update, figures: held.log({**figures, "update": update})


@contextmanager
def _trackio(run: Subject) -> Iterator[Teller]:
    with redirect_stdout(sys.stderr):
        trackio: Any = import_module("trackio")
        resume = "never" if run.after is None else "allow"
        held = trackio.init(project=PROJECT, name=run.name, config=dict(run.settings), resume=resume)
    try:
        yield lambda update, figures: held.log(dict(figures), step=update)
    finally:
        with redirect_stdout(sys.stderr):
            trackio.finish()


TRACKERS: Mapping[str, Callable[[Subject], AbstractContextManager[Teller]]] = {
    "tensorboard": _tensorboard,  # the names are those of modules
    "wandb": _wandb,
    "trackio": _trackio,
}
