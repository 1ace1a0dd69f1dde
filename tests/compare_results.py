"""Results of cells by hand: what the tests of reports are made from."""

import numpy as np

from irpo.compare.results import EvaluationList, Frame, Result, Row, TaskFrame

DIGEST = "0123456789abcdef"


def frame(**more):
    """A frame of one task with one measure."""
    told = {
        "title": "A suite",
        "about": "by hand",
        "tasks": (TaskFrame("world", "choices", ("NDCG@10",), DIGEST),),
        "models": ("embedded",),
        "methods": ("base", "SFT", "IRPO"),
        "against": ("SFT",),
    }
    return Frame(**{**told, **more})


def lists_of(units, candidates=3):
    """A list for each unit's name; the first candidate is relevant."""
    relevance = (1.0,) + (0.0,) * (candidates - 1)
    texts = tuple(f"text {j}" for j in range(candidates))
    return tuple(EvaluationList(f"q{i}", unit, f"query {i}", texts, relevance) for i, unit in enumerate(units))


def row(values, mode="score", shown=("1", "auto"), rankings=None, **more):
    """A row with one measure (n,) or, as a mapping, several."""
    if not isinstance(values, dict):
        values = {"NDCG@10": values}
    matrix = np.array(list(values.values()), dtype=np.float64)
    if rankings is None:
        rankings = np.tile(np.arange(3, dtype=np.int16), (matrix.shape[1], 1))
    return Row(mode, shown[0], shown, tuple(values), matrix, np.asarray(rankings, dtype=np.int16), **more)


def result(method, *rows, seed=0, kind="run", model="embedded", task="world", **more):
    """A finished cell."""
    key = f"{kind}-{model}-{task}-{method}-{seed}"
    return Result(key, kind, task, method, model, seed, lists=DIGEST, rows=rows, **more)
