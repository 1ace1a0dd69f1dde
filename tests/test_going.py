"""An evaluation that was killed goes on where it was, and ends as it would have."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from tiny import tiny_model
from training_lists import TEMPLATE, TOKENIZER, examples

from irpo.disk import NoRoom
from irpo.evaluation.going import GOING, Going, _weighed
from irpo.evaluation.running import ranked
from irpo.prompting.prompts import PromptBuilder
from irpo.ranking.modes import RANKING_MODES, Constrain, ParsedAnswer, RankedList, Ranker
from irpo.scorers import SCORERS
from irpo.scoring.strength import Strength
from irpo.types import Missing, Ranking, Repeated, Unknown, Unparseable

LISTS = examples(10)


class Killed(BaseException):
    """What no handler of ours takes."""


def ranker_of(model=None, scorer="independent", **more):
    builder = PromptBuilder(TOKENIZER, TEMPLATE, "text")
    return Ranker(model or tiny_model(), builder, SCORERS.build(scorer), **{"lists_per_batch": 3, **more})


@pytest.fixture(scope="module")
def ranker():
    return ranker_of()


def watched_calls(monkeypatch, mode, dies_after=99):
    """The lists of each call of a mode's class; the process dies as the call after so many begins."""
    calls, own = [], type(mode).__call__

    def call(self, ranker, lists):
        if len(calls) == dies_after:
            raise Killed
        calls.append([x.id for x in lists])
        return own(self, ranker, lists)

    monkeypatch.setattr(type(mode), "__call__", call)
    return calls


@pytest.mark.parametrize("name", ["score", "generate", "constrain"])
def test_a_killed_mode_goes_on_and_gives_the_same_to_the_last_bit(tmp_path, ranker, name, monkeypatch, capsys):
    mode = RANKING_MODES.build(name)
    whole, _ = ranked(mode, ranker, LISTS)
    with monkeypatch.context() as patch:
        before = watched_calls(patch, mode, dies_after=2)
        with pytest.raises(Killed):
            ranked(mode, ranker, LISTS, Going.of(tmp_path, ranker, LISTS))
    after = watched_calls(monkeypatch, mode)
    again, _ = ranked(mode, ranker, LISTS, Going.of(tmp_path, ranker, LISTS))
    assert again == whole
    assert [len(call) for call in before + after] == [3, 3, 3, 1]
    assert f"going on: 6 of 10 lists of mode {name} were ranked before" in capsys.readouterr().err


def test_seconds_of_earlier_processes_are_counted(tmp_path, ranker):
    mode = RANKING_MODES.build("score")
    ranked(mode, ranker, LISTS, Going.of(tmp_path, ranker, LISTS))
    (file,) = tmp_path.glob("*.jsonl")
    batches = [json.loads(line) | {"seconds": 100.0} for line in file.read_text().split("\n")[1:]]
    file.write_text("\n".join(json.dumps(batch) for batch in batches))
    _, seconds = ranked(mode, ranker, LISTS, Going.of(tmp_path, ranker, LISTS))
    assert 400 <= seconds < 430


def test_a_line_that_a_process_died_within_is_ranked_again(tmp_path, ranker, monkeypatch):
    mode = RANKING_MODES.build("score")
    whole, _ = ranked(mode, ranker, LISTS, Going.of(tmp_path, ranker, LISTS))
    (file,) = tmp_path.glob("*.jsonl")
    file.write_bytes(file.read_bytes()[:-40])
    calls = watched_calls(monkeypatch, mode)
    assert ranked(mode, ranker, LISTS, Going.of(tmp_path, ranker, LISTS))[0] == whole
    assert [len(call) for call in calls] == [1]
    assert ranked(mode, ranker, LISTS, Going.of(tmp_path, ranker, LISTS))[0] == whole, "written behind the torn line"
    assert len(calls) == 1


def _other_weights():
    model = tiny_model()
    with torch.no_grad():
        next(model.parameters())[0, 0] += 1e-3
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int8])
def test_weights_in_another_order_are_others_on_a_gpu_too(dtype):
    flat = torch.arange(70_000).remainder(127).to(dtype)
    swapped = flat.clone()
    swapped[[3, 69_999]] = flat[[69_999, 3]]
    assert len({_weighed(x) for x in (flat, swapped, flat.flip(0), flat.roll(1))}) == 4
    assert _weighed(flat.clone()) == _weighed(flat)


def test_so_are_rows_far_apart_in_a_large_one(monkeypatch):
    monkeypatch.setattr("irpo.evaluation.going._ROUND", 7)
    flat = torch.arange(7 * 256 * 3)
    swapped = torch.cat([flat[7 * 256 * 2 :], flat[7 * 256 : 7 * 256 * 2], flat[: 7 * 256]])
    assert _weighed(flat) != _weighed(swapped)


CHANGED = {
    "weights": lambda: (ranker_of(_other_weights()), LISTS),
    "strength": lambda: (ranker_of(strength=Strength(5.0)), LISTS),
    "scorer": lambda: (ranker_of(scorer={"name": "list", "order": "given"}), LISTS),
    "seed": lambda: (ranker_of(seed=1), LISTS),
    "length": lambda: (ranker_of(length="mean"), LISTS),
    "batch": lambda: (ranker_of(lists_per_batch=4), LISTS),
    "prompt": lambda: (replace(ranker_of(), builder=PromptBuilder(TOKENIZER, TEMPLATE, "label")), LISTS),
    "one list fewer": lambda: (ranker_of(), LISTS[:-1]),
    "a list's text": lambda: (ranker_of(), [replace(LISTS[0], query="other"), *LISTS[1:]]),
}


@pytest.mark.parametrize("what", CHANGED)
def test_nothing_of_another_evaluation_is_taken(tmp_path, ranker, what):
    other, lists = CHANGED[what]()
    mode = RANKING_MODES.build("score")
    paths = {Going.of(tmp_path, r, some).kept(mode).path for r, some in ((ranker, LISTS), (other, lists))}
    assert len(paths) == 2
    assert Going.of(tmp_path, ranker_of(), list(LISTS)).kept(mode).path in paths, "the same again is the same"


def test_modes_do_not_take_each_others_lists(tmp_path, ranker):
    going = Going.of(tmp_path, ranker, LISTS)
    assert len({going.kept(RANKING_MODES.build(name)).path for name in RANKING_MODES}) == len(tuple(RANKING_MODES))


def test_every_field_comes_back(tmp_path, ranker):
    problems = (Missing(2), Repeated(0), Unknown('a "b" \u2028\x00'), Unparseable("\ud800"))
    answer = ParsedAnswer("line\nbreak \U0001f600", Ranking((1, 0)), problems)
    found = RankedList(
        LISTS[0].id, Ranking((1, 0, 2)), (0.1, float("-inf"), 1e-300), answer, True, (0, 3, 1), 2, 1, 7, frozenset({2})
    )
    going = Going.of(tmp_path, ranker, LISTS)
    going.kept(Constrain()).add([found], 1.5)
    kept = going.kept(Constrain())
    assert (kept.known, kept.seconds) == ({LISTS[0].id: found}, 1.5)


def test_a_full_disk_ends_no_evaluation(tmp_path, ranker, monkeypatch, capsys):
    def full(path, text):
        raise NoRoom(path, 28, needed=len(text))

    monkeypatch.setattr("irpo.evaluation.going.add_lines", full)
    mode = RANKING_MODES.build("score")
    assert ranked(mode, ranker, LISTS, Going.of(tmp_path, ranker, LISTS))[0] == ranked(mode, ranker, LISTS)[0]
    assert capsys.readouterr().err.count("the disk is full") == 1


def test_the_command_goes_on_and_clears_up(tmp_path, monkeypatch, irpo):
    words = ("evaluate", "--model", "embedded", "--task", "world", "--mode", "score", "--mode", "constrain")
    words += ("--max-lists", "6", "--lists-per-batch", "2", "train_lists=10", "eval_lists=6")
    assert irpo(*words, "--out", "whole")[0] == 0
    assert irpo(*words, "--out", "cut", "--max-lists", "4")[0] == 0
    earlier = (tmp_path / "cut" / "results.json").read_text()
    with monkeypatch.context() as patch:
        watched_calls(patch, Constrain(), dies_after=1)
        with pytest.raises(Killed):
            irpo(*words, "--out", "cut")
    assert (tmp_path / "cut" / "results.json").read_text() == earlier, "old results stay until the new ones are whole"
    assert len(list((tmp_path / "cut" / GOING).iterdir())) == 2
    code, _, err = irpo(*words, "--out", "cut")
    assert code == 0
    assert "going on: 6 of 6 lists of mode score" in err
    assert "going on: 2 of 6 lists of mode constrain" in err
    whole, cut = ({p.name: p.read_text() for p in (tmp_path / out).iterdir()} for out in ("whole", "cut"))
    assert whole.keys() == cut.keys(), "nothing is left of what was kept"
    for name in whole:
        if name not in ("results.json", "report.md"):
            assert cut[name] == whole[name]
    assert _timeless(cut["results.json"]) == _timeless(whole["results.json"])


def _timeless(text):
    told = json.loads(text)
    for row in told["rows"]:
        row.pop("seconds"), row.pop("lists_per_second")
    return told
