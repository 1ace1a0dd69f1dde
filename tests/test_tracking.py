"""TensorBoard, wandb offline and trackio hold what `log.jsonl` holds, and nothing is left in the current folder."""

import json
import os
import struct
from pathlib import Path

import pytest
from small_runs import config_of, lines
from training_lists import encoded, method, trainer

from irpo import pipeline
from irpo.training.arguments import Loop
from irpo.training.tracking import Trackers
from irpo.types import UserError

ITEMS = encoded(count=8)
LOSS, MEASURE = "train/loss", "eval/NDCG@10"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """A current folder of its own, which stays empty; no account, no network."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("WANDB_API_KEY", "WANDB_PROJECT", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    yield
    assert list(here.iterdir()) == []


def tracked(out, *names, updates=2, **settings):
    loop = Loop(trackers=Trackers(names, {"seed": 7}))
    settings = {"evaluate_every": 1, **settings}
    return trainer(out, method("irpo"), items=ITEMS, validation=ITEMS[:4], updates=updates, loop=loop, **settings)


def logged(out):
    """(update, value) of training loss and of validation NDCG@10, as log.jsonl has them."""
    names = {LOSS: "loss", MEASURE: "eval_NDCG@10"}
    return {to: [(line["update"], line[name]) for line in lines(out) if name in line] for to, name in names.items()}


def in_tensorboard(out):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in (LOSS, MEASURE)}


def in_wandb(folder):
    """The records of an offline run's file: LevelDB's log format behind 7 bytes of wandb's own.

    Blocks of 32 KiB hold parts of records: checksum (4 bytes), length (2), kind (1: whole, 2: first, 3: middle, 4:
    last), data. A block's last bytes, too few for a part's head, are left empty.
    """
    import wandb
    from wandb.proto.wandb_internal_pb2 import Record

    wandb.teardown()  # its service ends, and with it writes what is left
    (path,) = folder.glob("*.wandb")
    held, at, data, records = path.read_bytes(), 7, b"", []
    assert held.startswith(b":W&B")
    while at + 7 <= len(held):
        if (left := -at % 2**15) < 7:
            at += left
            continue
        length, kind = struct.unpack_from("<HB", held, at + 4)
        data += held[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            records.append(Record.FromString(data))
            data = b""
    return records


def history(records):
    found = {LOSS: [], MEASURE: []}
    for record in records:
        row = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
        for name in found.keys() & row.keys():
            found[name].append((row["update"], row[name]))
    return found


def same(found, expected):
    assert [update for update, _ in found] == [update for update, _ in expected]
    assert [value for _, value in found] == pytest.approx([value for _, value in expected], rel=1e-6)


def test_tensorboard_holds_the_log(tmp_path):
    out = tmp_path / "run"
    settings = ("training.updates=2", "training.evaluate_every=1", "training.logging_every=1")
    pipeline.train(config_of(*settings, "training.report_to=[tensorboard]"), out)
    found, expected = in_tensorboard(out), logged(out)
    assert [update for update, _ in expected[MEASURE]] == [0, 1, 2]
    for name in (LOSS, MEASURE):
        same(found[name], expected[name])
    assert not list(out.glob("checkpoints/runs"))


def test_a_run_that_goes_on_is_told_once_of_each_update(tmp_path):
    out = tmp_path / "run"
    broken = tracked(out, "tensorboard", "wandb", updates=4, evaluate_every=2)
    step = broken.training_step

    def dying(*args, **kwargs):
        if broken.state.global_step == 3:
            raise KeyboardInterrupt
        return step(*args, **kwargs)

    broken.training_step = dying
    with pytest.raises(KeyboardInterrupt):
        broken.go(None)
    assert in_tensorboard(out)[LOSS][-1][0] == 3
    tracked(out, "tensorboard", "wandb", updates=4, evaluate_every=2).go(f"{out}/checkpoints/checkpoint-2")
    for name in (LOSS, MEASURE):
        same(in_tensorboard(out)[name], logged(out)[name])
    halves = sorted(path.name for path in out.glob("wandb/offline-run-*"))
    assert len(halves) == 2
    assert len({name.rpartition("-")[2] for name in halves}) == 1  # one run, for `wandb sync`


def test_wandb_offline_holds_the_log(tmp_path):
    for name in ("first", "second"):  # the first is closed: the second is another run
        tracked(tmp_path / name, "wandb").go(None)
        (folder,) = (tmp_path / name).glob("wandb/offline-run-*")
        records = in_wandb(folder)
        found, expected = history(records), logged(tmp_path / name)
        for figure in (LOSS, MEASURE):
            same(found[figure], expected[figure])
        (run,) = (record.run for record in records if record.HasField("run"))
        assert (run.project, run.display_name) == ("irpo", name)
        assert {item.key: item.value_json for item in run.config.update}["seed"] == "7"
        assert [record.exit.exit_code for record in records if record.HasField("exit")] == [0]


def test_a_run_that_fails_is_a_failed_one_in_wandb(tmp_path):
    run = tracked(tmp_path / "run", "wandb")

    def failing(*_, **__):
        raise UserError("no more")

    run.training_step = failing
    with pytest.raises(UserError, match="no more"):
        run.go(None)
    (folder,) = (tmp_path / "run").glob("wandb/offline-run-*")
    assert [record.exit.exit_code for record in in_wandb(folder) if record.HasField("exit")] == [1]


def test_wandb_without_an_account_says_what_to_do(tmp_path, monkeypatch):
    import wandb

    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    wandb.teardown()  # it keeps what it has read of the environment
    with pytest.raises(UserError, match=r"report_to: wandb: .*WANDB_MODE=offline needs no account"):
        tracked(tmp_path / "run", "wandb").go(None)
    wandb.teardown()


def test_trackio_holds_the_log(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "store"))  # it looks once, when it is imported
    pytest.importorskip("trackio", reason="trackio 0.43 needs pillow < 13")
    from trackio.sqlite_storage import SQLiteStorage

    out = tmp_path / "run"
    tracked(out, "trackio").go(None)
    assert (tmp_path / "store" / "irpo.db").is_file()
    rows = SQLiteStorage.get_logs("irpo", out.name)
    for name, expected in logged(out).items():
        same([(row["step"], row[name]) for row in rows if name in row], expected)
    assert SQLiteStorage.get_run_config("irpo", out.name)["seed"] == 7


@pytest.mark.parametrize(("folder", "name"), [("arc", "arc"), ("arc/rounds/002", "arc-round-002")])
def test_a_run_bears_its_folders_name(folder, name):
    from irpo.training.tracking import Subject

    assert Subject(Path(folder), {}, None).name == name
    assert os.listdir() == []
