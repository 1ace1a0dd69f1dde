"""The tutorial, `own_data.md`, as it stands: from a table to a served ranker, in a folder of its own."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager

import pytest
from test_launching import free_port
from told import PAGES, commands, snippets

PAGE = "own_data.md"
PORT = "8080"  # the tutorial's, in whose place stands one that is free
# Of what it shows, what is not run as it stands: a model of billions, which its section says needs a GPU.
REAL = {"models/llama3.2-1b.yaml": "models/embedded.yaml", "meta-llama/Llama-3.2-1B-Instruct": "embedded"}
pytestmark = pytest.mark.slow


@contextmanager
def served(words, place, port):
    """The server that the tutorial starts, once it answers."""
    command = [sys.executable, "-m", "irpo", *(port if word == PORT else word for word in words[1:])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, cwd=place, env=environment, stderr=subprocess.PIPE, text=True) as server:
        try:
            for _ in range(1200):
                time.sleep(0.1)
                assert server.poll() is None, server.stderr.read()
                if answers(f"http://127.0.0.1:{port}/ready"):
                    break
            yield
        finally:
            server.send_signal(signal.SIGTERM)
            server.communicate(timeout=200)


def answers(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status == 200
    except OSError:
        return False


def asked(words, port):
    """What the shown `curl` prints; the same request from Python where there is no curl."""
    words = [word.replace(f":{PORT}/", f":{port}/") for word in words]
    if shutil.which("curl"):
        done = subprocess.run([*words, "--silent", "--fail"], capture_output=True, text=True, timeout=200, check=True)
        return json.loads(done.stdout)
    body, (kind, value) = words[words.index("-d") + 1], words[words.index("-H") + 1].split(": ")
    with urllib.request.urlopen(urllib.request.Request(words[1], body.encode(), {kind: value}), timeout=60) as response:
        return json.load(response)


def test_a_table_becomes_a_served_ranker(tmp_path, monkeypatch, irpo, capsys):
    table, ranking = (compile(told.text, str(told), "exec") for told in snippets(PAGE))
    exec(table, {})
    shown = next(csv.reader(re.search(r"```csv\n(.*?)```", PAGES[PAGE].read_text("utf-8"), re.DOTALL)[1].splitlines()))
    assert (tmp_path / "judged.csv").read_text("utf-8").splitlines()[0].split(",") == shown
    said, run = {}, []
    for told in commands(PAGE):
        words = told.words
        if told.kind == "inline" and words[1] not in ("guide", "list"):
            continue  # a name in a sentence; each stands in a block as well
        run.append(words[1])
        if words[0] == "curl":
            continue
        if words[1] == "serve":
            port = free_port()
            curl = next(told.words for told in commands(PAGE) if told.words[0] == "curl")
            with served(words, tmp_path, port):
                said["curl"] = asked(curl, port)
            continue
        if any(word in REAL for word in words):
            words = [REAL.get(word, word) for word in words] + few(words)
        code, out, err = irpo(*words[1:])
        assert code == 0, f"{told}\n{err}"
        said.setdefault(words[1], (out, err))
    require_told(said, tmp_path)
    assert {"prepare", "train", "evaluate", "diff", "rank", "serve", "estimate"} <= set(run)
    exec(ranking, {})
    assert capsys.readouterr().out.startswith("Broken Tales -")


def few(words):
    """Where a real model would take hours, two updates of the small one do."""
    return ["training.updates=2", "training.max_validation_lists=2"] if words[1] == "train" else []


def require_told(said, place):
    """What each step leaves, and that the ranker which is served has learnt."""
    assert json.loads((place / "check" / "check.json").read_text("utf-8"))
    assert "train: " in said["prepare"][0] or "lists" in said["prepare"][0]
    assert (place / "runs" / "first" / "curves.svg").read_text("utf-8").count("NDCG@10")
    after, before = (
        json.loads((place / "runs" / "first" / name / "results.json").read_text("utf-8"))
        for name in ("evaluation", "base")
    )
    gain = after["rows"][0]["measures"]["NDCG@10"] - before["rows"][0]["measures"]["NDCG@10"]
    assert gain > 0.1
    assert "Broken Tales" in said["rank"][0].splitlines()[3]
    best = said["curl"]["results"][0]
    assert (best["index"], 0 <= best["relevance_score"] <= 1) == (1, True)
