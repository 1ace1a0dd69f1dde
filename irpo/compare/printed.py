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
        found = [
            Printed(task, model, method, measure, float(percent) / 100)
            for task, models in told["figures"].items()
            for model, methods in models.items()
            for method, measures in methods.items()
            for measure, percent in measures.items()
        ]
        return tuple(found), str(told["source"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a file of printed figures: {' '.join(str(error).split())}") from None
