"""`prepare` in shards: the same files by any number of processes, in Parquet as in JSON lines."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest
from handmade import build, write_lines
from prepared_lists import data, prepared

from irpo import rows, stopping
from irpo.tasks import TASKS, Intake, build_lists
from irpo.tasks._workers import WorkerDied, Workers
from irpo.tasks.preparing import Layout, prepare
from irpo.tasks.shards import ROW_GROUP, ShardedLists
from irpo.types import UserError


def test_parquet_holds_what_json_lines_hold(tmp_path):
    import datasets
    import pyarrow.parquet

    source = data(tmp_path / "in")
    lines = prepared(source, tmp_path / "lines")
    shards = prepared(source, tmp_path / "shards", format="parquet", shard_lists=100)
    assert sorted(shards) == ["card.json", "eval-00000.parquet", *(f"train-0000{n}.parquet" for n in range(3))]
    intake = Intake(skip_bad_rows=True)
    held = build("jsonl", source, intake)
    for split, examples in held.items():
        for out in ("lines", "shards"):
            assert list(ShardedLists.of(tmp_path / out, split)) == examples
    card, plain = json.loads(shards["card.json"]), json.loads(lines["card.json"])
    assert card.pop("format") == "parquet"
    assert [file["lists"] for file in card["splits"]["train"].pop("files")] == [100, 100, len(held["train"]) - 200]
    del card["splits"]["eval"]["files"], card["splits"]["eval"]["sha256"], plain["splits"]["eval"]["sha256"]
    assert card["splits"]["train"].pop("sha256") != plain["splits"]["train"].pop("sha256")
    assert card == plain
    assert card["bad_rows"]["first"][0].startswith("train.jsonl:8: ")  # training rows first, though read last
    assert card["bad_rows"]["count"] == 21  # torn, nothing relevant, 18 ids again; one of eval
    assert card["dropped"] == {"train": {"id is also in the evaluation split": 1}}
    assert card["notes"] == ["train and eval share 1 groups, such as 'g1': they are not independent"]
    path = tmp_path / "shards" / "train-00000.parquet"
    column = pyarrow.parquet.read_metadata(path).row_group(0).column(0)
    assert column.compression == "ZSTD"
    stream = datasets.load_dataset("parquet", data_files=str(path), split="train", streaming=True)
    assert next(iter(stream))["candidates"][0]["text"] == "text 0"


def test_memory_and_stream_agree_on_every_account(tmp_path):
    source, intake = data(tmp_path / "in"), Intake(skip_bad_rows=True)
    lists = build_lists(TASKS.build("jsonl", data=str(source)), intake)
    card = json.loads(prepared(source, tmp_path / "out")["card.json"])
    assert card["splits"]["train"]["lists"] == len(lists["train"])
    assert card["splits"]["train"]["groups"] == len({e.unit for e in lists["train"]})
    assert card["bad_rows"] == {"count": intake.bad_count, "first": intake.bad_rows}
    assert card["dropped"] == intake.dropped
    assert card["sources"] == intake.sources
    assert card["notes"] == intake.notes


def test_row_groups_are_of_one_size(tmp_path):
    import pyarrow.parquet

    spec = {"name": "world", "train_lists": 3 * ROW_GROUP, "eval_lists": 1, "candidates": 4}
    prepare(TASKS.build(spec), tmp_path / "out", task_spec=spec, layout=Layout("parquet", 2 * ROW_GROUP))
    found = [pyarrow.parquet.read_metadata(tmp_path / "out" / f"train-0000{n}.parquet") for n in range(2)]
    assert [[f.row_group(i).num_rows for i in range(f.num_row_groups)] for f in found] == [[500, 500], [500]]


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_several_processes_write_the_same_bytes(tmp_path, monkeypatch, format):
    monkeypatch.setattr(rows, "_BLOCK", 3000)
    source = data(tmp_path / "in")
    one = prepared(source, tmp_path / "one", format=format, shard_lists=70)
    assert prepared(source, tmp_path / "two", format=format, shard_lists=70, processes=2) == one


def test_a_broken_row_is_the_same_error_by_several_processes(tmp_path):
    spec = {"name": "jsonl", "data": str(data(tmp_path / "in") / "train.jsonl")}
    for processes in (1, 2):
        with pytest.raises(UserError, match=r"train\.jsonl:8: the row has no 'query'"):
            prepare(TASKS.build(spec), tmp_path / "out", task_spec=spec, layout=Layout(processes=processes))
        assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_the_prepared_task(tmp_path):
    source = data(tmp_path / "in")
    spec = {"name": "jsonl", "data": str(source), "relevant_from": 2.0}
    for format in ("jsonl", "parquet"):
        out = tmp_path / format
        prepare(TASKS.build(spec), out, task_spec=spec, skip_bad_rows=True, layout=Layout(format, 100))
        task = TASKS.build("prepared", data=str(out))
        assert task.relevant_from == 2
        assert build_lists(task, Intake()) == build("jsonl", source, Intake(skip_bad_rows=True))
        path = next(out.glob("train*"))
        content = path.read_bytes()
        path.write_bytes(content[:99] + bytes([content[99] ^ 1]) + content[100:])
        with pytest.raises(UserError, match=r"train.*: it was changed after card\.json was written"):
            build("prepared", out)
        path.unlink()
        with pytest.raises(UserError, match="names this file, and it is not here"):
            build("prepared", out)
    with pytest.raises(UserError, match=r"no card\.json lies here"):
        build("prepared", source)


def test_workers_are_not_waited_for_after_an_error():
    def told_to_end() -> None:
        with Workers(2) as workers:
            next(workers.map(time.sleep, [0, *[30] * 4]))
            raise stopping.Stopped(signal.SIGTERM)

    began = time.monotonic()
    with pytest.raises(stopping.Stopped):
        told_to_end()
    assert time.monotonic() - began < stopping.GRACE


def test_a_worker_that_dies_is_one_line():
    with Workers(2) as workers, pytest.raises(WorkerDied, match="a worker process died"):
        list(workers.map(os._exit, [1]))


def test_prompts_set_aside_are_counted_once(tmp_path):
    """Preferences without an evaluation split are gone through twice, once for each part."""
    answers = [{"text": "a", "score": 1}, {"text": "b", "score": 2}]
    found = [{"prompt": f"p{n // 2}", "responses": answers if n % 5 else answers[:1]} for n in range(60)]
    source = write_lines(tmp_path / "in" / "train.jsonl", [*found, {"prompt": "torn"}]).parent
    spec = {"name": "preferences", "data": str(source), "eval_fraction": 0.3}
    intake = Intake(skip_bad_rows=True)
    lists = build_lists(TASKS.build(spec), intake)
    card = prepare(TASKS.build(spec), tmp_path / "out", task_spec=spec, skip_bad_rows=True, layout=Layout("parquet"))
    assert {split: list(ShardedLists.of(tmp_path / "out", split)) for split in lists} == lists
    assert min(map(len, lists.values())) > 3
    assert card["dropped"]["train"]["fewer than two different responses"] == 12
    assert (card["dropped"], card["sources"]) == (intake.dropped, intake.sources)
    assert card["bad_rows"] == {"count": 1, "first": intake.bad_rows}
    assert intake.bad_count == 1


def test_what_cannot_be():
    for wrong in ({"format": "csv"}, {"shard_lists": 0}, {"processes": 0}):
        with pytest.raises(UserError):
            Layout(**wrong)
