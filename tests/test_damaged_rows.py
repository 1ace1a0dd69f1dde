"""What damaged inputs showed: each is the row's mistake, told with its place, and the other rows are read."""

import os
from unittest import mock

import pytest
from handmade import INSPIRED_HEADER, SEEKER, a_list, build, hub_question, inspired, question, redial, write_lines

from irpo.rows import Row
from irpo.sameness import words_of
from irpo.tasks import Intake
from irpo.tasks.inspired import _situation
from irpo.types import UserError

QUESTIONS = [question(name) for name in ("sky", "grass", "coal", "leg")]
SAID = [(SEEKER, "I like @1"), (22, "see @2"), (SEEKER, "yes"), (22, "or @3")]
FILMS = {"1": "One (1991)", "2": "Two (1992)", "3": "Three (1993)"}


def lists_without_the_bad_row(task, folder, place, says, split="train", **options):
    """Strict: one error at the place; skipping: the lists of the others."""
    with pytest.raises(UserError, match=says) as found:
        build(task, folder, **options)
    assert place in str(found.value)
    intake = Intake(skip_bad_rows=True)
    lists = build(task, folder, intake, **options)[split]
    assert len(intake.bad_rows) == 1
    return [example.id for example in lists]


def test_a_question_without_an_id(tmp_path):
    write_lines(tmp_path / "train.jsonl", [*QUESTIONS, question("fish") | {"id": ""}])
    assert lists_without_the_bad_row("arc", tmp_path, "train.jsonl:5", "empty id") == ["sky", "grass", "coal", "leg"]


def test_a_dialogue_without_an_id(tmp_path):
    rows = [redial("7001", SAID, FILMS), redial("", SAID, FILMS)]
    write_lines(tmp_path / "train.jsonl", rows)
    assert lists_without_the_bad_row("redial", tmp_path, "train.jsonl:2", "'conversationId' is empty") == ["7001"]


def test_an_utterance_without_a_dialogue(tmp_path):
    said = [("d1", "SEEKER", "hi", ""), ("d1", "RECOMMENDER", "see One", "One (1991)"), ("d2", "SEEKER", "hello", ""),
            ("d2", "RECOMMENDER", "see Two", "Two (1992)"), ("", "SEEKER", "hi", "")]  # fmt: skip
    inspired(tmp_path / "train.tsv", said)
    assert len(INSPIRED_HEADER) == 19
    assert lists_without_the_bad_row("inspired", tmp_path, "train.tsv:6", "'dialog_id' is empty") == ["d1", "d2"]


def test_a_film_without_a_name(tmp_path):
    write_lines(tmp_path / "test.jsonl", [redial("7001", SAID, FILMS)])
    table = "movieId,movieName,nbMentions\n4,Four (1994),9\n5,\u2028,9\n6,Six (1996),9\n"
    (tmp_path / "movies_with_mentions.csv").write_text(table, encoding="utf-8")
    place = "movies_with_mentions.csv:3"
    assert lists_without_the_bad_row("redial", tmp_path, place, "'movieName' is empty", "eval") == ["7001"]


def test_a_message_does_not_repeat_a_megabyte(tmp_path):
    long = question("fish")
    long["answerKey"] = "x" * 1_000_000
    write_lines(tmp_path / "train.jsonl", [long])
    with pytest.raises(UserError, match="answerKey") as found:
        build("arc", tmp_path)
    assert len(str(found.value)) < 500


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), "\ud800"])
def test_a_hubs_row_may_hold_what_json_has_not(value):
    rows = [hub_question(row) for row in QUESTIONS]
    there = mock.patch("irpo.tasks._hub._answers", return_value=True)
    held = {"train": [*rows, hub_question(question("fish")) | {"choices": value}]}
    with there, mock.patch("datasets.load_dataset", return_value=held):
        with pytest.raises(UserError, match="train:5"):
            build("arc", "hub")
        intake = Intake(skip_bad_rows=True)
        assert len(build("arc", "hub", intake)["train"]) == 4
    assert len(intake.bad_rows) == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes of that kind")
def test_a_pipe_is_no_file_to_be_read_twice(tmp_path):
    write_lines(tmp_path / "train.jsonl", [redial("7001", SAID, FILMS), redial("7002", SAID, FILMS)])
    os.mkfifo(tmp_path / "mine")
    with pytest.raises(UserError, match="mine: this is no file"):
        build("redial", tmp_path, suggestions=str(tmp_path / "mine"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes of that kind")
def test_a_card_that_is_a_pipe_is_none(tmp_path):
    write_lines(tmp_path / "train.jsonl", [a_list()])
    os.mkfifo(tmp_path / "card.json")
    assert [example.id for example in build("jsonl", tmp_path)["train"]] == ["q1"]


@pytest.mark.parametrize("text", ["", "Tom & Jerry's", "a_b-c`d", "R2-D2 \x0b\x1c (1999)", "x\x00y", "AT&T", "'&'"])
def test_plain_texts_have_the_words_that_any_text_has(text):
    assert words_of(text) == words_of(f"{text} \u00fc")[:-1]


def test_a_title_that_is_no_text_is_its_rows_error():
    row = Row({"": "1", "full_situation": "User: hi", "movies": r"['He\ud800at']"}, "train.csv", 2)
    with pytest.raises(UserError, match=r"'movies' is .* half of a surrogate pair"):
        _situation(row)
