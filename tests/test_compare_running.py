"""The engine of suites: states and locks, whatever dies and whenever."""

import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest
from fake_work import cell, options
from rich.console import Console

from irpo.compare.engine import live
from irpo.compare.engine.attending import is_free, read_error, state
from irpo.compare.engine.live import Pace, Running, Status, left_in_words
from irpo.compare.engine.running import Options, Outcome, Waiting, run_cells
from irpo.compare.results import read_result
from irpo.types import UserError

HERE = Path(__file__).parent
GROUPS = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no process groups of this kind")


def run(folder, *cells, **changed):
    return run_cells(folder, lambda: Waiting(cells), options(**changed))


def log(folder, name, file="log.txt"):
    return (folder / "cells" / name / file).read_text(encoding="utf-8")


def started(journal):
    """The cells in the order of their starts, one for each."""
    return [line.split()[0] for line in journal.read_text(encoding="utf-8").splitlines()] if journal.exists() else []


def begin(folder, cells, jobs=2):
    """A suite's process, the head of a group of its own."""
    plan = folder.parent / "cells.json"
    plan.write_text(json.dumps([asdict(each) for each in cells]), encoding="utf-8")
    words = [sys.executable, str(HERE / "fake_work.py"), str(folder), str(plan), str(jobs)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE)])}
    return subprocess.Popen(
        words, env=environment, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def until(true, seconds=60):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it has not come to pass"
        time.sleep(0.02)


def files(folder):
    """Every file of the cells but logs, with its bytes."""
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if path.name != "log.txt"}


# --- states -----------------------------------------------------------------------------------------------------------


def test_done_cells_are_skipped(tmp_path):
    journal = tmp_path / "journal"
    cells = [cell(name, journal=str(journal)) for name in "abc"]
    assert run(tmp_path, *cells[:2]) == Outcome(done=2, failed=0, skipped=0)
    assert run(tmp_path, *cells) == Outcome(done=1, failed=0, skipped=2)
    assert started(journal) == ["a", "b", "c"]
    assert read_result(tmp_path / "cells" / "a").rows[0].of("NDCG@5").tolist() == [3.0, 4.0, 5.0]


def test_a_full_disk_is_no_cell_s_fault_and_ends_the_suite(tmp_path):
    """Every other cell would end so; with room again the same command goes on."""
    journal = tmp_path / "journal"
    cells = [cell(name, *steps, journal=str(journal)) for name, steps in (("a", ()), ("b", ("full room",)), ("c", ()))]
    with pytest.raises(UserError, match=r"b/run/checkpoint-5: the disk is full: 12000000 GB needed, .* free; what is"):
        run(tmp_path, *cells)
    assert [state(tmp_path / "cells" / name) for name in "abc"] == ["done", "open", "open"]
    assert not (tmp_path / "cells" / "b" / "error.json").exists()
    (tmp_path / "room").touch()
    assert run(tmp_path, *cells) == Outcome(done=2, failed=0, skipped=1)
    assert Counter(started(journal)) == {"a": 1, "b": 2, "c": 1}


def test_a_damaged_result_is_made_again(tmp_path):
    run(tmp_path, cell("a"))
    (tmp_path / "cells" / "a" / "result.json").write_text("{", encoding="utf-8")
    assert run(tmp_path, cell("a")) == Outcome(done=1, failed=0, skipped=0)


def test_what_a_killed_process_left_beside_a_result_goes(tmp_path):
    home = tmp_path / "cells" / "a"
    run(tmp_path, cell("a"))
    before = sorted(home.iterdir())
    (home / ".lock").touch()
    (home / ".cell.json.abcdef-1-01234567").touch()
    assert run(tmp_path, cell("a")).skipped == 1
    assert sorted(home.iterdir()) == before


@pytest.mark.parametrize("own", ["", "1"])
def test_what_is_to_be_done_is_written_beside_it(tmp_path, monkeypatch, own):
    monkeypatch.setenv("OMP_NUM_THREADS", own)  # a user's own number wins
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    run(tmp_path, cell("a", "tell OMP_NUM_THREADS"), jobs=1)
    threads = int(own or cores)
    told = json.loads(log(tmp_path, "a", "cell.json"))
    assert told == asdict(cell("a", "tell OMP_NUM_THREADS")) | {"threads": threads}
    assert log(tmp_path, "a") == f"OMP_NUM_THREADS is {threads}\n"


DEATHS = {
    "mistake no such task": "no such task",
    "divide": "ZeroDivisionError: division by zero",
    "exit 3": "it left Python with exit code 3",
    "leave 0": "its process ended with exit code 0 before there was a result",
    "leave 4": "its process ended with exit code 4 before there was a result",
    "kill 9": "killed by signal 9 (SIGKILL; the system does this where memory runs out)",
    "kill 11": "killed by signal 11 (SIGSEGV)",
}


@GROUPS
def test_a_cell_that_dies_takes_no_other_along(tmp_path, capsys):
    dying = [cell(f"d{i}", "say one", "shout two", how) for i, how in enumerate(DEATHS)]
    living = [cell(name) for name in "abc"]
    assert run(tmp_path, *dying, *living, jobs=2) == Outcome(done=3, failed=len(DEATHS), skipped=0)
    said = capsys.readouterr().err
    for i, (how, why) in enumerate(DEATHS.items()):
        error = json.loads(log(tmp_path, f"d{i}", "error.json"))
        assert error["error"] == why, how
        assert error["seconds"] < 60
        assert log(tmp_path, f"d{i}").startswith("one\ntwo\n")
        assert f"the cell d{i}: {why}" in said
    killed = json.loads(log(tmp_path, "d5", "error.json"))
    assert killed["traceback"] == "one\ntwo\n"  # the end of its log


def test_a_failed_cell_is_kept_until_it_is_asked_to_be_tried_again(tmp_path, capsys):
    cells = [cell("a", "say tried", "once"), cell("b", "divide")]
    assert run(tmp_path, *cells) == Outcome(done=0, failed=2, skipped=0)
    assert read_error(tmp_path / "cells" / "a") == "RuntimeError: the first time"
    before = files(tmp_path)
    assert run(tmp_path, *cells) == Outcome(done=0, failed=2, skipped=0)
    assert files(tmp_path) == before
    assert "[2/2] from before: 2 failed (--retry-failed tries them again)" in capsys.readouterr().err

    assert run(tmp_path, *cells, retry_failed=True) == Outcome(done=1, failed=1, skipped=0)
    assert "RuntimeError" in log(tmp_path, "a", "log.1.txt")
    assert log(tmp_path, "a") == "tried\n"
    assert not (tmp_path / "cells" / "a" / "error.json").exists()
    assert run(tmp_path, *cells, retry_failed=True) == Outcome(done=0, failed=1, skipped=1)
    assert (tmp_path / "cells" / "b" / "log.2.txt").exists()


def test_the_plan_grows_as_cells_are_done(tmp_path):
    search, final, last = cell("search"), cell("final"), cell("last")

    def plan():
        done = [state(tmp_path / "cells" / each.name) == "done" for each in (search, final)]
        return Waiting((search, *[final] * done[0], *[last] * done[1]), unknown=2 - sum(done))

    assert run_cells(tmp_path, plan, options()) == Outcome(done=3, failed=0, skipped=0)


def test_cells_to_come_of_a_failed_one_are_not_waited_for(tmp_path):
    outcome = run_cells(tmp_path, lambda: Waiting((cell("search", "divide"),), unknown=5), options())
    assert outcome == Outcome(done=0, failed=1, skipped=0)


def test_the_most_important_cell_begins_first(tmp_path):
    journal = tmp_path / "journal"
    run(tmp_path, *[cell(name, journal=str(journal)) for name in "cab"])
    assert started(journal) == ["c", "a", "b"]


def test_a_folder_that_cannot_be_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file: cannot be written"):
        run(tmp_path / "file", cell("a"))
    with pytest.raises(UserError, match="jobs is 0"):
        Options(jobs=0)


# --- several processes, and their deaths ------------------------------------------------------------------------------


@GROUPS
def test_two_suites_share_a_folder(tmp_path):
    journal, out = tmp_path / "journal", tmp_path / "out"
    cells = [cell(f"c{i}", "sleep 0.1", journal=str(journal)) for i in range(12)]
    cells.append(cell("failing", "divide", journal=str(journal)))
    suites = [begin(out, cells), begin(out, cells)]
    told = [suite.communicate(timeout=400) for suite in suites]
    assert [suite.returncode for suite in suites] == [0, 0], told
    assert Counter(started(journal)) == {each.name: 1 for each in cells}
    outcomes = [eval(out, {"Outcome": Outcome}) for out, _ in told]
    assert sum(outcome.done for outcome in outcomes) == 12
    assert all(outcome.done + outcome.skipped == 12 for outcome in outcomes)
    assert [outcome.failed for outcome in outcomes] == [1, 1]


@GROUPS
def test_a_dead_owners_cell_is_done(tmp_path):
    journal, out = tmp_path / "journal", tmp_path / "out"
    slow = cell("slow", "sleep 60", journal=str(journal))
    suite = begin(out, [slow])
    until(lambda: started(journal))
    assert not is_free(out / "cells" / "slow")
    os.killpg(suite.pid, signal.SIGKILL)
    suite.communicate()
    assert (out / "cells" / "slow" / ".lock").exists()
    (out / "cells" / "slow" / ".rows.npz.abcdef-1-01234567").touch()  # half-written
    assert run(out, cell("slow")) == Outcome(done=1, failed=0, skipped=0)
    assert sorted(path.name for path in (out / "cells" / "slow").iterdir()) == [
        "cell.json", "log.txt", "result.json", "rows.npz",
    ]  # fmt: skip


@GROUPS
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_suite_leaves_what_is_done_and_no_error(tmp_path, number, code):
    journal, out = tmp_path / "journal", tmp_path / "out"
    suite = begin(out, [cell("a", journal=str(journal)), cell("b", "sleep 60", journal=str(journal))])
    until(lambda: sorted(started(journal)) == ["a", "b"] and state(out / "cells" / "a") == "done")
    os.killpg(suite.pid, number)  # as a terminal does: every process is told
    _, said = suite.communicate(timeout=120)
    assert suite.returncode == code
    assert said.splitlines()[-1].startswith("stopped: what ran was ended, what is done stays")
    assert [state(out / "cells" / name) for name in "ab"] == ["done", "open"]
    assert is_free(out / "cells" / "b")


@GROUPS
def test_no_process_outlives_its_suite(tmp_path):
    journal, out = tmp_path / "journal", tmp_path / "out"
    suite = begin(out, [cell(name, "sleep 60", journal=str(journal)) for name in "ab"])
    until(lambda: len(started(journal)) == 2)
    pids = {int(pid) for line in journal.read_text().splitlines() for pid in line.split()[1:]}  # with the fork server
    assert all(psutil.pid_exists(pid) for pid in pids)
    suite.kill()  # it alone; who waits for the end of what it says waits for its orphans too
    suite.wait()
    until(lambda: not any(map(_lives, pids)), 10)
    assert is_free(out / "cells" / "a")


def _lives(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@GROUPS
@pytest.mark.slow
def test_ten_kills_change_no_file(tmp_path):
    calm, out, journal = tmp_path / "calm", tmp_path / "killed" / "out", tmp_path / "journal"
    out.parent.mkdir()
    cells = [cell(f"c{i}", "sleep 0.15", journal=str(journal)) for i in range(24)]
    cells.append(cell("failing", "mistake no such task", journal=str(journal)))
    assert run(calm, *cells, jobs=2).done == 24
    chance = random.Random(0)
    for _ in range(10):
        journal.unlink()
        journal.touch()
        suite = begin(out, cells)
        until(lambda: started(journal) or suite.poll() is not None)  # noqa: B023 - called before the next
        time.sleep(chance.uniform(0, 0.35))
        os.killpg(suite.pid, signal.SIGKILL)
        suite.communicate()
    assert run(out, *cells, jobs=2).failed == 1
    both = [files(folder) for folder in (calm, out)]
    for each in both:
        each.update({name: b"" for name in each if name.endswith("error.json")})  # has a time in it
    assert both[0] == both[1]


# --- places -----------------------------------------------------------------------------------------------------------


def test_a_process_a_gpu(tmp_path):
    cells = [cell(f"c{i}", "tell CUDA_VISIBLE_DEVICES", "sleep 0.5") for i in range(3)]
    assert run(tmp_path, *cells, gpus=("4", "6")).done == 3
    told = [log(tmp_path, each.name) for each in cells]
    assert set(told) == {"CUDA_VISIBLE_DEVICES is 4\n", "CUDA_VISIBLE_DEVICES is 6\n"}


@pytest.mark.slow
def test_jobs_of_submitit(tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE.parent), str(HERE)]))
    cells = [cell("a", "tell OMP_NUM_THREADS"), cell("b", "divide"), cell("c", "kill 9")]
    slurm = {"cluster": "local", "partition": "any", "cpus_per_task": 1}
    assert run(tmp_path, *cells, jobs=3, slurm=slurm) == Outcome(done=1, failed=2, skipped=0)
    assert log(tmp_path, "a").startswith("OMP_NUM_THREADS is 1\n")
    assert read_error(tmp_path / "cells" / "b") == "ZeroDivisionError: division by zero"
    assert "its job" in read_error(tmp_path / "cells" / "c")


def test_wrong_parameters_of_slurm_are_the_users(tmp_path):
    pytest.importorskip("submitit")
    with pytest.raises(UserError, match="Unknown argument 'partitoin'"):
        run(tmp_path, cell("a"), slurm={"cluster": "local", "partitoin": "long"})


# --- what is seen -----------------------------------------------------------------------------------------------------


def test_a_line_a_cell_without_a_terminal(tmp_path, capsys):
    run(tmp_path, cell("a"), cell("b", "divide"))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    took = r"[\d.]+ (s|min)"
    assert re.fullmatch(rf"\[1/2\] done in {took}: the cell a   \(about {took} left\)", lines[0])
    assert re.fullmatch(rf"\[2/2\] failed in {took}: the cell b: ZeroDivisionError: division by zero", lines[1])


def test_the_time_left_is_the_work_left_by_places():
    pace = Pace()
    now = time.monotonic()
    status = Status(waiting=("run", "run", "trial"), unknown=1, running=(Running("r", "run", now - 40),), places=2)
    assert left_in_words(status, pace) == ""
    for seconds in (90.0, 100.0, 500.0):
        pace.add("run", seconds)
    pace.add("trial", 10.0)
    # what runs: 100 - 40; to come: 2 runs of 100 s, a trial of 10 s, one of the median of all, (90 + 100) / 2
    assert status.left(pace) == pytest.approx((60 + 2 * 100 + 10 + 95) / 2, abs=1)


def test_the_last_cell_is_not_shared_by_places():
    pace = Pace({"run": [100.0]})
    status = Status(running=(Running("r", "run", time.monotonic()),), places=4)
    assert status.left(pace) == pytest.approx(100, abs=1)


def test_the_panel_of_a_terminal():
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=100, color_system=None)
    running = (Running("IRPO on [world]: seed 0", "run", time.monotonic() - 14), )  # fmt: skip
    status = Status(done=12, failed=1, running=running, waiting=("run",) * 125, here=6, began=time.monotonic() - 120)
    with live.panel(lambda: status, Pace({"run": [10.0]}), console):
        pass
    shown = written.getvalue()
    assert "IRPO on [world]: seed 0  " in shown
    assert "14 s" in shown
    assert "12 done  1 failed  1 running  125 waiting" in shown
    assert "3.0 cells/min, about 21 min left" in shown


def test_no_panel_without_a_terminal():
    written = io.StringIO()
    with live.panel(Status, Pace(), Console(file=written, force_terminal=False)):
        pass
    assert written.getvalue() == ""
