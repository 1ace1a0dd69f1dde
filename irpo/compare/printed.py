"""Figures that a paper printed, as data: they stand beside ours, labelled as the paper's."""

from __future__ import annotations

import json

from irpo.compare.results import Printed
from irpo.config.layers import find_config
from irpo.types import UserError


def read_printed(name: str) -> tuple[tuple[Printed, ...], str]:
    """A file's figures and their source; nothing where no file is named.

    The file, a shipped one or one's own, is {"source": ..., "figures": {task: {model: {method: {measure: percent}}}}},
    names as the suite has them.
    """
    if not name:
        return (), ""
    path = find_config(name)
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        rows = [
            Printed(r["task"], r["model"], r["method"], r["measure"], float(r["value"]) / 100) for r in told["rows"]
        ]
        return tuple(rows), str(told["source"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a file of printed figures: {' '.join(str(error).split())}") from None
