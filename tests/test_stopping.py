"""Signals: one line, a checkpoint, exit code 128 + the number, within ten seconds; then the run goes on to the same."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from small_runs import SMALL, config_of
from training_lists import encoded

from irpo import pipeline, stopping
from irpo.compare import comparing
from irpo.config.schema import EvaluationConfig
from irpo.evaluation.going import GOING

ITEMS = encoded(count=8)
BASE = ("models/embedded.yaml", "tasks/world.yaml", "methods/irpo.yaml")


# --- a command's own process ------------------------------------------------------------------------------------------

COMMAND = """
import os, signal, sys, time
from irpo import stopping
stopping.GRACE = 1.0

def work():
    BODY

try:
    with stopping.handled():
        print("ready", flush=True)
        work()
except stopping.Stopped as stop:
    stopping.farewell(stop.line)
    sys.exit(stop.code)
"""
SLEEP = "time.sleep(60)"


def command(body, **options):
    """A process that does the work of a command; it is ready for signals."""
    code = COMMAND.replace("BODY", body.replace("\n", "\n    "))
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.1)
    return process


def ended(process):
    _, said = process.communicate(timeout=120)
    return process.returncode, said


def until_gone(number):
    end = time.monotonic() + 10
    while psutil.pid_exists(number) and psutil.Process(number).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_second_signal_while_python_ends_changes_nothing():
    """Python's last steps set handlers back, and then let go of what modules hold: where the second one comes here."""
    body = """
class Last:
    def __del__(self, kill=os.kill, number=signal.SIGHUP, process=os.getpid()):
        kill(process, number)

sys.modules["last"] = type(sys)("last")
sys.modules["last"].held = Last()
time.sleep(60)
"""
    process = command(body)
    process.send_signal(signal.SIGHUP)
    assert ended(process) == (129, "stopped by SIGHUP\n")


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_is_one_line_and_its_code(name, code):
    # The tests themselves may have been started under nohup.
    process = command(SLEEP, preexec_fn=lambda: signal.signal(getattr(signal, name), signal.SIG_DFL))
    process.send_signal(getattr(signal, name))
    process.send_signal(getattr(signal, name))  # as `timeout` does, to the process and to its group
    assert ended(process) == (code, f"stopped by {name}\n")


def test_work_that_saves_is_asked_and_has_its_time():
    process = command(
        "with stopping.telling(lambda: '3 of 4 are kept'), stopping.later():\n"
        "    while not stopping.asked():\n"
        "        time.sleep(0.01)\n"
        "    print('saved', flush=True)"
    )
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "saved\n"
    assert ended(process) == (143, "stopped by SIGTERM; 3 of 4 are kept\n")


def test_the_command_says_where_its_work_stands_and_not_a_part_of_it():
    process = command(f"with stopping.telling(lambda: 'cells'), stopping.telling(lambda: 'lists'):\n    {SLEEP}")
    process.send_signal(signal.SIGTERM)
    assert ended(process) == (143, "stopped by SIGTERM; cells\n")


def test_work_that_does_not_end_is_left_when_its_time_is_over():
    process = command(f"with stopping.telling(lambda: 'update 3 is kept'), stopping.later():\n    {SLEEP}")
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert ended(process) == (143, "stopped by SIGTERM in the middle of its work; update 3 is kept\n")
    assert time.monotonic() - began > 0.9


def test_a_second_signal_ends_it_at_once():
    process = command(f"stopping.GRACE = 60\nwith stopping.later():\n    {SLEEP}")
    process.send_signal(signal.SIGINT)
    time.sleep(2 * stopping.TOGETHER)
    process.send_signal(signal.SIGINT)
    assert ended(process) == (130, "stopped by SIGINT at once\n")


def test_a_main_thread_that_runs_no_bytecode_ends_too():
    """As within a long product of matrices: the handler waits for what goes on there, the watching thread does not."""
    body = "import sqlite3\nheavy = 'with recursive n(i) as (select 1 union all select i + 1 from n where i < 1e10)'\n"
    process = command(body + "sqlite3.connect(':memory:').execute(heavy + ' select count(*) from n').fetchall()")
    process.send_signal(signal.SIGTERM)
    assert ended(process) == (143, "stopped by SIGTERM in the middle of its work\n")


def test_children_end_with_it_and_ctrl_c_is_the_parents():
    process = command(
        "child = os.fork()\n"
        "if child == 0:\n"
        "    time.sleep(60)\n"
        "print(child, flush=True)\n"
        "with stopping.later():\n"
        "    time.sleep(60)",
        start_new_session=True,
    )
    child = int(process.stdout.readline())
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(0.2)
    os.kill(child, 0)  # it lives: the parent has not decided yet
    assert ended(process)[0] == 130
    until_gone(child)


def test_under_nohup_a_hang_up_is_no_signal():
    process = command("time.sleep(0.5)", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    process.send_signal(signal.SIGHUP)
    assert ended(process) == (0, "")


def stopped_here(*_, **__):
    raise stopping.Stopped(signal.SIGTERM)


def test_an_evaluation_says_where_it_stands(tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "measure", stopped_here)
    spec = {"name": "world", "train_lists": 10, "eval_lists": 2}
    for stands in ("nothing is ranked yet", "the same command goes on from what is ranked"):
        with pytest.raises(stopping.Stopped) as stop:
            pipeline.evaluate("embedded", spec, tmp_path / "out", EvaluationConfig())
        assert stop.value.line == f"stopped by SIGTERM; {stands}"
        (tmp_path / "out" / GOING).mkdir(parents=True, exist_ok=True)


def test_a_suite_says_where_it_stands(tmp_path, monkeypatch):
    monkeypatch.setattr(comparing, "planner_of", stopped_here)
    with pytest.raises(stopping.Stopped) as stop:
        comparing.compare(None, tmp_path / "out")
    assert stop.value.line == "stopped by SIGTERM; the same command goes on from the cells that are done"


@pytest.mark.slow
def test_a_real_run_that_is_told_to_end_goes_on_to_the_same(tmp_path):
    """`irpo train` and SIGTERM in its midst; the adapter of the run that goes on is that of one left alone."""
    settings = [*SMALL, "training.updates=12", "training.evaluate_every=4", "training.logging_every=1"]
    words = [sys.executable, "-m", "irpo", "train", *BASE, *settings, "--out", str(tmp_path / "run")]
    run = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    for line in run.stderr:
        if line.startswith("update 2 of 12"):
            break
    began = time.monotonic()
    run.send_signal(signal.SIGTERM)
    _, said = run.communicate(timeout=120)
    assert run.returncode == 143
    assert time.monotonic() - began < 10
    (update,) = (int(path.name.rpartition("-")[2]) for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert said.splitlines()[-1] == f"stopped by SIGTERM; --resume goes on from update {update}"
    config = config_of(*settings)
    pipeline.train(config, tmp_path / "run", resume=True)
    pipeline.train(config, tmp_path / "calm")
    ours, theirs = (
        (tmp_path / name / "adapter" / "adapter_model.safetensors").read_bytes() for name in ("run", "calm")
    )
    assert ours == theirs
