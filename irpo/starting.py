"""`irpo init`: the beginning of a project of one's own, copied from `irpo/_data/project/`."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

from irpo.files import atomic_folder
from irpo.resources import project_dir
from irpo.types import UserError


def begin(folder: Path) -> None:
    """Write a commented configuration, twenty example lists and a Makefile into a folder; all of it, or nothing.

    `UserError` where the folder holds anything already, or is a file.
    """
    folder = folder.absolute()
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: this is a file; give a folder that is empty, or not there yet")
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"{folder}: the folder is not empty; give one that is, or that is not there yet")
    with atomic_folder(folder) as work:
        shutil.copytree(project_dir(), work, dirs_exist_ok=True)


def told(folder: Path) -> str:
    """What lies in the folder now, and what to type next."""
    there = "" if folder.absolute() == Path.cwd() else f"cd {shlex.quote(str(folder))} && "
    return f"""\
{folder}:
  config.yaml        a training run; a comment says what each key is
  lists/             train.jsonl and eval.jsonl, twenty example lists: put yours in their place
  Makefile           make check, make train, make evaluate, make serve

next: {there}make check train evaluate
      irpo guide own_data    # from a table of your own to a served ranker"""
