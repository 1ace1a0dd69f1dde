"""Prepared lists read as a stream: what was written, in order or shuffled, the same again; what is no such folder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from handmade import a_list, write_lines

from irpo.tasks import TASKS, shards
from irpo.tasks.jsonl import parse_list
from irpo.tasks.preparing import prepare
from irpo.tasks.shards import ShardedLists
from irpo.types import UserError

ROWS = [a_list(f"q{n}", [1, 0, 0.5]) | ({"group": f"g{n // 2}"} if n % 3 else {}) for n in range(90)]
for row in ROWS[::7]:
    for place, candidate in enumerate(row["candidates"]):
        candidate["teacher"] = -float(place)
LISTS = [parse_list(row) for row in ROWS]


def prepared(folder: Path) -> Path:
    """A folder of prepared lists."""
    write_lines(folder / "in" / "train.jsonl", ROWS)
    spec = {"name": "jsonl", "data": str(folder / "in")}
    prepare(TASKS.build(spec), folder / "out", task_spec=spec)
    return folder / "out"


def test_lists_come_as_they_were_written_and_where_they_stand(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "_BLOCK", 1000)
    found = ShardedLists.of(prepared(tmp_path), "train")
    assert len(found) == 90
    assert list(found) == LISTS
    assert found.sha256 == json.loads((tmp_path / "out" / "card.json").read_text())["splits"]["train"]["sha256"]
    assert next(iter(found)).where.startswith(str(tmp_path / "out" / "train."))
    found.verify()


def test_shuffled_is_a_permutation_that_seed_and_epoch_decide(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "_BLOCK", 1000)
    found = ShardedLists.of(prepared(tmp_path))
    orders = {key: [e.id for e in found.shuffled(*key, buffer=16)] for key in [(1, 0), (1, 1), (2, 0)]}
    assert len({tuple(order) for order in orders.values()}) == 3
    assert all(sorted(order) == sorted(e.id for e in LISTS) for order in orders.values())
    assert [e.id for e in found.shuffled(1, 1, buffer=16)] == orders[1, 1]
    assert orders[1, 0] != [e.id for e in LISTS]
    program = "import sys; from irpo.tasks import shards; shards._BLOCK = 1000;" + (
        "print(*(e.id for e in shards.ShardedLists.of(sys.argv[1]).shuffled(1, 1, 16)))"
    )
    told = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "out"], capture_output=True, text=True, check=True, cwd=Path.cwd()
    )
    assert told.stdout.split() == orders[1, 1]


@pytest.mark.parametrize(
    ("card", "says"),
    [
        (None, r"no card\.json lies here"),
        ("{", r"card\.json: this is no card"),
        ("[" * 3000, r"card\.json: this is no card"),
        ('{"splits": {"train": 3}, "relevant_from": 1}', "this is no card"),
        ('{"splits": {"dev": {"lists": 1, "sha256": "x"}}, "relevant_from": 1}', "this is no card"),
        (
            '{"splits": {"train": {"lists": 1, "sha256": "x", "files": [{"name": "../../a"}]}}, "relevant_from": 1}',
            "no card",
        ),
        ('{"splits": {"eval": {"lists": 1, "sha256": "x"}}, "relevant_from": 1}', "no split 'train' here; .* eval"),
        ('{"splits": {"train": {"lists": 1, "sha256": "x"}}, "relevant_from": 1}', "it is not here"),
    ],
)
def test_what_is_no_prepared_folder(tmp_path, card, says):
    if card is not None:
        (tmp_path / "card.json").write_text(card)
    with pytest.raises(UserError, match=says):
        ShardedLists.of(tmp_path, "train")


def test_a_file_that_was_changed_is_found(tmp_path):
    out = prepared(tmp_path)
    with (out / "train.jsonl").open("a") as file:
        file.write('{"id": \n')
    found = ShardedLists.of(out)
    with pytest.raises(UserError, match=r"train\.jsonl: it was changed after card\.json was written"):
        found.verify()
    with pytest.raises(UserError, match=r"train\.jsonl:byte \d+: .*prepare the lists anew"):
        list(found)
