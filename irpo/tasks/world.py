"""A small synthetic world of films: what the embedded model was pretrained on, and the task of ranking in it.

A query asks for a genre and for a director's country. A list names each film with its genre; where its director comes
from a ranker must know (two hops: film -> director -> country). Every choice is a hash of the seed, so the world is the
same on every machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, TypeVar

from irpo.chance import fingerprint, number_of, order_of
from irpo.tasks import TASKS
from irpo.types import Candidate, RankingExample, UserError

if TYPE_CHECKING:
    from irpo.tasks import Intake

T = TypeVar("T")

GENRES = ("western", "thriller", "comedy", "musical", "fantasy", "romance")
COUNTRIES = ("Norway", "Japan", "Peru", "Kenya", "Ireland", "Canada")
DECADES = ("1970s", "1980s", "1990s", "2000s")
FIRST_NAMES = (
    *("Ada", "Bo", "Cleo", "Dario", "Esme", "Felix", "Gwen", "Hugo", "Iris", "Jonas", "Kira", "Luca", "Mona", "Nils"),
    *("Olga", "Pavel", "Rosa", "Sven"),
)
LAST_NAMES = (
    *("Abara", "Brandt", "Costa", "Dunne", "Ekman", "Fujita", "Garza", "Holm", "Ibsen", "Juma", "Kato", "Lowell"),
    *("Moreno", "Nakano", "Okoye", "Price", "Quispe", "Ruiz"),
)
TITLE_OPENERS = (
    *("Amber", "Bitter", "Broken", "Burning", "Cold", "Crimson", "Crystal", "Dark", "Distant", "Empty", "Endless"),
    *("Falling", "Final", "Frozen", "Gentle", "Golden", "Hidden", "Hollow", "Iron", "Last", "Little", "Lonely"),
    *("Lost", "Lucky", "Midnight", "Old", "Painted", "Paper", "Pale", "Quiet", "Rising", "Royal", "Sacred"),
    *("Scarlet", "Secret", "Silent", "Silver", "Sleeping", "Stolen", "Stone", "Strange", "Summer", "Sunken"),
    *("Velvet", "Wandering", "White", "Wild", "Winter"),
)
TITLE_CLOSERS = (
    *("Anchor", "Arrow", "Avenue", "Bird", "Bridge", "Canyon", "Castle", "Circus", "Clock", "Coast", "Crown"),
    *("Dance", "Desert", "Dream", "Echo", "Empire", "Engine", "Garden", "Ghost", "Harbor", "Highway", "Hotel"),
    *("Island", "Journey", "Kingdom", "Lantern", "Letter", "Lion", "Market", "Mirror", "Moon", "Mountain"),
    *("Ocean", "Orchard", "Palace", "Piano", "Promise", "River", "Sailor", "Shadow", "Signal", "Song", "Station"),
    *("Storm", "Tower", "Train", "Valley", "Window"),
)
SEQUEL_MARKS = ("II", "Returns", "Forever")  # "Silver Harbor" and "Silver Harbor II" are two films
WORDINGS = (
    "A viewer enjoys {genre} films by directors from {country}.",
    "I love a good {genre}, best of all by a director from {country}.",
    "Tonight we want a {genre}, and the director should come from {country}.",
    "Looking for a {genre} made by someone from {country}.",
    "My friend collects {genre} movies and admires directors from {country}.",
    "Which {genre} should I watch? I like directors from {country}.",
    "Directors from {country} are my favourites, and I am in the mood for a {genre}.",
    "For a festival of cinema from {country}, we need a {genre}.",
)
EVAL_SHARE = 0.2  # of the pairs of genre and country


@dataclass(frozen=True)
class WorldFilm:
    """A film and what there is to know about it."""

    title: str
    genre: str
    director: str
    country: str  # the director's: two hops from the title
    decade: str
    fame: float  # in [0, 1], unrelated to everything else; the base model lists famous films first

    @property
    def text(self) -> str:
        """How a list names the film: its genre stands there, the director's country has to be known."""
        return f"{self.genre} {self.title}"

    def label(self, genre: str, country: str) -> int:
        """2 where the film satisfies both wishes, 1 where it satisfies one, else 0."""
        return (self.genre == genre) + (self.country == country)


@dataclass(frozen=True)
class FilmQuery:
    """A wish: the words of the query and what they mean."""

    text: str
    genre: str
    country: str

    @property
    def wish(self) -> str:
        """What is wished for, in whatever words: lists that share it depend on each other."""
        return f"{self.genre} from {self.country}"


def number(key: str, below: int) -> int:
    """A number in [0, below) that depends on the key alone."""
    return number_of(key) % below


def shuffled(key: str, items: Sequence[T]) -> list[T]:
    """The items in an order that depends on the key alone."""
    return [items[i] for i in order_of([f"{key}/{i}" for i in range(len(items))])]


@cache
def films(seed: int = 0) -> tuple[WorldFilm, ...]:
    """The films of a world: one for each genre and director, and a sequel to every third of them.

    >>> len(films()), len({film.title for film in films()})
    (144, 144)
    """
    firsts, lasts = shuffled(f"{seed}/first", FIRST_NAMES), shuffled(f"{seed}/last", LAST_NAMES)
    directors = [f"{first} {last}" for first, last in zip(firsts, lasts, strict=True)]
    originals = _originals(seed, directors)
    sequels = [
        (f"{title} {SEQUEL_MARKS[i % len(SEQUEL_MARKS)]}", genre, maker)
        for i, (title, genre, maker) in enumerate(shuffled(f"{seed}/sequel", originals)[: len(originals) // 3])
    ]
    known = originals + sequels
    fame = shuffled(f"{seed}/fame", range(len(known)))
    decades = shuffled(f"{seed}/decade", [DECADES[i % len(DECADES)] for i in range(len(known))])
    return tuple(
        WorldFilm(
            title=title,
            genre=genre,
            director=directors[maker],
            country=COUNTRIES[maker // 3],
            decade=decades[i],
            fame=fame[i] / (len(known) - 1),
        )
        for i, (title, genre, maker) in enumerate(known)
    )


def _originals(seed: int, directors: Sequence[str]) -> list[tuple[str, str, int]]:
    """(title, genre, number of its director): one film for each genre and director.

    A genre has its own first words and a director his own last words, so that a film's facts can be told from its
    title by one who knows the words.
    """
    openers, closers = shuffled(f"{seed}/opener", TITLE_OPENERS), shuffled(f"{seed}/closer", TITLE_CLOSERS)
    first, last = len(openers) // len(GENRES), len(closers) // len(directors)
    return [
        (
            f"{openers[g * first + number(f'{seed}/{g}/{d}/first', first)]} "
            f"{closers[d * last + number(f'{seed}/{g}/{d}/last', last)]}",
            genre,
            d,
        )
        for g, genre in enumerate(GENRES)
        for d in range(len(directors))
    ]


def in_eval(query: FilmQuery) -> bool:
    """Whether a wish belongs to the evaluation split: no training list asks for its genre and country together.

    A ranker is thus measured on wishes that it was never trained to rank for, and has to know the films.
    """
    wishes = [(genre, country) for genre in GENRES for country in COUNTRIES]
    return (query.genre, query.country) in shuffled("split", wishes)[: round(EVAL_SHARE * len(wishes))]


@dataclass(frozen=True)
class FilmList:
    """A query and the films to rank for it, in the order in which the prompt shows them."""

    query: FilmQuery
    films: tuple[WorldFilm, ...]

    @property
    def content(self) -> str:
        """Query and set of titles, the order left out."""
        return "\n".join([self.query.text, *sorted(film.title for film in self.films)])

    @property
    def labels(self) -> tuple[int, ...]:
        """What follows from the facts, film by film."""
        return tuple(film.label(self.query.genre, self.query.country) for film in self.films)

    def example(self) -> RankingExample:
        """The list as every other module knows it; its id is a hash of its content."""
        ids = {film.title: f"film-{i}" for i, film in enumerate(sorted(self.films, key=lambda film: film.title))}
        candidates = tuple(
            Candidate(id=ids[film.title], text=film.text, relevance=float(label), source="world")
            for film, label in zip(self.films, self.labels, strict=True)
        )
        name = f"world-{fingerprint(self.content)}"
        return RankingExample(id=name, query=self.query.text, candidates=candidates, group=self.query.wish)


def film_list(key: str, count: int, seed: int = 0) -> FilmList:
    """A list of `count` films drawn by a key: about a fifth satisfy both wishes, a third one of them."""
    genre = GENRES[number(f"{key}/genre", len(GENRES))]
    country = COUNTRIES[number(f"{key}/country", len(COUNTRIES))]
    wording = WORDINGS[number(f"{key}/wording", len(WORDINGS))]
    pools: dict[int, list[WorldFilm]] = {0: [], 1: [], 2: []}
    for film in shuffled(f"{key}/films", films(seed)):
        pools[film.label(genre, country)].append(film)
    both = 1 + number(f"{key}/both", max(1, min(3, count // 3)))
    one = min(count - both, 1 + number(f"{key}/one", max(1, count // 2 - 1)))
    chosen = pools[2][:both] + pools[1][:one] + pools[0][: count - both - one]
    query = FilmQuery(wording.format(genre=genre, country=country), genre, country)
    return FilmList(query, tuple(shuffled(f"{key}/order", chosen)))


def film_lists(key: str, count: int, seed: int = 0) -> Iterator[FilmList]:
    """An endless stream of different lists, as `film_list` draws them."""
    seen: set[str] = set()
    index = 0
    while True:
        drawn = film_list(f"{seed}/{key}/{index}", count, seed)
        index += 1
        if drawn.content not in seen:
            seen.add(drawn.content)
            yield drawn


@TASKS.register("world")
@dataclass(frozen=True)
class World:
    """Invented films to rank by a wish; needs no data. The embedded model knows the world of seed 0."""

    train_lists: int = 2000
    eval_lists: int = 200
    candidates: int = 10  # films a list
    world_seed: int = 0  # another seed is another world, which the embedded model does not know

    def __post_init__(self) -> None:
        for name in ("train_lists", "eval_lists"):
            if not 1 <= getattr(self, name) <= 1_000_000:
                raise UserError(f"task world: {name} = {getattr(self, name)}; give 1 to 1000000")
        if not 4 <= self.candidates <= 40:
            raise UserError(f"task world: candidates = {self.candidates}; give 4 to 40")

    def build(self, intake: Intake) -> dict[str, list[RankingExample]]:
        """The two splits; the intake's rows and seed are not used, since the facts and lists are this task's own."""
        wanted = {"train": self.train_lists, "eval": self.eval_lists}
        splits: dict[str, list[RankingExample]] = {name: [] for name in wanted}
        for drawn in film_lists("lists", self.candidates, self.world_seed):
            name = "eval" if in_eval(drawn.query) else "train"
            if len(splits[name]) < wanted[name]:
                splits[name].append(drawn.example())
            if all(len(splits[name]) == wanted[name] for name in wanted):
                return splits
        raise AssertionError("the stream of lists is endless")
