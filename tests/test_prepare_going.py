"""`prepare` that is killed, told to end or finds the disk full keeps what is whole, and goes on to the same bytes."""

from __future__ import annotations

import errno
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from handmade import a_list, write_lines
from prepared_lists import data, prepared

from irpo import rows, stopping
from irpo.disk import NoRoom
from irpo.tasks import TASKS, _making, preparing
from irpo.tasks._ledger import Ledger
from irpo.tasks.preparing import Layout, prepare
from irpo.types import UserError


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_it_goes_on_from_every_shard(tmp_path, monkeypatch, format):
    """Interrupted after each commit in turn, with what came after it half written."""
    monkeypatch.setattr(rows, "_BLOCK", 3000)
    source, calm = data(tmp_path / "in", 200), {}
    calm = prepared(source, tmp_path / "calm", format=format, shard_lists=30)
    commit, times = Ledger.commit, 0

    def interrupted(self: Ledger, name: str, value: Any) -> None:
        nonlocal times
        commit(self, name, value)
        times += name in ("train", "eval")
        if times in range(1, 30, 2):  # each second one, so that one whole shard is made between two deaths
            times += 1
            raise stopping.Stopped(signal.SIGTERM)

    monkeypatch.setattr(Ledger, "commit", interrupted)
    deaths = 0
    while True:
        try:
            assert prepared(source, tmp_path / "killed", format=format, shard_lists=30) == calm
        except stopping.Stopped:
            deaths += 1
            continue
        break
    assert deaths >= 4


PROGRAM = """
import sys
from pathlib import Path
from irpo.tasks import TASKS
from irpo.tasks.preparing import Layout, prepare
if __name__ == "__main__":
    spec = {"name": "jsonl", "data": sys.argv[1]}
    layout = Layout(sys.argv[3], 200, int(sys.argv[4]))
    prepare(TASKS.build(spec), Path(sys.argv[2]), task_spec=spec, skip_bad_rows=True, layout=layout)
"""


def gone(processes: list[psutil.Process], seconds: float) -> bool:
    """Whether all of them have ended, or end within that time."""
    return not psutil.wait_procs(processes, timeout=seconds)[1]


def killed_after(shards: int, program: Path, source: Path, out: Path, processes: int) -> Path:
    """The work folder of a `prepare` that was killed when so many shards were there."""
    paths = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    words = [sys.executable, str(program), str(source), str(out), "parquet", str(processes)]
    work = out.with_name(f".{out.name}.preparing")
    with subprocess.Popen(words, env=os.environ | {"PYTHONPATH": paths}, start_new_session=True) as process:
        until = time.monotonic() + 120
        while len(list(work.glob("train-*"))) <= shards and process.poll() is None and time.monotonic() < until:
            time.sleep(0.005)
        workers = psutil.Process(process.pid).children(recursive=True)
        assert workers
        os.kill(process.pid, signal.SIGKILL)
    assert gone(workers, 60), "a worker outlives the process that it works for"
    return work


def test_a_killed_one_goes_on(tmp_path, capsys):
    """SIGKILL with two workers; then one process keeps the whole shards and ends with the same bytes."""
    source = data(tmp_path / "in", 6_000)
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    work = killed_after(5, program, source, tmp_path / "out", 2)
    assert work.is_dir(), "it was done before it could be killed"
    assert not (tmp_path / "out").exists()
    whole = {path.name: path.stat().st_ino for path in sorted(work.glob("train-*.parquet"))[:-1]}
    assert len(whole) >= 5
    spec = {"name": "jsonl", "data": str(source)}
    layout = Layout("parquet", 200)
    prepare(TASKS.build(spec), tmp_path / "out", task_spec=spec, skip_bad_rows=True, layout=layout)
    assert "lists were written before; going on from there" in capsys.readouterr().err
    kept = {name: (tmp_path / "out" / name).stat().st_ino for name in whole}
    assert sum(kept[name] == whole[name] for name in whole) >= len(whole) - 1
    assert not work.exists()
    calm = prepared(source, tmp_path / "calm", format="parquet", shard_lists=200)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == calm


def test_other_work_does_not_go_on_from_it(tmp_path, monkeypatch):
    source = data(tmp_path / "in", 200)
    commit = Ledger.commit

    def interrupted(self: Ledger, name: str, value: Any) -> None:
        commit(self, name, value)
        if name == "train":
            raise stopping.Stopped(signal.SIGTERM)

    monkeypatch.setattr(Ledger, "commit", interrupted)
    with pytest.raises(stopping.Stopped):
        prepared(source, tmp_path / "out", shard_lists=50)
    monkeypatch.undo()
    assert (tmp_path / ".out.preparing").is_dir()
    write_lines(source / "train.jsonl", [a_list("other")])
    found = prepared(source, tmp_path / "out", shard_lists=50)
    assert found == prepared(source, tmp_path / "calm")
    monkeypatch.setattr(Ledger, "commit", interrupted)
    with pytest.raises(stopping.Stopped):
        prepared(source, tmp_path / "torn", shard_lists=50)
    monkeypatch.undo()
    (tmp_path / ".torn.preparing" / "ledger.sqlite").write_bytes(b"torn")
    assert prepared(source, tmp_path / "torn", shard_lists=50) == found


@pytest.mark.parametrize(("name", "processes"), [("SIGINT", 1), ("SIGTERM", 2)])
def test_a_command_that_is_told_to_end_goes_on(tmp_path, name, processes):
    """The signal goes to the whole group, as from a terminal or a launcher."""
    source, number = data(tmp_path / "in", 6_000), getattr(signal, name)
    words = [sys.executable, "-m", "irpo", "prepare", "--task", "jsonl", "--data", source, "--out", tmp_path / "out"]
    words += ["--skip-bad-rows", "--format", "parquet", "--shard-lists", "100", "--processes", str(processes)]
    told = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True)
    work, until = tmp_path / ".out.preparing", time.monotonic() + 120
    while len(list(work.glob("train-*"))) < 4 and told.poll() is None and time.monotonic() < until:
        time.sleep(0.005)
    workers = psutil.Process(told.pid).children(recursive=True)
    os.killpg(told.pid, number)
    _, said = told.communicate(timeout=20)
    assert (told.returncode, said) == (
        128 + number,
        f"stopped by {name}; the same command goes on from what is whole\n",
    )
    assert gone(workers, 10)
    whole = {path.name: path.stat().st_ino for path in work.glob("train-*.parquet")}
    assert len(whole) >= 3
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "lists were written before; going on from there" in done.stderr
    assert sum((tmp_path / "out" / name).stat().st_ino == node for name, node in whole.items()) >= len(whole) - 1
    calm = prepared(source, tmp_path / "calm", format="parquet", shard_lists=100)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == calm


def stopped_after_a_shard(source: Path, out: Path) -> list[str]:
    """What lies in the work folder of a `prepare` that was told to end when a shard was whole."""
    commit = Ledger.commit

    def interrupted(self: Ledger, name: str, value: Any) -> None:
        commit(self, name, value)
        if name == "train":
            raise stopping.Stopped(signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ledger, "commit", interrupted)
        with pytest.raises(stopping.Stopped):
            prepared(source, out, format="parquet", shard_lists=50)
    return sorted(path.name for path in _making.work_folder_of(out).glob("*.parquet"))


@pytest.mark.parametrize(
    ("why", "told"),
    [("database or disk is full", "the disk is full: more than "), ("disk I/O error", "disk I/O error")],
)
def test_a_ledger_that_cannot_be_opened_costs_nothing(tmp_path, monkeypatch, why, told):
    """One line, and neither is what was made before removed nor a folder left where none was."""
    source = data(tmp_path / "in", 200)
    whole = stopped_after_a_shard(source, tmp_path / "out")
    assert "train-00000.parquet" in whole

    def refuses(*_: Any) -> None:
        raise sqlite3.OperationalError(why)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "__init__", refuses)
        for name in ("out", "fresh"):
            with pytest.raises(UserError, match=f"{name}: .*{told}"):
                prepared(source, tmp_path / name, format="parquet", shard_lists=50)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.preparing", "in"]
    assert set(whole) <= {path.name for path in (tmp_path / ".out.preparing").iterdir()}
    calm = prepared(source, tmp_path / "calm", format="parquet", shard_lists=50)
    assert prepared(source, tmp_path / "out", format="parquet", shard_lists=50) == calm


@pytest.mark.parametrize("full", [NoRoom, sqlite3.OperationalError, OSError])
def test_a_disk_that_is_full_at_the_end_keeps_the_shards(tmp_path, monkeypatch, capsys, full):
    """Where the card finds no room, whoever says so."""
    source = data(tmp_path / "in", 200)
    given = {
        NoRoom: (tmp_path / "card.json", errno.ENOSPC),
        sqlite3.OperationalError: ("database or disk is full",),
        OSError: (errno.ENOSPC, "No space left on device"),
    }[full]

    def refuses(*_: Any) -> None:
        raise full(*given)

    with monkeypatch.context() as patch:
        patch.setattr(preparing, "atomic_file", refuses)
        with pytest.raises(NoRoom) as error:
            prepared(source, tmp_path / "out", shard_lists=50)
    said = str(error.value)
    assert said.startswith(f"{tmp_path / 'out'}: the disk is full: more than ")
    assert said.endswith("; what is whole was kept, the same command goes on from it")
    found = prepared(source, tmp_path / "out", shard_lists=50)
    assert "going on from there" in capsys.readouterr().err
    assert found == prepared(source, tmp_path / "calm", shard_lists=50)


def test_two_at_once_are_told_apart(tmp_path):
    source = data(tmp_path / "in")
    with _making.work_folder(tmp_path / "out", "key"), pytest.raises(UserError, match="another process prepares"):
        prepared(source, tmp_path / "out")


FULL = """
import resource, signal, sys
from irpo import cli
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
cli.main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="a limit of Unix")
def test_a_full_disk_is_one_line(tmp_path):
    source = data(tmp_path / "in", 2_000)
    words = ["prepare", "--task", "jsonl", "--data", str(source / "train.jsonl"), "--out", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-c", FULL, *words, "--skip-bad-rows"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    told = (
        f"error: {tmp_path / 'out'}: the file is larger than the file system or a limit (ulimit -f) allows: more than "
    )
    assert done.stderr.startswith(told)
    assert done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
