"""A checkpoint's pickles (optimizer, learning rate, chance): opened as tensors alone, whoever wrote them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError  # nosec B403 # the error alone: nothing is unpickled here

import torch

from irpo.types import UserError

_OPENED = ("optimizer.pt", "scheduler.pt", "rng_state*.pth", "scaler.pt")


@contextmanager
def opened_as_tensors(checkpoint: Path) -> Iterator[None]:
    """While the Trainer goes on from a checkpoint: `UserError` for a file that holds more than tensors and numbers.

    The Trainer reads them with torch's `weights_only`, which runs nothing that a pickle asks for.
    """
    try:
        yield
    except UnpicklingError:
        held = [path for pattern in _OPENED for path in sorted(checkpoint.glob(pattern))]
        wrong = next((path.name for path in held if not _holds_tensors(path)), "one of its files")
        raise UserError(
            f"--resume: {wrong} in {checkpoint} asks for code to be run, which no checkpoint of ours does; nothing "
            f"of it was run; remove that folder to go on from the checkpoint before"
        ) from None


def _holds_tensors(path: Path) -> bool:
    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError:
        return False
    return True
