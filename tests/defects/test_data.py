"""Defects of data and lists that were found from outside; each test bears its point's name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from blind import blind_tables

from irpo.chance import in_test_split
from irpo.tasks import TASKS, Intake, build_lists

DATA = Path(os.environ.get("IRPO_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")


def real_lists(task: str, size: str):
    folder = DATA / size / {"arc": "arc_challenge"}.get(task, task)
    if not folder.is_dir():
        pytest.skip(f"no data at {folder}")
    return build_lists(TASKS.build({"name": task, "data": str(folder)}), Intake())


# ---- W1: wrong answers that tell themselves --------------------------------------------------------------------------

# Not ReDial and INSPIRED, where popularity belongs to the paper's construction; not world, whose films recur by design.
BLIND = [
    *((task, size) for task in ("arc", "hotpotqa") for size in ("sample", "extended")),
    *((task, "sample") for task in ("commonsenseqa", "musique")),
    pytest.param("commonsenseqa", "extended", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("task", "size"), BLIND)
def test_w1_nothing_is_won_without_reading_the_query(task, size):
    lists = real_lists(task, size)
    held = {"eval": (lists["train"], lists["eval"])}
    for share in (0.1, 0.2):
        inside = [e for e in lists["train"] if in_test_split(e.unit, share)]
        held[f"validation {share}"] = ([e for e in lists["train"] if e not in inside], inside)
    for name, (train, asked) in held.items():
        if len(asked) < 30:  # the mean's own error would be greater than what is asked
            continue
        best, chance = blind_tables(train, asked)
        assert best < chance + 0.05, name
