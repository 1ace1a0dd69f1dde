"""`curves.svg`, and the lines that a run says while it trains."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from types import SimpleNamespace

import pytest
from small_runs import SMALL

from irpo import api
from irpo.progress import bars
from irpo.runs import log_lines
from irpo.training.curves import draw_log
from irpo.training.logbook import LastLogged, Logbook, Progress

TRAIN = ["models/embedded.yaml", "tasks/world.yaml", "methods/irpo.yaml", *SMALL, "training.logging_every=1"]


def log(folder, *lines):
    folder.mkdir(exist_ok=True)
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def words(folder):
    return [text.text for text in ET.parse(folder / "curves.svg").iter("{http://www.w3.org/2000/svg}text")]


UPDATES = [{"update": n, "loss": 3 / n, "learning_rate": 1e-3 / n, "train_NDCG@10": 1 - 1 / n} for n in range(1, 30)]
LOOKS = [{"update": n, "eval_NDCG@10": 0.5 + n / 100} for n in range(0, 30, 5)]


def test_a_log_is_drawn_and_equal_logs_alike(tmp_path):
    for name in ("a", "b"):
        draw_log(log(tmp_path / name, *UPDATES, *LOOKS), "irpo on world, $x$ <b>")
    assert (tmp_path / "a" / "curves.svg").read_bytes() == (tmp_path / "b" / "curves.svg").read_bytes()
    assert {"irpo on world, $x$ <b>", "Loss of a list", "NDCG@10", "Learning rate"} < set(words(tmp_path / "a"))
    assert not re.search(r"20\d\d-\d\d|matplotlib\.org|Matplotlib v", (tmp_path / "a" / "curves.svg").read_text())


def test_terms_have_their_shares_and_one_term_the_margin(tmp_path):
    share = {"objective_share": 0.7, "anchor_share": 0.3, "objective": 2.0, "anchor": 1.0, "reward_margin": 0.5}
    draw_log(log(tmp_path / "two", *({**line, **share} for line in UPDATES)), "two")
    assert {"Share of the terms", "objective, loss", "anchor, loss", "anchor"} < set(words(tmp_path / "two"))
    draw_log(log(tmp_path / "one", *({**line, "reward_margin": 0.5} for line in UPDATES)), "one")
    assert "Margin of rewards, in nats" in words(tmp_path / "one")


@pytest.mark.parametrize("lines", [[], [{"update": 0, "eval_lists": 3}]])
def test_a_log_that_says_nothing_leaves_no_picture(tmp_path, lines):
    draw_log(log(tmp_path, *lines), "nothing")
    assert not (tmp_path / "curves.svg").exists()


def test_a_run_that_goes_on_draws_all_of_it_and_says_how_far_it_is(tmp_path, capsys):
    run = tmp_path / "run"
    api.train(TRAIN, run)
    first = (run / "curves.svg").read_bytes()
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("update ")]
    assert said
    assert max(map(len, said)) <= 80
    assert all("val NDCG@10 0." in line for line in said)
    assert all(re.match(r"update \d of 4( \(\d+ (s|min) left\))?: ", line) for line in said)
    assert "left" in said[0]
    api.train([*TRAIN, "training.updates=6"], run, resume=True)
    assert [line["update"] for line in log_lines(run) if "loss" in line] == [1, 2, 3, 4, 5, 6]
    again = (run / "curves.svg").read_bytes()
    assert again != first
    (run / "curves.svg").unlink()
    draw_log(run, "irpo on world, embedded")
    assert (run / "curves.svg").read_bytes() == again


def test_the_last_update_is_logged_however_seldom_the_others_are():
    control = SimpleNamespace(should_log=False)
    LastLogged().on_step_end(None, SimpleNamespace(global_step=8, max_steps=9), control)
    assert not control.should_log
    LastLogged().on_step_end(None, SimpleNamespace(global_step=9, max_steps=9), control)
    assert control.should_log


def test_charts_of_updates_have_one_range(tmp_path):
    draw_log(log(tmp_path, {"update": 1, "loss": 3.0}, *LOOKS), "short")
    assert words(tmp_path).count("20") == 2


def test_a_line_is_cut_at_80_and_what_is_asked_for_is_not(tmp_path, capsys):
    looked = {"update": 0, "eval_NDCG@10": 0.51}
    progress = Progress(Logbook(log(tmp_path, looked)), waits=True)
    state = SimpleNamespace(global_step=0, max_steps=24_000)
    with bars():
        progress.on_train_begin(None, state, None)
        state.global_step = 1200
        many = dict.fromkeys(("objective", "anchor", "nll_per_token"), 0.123456)
        progress.on_log(None, state, None, {"loss": 12.3456, "train_NDCG@10": 0.876543, **many, "waiting": 0.5})
        progress.on_log(None, state, None, {"eval_NDCG@10": 0.4})
        progress.on_train_end(None, state, None)
    loss, look = capsys.readouterr().err.splitlines()
    told, asked = loss.split(", waiting")
    assert re.match(r"update 1200 of 24000 \(.* left\): val NDCG@10 0.51, loss 12.35", told)
    assert (len(told) <= 80, asked) == (True, " for lists 50% of the time")
    assert look.endswith(": val NDCG@10 0.4 (best 0.51)")
