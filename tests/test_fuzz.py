"""A share of `python -m tests.fuzz`, and whether its judges see what is wrong."""

import dataclasses
import os
import time

import httpx
import pytest

from tests.fuzz import answers, corpus, requests, settings
from tests.fuzz.cases import cases, written
from tests.fuzz.damage import Damage
from tests.fuzz.judging import wrong
from tests.fuzz.workers import Died, run

SEED = 7


@pytest.fixture(scope="module", autouse=True)
def _imported():
    answers.warm()
    corpus.warm()
    settings.warm()


def test_every_case_is_sound_before_it_is_damaged():
    ended = {name: outcome.code for name, outcome in corpus.undamaged(SEED)}
    assert {name for name, code in ended.items() if code} == {"own csv"}  # which the task refuses


@pytest.mark.parametrize("turn", range(2))
def test_damaged_data_end_right_or_in_one_line(turn):
    count = len(corpus.groups(SEED))
    found = [corpus.variant(number, SEED) for number in range(turn * count, (turn + 1) * count)]
    assert {each.group for each in found} == set(corpus.groups(SEED))
    assert [(each.number, each.damage, each.faults) for each in found if each.faults] == []


def test_answers_are_read_whatever_they_are():
    found = answers.batch(0, SEED)  # the first of them has a million characters
    assert found.faults == []
    assert set(found.counts) == {"right", "partial", "nothing"}
    assert set(found.slowest) == set(answers.SECONDS)


def test_configurations_are_valid_or_one_error():
    found = settings.batch(0, SEED)
    assert found.faults == []
    assert set(found.counts) == {"valid", "error"}


def test_requests_are_ranked_or_one_error():
    found = requests.batch(0, SEED)
    assert found.faults == []
    assert set(found.counts) == {"ranked", "refused"}


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (500, {"message": "internal error", "id": "x"}, "status 500"),
        (422, {"detail": "wrong"}, "another form"),
        (422, {"message": f"{requests.SECRET} is wrong", "id": "x"}, "leaks"),
        (422, {"message": "x" * 9999, "id": "x"}, "characters"),
        (200, {"results": [{"index": 0, "relevance_score": 1}] * 2}, "indices"),
        (200, {"results": [{"index": j, "relevance_score": j / 2} for j in range(2)]}, "rise"),
    ],
)
def test_an_answer_that_is_wrong_is_seen(status, body, says):
    told = body | {"detail": body["message"]} if "message" in body else body
    assert says in requests.wrong(httpx.Response(status, json=told))


@pytest.fixture
def damaged(tmp_path):
    """A case of which row 1 of train.jsonl was made a bad one; what came of it; and its judge."""
    case = cases(SEED)[0]
    place = [known.name for known in cases(SEED)].index(case.name)
    damage = Damage("no id", "train.jsonl", frozenset([1]), (2, 2), contained=True)
    outcome = corpus._reference(place, SEED, "train.jsonl", 1)
    card = outcome.files["card.json"].replace(b'"count": 0', b'"count": 1')
    skip = dataclasses.replace(outcome, files=outcome.files | {"card.json": card})
    strict = dataclasses.replace(outcome, code=2, said="error: a/train.jsonl:2: no id\n", files={}, lists={})
    (tmp_path / "train.jsonl").write_bytes(written("lines", case.files[0].rows).bytes())

    def judge(strict=strict, skip=skip):
        def reference(file, row):
            return corpus._reference(place, SEED, file, row)

        return list(wrong(case, damage, strict, skip, reference, tmp_path))

    return judge, strict, skip


def test_what_is_right_is_right(damaged):
    assert damaged[0]() == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"code": None, "said": "Traceback"}, "exit code None"),
        ({"said": "error: a/train.jsonl:3: no id\n"}, "another line"),
        ({"said": "error: no id\n"}, "is not named"),
        ({"said": "error: a/train.jsonl:2: no\nid\n"}, "not one line"),
        ({"said": f"error: a/train.jsonl:2: {'x' * 9999}\n"}, "characters"),
        ({"left": (".out.1",)}, "left .out.1"),
        ({"files": {"card.json": b"{}"}}, "an error, and files"),
    ],
)
def test_an_error_that_is_none_is_seen(damaged, changes, says):
    judge, strict, _ = damaged
    assert says in "; ".join(judge(strict=dataclasses.replace(strict, **changes)))


def test_a_list_that_another_row_changed_is_seen(damaged):
    judge, _, skip = damaged
    train = skip.files["train.jsonl"]
    fewer = train[train.index(b"\n") + 1 :]
    files, lists = skip.files | {"train.jsonl": fewer}, skip.lists | {"train": skip.lists["train"][1:]}
    found = judge(skip=dataclasses.replace(skip, files=files, lists=lists))
    assert "not those of the data without it" in "; ".join(found)


def test_a_list_of_words_that_the_data_have_not_is_seen(damaged):
    judge, _, skip = damaged
    first, *rest = skip.lists["eval"]
    invented = first | {"candidates": [c | {"text": "nowhere"} for c in first["candidates"]]}
    assert "which the data do not" in "; ".join(
        judge(skip=dataclasses.replace(skip, lists=skip.lists | {"eval": [invented, *rest]}))
    )


def _job(number):
    if number == 1:
        os._exit(3)
    if number == 2:
        time.sleep(60)
    return number


@pytest.mark.filterwarnings("ignore:os.fork")  # what other tests imported runs threads; the jobs here touch nothing
def test_a_job_that_dies_or_hangs_is_told_and_the_others_go_on():
    found = list(run(range(6), _job, count=2, limit=5))
    assert sorted(each for each in found if not isinstance(each, Died)) == [0, 3, 4, 5]
    died = {each.number: each.why for each in found if isinstance(each, Died)}
    assert died == {1: "the process died (exit code 3)", 2: "no answer"}
