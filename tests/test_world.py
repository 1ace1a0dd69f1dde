"""The synthetic world: the same everywhere, labels that follow from the facts, splits that do not meet."""

from __future__ import annotations

from collections import Counter

import pytest

from irpo.tasks import TASKS, Intake, build_lists
from irpo.tasks.world import (
    COUNTRIES,
    GENRES,
    SEQUEL_MARKS,
    WORDINGS,
    FilmList,
    FilmQuery,
    World,
    film_list,
    films,
    in_eval,
)
from irpo.types import RankingExample, UserError


def contents(examples: list[RankingExample]) -> set[tuple[str, frozenset[str]]]:
    return {(e.query, frozenset(e.texts)) for e in examples}


def wish(query: str) -> tuple[str, str]:
    """The genre and the country that a query names."""
    return next(g for g in GENRES if f" {g}" in query), next(c for c in COUNTRIES if c in query)


def test_facts_of_a_film_worked_by_hand() -> None:
    film = films(0)[0]
    assert (film.genre, film.country) == (GENRES[0], COUNTRIES[0])
    other = GENRES[1], COUNTRIES[1]
    assert film.label(film.genre, film.country) == 2
    assert film.label(film.genre, other[1]) == film.label(other[0], film.country) == 1
    assert film.label(*other) == 0


def test_every_genre_and_director_have_a_film_and_a_third_of_them_a_sequel() -> None:
    originals = [film for film in films(0) if film.title.rpartition(" ")[2] not in SEQUEL_MARKS]
    assert Counter((film.genre, film.director) for film in originals) == {
        (genre, director): 1 for genre in GENRES for director in {film.director for film in films(0)}
    }
    assert len(films(0)) == len(originals) + len(originals) // 3 == 6 * 18 + 36


@pytest.mark.parametrize("seed", range(5))
def test_no_two_films_share_a_title(seed: int) -> None:
    assert len({film.title for film in films(seed)}) == len(films(seed))


def test_a_title_tells_the_facts_to_one_who_knows_its_words() -> None:
    genre_of, director_of = {}, {}
    for film in films(0):
        first, last = film.title.split()[:2]
        assert genre_of.setdefault(first, film.genre) == film.genre
        assert director_of.setdefault(last, film.director) == film.director


def test_a_director_comes_from_one_country() -> None:
    home = {film.director: film.country for film in films(0)}
    assert all(home[film.director] == film.country for film in films(0))
    assert len(home) == 18


def test_a_sequel_is_named_after_its_film_and_shares_genre_and_director() -> None:
    by_title = {film.title: film for film in films(0)}
    sequels = [film for film in films(0) if film.title.rpartition(" ")[2] in SEQUEL_MARKS]
    assert len(sequels) == 36
    for sequel in sequels:
        film = by_title[sequel.title.rpartition(" ")[0]]
        assert (film.genre, film.director, film.country) == (sequel.genre, sequel.director, sequel.country)


def test_the_same_seed_gives_the_same_world_and_another_seed_another() -> None:
    films.cache_clear()
    first = films(0)
    films.cache_clear()
    assert films(0) == first
    assert films(1) != first


def test_the_world_is_the_same_on_every_machine() -> None:
    """Written down once; the embedded model knows this world and no other."""
    film = films(0)[0]
    assert (film.title, film.director, film.decade) == ("Last Market", "Kira Holm", "1990s")


def test_a_list_is_drawn_from_its_key_alone() -> None:
    assert film_list("a", 10) == film_list("a", 10)
    assert film_list("a", 10) != film_list("b", 10)


@pytest.mark.parametrize("count", [4, 10, 20, 40])
def test_a_list_has_as_many_films_as_asked_for_and_something_to_find(count: int) -> None:
    for index in range(20):
        drawn = film_list(f"{index}", count)
        assert len({film.title for film in drawn.films}) == count
        assert 2 in drawn.labels
        assert 0 in drawn.labels


def test_content_forgets_the_order() -> None:
    drawn = film_list("a", 10)
    turned = FilmList(drawn.query, drawn.films[::-1])
    assert turned.content == drawn.content
    assert turned.example().id == drawn.example().id


def test_labels_follow_from_the_facts() -> None:
    by_text = {film.text: film for film in films(0)}
    for example in World(train_lists=50, eval_lists=50).build(Intake())["eval"]:
        genre, country = wish(example.query)
        for candidate in example.candidates:
            assert candidate.relevance == by_text[candidate.text].label(genre, country)


def test_building_twice_gives_the_same_lists() -> None:
    assert World(train_lists=30, eval_lists=10).build(Intake()) == World(train_lists=30, eval_lists=10).build(Intake())


def test_a_larger_build_begins_with_the_smaller_one() -> None:
    small, large = (World(train_lists=n, eval_lists=n).build(Intake()) for n in (10, 30))
    assert all(large[split][:10] == small[split] for split in ("train", "eval"))


def test_no_list_is_in_both_splits() -> None:
    lists = World(train_lists=1500, eval_lists=300).build(Intake())
    train, evaluation = contents(lists["train"]), contents(lists["eval"])
    assert len(train) == 1500
    assert len(evaluation) == 300
    assert not train & evaluation


def test_no_wish_is_asked_for_in_both_splits() -> None:
    """Every genre and every country is known from training, but no pair that evaluation asks for."""
    lists = World(train_lists=1500, eval_lists=300).build(Intake())
    train, evaluation = ({wish(e.query) for e in lists[split]} for split in ("train", "eval"))
    assert not train & evaluation
    assert len(train | evaluation) == len(GENRES) * len(COUNTRIES)
    assert len(evaluation) == 7  # a fifth of 36, rounded
    assert {genre for genre, _ in train} == set(GENRES)
    assert {country for _, country in train} == set(COUNTRIES)


def test_the_split_of_a_wish_does_not_depend_on_its_wording() -> None:
    for genre in GENRES:
        for country in COUNTRIES:
            asked = [FilmQuery(w.format(genre=genre, country=country), genre, country) for w in WORDINGS]
            assert len({in_eval(query) for query in asked}) == 1


def test_labels_do_not_depend_on_the_place_in_the_list() -> None:
    lists = World(train_lists=1500, eval_lists=1).build(Intake())["train"]
    by_place = [sum(e.relevance[place] for e in lists) / len(lists) for place in range(10)]
    assert max(by_place) - min(by_place) < 0.15


def test_the_task_is_registered_and_passes_the_checks_of_every_task() -> None:
    lists = build_lists(TASKS.build({"name": "world", "train_lists": 20, "eval_lists": 5}), Intake())
    assert [len(lists[split]) for split in ("train", "eval")] == [20, 5]
    assert all(e.query.startswith(tuple(w.split("{")[0] for w in WORDINGS)) for e in lists["train"])


@pytest.mark.parametrize(
    ("options", "message"),
    [({"candidates": 3}, "candidates = 3; give 4 to 40"), ({"eval_lists": 0}, "eval_lists = 0; give 1 to")],
)
def test_what_cannot_be_built_is_said(options: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        World(**options)
