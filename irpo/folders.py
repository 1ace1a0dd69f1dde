"""Folders that appear whole under their names, and go from under them at once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from irpo.disk import telling
from irpo.files import beside, to_disk


@telling
@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder that takes the path's place, whole, when the block ends well; until then an earlier one stays."""
    work = beside(path)
    work.mkdir(parents=True)
    try:
        yield work
        take_place(work, path)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def take_place(work: Path, path: Path) -> None:
    """Give a folder its name, all of it on disk; one that bore the name goes, and stays where that cannot be."""
    for inner in (*work.rglob("*"), work):
        to_disk(inner)
    old = beside(path)
    try:
        if path.exists():
            os.rename(path, old)
        os.rename(work, path)
    finally:
        if old.exists() and not path.exists():
            os.rename(old, path)
        shutil.rmtree(old, ignore_errors=True)
    to_disk(path.absolute().parent)


def discard(folder: Path) -> None:
    """Remove a folder: it is gone from under its name at once, however long its files take."""
    going = beside(folder)
    with suppress(OSError):  # it is not there, or (on Windows) open; then its files go one by one
        os.rename(folder, going)
    for path in (going, folder):
        shutil.rmtree(path, ignore_errors=True)
