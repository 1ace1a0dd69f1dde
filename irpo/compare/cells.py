"""A cell: one piece of a suite that is done by itself, and the folder in which it lies.

cells/<name>/cell.json    what is to be done
             log.txt      what was said on the way
             run.<key>/   the training run, while it lasts
             result.json  what came out, with rows.npz (`irpo.compare.results`): the cell is done
             error.json   why it failed
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

CELLS, CELL, ERROR, LOG = "cells", "cell.json", "error.json", "log.txt"


@dataclass(frozen=True)
class Cell:
    """What is to be done, keyed by what changes the result; `spec` is JSON, all that the work needs to know."""

    key: str  # 16 hex digits
    name: str  # of its folder, readable and with the key's beginning: "embedded.world.irpo.run.0-3fa2b1c4"
    title: str  # for people: "IRPO on world, embedded: seed 0"
    spec: Mapping[str, Any]


def folder_of(name: str) -> str:
    """A name that every file system takes; the key's beginning at its end keeps two apart.

    >>> folder_of("Llama 3.2/3B.arc.S-DPO.run.0-12345678")
    'Llama-3.2-3B.arc.S-DPO.run.0-12345678'
    """
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[-160:]
