"""How long is left: arithmetic of a clock that the tests set."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from irpo.progress import Course, bars, stages, watched


class Clock:
    def __init__(self):
        self.seconds = 100.0

    def __call__(self):
        return self.seconds


@pytest.fixture
def clock():
    return Clock()


def test_stages_to_come_take_as_long_as_those_of_their_kind(clock):
    course = Course(("measure", "train", "measure", "train", "measure"), clock)
    assert course.left() is None
    assert course.begin() == 1
    assert course.left() is None
    clock.seconds += 10  # measuring
    assert course.begin() == 2
    clock.seconds += 5
    assert course.left() is None  # how long training takes nobody knows
    assert course.left(share=0.25) == pytest.approx((20 - 5) + 10 + 20 + 10)
    clock.seconds += 25  # training took 30
    course.begin()
    clock.seconds += 4
    assert course.left() == pytest.approx((10 - 4) + 30 + 10)
    clock.seconds += 16  # longer than it should; the mean of 10 and 20 from now on
    assert course.left() == pytest.approx(0 + 30 + 10)
    course.begin()
    assert course.left() == pytest.approx(30 + (10 + 20) / 2)


def test_each_stage_is_a_line_where_there_is_no_terminal(clock, capsys):
    with stages(Course(("a", "b", "a"), clock)) as begin:
        for what, seconds in (("first", 20), ("second", 40), ("third", 20)):
            begin(what)
            clock.seconds += seconds
    assert capsys.readouterr().err.split("\n\n") == [
        "\n[1 of 3] first",
        "[2 of 3] second",
        "[3 of 3] third, about 20 s left in all\n",
    ]


def test_bars_inside_bars_are_the_same_and_all_go_with_an_error(clock, monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal

    def job(outer):
        with stages(Course(("a",), clock)) as begin:
            begin("the only one")
            for n in watched(range(3), "things"):
                with bars() as inner:
                    assert inner is outer
                assert [task.description for task in outer.tasks] == ["in all", "things"]
                if n == 1:
                    raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), bars() as outer:
        job(outer)
    said = capsys.readouterr().err
    assert "\x1b[?25h" in said  # the cursor is there again
    with bars() as another:
        assert another is not outer


@pytest.mark.parametrize(("width", "shown"), [(60, "one 1.234"), (80, "one 1.234, two 5.678, three 9.012")])
def test_a_bar_drops_the_figures_that_do_not_fit(width, shown, monkeypatch):
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    monkeypatch.setattr("irpo.progress.Console", lambda **_: console)
    with bars() as drawn:
        drawn.add_task(
            "training for long", total=9, completed=4, figures="one 1.234, two 5.678, three 9.012, four 3.456"
        )
    said = console.file.getvalue()
    assert shown in said
    assert "\u2026" not in said
    assert ("four" in said, "three" in said) == (False, width == 80)
