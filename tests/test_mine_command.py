"""`irpo mine` as a command: what it writes and says, and each mistake in one line."""

from __future__ import annotations

import json
import sys

import pytest
from handmade import write_lines
from test_mine import RIVERS, row

from irpo import cli


def run(capsys, monkeypatch, *args: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["irpo", "mine", *args])
    with pytest.raises(SystemExit) as end:
        cli.main()
    said = capsys.readouterr()
    return int(end.value.code or 0), said.out, said.err


def test_the_command(capsys, monkeypatch, tmp_path):
    data = write_lines(tmp_path / "train.jsonl", [row(river) for river in RIVERS])
    own, out = ("--task", "jsonl", "--data", str(data)), ("--out", str(tmp_path / "out"))
    code, said, _ = run(capsys, monkeypatch, *own, *out, "--negatives", "3", "--margin", "off")
    assert code == 0
    assert "train: 12 lists, 4 candidates each" in said
    assert json.loads((tmp_path / "out" / "card.json").read_text())["options"]["margin"] is None
    for words, why in [
        ((*own, *out, "--by", "colbert"), "choose from bm25, dense"),
        ((*own, *out, "--by", "dense"), "needs --model"),
        ((*own, *out, "--margin", "2"), "a share from 0 to below 1"),
        ((*own, *out, "--margin", "wide"), "a share below 1, or off"),
        ((*own, *out, "--run", "nowhere"), "nowhere: there is no such file or folder"),
        ((*own, *out, "--run", str(data), "--negatives", "3"), "--negatives does not go with --run"),
        ((*own, "--out", str(tmp_path)), "would write where data"),
        (out, "give --task (and --data), or --pairs"),
        (("--data", str(data), *out), "give --task (and --data), or --pairs"),
        ((*own, *out, "--pairs", str(data)), "give --task (and --data), or --pairs"),
        (("--data", "unread", "--pairs", str(data), *out), "give --task (and --data), or --pairs"),
        ((*own, *out, "--corpus", "nowhere"), "nowhere: there is no such file or folder"),
        (("--pairs", str(data), *out), "the row has no 'positive'"),
    ]:
        code, _, error = run(capsys, monkeypatch, *words)
        assert (code, why in error, error.count("\n")) == (2, True, 1), error
