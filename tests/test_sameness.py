"""When two texts say the same."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from irpo.prompting.parsing.likeness import heavy
from irpo.sameness import match_one_to_one, parse_title, same_answer, same_film, words_of


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


def test_the_parser_and_the_lists_compare_the_same_words():
    for text in ("**Amélie & Co.**", "Schindler\u2019s List", "\uff26\uff26\uff06VII"):
        assert heavy(text) == " ".join(words_of(text))
