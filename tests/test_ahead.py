"""Work done ahead by processes: the same parts in the same order, and nothing left behind."""

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from tiny import tiny_tokenizer

from irpo.training.ahead import encoding_processes, in_order
from irpo.types import UserError


def squares(first, step):
    return ((number, number**2) for number in range(first, 20, step))


def counted(first, step):
    return ((os.getpid(), number) for number in itertools.count(first, step))


@pytest.mark.parametrize("processes", [0, 1, 3])
@pytest.mark.parametrize("first", [0, 7])
def test_parts_come_in_order_however_many_make_them(processes, first):
    assert list(in_order(squares, processes, first=first)) == [(n, n**2) for n in range(first, 20)]


def test_who_is_no_longer_asked_is_gone():
    parts = in_order(counted, 3)
    makers = {pid for pid, _ in itertools.islice(parts, 6)}
    assert len(makers - {os.getpid()}) == 3
    parts.close()
    assert not any(psutil.pid_exists(pid) for pid in makers)


def wrong(first, step):
    for number in itertools.count(first, step):
        if number == 5:
            raise UserError("lists.jsonl:6: list 'q' has no label")
        yield number


@pytest.mark.parametrize("processes", [0, 3])
def test_a_users_mistake_is_raised_where_it_stands_as_it_is(processes):
    parts = in_order(wrong, processes)
    assert list(itertools.islice(parts, 5)) == [0, 1, 2, 3, 4]
    with pytest.raises(UserError, match=r"^lists.jsonl:6: list 'q' has no label$"):
        next(parts)


def test_another_mistake_says_where_it_was_made():
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        next(in_order(lambda first, step: iter([1 // first]), 1))


@pytest.mark.parametrize("times", [1, 2])
def test_a_process_that_dies_is_begun_again_once(times, tmp_path, capsys):
    def dying(first, step):
        for number in range(first, 6, step):
            marks = [tmp_path / str(i) for i in range(times)]
            if number == 3 and (left := [mark for mark in marks if not mark.exists()]):
                left[0].touch()
                os.kill(os.getpid(), signal.SIGKILL)
            yield number

    if times == 1:
        assert list(in_order(dying, 2)) == list(range(6))
        assert capsys.readouterr().err == "an encoding process died (signal 9); another does its work\n"
    else:
        with pytest.raises(UserError, match=r"died twice at the same place \(signal 9\).*encoding_processes lower"):
            list(in_order(dying, 2))


ORPHANS = """
import itertools, os, time
from irpo.training.ahead import in_order
parts = in_order(lambda first, step: (os.getpid() for _ in itertools.count()), 2)
print(next(parts), next(parts), flush=True)
time.sleep(60)
"""


def test_they_die_with_the_process_that_began_them():
    root = Path(__file__).resolve().parents[1]
    with subprocess.Popen([sys.executable, "-c", ORPHANS], stdout=subprocess.PIPE, text=True, cwd=root) as parent:
        makers = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(makers) == 2
        assert all(map(psutil.pid_exists, makers))
        parent.kill()
    until = time.monotonic() + 10
    while time.monotonic() < until and any(map(_alive, makers)):
        time.sleep(0.05)
    assert not any(map(_alive, makers))


def _alive(pid):
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("own", [None, "true"])
def test_tokenizers_use_no_threads_there_whatever_is_set_and_say_nothing(own, monkeypatch, capfd):
    """A fork has none of the library's threads: with `true` it would wait for them for ever."""
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    if own:
        monkeypatch.setenv("TOKENIZERS_PARALLELISM", own)
    tokenizer, texts = tiny_tokenizer(), ["a text", "another"] * 50
    expected = tokenizer(texts)["input_ids"]

    def made(first, step):
        yield os.environ.get("TOKENIZERS_PARALLELISM"), tokenizer(texts)["input_ids"]

    assert list(in_order(made, 1)) == [("false", expected)]
    assert os.environ.get("TOKENIZERS_PARALLELISM") == own
    assert capfd.readouterr().err == ""


def test_how_many_where_nobody_says(monkeypatch):
    monkeypatch.setattr("irpo.training.ahead.os.sched_getaffinity", lambda _: range(16), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert encoding_processes(7, on_gpu=False) == 7
    assert encoding_processes(None, on_gpu=False) == 0
    assert encoding_processes(None, on_gpu=True) == 4
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert encoding_processes(None, on_gpu=True) == 1
