"""The synthetic world: the same everywhere, labels that follow from the facts, splits that do not meet."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import cache
from statistics import fmean

import pytest

from irpo.chance import in_test_split
from irpo.tasks import TASKS, Intake, build_lists
from irpo.tasks.world import (
    COUNTRIES,
    DECADES,
    GENRES,
    KINDS,
    TITLE_CLOSERS,
    TITLE_OPENERS,
    WISHES,
    WORDINGS,
    FilmList,
    Wish,
    World,
    film_list,
    films,
)
from irpo.types import Candidate, RankingExample, UserError


@cache
def splits() -> dict[str, list[RankingExample]]:
    return build_lists(World(), Intake())


def contents(examples: list[RankingExample]) -> set[tuple[str, frozenset[str]]]:
    return {(e.query, frozenset(e.texts)) for e in examples}


def test_labels_of_a_film_worked_by_hand() -> None:
    film = films(0)[0]
    assert (film.genre, film.country, film.decade) == (GENRES[0], COUNTRIES[0], DECADES[1])
    for kind, own, other in (
        (KINDS[0], (GENRES[0], COUNTRIES[0]), (GENRES[1], COUNTRIES[1])),
        (KINDS[1], (GENRES[0], DECADES[1]), (GENRES[1], DECADES[2])),
        (KINDS[2], (COUNTRIES[0], DECADES[1]), (COUNTRIES[1], DECADES[2])),
    ):
        assert film.label(Wish(kind, *own)) == 3
        assert film.label(Wish(kind, own[0], other[1])) == 2
        assert film.label(Wish(kind, other[0], own[1])) == 1
        assert film.label(Wish(kind, *other)) == 0


def test_a_quarter_of_the_wishes_of_each_kind_and_of_each_value_is_held_out() -> None:
    assert len(WISHES) == 3 * 8 * 8
    for kind in KINDS:
        held = [wish for wish in WISHES if wish.kind == kind and wish.held_out]
        assert Counter(wish.first for wish in held) == Counter(dict.fromkeys({w.first for w in held}, 2))
        assert Counter(wish.second for wish in held) == Counter(dict.fromkeys({w.second for w in held}, 2))
        assert len(held) == 16


def test_of_what_a_film_is_best_for_one_wish_in_three_is_held_out() -> None:
    for film in films(0):
        best = [wish for wish in WISHES if film.label(wish) == 3]
        assert [wish.held_out for wish in best].count(True) == 1
        assert len(best) == 3


def test_every_value_has_as_many_films() -> None:
    for name, values in (("genre", GENRES), ("country", COUNTRIES), ("decade", DECADES)):
        assert Counter(getattr(film, name) for film in films(0)) == dict.fromkeys(values, 18)
    for wish in WISHES:
        assert sum(film.label(wish) == 3 for film in films(0)) == (3 if wish.held_out else 2)


@pytest.mark.parametrize("seed", range(5))
def test_no_two_films_share_a_title(seed: int) -> None:
    assert len({film.title for film in films(seed)}) == len(films(seed))


@pytest.mark.parametrize("seed", range(3))
def test_a_film_has_a_first_word_of_its_own_and_the_others_say_nothing(seed: int) -> None:
    firsts, lasts = zip(*(film.title.split() for film in films(seed)), strict=True)
    assert len(set(firsts)) == len(films(seed)) == len(TITLE_OPENERS) == 144
    assert set(lasts) == set(TITLE_CLOSERS)


def test_a_director_comes_from_one_country() -> None:
    home = {film.director: film.country for film in films(0)}
    assert all(home[film.director] == film.country for film in films(0))
    assert Counter(home.values()) == dict.fromkeys(COUNTRIES, 2)


def test_no_wish_says_a_word_of_a_title() -> None:
    asked = {word.strip(".,;?") for wordings in WORDINGS.values() for text in wordings for word in text.split()}
    named = {*asked, *GENRES, *COUNTRIES, *DECADES}
    assert not {word.casefold() for word in named} & {word.casefold() for word in (*TITLE_OPENERS, *TITLE_CLOSERS)}


def test_the_same_seed_gives_the_same_world_and_another_seed_another() -> None:
    films.cache_clear()
    first = films(0)
    films.cache_clear()
    assert films(0) == first
    assert films(1) != first


def test_the_world_is_the_same_on_every_machine() -> None:
    """Written down once; the embedded model knows this world and no other."""
    film = films(0)[0]
    assert (film.title, film.director, film.decade) == ("River Road", "Jonas Fujita", "1960s")


def test_a_list_is_drawn_from_its_key_alone() -> None:
    assert film_list("a", 10) == film_list("a", 10)
    assert film_list("a", 10) != film_list("b", 10)


@pytest.mark.parametrize("count", [4, 10, 20, 40])
def test_a_list_has_as_many_films_as_asked_for_and_something_to_find(count: int) -> None:
    for index in range(20):
        drawn = film_list(f"{index}", count)
        assert len({film.title for film in drawn.films}) == count
        assert {0, 1, 2, 3} == set(drawn.labels)


def test_content_forgets_the_order() -> None:
    drawn = film_list("a", 10)
    turned = FilmList(drawn.wish, drawn.query, drawn.films[::-1])
    assert turned.content == drawn.content
    assert turned.example().id == drawn.example().id


def test_labels_follow_from_the_facts() -> None:
    by_title = {film.title: film for film in films(0)}
    wishes = {str(wish): wish for wish in WISHES}
    for example in build_lists(World(train_lists=50, eval_lists=50), Intake())["eval"]:
        wish = wishes[str(example.group)]
        assert wish.first in example.query
        assert wish.second in example.query
        for candidate in example.candidates:
            assert candidate.relevance == by_title[candidate.text].label(wish)


def test_building_twice_gives_the_same_lists() -> None:
    assert build_lists(World(train_lists=30, eval_lists=10), Intake()) == build_lists(
        World(train_lists=30, eval_lists=10), Intake()
    )


def test_a_larger_build_begins_with_the_smaller_one() -> None:
    small, large = (build_lists(World(train_lists=n, eval_lists=n), Intake()) for n in (10, 30))
    assert all(large[split][:10] == small[split] for split in ("train", "eval"))


def test_no_list_is_in_both_splits() -> None:
    lists = build_lists(World(train_lists=1500, eval_lists=300), Intake())
    train, evaluation = contents(lists["train"]), contents(lists["eval"])
    assert len(train) == 1500
    assert len(evaluation) == 300
    assert not train & evaluation


def test_no_wish_is_asked_for_in_both_splits() -> None:
    """Every genre, country and decade is known from training, but no pair that evaluation asks for."""
    lists = splits()
    train, evaluation = ({e.group for e in lists[split]} for split in ("train", "eval"))
    assert train == {str(wish) for wish in WISHES if not wish.held_out}
    assert evaluation == {str(wish) for wish in WISHES if wish.held_out}
    assert len(evaluation) == 48


def test_validation_holds_out_wishes_of_its_own() -> None:
    lists = splits()["train"]
    for share in (0.1, 0.2):
        aside = {e.group for e in lists if in_test_split(e.unit, share)}
        assert 10 <= len(aside) <= 40
        assert not aside & {e.group for e in lists if not in_test_split(e.unit, share)}


def ndcg(labels: list[float]) -> float:
    """Gain 2^y - 1, over the whole list."""

    def dcg(values: list[float]) -> float:
        return sum((2**y - 1) / math.log2(rank + 1) for rank, y in enumerate(values, 1))

    return dcg(labels) / dcg(sorted(labels, reverse=True))


def ranked_by(examples: list[RankingExample], value: Callable[[Candidate], float]) -> float:
    return fmean(ndcg([c.relevance for c in sorted(e.candidates, key=value, reverse=True)]) for e in examples)


def test_what_training_says_of_a_film_by_itself_neither_helps_nor_misleads() -> None:
    """NDCG of tables that do not see the query, in both directions, against a random order (about .60)."""
    lists = splits()
    labels: dict[str, list[float]] = defaultdict(list)
    for example in lists["train"]:
        for candidate in example.candidates:
            labels[candidate.text].append(candidate.relevance)
    tables: list[Callable[[list[float]], float]] = [
        fmean,
        lambda seen: fmean(label == 3 for label in seen),
        lambda seen: fmean(label > 0 for label in seen),
        len,
    ]
    chance = fmean(
        ndcg([e.relevance[(j + turn) % 10] for j in range(10)]) for e in lists["eval"] for turn in range(0, 10, 3)
    )
    for table in tables:
        known = {text: table(seen) for text, seen in labels.items()}
        for sign in (1, -1):
            found = ranked_by(lists["eval"], lambda c, known=known, sign=sign: sign * known.get(c.text, 0.0))  # type: ignore[misc]
            assert abs(found - chance) < 0.03


def test_fame_neither_helps_nor_misleads() -> None:
    fame = {film.title: film.fame for film in films(0)}
    lists = splits()["eval"]
    assert abs(ranked_by(lists, lambda c: fame[c.text]) - ranked_by(lists, lambda c: -fame[c.text])) < 0.03


def test_labels_do_not_depend_on_the_place_in_the_list() -> None:
    lists = build_lists(World(train_lists=1500, eval_lists=1), Intake())["train"]
    by_place = [sum(e.relevance[place] for e in lists) / len(lists) for place in range(10)]
    assert max(by_place) - min(by_place) < 0.2


def test_the_task_is_registered_and_passes_the_checks_of_every_task() -> None:
    lists = build_lists(TASKS.build({"name": "world", "train_lists": 20, "eval_lists": 5}), Intake())
    assert [len(lists[split]) for split in ("train", "eval")] == [20, 5]
    openings = tuple(text.split("{")[0] for wordings in WORDINGS.values() for text in wordings)
    assert all(e.query.startswith(openings) for e in lists["train"])


@pytest.mark.parametrize(
    ("options", "message"),
    [({"candidates": 3}, "candidates = 3; give 4 to 100"), ({"eval_lists": 0}, "eval_lists = 0; give 1 to")],
)
def test_what_cannot_be_built_is_said(options: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        World(**options)
