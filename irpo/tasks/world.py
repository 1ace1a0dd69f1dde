"""A small synthetic world of films: what the embedded model was pretrained on, and the task of ranking in it.

A list shows titles and nothing else. A ranker has to know what a film is: its genre, its decade, and where its director
comes from (film -> director -> country). A query names two of these, the more important first. Every choice follows
from the seed and a hash, so the world is the same on every machine.

A third of what a film is best for is held out: of its three wishes (genre and country, genre and decade, country and
decade) exactly one belongs to the evaluation split, for every film. Training labels therefore say nothing of a film by
itself that would help, or mislead, where wishes are new.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice, product
from typing import TYPE_CHECKING, TypeVar

from irpo.chance import Chance, digest, fingerprint, number_of, order_of
from irpo.tasks import TASKS
from irpo.types import Candidate, RankingExample, UserError

if TYPE_CHECKING:
    from irpo.tasks import Intake

T = TypeVar("T")

GENRES = ("western", "thriller", "comedy", "musical", "fantasy", "romance", "mystery", "horror")
COUNTRIES = ("Norway", "Japan", "Peru", "Kenya", "Ireland", "Canada", "Brazil", "India")
DECADES = ("1950s", "1960s", "1970s", "1980s", "1990s", "2000s", "2010s", "2020s")
FIRST_NAMES = (
    *("Ada", "Bo", "Cleo", "Dario", "Esme", "Felix", "Gwen", "Hugo", "Iris", "Jonas", "Kira", "Luca", "Mona", "Nils"),
    *("Olga", "Pavel"),
)
LAST_NAMES = (
    *("Abara", "Brandt", "Costa", "Dunne", "Ekman", "Fujita", "Garza", "Holm", "Ibsen", "Juma", "Kato", "Lowell"),
    *("Moreno", "Nakano", "Okoye", "Price"),
)
TITLE_OPENERS = (
    *("Affair", "Amber", "Anchor", "Arrow", "Avenue", "Ballad", "Banquet", "Bargain", "Betrayal", "Bird", "Bitter"),
    *("Bridge", "Broken", "Burning", "Canyon", "Carnival", "Castle", "Chase", "Circus", "Clock", "Coast", "Code"),
    *("Cold", "Covenant", "Crimson", "Crossing", "Crown", "Crystal", "Curse", "Dance", "Dark", "Debt", "Desert"),
    *("Distant", "Dream", "Duel", "Echo", "Empire", "Empty", "Endless", "Engine", "Enigma", "Escape", "Exile"),
    *("Falling", "Farewell", "Feast", "Fever", "Final", "Fortune", "Frozen", "Fugue", "Gambit", "Garden", "Gentle"),
    *("Ghost", "Golden", "Harbor", "Harvest", "Heist", "Hidden", "Highway", "Hollow", "Hotel", "Hymn", "Iron"),
    *("Island", "Journey", "Justice", "Kingdom", "Lantern", "Last", "Legacy", "Letter", "Lion", "Little", "Lonely"),
    *("Lost", "Lucky", "Lullaby", "Market", "Memoir", "Midnight", "Mirror", "Mission", "Moon", "Mountain", "Oath"),
    *("Ocean", "Old", "Omen", "Orchard", "Pact", "Painted", "Palace", "Pale", "Paper", "Parade", "Paradox", "Piano"),
    *("Promise", "Prophet", "Protocol", "Quiet", "Requiem", "Reunion", "Revenge", "Riddle", "Rising", "River"),
    *("Royal", "Sacred", "Sailor", "Scarlet", "Secret", "Shadow", "Signal", "Silent", "Silver", "Sleeping", "Sonata"),
    *("Song", "Station", "Stolen", "Stone", "Storm", "Strange", "Summer", "Sunken", "Tower", "Train", "Treaty"),
    *("Trial", "Valley", "Velvet", "Verdict", "Vigil", "Wager", "Waltz", "Wandering", "White", "Wild", "Window"),
    "Winter",
)  # one a film
TITLE_CLOSERS = (
    "Blues",
    "Days",
    "House",
    "Hunters",
    "Nights",
    "People",
    "Road",
    "Sisters",
    "Street",
    "Tales",
    "Town",
    "War",
)
KINDS = (("genre", "country"), ("genre", "decade"), ("country", "decade"))  # what a wish names, the first counts more
WORDINGS = {
    KINDS[0]: (
        "A viewer enjoys any {first}, best of all by a director from {second}.",
        "Looking for a {first}, if possible made by someone from {second}.",
        "My friend collects each {first} and admires directors from {second}.",
        "I want a {first}; if its director comes from {second}, all the better.",
        "Which {first} should we watch? We like directors from {second}.",
        "One {first} for tonight, please, and rather from {second}.",
    ),
    KINDS[1]: (
        "A viewer enjoys any {first}, best of all from the {second}.",
        "Looking for a {first}, if possible made in the {second}.",
        "My friend collects each {first} and admires the {second}.",
        "I want a {first}; if it was made in the {second}, all the better.",
        "Which {first} should we watch? We like the {second}.",
        "One {first} for tonight, please, and rather of the {second}.",
    ),
    KINDS[2]: (
        "A viewer enjoys directors from {first}, best of all in the {second}.",
        "Looking for something by a director from {first}, if possible made in the {second}.",
        "My friend collects cinema from {first} and admires the {second}.",
        "I want to see work from {first}; if it was made in the {second}, all the better.",
        "Which director from {first} should we watch? We like the {second}.",
        "Something from {first} for tonight, please, and rather of the {second}.",
    ),
}
VALUES = {"genre": GENRES, "country": COUNTRIES, "decade": DECADES}


@dataclass(frozen=True)
class Wish:
    """What is wished for, in whatever words: two of a film's facts, the first of which counts more."""

    kind: tuple[str, str]
    first: str
    second: str

    def __str__(self) -> str:
        """A name that lists of the same wish share.

        >>> str(Wish(KINDS[0], "western", "Peru"))
        'western, rather Peru'
        """
        return f"{self.first}, rather {self.second}"

    @property
    def held_out(self) -> bool:
        """Whether it belongs to the evaluation split, so that no training list asks for it: a quarter of each kind."""
        return _held_out(self.kind, VALUES[self.kind[0]].index(self.first), VALUES[self.kind[1]].index(self.second))


WISHES = tuple(
    Wish(kind, first, second) for kind in KINDS for first, second in product(VALUES[kind[0]], VALUES[kind[1]])
)


def _held_out(kind: tuple[str, str], first: int, second: int) -> bool:
    """By the values' numbers: where their sum, for country and decade their difference, is a multiple of four.

    So of each value a quarter of the wishes is held out.
    """
    return (first - second if kind == KINDS[2] else first + second) % 4 == 0


@dataclass(frozen=True)
class WorldFilm:
    """A film and what there is to know about it."""

    title: str
    genre: str
    director: str
    country: str  # the director's: two hops from the title
    decade: str
    fame: float  # in [0, 1], unrelated to what can be wished for; the base model lists famous films first

    def label(self, wish: Wish) -> int:
        """3 where the film is both that is wished for, 2 where the first alone, 1 where the second alone, else 0."""
        facts = {"genre": self.genre, "country": self.country, "decade": self.decade}
        first, second = (facts[name] for name in wish.kind)
        return 2 * (first == wish.first) + (second == wish.second)


def number(key: str, below: int) -> int:
    """A number in [0, below) that depends on the key alone."""
    return number_of(key) % below


def shuffled(key: str, items: Sequence[T]) -> list[T]:
    """The items in an order that depends on the key alone."""
    return [items[i] for i in order_of([f"{key}/{i}" for i in range(len(items))])]


@cache
def films(seed: int = 0) -> tuple[WorldFilm, ...]:
    """The films of a world: half of those genres, countries and decades of which exactly one wish is held out.

    >>> len(films()), len({film.title for film in films()})
    (144, 144)
    """
    numbers = [facts for facts in product(range(8), repeat=3) if _wanted(*facts)]
    openers, fame = shuffled(f"{seed}/opener", TITLE_OPENERS), shuffled(f"{seed}/fame", range(len(numbers)))
    firsts, lasts = shuffled(f"{seed}/first", FIRST_NAMES), shuffled(f"{seed}/last", LAST_NAMES)
    directors = [f"{first} {last}" for first, last in zip(firsts, lasts, strict=True)]  # two from each country
    return tuple(
        WorldFilm(
            title=f"{openers[i]} {TITLE_CLOSERS[number(f'{seed}/{i}/closer', len(TITLE_CLOSERS))]}",
            genre=GENRES[genre],
            director=directors[2 * country + number(f"{seed}/{i}/director", 2)],
            country=COUNTRIES[country],
            decade=DECADES[decade],
            fame=fame[i] / (len(numbers) - 1),
        )
        for i, (genre, country, decade) in enumerate(numbers)
    )


def _wanted(genre: int, country: int, decade: int) -> bool:
    """Whether there is a film of these three: of its wishes one is held out, and all values have as many films."""
    held = (
        _held_out(KINDS[0], genre, country),
        _held_out(KINDS[1], genre, decade),
        _held_out(KINDS[2], country, decade),
    )
    return sum(held) == 1 and (genre // 4 + country // 4 + decade // 4) % 2 == 0


@dataclass(frozen=True)
class FilmList:
    """A wish in words, and the films to rank for it, in the order in which the prompt shows them."""

    wish: Wish
    query: str
    films: tuple[WorldFilm, ...]

    @property
    def content(self) -> str:
        """Query and set of titles, the order left out."""
        return "\n".join([self.query, *sorted(film.title for film in self.films)])

    @property
    def labels(self) -> tuple[int, ...]:
        """What follows from the facts, film by film."""
        return tuple(film.label(self.wish) for film in self.films)

    def example(self) -> RankingExample:
        """The list as every other module knows it; its id is a hash of its content."""
        ids = {film.title: f"film-{i}" for i, film in enumerate(sorted(self.films, key=lambda film: film.title))}
        candidates = tuple(
            Candidate(id=ids[film.title], text=film.title, relevance=float(label), source="world")
            for film, label in zip(self.films, self.labels, strict=True)
        )
        name = f"world-{fingerprint(self.content)}"
        return RankingExample(id=name, query=self.query, candidates=candidates, group=str(self.wish))


@cache
def _pools(wish: Wish, seed: int) -> tuple[tuple[WorldFilm, ...], ...]:
    """The world's films by their label for a wish: pool 0, 1, 2, 3."""
    return tuple(tuple(film for film in films(seed) if film.label(wish) == label) for label in range(4))


def film_list(key: str, count: int, seed: int = 0) -> FilmList:
    """A list of `count` films drawn by a key: one to three have each of the labels 3, 2 and 1, the others 0."""
    chance = Chance(key)
    wish = WISHES[chance.below(len(WISHES))]
    wordings = WORDINGS[wish.kind]
    wording = wordings[chance.below(len(wordings))]
    pools = _pools(wish, seed)
    most = max(1, min(3, (count + 1) // 4))
    chosen = [film for label in (3, 2, 1) for film in chance.drawn(pools[label], 1 + chance.below(most))]
    chosen = chosen[: count - 1]
    chosen += chance.drawn(pools[0], count - len(chosen))
    return FilmList(wish, wording.format(first=wish.first, second=wish.second), tuple(chance.shuffled(chosen)))


def film_lists(key: str, count: int, seed: int = 0, held_out: bool | None = None) -> Iterator[FilmList]:
    """An endless stream of different lists, as `film_list` draws them; `held_out` leaves the other wishes out."""
    seen: set[bytes] = set()  # a hash of 16 bytes of each
    for index in itertools.count():
        drawn = film_list(f"{seed}/{key}/{index}", count, seed)
        if held_out is not None and drawn.wish.held_out != held_out:
            continue
        if (content := digest(drawn.content)[:16]) not in seen:
            seen.add(content)
            yield drawn


@TASKS.register("world")
@dataclass(frozen=True)
class World:
    """Invented films to rank by a wish; needs no data. The embedded model knows the world of seed 0."""

    train_lists: int = 2560
    eval_lists: int = 480
    candidates: int = 10  # films a list
    world_seed: int = 0  # another seed is another world, which the embedded model does not know

    def __post_init__(self) -> None:
        for name in ("train_lists", "eval_lists"):
            if not 1 <= getattr(self, name) <= 1_000_000:
                raise UserError(f"task world: {name} = {getattr(self, name)}; give 1 to 1000000")
        if not 4 <= self.candidates <= 100:
            raise UserError(f"task world: candidates = {self.candidates}; give 4 to 100")

    def build(self, intake: Intake) -> dict[str, Iterator[RankingExample]]:
        """The two splits; the intake's rows and seed are not used, since the facts and lists are this task's own."""
        return {"train": self._lists(self.train_lists, False), "eval": self._lists(self.eval_lists, True)}

    def _lists(self, count: int, held_out: bool) -> Iterator[RankingExample]:
        drawn = film_lists("lists", self.candidates, self.world_seed, held_out)
        return (films.example() for films in islice(drawn, count))
