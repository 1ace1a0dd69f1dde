"""Chance, titles, answers, mining: the rules by which lists are made."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections import Counter
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from irpo.candidates import (
    Chance,
    Draft,
    Mine,
    Miner,
    distinct,
    first_words,
    in_test_split,
    match_one_to_one,
    parse_title,
    same_answer,
    same_film,
    weighted_draw,
)
from irpo.types import UserError


def test_chance_is_the_same_everywhere():
    digest = hashlib.sha256(b'[0, "x"]' + bytes(8)).digest()
    assert Chance(0, "x").below(1000) == int.from_bytes(digest[:8], "big") % 1000
    assert Chance(0, "an id").shuffled("abcd") == ["a", "d", "c", "b"]
    assert Chance(1, "an id").shuffled(range(50)) != Chance(0, "an id").shuffled(range(50))


def test_chance_is_even():
    orders = Counter("".join(Chance(0, str(i)).shuffled("abc")) for i in range(3000))
    assert len(orders) == 6
    assert all(abs(count - 500) < 105 for count in orders.values())  # 5 standard deviations


def test_a_split_is_a_function_of_the_id():
    ids = [f"id {i}" for i in range(4000)]
    assert abs(sum(in_test_split(i, 0.25) for i in ids) - 1000) < 140
    assert all(in_test_split(i, 0.5) for i in ids if in_test_split(i, 0.25))
    assert not any(in_test_split(i, 0.0) for i in ids)
    assert all(in_test_split(i, 1.0) for i in ids)


def test_empty_and_repeated_texts():
    drafts = [Draft("a", " x  y ", 0, "s"), Draft("b", " ", 0, "s"), Draft("c", "X y", 2, "t"), Draft("d", "z", 0, "s")]
    dropped: Counter[str] = Counter()
    kept = distinct(drafts, dropped)
    assert [(c.id, c.text, c.relevance, c.source) for c in kept] == [("c", "x y", 2, "t"), ("d", "z", 0, "s")]
    assert dropped == {"candidate with an empty text": 1, "candidate with the text of another one in its list": 1}


def test_first_words():
    assert first_words(" a  b c ", 2) == "a b"
    assert first_words(" a  b c ", 0) == "a b c"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Patch Adams  (1998) ", "patch adams"),
        ("The Matrix", "Matrix, The (1999)"),
        ("Spider-Man", "Spiderman"),
        ("Amélie (2001)", "Amelie"),
        ("Fast & Furious", "Fast and Furious"),
        ("The Godfather: Part II", "The Godfather 2"),
        ("Rocky IV", "Rocky 4"),
        ("Ocean's Eleven (2001)", "Oceans 11"),
        ("The Shawshank Redemtion", "The Shawshank Redemption"),
        ("Harry Potter and the Sorcerers Stone", "Harry Poter and the Sorceror's Stone"),
    ],
)
def test_one_film_under_two_spellings(one, other):
    assert same_film(parse_title(one), parse_title(other))
    assert same_film(parse_title(other), parse_title(one))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Alien", "Aliens"),
        ("Predator", "Predators"),
        ("Toy Story", "Toy Story 2"),
        ("Toy Story 2", "Toy Story 3"),
        ("It", "It Follows"),
        ("Total Recall (1990)", "Total Recall (2012)"),
        ("Rocky II", "Rocky III"),
        ("Blade Runner", "Blade Runner 2049"),
        ("Halloween", "Halloween H20"),
        ("Bad Boys", "Bad Moms"),
        ("Step Brothers", "Stop Brothers"),
        ("Saw", "Jaws"),
        ("Iron Man 2", "Iron Man 3 (2013)"),
        ("1917 (2019)", "1941 (1979)"),
    ],
)
def test_two_films(one, other):
    assert not same_film(parse_title(one), parse_title(other))
    assert not same_film(parse_title(other), parse_title(one))


def test_titles_that_are_hardly_titles():
    assert parse_title("The").words == ("the",)
    assert parse_title("???").words == ("???",)
    assert parse_title("(1999)").year is None
    assert parse_title("2012 (2009)") == parse_title("2012 (2009) ")
    assert parse_title("Malcolm X").key == parse_title("malcolm x").key


@given(st.text(max_size=30))
@settings(max_examples=150)
def test_a_title_is_itself(text):
    assert same_film(parse_title(text), parse_title(text))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("a neutron", "Neutrons", True),
        ("the color red", "The colour red", True),
        ("rain forest", "rainforest", True),
        ("10 m", "100 m", False),
        ("north", "south", False),
        ("increase", "decrease", False),
        ("a bat", "a cat", False),
        ("H2O", "H2O2", False),
    ],
)
def test_re_spelt_answers(one, other, same):
    assert same_answer(one, other) is same
    assert same_answer(other, one) is same


def test_matching_is_one_to_one_and_best_in_total():
    # Greedily 0 would take 0 (2 points) and leave 1 nothing; together 1 + 2 = 3 points.
    points = {(0, 0): 2, (0, 1): 1, (1, 0): 2}
    assert match_one_to_one([0, 1], [0, 1], lambda x, y: points.get((x, y), 0)) == {0: 1, 1: 0}
    assert match_one_to_one([], [0], lambda x, y: 1) == {}
    assert match_one_to_one([5], [0], lambda x, y: 0) == {}


MINES = [
    Mine("the colour of the sky", ("green", "brown", "violet")),
    Mine("the colour of grass", ("white", "orange")),
    Mine("legs of a spider", ("six", "four")),
]


def test_mining_goes_by_likeness_two_a_place():
    assert list(Miner(MINES).similar("colour of a sky", lambda text: True)) == ["green", "brown", "white", "orange"]
    assert list(Miner(MINES).similar("colour of a sky", lambda text: text != "green"))[:2] == ["brown", "violet"]
    assert list(Miner(MINES).similar("nothing alike", lambda text: True)) == []
    assert list(Miner([]).similar("colour", lambda text: True)) == []


def test_mining_does_not_depend_on_the_order_of_what_is_mined():
    same = [Mine("a red house", (text,)) for text in "hgfedcba"]
    for mines in (same, same[::-1]):
        assert list(Miner(mines).similar("red house", lambda text: True)) == list("abcdefgh")


def test_mining_sees_what_was_taken_meanwhile():
    taken: list[str] = []
    for text in Miner(MINES).similar("colour", lambda text: not taken):
        taken.append(text)
    assert len(taken) == 1


def test_random_places_come_once():
    drawn = list(Miner(MINES).drawn(Chance(0), lambda text: True))
    assert sorted(drawn) == ["brown", "four", "green", "orange", "six", "white"]


def test_many_places_come_in_order_of_likeness():
    mines = [Mine("fish " * (1 + i % 7) + f"word{i}", (f"text {i:03}",)) for i in range(500)]
    found = list(Miner(mines).similar("fish", lambda text: True))
    assert len(set(found)) == 500
    assert list(islice(Miner(mines).similar("fish", lambda text: True), 10)) == found[:10]


def test_dense_mining_without_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(UserError, match=r"irpo\[dense\]"):
        Miner(MINES, "dense", "a model")


def test_dense_mining_uses_the_model(monkeypatch):
    import types

    import numpy as np

    class Model:
        def __init__(self, name):
            assert name == "a model"

        def encode(self, texts, **options):
            return np.array([[1.0, 0.0] if "spider" in text or "insect" in text else [0.0, 1.0] for text in texts])

    fake = types.SimpleNamespace(SentenceTransformer=Model)
    monkeypatch.setitem(sys.modules, "sentence_transformers", fake)
    assert list(Miner(MINES, "dense", "a model").similar("insect", lambda text: True)) == ["six", "four"]


def test_weighted_draw_follows_the_weights_without_replacement():
    weights = [0, 60, 30, 10]
    draws = [list(weighted_draw(Chance(i), weights, lambda place: False)) for i in range(1000)]
    assert all(sorted(draw) == [1, 2, 3] for draw in draws)
    first = Counter(draw[0] for draw in draws)
    assert abs(first[1] - 600) < 78
    assert abs(first[2] - 300) < 73
    # Given 1 first, 2 comes next with 30 / 40.
    second = Counter(draw[1] for draw in draws if draw[0] == 1)
    assert abs(second[2] / first[1] - 0.75) < 0.09


def test_weighted_draw_ends_where_one_weight_dwarfs_the_others():
    assert set(weighted_draw(Chance(0), [10**9, 1, 2], lambda place: False)) == {0, 1, 2}
    assert list(weighted_draw(Chance(0), [], lambda place: False)) == []
    assert list(weighted_draw(Chance(0), [3, 4], lambda place: True)) == []


def test_nothing_depends_on_pythons_hash_seed():
    program = (
        "from irpo.candidates import *;"
        "m = [Mine(f'red house {i % 3} {w}', (w,)) for i, w in enumerate('one two three four five six'.split())];"
        "print(list(Miner(m).similar('red house one 2 six', lambda t: True)), Chance(3, 'x').shuffled(range(9)))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
