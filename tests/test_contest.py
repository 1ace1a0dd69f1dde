"""Which of several rankers stands above which: from rankings made by hand to sentences."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from irpo.evaluation import Evaluation, Setting
from irpo.evaluation.contest import Contest, contest_of, require_one_protocol
from irpo.evaluation.picture import draw
from irpo.evaluation.results import RankerResult
from irpo.ranking.modes import ParsedAnswer, RankedList
from irpo.types import Candidate, Missing, Ranking, RankingExample, UserError

SETTING = Setting("text", "world.text", 512, "independent", "sum", 0, None)
EXAMPLES = tuple(
    RankingExample(f"q{i}", "?", (Candidate("a", "A", 1.0), Candidate("b", "B")), group=f"wish {i // 2}")
    for i in range(24)
)
RIGHT, WRONG = Ranking((0, 1)), Ranking((1, 0))


def ranked(right_of, setting=SETTING):
    """An evaluation whose ranking of list i is right where `right_of(i)`."""
    orders = {e.id: RIGHT if right_of(i) else WRONG for i, e in enumerate(EXAMPLES)}
    free = tuple(RankedList(id, of, answer=ParsedAnswer("", Ranking((0,)), (Missing(1),))) for id, of in orders.items())
    rows = (
        RankerResult("score", orders, mode="score"),
        RankerResult("generate strict", orders, mode="generate", part="strict", lists=free),
        RankerResult("constrain", orders, mode="constrain"),
        RankerResult("random", dict.fromkeys(orders, WRONG)),
        RankerResult("input order", dict.fromkeys(orders, RIGHT)),
    )
    return Evaluation(EXAMPLES, rows, ("NDCG@10", "MRR"), setting)


@pytest.fixture(scope="module")
def contest():
    found = {
        "base model": ranked(lambda i: False),
        "poor": ranked(lambda i: i % 12 == 0),
        "good": ranked(lambda i: i % 12 != 0),
        "perfect": ranked(lambda i: True),
    }
    return contest_of(found, "base model", {"poor": 0.5, "good": 0.9, "perfect": 0.8}, "wishes")


def test_tests_draw_wishes_and_are_corrected_together(contest):
    p = {row.name: (row.over_base, row.to_best) for row in contest.rows}
    assert list(p) == ["random", "base model", "poor", "good", "perfect"]
    assert p["random"] == p["base model"] == (None, None)
    assert (contest.units, contest.lists, contest.tests, contest.best) == (12, 24, 5, "good")
    # 12 wishes on one side: 2 of 2^12 swaps, all of them taken; of the five tests the smallest p is taken times 5.
    assert p["perfect"][0] == p["good"][0] == pytest.approx(5 * 2 / 2**12)
    # A list right in two of twelve wishes: of the four ways of swapping these two are as far apart; times 2.
    assert p["poor"][0] == pytest.approx(2 * 2 / 4)
    assert p["poor"][1] < 0.05
    assert p["good"][1] is None
    assert p["perfect"][1] > 0.05


def test_it_answers_in_words(contest):
    helps, which, sure, columns = contest.notes
    assert helps == (
        "Does fine-tuning help? Above the base model: good, perfect; not told apart from the base model: poor."
    )
    assert which == (
        "Which method? Validation lists choose good. "
        "Below it in this run: poor; not told apart from it in this run: perfect."
    )
    assert "the 12 wishes, not the 24 lists" in sure
    assert "for all 5" in sure
    assert "named" in columns


def test_yes_and_no(contest):
    sides = {"yes": 0.001, "no": 0.9}
    told = {
        word: replace(contest, rows=tuple(r if r.over_base is None else replace(r, over_base=p) for r in contest.rows))
        for word, p in sides.items()
    }
    assert told["yes"].notes[0] == "Does fine-tuning help? Yes: all 3 methods stand above the base model."
    assert "These lists do not show it. Not told apart" in told["no"].notes[0]
    unchosen = tuple(replace(row, validation=None, to_best=None) for row in contest.rows)
    assert not any("Which method" in note for note in replace(contest, rows=unchosen).notes)


@pytest.mark.parametrize("width", [80, 120])
def test_it_fits_a_terminal_and_says_little(contest, width):
    names = dict(zip(("poor", "good", "perfect"), ("LiPO-lambda", "S-DPO", "IRPO"), strict=True))
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    shown = replace(contest, rows=tuple(replace(row, name=names.get(row.name, row.name)) for row in contest.rows))
    shown.grid().show(console)
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]
    assert max(map(len, lines)) <= width
    assert not any("\u2026" in line for line in lines)  # nothing is cut
    assert sum(line[:1] not in "┏┃┡│├└" for line in lines) <= 11
    assert [line.split("│")[1].strip() for line in lines if line.startswith("│")][-1] == "IRPO"


def test_columns_that_nobody_measured_are_not_there():
    def only_score(right):
        return replace(ranked(right), rows=tuple(r for r in ranked(right).rows if r.mode in ("score", None)))

    found = {"base model": only_score(lambda i: False), "one": only_score(lambda i: True)}
    grid = contest_of(found, "base model", {"one": None}, "wishes").grid()
    assert grid.header == ("ranked by", "score", "95 %", "p base", "p best")
    assert len({len(row) for row in (grid.header, *grid.rows)}) == 1


def test_it_is_read_back(contest):
    assert Contest.read(json.loads(json.dumps(contest.as_dict()))) == contest


def test_what_was_measured_in_different_ways_does_not_share_a_table():
    other = ranked(lambda i: True, replace(SETTING, scorer="list")).summary
    with pytest.raises(UserError, match="different protocols"):
        require_one_protocol({"IRPO": other, "SFT": ranked(lambda i: True).summary})


def test_the_picture_is_whole_or_not_there(contest, tmp_path):
    draw(contest, {"good": [(0, 0.5), (5, 0.8)], "poor": []}, tmp_path / "picture.png")
    assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]
    assert (tmp_path / "picture.png").stat().st_size > 10_000
