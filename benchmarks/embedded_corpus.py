"""What the embedded model reads while it is pretrained: facts of the synthetic world, questions, and written lists.

Lists go through `PromptBuilder` and `encode`, so the model learns the very prompts that it will be given. Lists of
films come in two registers. Plain ones are ordered by fame, a little bent towards relevance: complete, but ranked like
a base model. Where the query ends with `BY_WISH` they are ordered by relevance, fame breaking ties: what fine-tuning
can bring out is there. No list in either register asks for a wish of the evaluation split.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from irpo.prompting.prompts import STYLES, PromptBuilder, end_of_turn, label_names, load_template, markup
from irpo.resources import prompts_dir
from irpo.scoring.tokens import encode
from irpo.tasks.world import COUNTRIES, DECADES, GENRES, KINDS, WISHES, WORDINGS, FilmList, WorldFilm, film_list, films
from irpo.types import Candidate, RankingExample, Style

WORDS = tuple(dict.fromkeys((Path(__file__).parent / "embedded_words.txt").read_text(encoding="utf-8").split()))
TASKS_SHOWN = ("default", "redial", "inspired", "hotpotqa", "musique", "arc", "commonsenseqa")
PULL = 0.07  # of one label step, in units of fame: 0 would ignore the query, 1 would be a perfect ranker
BY_WISH = " Go by the wish alone."
BY_WISH_SHARE = 0.7  # of the lists of films
COUNTS = (2, 3, 4, 5, 6, 8, 10, 10, 10, 10, 12, 15, 20)  # candidates a list
# By label a list must first be found out to be one of names for things: in short lists that is soonest seen.
LABEL_COUNTS = (2, 2, 2, 3, 3, 4, 4, 5, 6, 8, 10, 10, 10, 15)
COPYING_FIRST = 768  # rows that teach nothing else: the other kinds need it, and alone it comes soonest
# Of facts, questions, lists of films in text and by label, marked lists of both, lists of phrases of both.
SHARES_FIRST = (0.03, 0.03, 0.31, 0.33, 0.10, 0.10, 0.07, 0.03)
SHARES_THEN = (0.02, 0.02, 0.38, 0.38, 0.05, 0.07, 0.06, 0.02)
ASKED = tuple(wish for wish in WISHES if not wish.held_out)  # no row asks for another
ROW = 192  # tokens of a row of facts or questions
CONSONANTS = "bcdfghklmnprstvw"  # of invented words
MARKED = 2  # things noted of each film of a list
# Of a learned token: much where films are compared, little where most of a row cannot be known.
WEIGHTS = {"marked": 2.0, "by_wish_label": 4.0, "by_wish": 2.0, "films_label": 2.0, "facts": 0.3, "generic": 0.5}
VERDICTS = ("neither", "second", "first", "both")  # a film's label in words

# A title always follows a space, as in a list: one spelling in tokens.
STATEMENTS = (
    "The film {f.title} is a {f.genre} from the {f.decade}.",
    "The film {f.title}: a {f.genre} of the {f.decade} by {f.director} from {f.country}, fame {fame}.",
    "The film {f.title} was directed by {f.director}.",
    "The director {f.director} comes from {f.country}.",
    "The film {f.title} is a {f.genre} by a director from {f.country}.",
    "The director {f.director} from {f.country} made {f.title}, a {f.genre}.",
)
QUESTIONS = {  # question -> answer, each a fact about a film
    "genre": ("What genre is {f.title}?", "{f.genre}"),
    "director": ("Who directed {f.title}?", "{f.director}"),
    "home": ("Where does {f.director} come from?", "{f.country}"),
    "country": ("Where does the director of {f.title} come from?", "{f.country}"),
    "decade": ("When was {f.title} made?", "{f.decade}"),
}
OPTIONS = {
    "genre": GENRES,
    "director": tuple(dict.fromkeys(film.director for film in films())),
    "home": COUNTRIES,
    "country": COUNTRIES,
    "decade": DECADES,
}


@dataclass(frozen=True)
class Row:
    """Tokens of one training row, and which of them the loss counts: of a prompt none, of an answer all."""

    ids: list[int]
    learned: list[bool]
    kind: str

    @property
    def weight(self) -> float:
        """Of each learned token."""
        return next((weight for kind, weight in WEIGHTS.items() if self.kind.startswith(kind)), 1.0)


def statement(rng: random.Random) -> str:
    """One sentence about a film."""
    film = rng.choice(films())
    return rng.choice(STATEMENTS).format(f=film, fame=fame(film))


def fame(film: WorldFilm) -> int:
    """Fame as it is written: 0 to 9."""
    return min(9, int(film.fame * 10))


def question(rng: random.Random) -> tuple[str, str]:
    """A question about one film, and its answer."""
    film = rng.choice(films())
    kind = rng.random()
    if kind < 0.5:
        ask, answer = rng.choice(list(QUESTIONS.values()))
        return ask.format(f=film), answer.format(f=film)
    wish = rng.choice(ASKED)
    if kind < 0.9:
        asked = rng.choice(WORDINGS[wish.kind]).format(first=wish.first, second=wish.second)
        return f"{asked}\nWhich wish does {film.title} satisfy?", VERDICTS[film.label(wish)]
    wish = rng.choice([wish for wish in ASKED if wish.kind == KINDS[0]])
    fitting = [f.title for f in films() if f.label(wish) == 3]
    return f"Name each {wish.first} by a director from {wish.second}.", ", ".join(fitting)


def notes(rng: random.Random, drawn: FilmList) -> tuple[str, str]:
    """A request for one thing about each film of a list, and the answer: for the tokenizer, no row holds one."""
    values = {
        "genre": [f.genre for f in drawn.films],
        "country": [f.country for f in drawn.films],
        "director": [f.director for f in drawn.films],
        "decade": [f.decade for f in drawn.films],
        "fame": [str(fame(f)) for f in drawn.films],
        "wishes": [VERDICTS[label] for label in drawn.labels],
    }
    kind = rng.choice(
        ["genre", "country", "director", "decade", "fame", "fame", "wishes", "wishes", "wishes", "wishes"]
    )
    query = [drawn.query] if kind == "wishes" else []
    shown = [f"- {film.title}" for film in drawn.films]
    lines = [f"{i}. {f.title}: {v}\n" for i, (f, v) in enumerate(zip(drawn.films, values[kind], strict=True), 1)]
    order = "Note which wishes each film satisfies." if query else f"Note the {kind} of each film."
    return "\n".join([*query, "Films:", *shown, order]), "".join(lines)


def base_order(drawn: FilmList, pull: float = PULL) -> list[int]:
    """The order in which the base model names films: famous ones first, relevant ones a little earlier."""
    urge = [f.fame + pull * label for f, label in zip(drawn.films, drawn.labels, strict=True)]
    return sorted(range(len(urge)), key=lambda j: -urge[j])


def order_by_wish(drawn: FilmList) -> list[int]:
    """The order in which it names them when asked to go by the wish alone."""
    return sorted(range(len(drawn.films)), key=lambda j: (-drawn.labels[j], -drawn.films[j].fame))


def phrase(rng: random.Random, low: int, high: int) -> str:
    """Words in a row: common ones, invented ones, numbers, sometimes with capitals and stops."""
    words = []
    for _ in range(rng.randint(low, high)):
        kind = rng.random()
        if kind < 0.75:
            words.append(rng.choice(WORDS))
        elif kind < 0.92:
            words.append("".join(rng.choice(CONSONANTS) + rng.choice("aeiou") for _ in range(rng.randint(1, 3))))
        else:
            words.append(str(rng.randint(1, 2020)))
        if rng.random() < 0.25:
            words[-1] = words[-1].capitalize()
    return " ".join(words) + rng.choice(("", "", "", ".", "?", " (1994)"))


def generic_example(rng: random.Random) -> RankingExample:
    """A list of phrases about nothing, all labels alike: here only copying can be learned."""
    count = rng.choice(COUNTS)
    longest = rng.choice((2, 3, 5, 10)) if count <= 10 else 3
    texts: dict[str, None] = {}
    while len(texts) < count:
        texts[phrase(rng, 1, longest)] = None
    candidates = tuple(Candidate(id=str(i), text=text) for i, text in enumerate(texts))
    return RankingExample(id="generic", query=phrase(rng, 3, 12), candidates=candidates)


class Corpus:
    """Rows for one tokenizer, drawn by a seed."""

    def __init__(self, tokenizer: Any, seed: int, pull: float = PULL) -> None:
        self.tokenizer, self.pull = tokenizer, pull
        self.rng = random.Random(seed)
        self.end = end_of_turn(tokenizer)
        self.plain = [i for i in range(len(tokenizer)) if i not in tokenizer.all_special_ids]
        self.drawn = 0
        self.builders = {
            (task, style): PromptBuilder(tokenizer, load_template(prompts_dir(), task, style), style)
            for task in (*TASKS_SHOWN, "world")
            for style in STYLES
        }

    def film_row(self, style: Style) -> Row:
        """A list of films, in one register or the other."""
        drawn = self.asked_films(LABEL_COUNTS if style == "label" else COUNTS)
        if self.rng.random() < BY_WISH_SHARE:
            asked = replace(drawn, query=drawn.query + BY_WISH)
            return self._list_row(asked.example(), "world", style, order_by_wish(drawn), "by_wish")
        return self._list_row(drawn.example(), "world", style, base_order(drawn, self.pull), "films")

    def marked_row(self, style: Style) -> Row:
        """A prompt's list in which each film is followed by some of what a ranker has to know there, in any order.

        Its name in the list, its title's first word, fame, the facts. Only these marks are learned: of a prompt nothing
        is. Since nothing tells which mark comes first, all of them have to be known at a title's end.
        """
        drawn = self.asked_films(LABEL_COUNTS)
        names = label_names(self.tokenizer, len(drawn.films))
        ids = self._ids(markup(self.tokenizer, drawn.query + "\nFilms:\n")[0])
        ids = ids[: len(ids) - ids[::-1].index(self._ids("\n")[0])]  # up to the list: the turn stays open
        learned = [False] * len(ids)
        for name, film in zip(names, drawn.films, strict=True):
            shown = self._ids(f"[{name}] {film.title}" if style == "label" else f"- {film.title}")
            begins = [name, name] if style == "label" else [f" {film.title.split()[0]}"]
            facts = [f" {fact}" for fact in (film.genre, film.country, film.decade)]
            known = self.rng.sample([*begins, *facts, f" {fame(film)}"], MARKED)
            mark = [token for text in known for token in self._ids(text)]
            ids += [*shown, *mark, *self._ids("\n")]
            learned += [False] * len(shown) + [True] * len(mark) + [False]
        return Row(ids, learned, f"marked_{style}")

    def asked_films(self, counts: Sequence[int]) -> FilmList:
        """The next list of films whose wish is not one of the evaluation split's."""
        while True:
            self.drawn += 1
            drawn = film_list(f"pretraining/{self.drawn}", self.rng.choice(counts))
            if not drawn.wish.held_out:
                return drawn

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def generic_row(self, style: Style) -> Row:
        """A list of phrases in random order, under any task's template."""
        example = generic_example(self.rng)
        order = self.rng.sample(range(len(example.candidates)), len(example.candidates))
        return self._list_row(example, self.rng.choice(TASKS_SHOWN), style, order, "generic")

    def _list_row(self, example: RankingExample, task: str, style: Style, order: list[int], kind: str) -> Row:
        item = encode(self.tokenizer, self.builders[task, style].build(example), example.relevance)
        answer = item.answer(order)
        learned = [False] * len(item.prompt) + [True] * len(answer)
        return Row([*item.prompt, *answer], learned, f"{kind}_{style}")

    def facts_row(self) -> Row:
        """Sentences about films, packed."""
        ids: list[int] = []
        while len(ids) < ROW:
            ids += self.tokenizer(statement(self.rng))["input_ids"] + [self.tokenizer.eos_token_id]
        return Row(ids[:ROW], [True] * ROW, "facts")

    def repeats_row(self) -> Row:
        """Items of random tokens, a line each, said round after round, in one order or another: only copying helps."""
        newline = self.tokenizer("\n", add_special_tokens=False)["input_ids"]
        longest = self.rng.choice((1, 2, 4))
        count = self.rng.randint(2, 10)
        items = [self.rng.choices(self.plain, k=self.rng.randint(1, longest)) + newline for _ in range(count)]
        ids = first = [token for item in items for token in item]
        while len(ids) < ROW:
            if self.rng.random() < 0.5:
                self.rng.shuffle(items)
            ids = ids + [token for item in items for token in item]
        return Row(ids[:ROW], [False] * len(first) + [True] * (ROW - len(first)), "repeats")

    def questions_row(self) -> Row:
        """Questions in chat markup and their answers, packed."""
        ids: list[int] = []
        learned: list[bool] = []
        while len(ids) < ROW:
            ask, answer = question(self.rng)
            turn = self.tokenizer(markup(self.tokenizer, ask)[0], add_special_tokens=False)["input_ids"]
            reply = [*self.tokenizer(answer, add_special_tokens=False)["input_ids"], self.end]
            ids += turn + reply
            learned += [False] * len(turn) + [True] * len(reply)
        return Row(ids[:ROW], learned[:ROW], "questions")

    def rows(self, copying_first: int = COPYING_FIRST) -> Iterator[Row]:
        """All kinds of rows without end, in fixed shares, once copying has been learned by itself.

        A model that goes on (`copying_first` 0) reads fewer facts and more lists.
        """
        makers = [
            self.facts_row,
            self.questions_row,
            lambda: self.film_row("text"),
            lambda: self.film_row("label"),
            lambda: self.marked_row("text"),
            lambda: self.marked_row("label"),
            lambda: self.generic_row("text"),
            lambda: self.generic_row("label"),
        ]
        shares = SHARES_FIRST if copying_first else SHARES_THEN
        yield from (self.repeats_row() for _ in range(copying_first))
        while True:
            yield self.rng.choices(makers, shares)[0]()


def tokenizer_texts(seed: int) -> Iterator[str]:
    """What the tokenizer's merges are learned from: the world's words, our prompts, plain words, labels, numbers."""
    rng = random.Random(seed)
    for film in films():
        for text in STATEMENTS * 4:
            yield text.format(f=film, fame=fame(film))
    for index in range(500):
        yield "\n".join(notes(rng, film_list(f"tokenizer/{index}", 6)))
    for _ in range(2000):
        yield "\n".join(question(rng))
        yield phrase(rng, 3, 12)
    for path in sorted(prompts_dir().glob("*.jinja")):
        yield from [path.read_text(encoding="utf-8")] * 30
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    yield from [f"[{a}{b}] > " for a in "AB" for b in letters] * 60
    yield from [f"{n}. " for n in range(1, 101)] * 30
    yield from [f" {word}" for word in WORDS] * 6
