"""The synthetic world: the same everywhere, labels that follow from the facts, splits that do not meet."""

from __future__ import annotations

from collections import Counter

import pytest

from irpo.tasks import TASKS, Intake, build_lists
from irpo.tasks.world import COUNTRIES, GENRES, SEQUEL_MARKS, WORDINGS, FilmList, World, film_list, films, in_eval
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


def test_every_pair_of_genre_and_country_has_three_films_by_three_directors() -> None:
    pairs = Counter((film.genre, film.country) for film in films(0))
    assert set(pairs.values()) == {3}
    assert len(pairs) == len(GENRES) * len(COUNTRIES)
    assert len({(film.genre, film.director) for film in films(0)}) == len(films(0))


def test_a_director_comes_from_one_country() -> None:
    home = {film.director: film.country for film in films(0)}
    assert all(home[film.director] == film.country for film in films(0))
    assert len(home) == 18


def test_some_films_are_sequels_of_others() -> None:
    titles = {film.title for film in films(0)}
    sequels = [title for title in titles if title.rpartition(" ")[2] in SEQUEL_MARKS]
    assert 30 <= len(sequels) <= 40
    assert all(title.rpartition(" ")[0] in titles for title in sequels)


def test_the_same_seed_gives_the_same_world_and_another_seed_another() -> None:
    films.cache_clear()
    first = films(0)
    films.cache_clear()
    assert films(0) == first
    assert films(1) != first


def test_the_world_is_the_same_on_every_machine() -> None:
    """Written down once; the embedded model knows this world and no other."""
    film = films(0)[0]
    assert (film.title, film.director, film.decade) == ("Strange Bridge", "Kira Holm", "1990s")


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
    assert in_eval(turned.content) == in_eval(drawn.content)


def test_labels_follow_from_the_facts() -> None:
    by_title = {film.title: film for film in films(0)}
    for example in World(train_lists=50, eval_lists=50).build(Intake())["eval"]:
        genre, country = wish(example.query)
        for candidate in example.candidates:
            assert candidate.relevance == by_title[candidate.text].label(genre, country)


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
