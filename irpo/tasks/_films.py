"""What the recommendation tasks share about films: who they are, how often a corpus names them, who suggests them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from irpo.chance import Chance
from irpo.files import existing
from irpo.rows import Row, need, shown
from irpo.sameness import Title, match_one_to_one, parse_title, same_film, tidy
from irpo.tasks import Intake, name_words
from irpo.tasks._intake import require_file
from irpo.tasks.mining import weighted_draw
from irpo.tasks.suggestions import Endpoint, Suggester
from irpo.types import UserError


@dataclass(frozen=True)
class Film:
    """A film as a dataset names it; `id` is the dataset's, or the title where it has none."""

    id: str
    title: str

    @cached_property
    def parsed(self) -> Title:
        """The title as it is compared."""
        return parse_title(self.title)

    def text(self, years: bool) -> str:
        """The title as a candidate shows it, with or without its year."""
        return self.title if years else re.sub(r"\s*\([^()]*\d{4}[^()]*\)\s*$", "", self.title) or self.title


def film(title: str, film_id: str = "") -> Film:
    """A film with its title's blanks tidied."""
    return Film(film_id or tidy(title), tidy(title))


def among(one: Film, others: Iterable[Film]) -> bool:
    """Whether a film is one of others, under any id or spelling."""
    return any(one.id == other.id or same_film(one.parsed, other.parsed) for other in others)


class Catalogue:
    """The films of a corpus and how often it names them; one film under several ids or spellings of case is one."""

    def __init__(self, named: Iterable[tuple[Film, int]]) -> None:
        counts: dict[tuple[str, int | None], Counter[Film]] = {}
        for one, count in named:
            counts.setdefault((one.parsed.key, one.parsed.year), Counter())[one] += count
        self._counts = {key: found.total() for key, found in counts.items()}
        most_named = {key: min(found, key=lambda f: (-found[f], f.title, f.id)) for key, found in counts.items()}
        order = sorted(most_named, key=lambda key: (most_named[key].title, most_named[key].id))
        self.films = [most_named[key] for key in order]
        self._weights = [self._counts[key] for key in order]
        self._by_key: dict[str, list[Film]] = {}
        for one in self.films:
            self._by_key.setdefault(one.parsed.key, []).append(one)

    def count(self, one: Film) -> int:
        """How often the corpus names this film."""
        return self._counts.get((one.parsed.key, one.parsed.year), 0)

    def drawn(self, chance: Chance, skip: Callable[[Film], bool]) -> Iterator[Film]:
        """Films drawn by their frequency without replacement."""
        places = weighted_draw(chance, self._weights, lambda place: skip(self.films[place]))
        return (self.films[place] for place in places)

    def resolved(self, titles: Sequence[str]) -> list[Film]:
        """Each title as the corpus's film, where it has it: one title a film, an agreeing year before a missing one.

        A suggestion then looks like the other candidates of its list, and its spelling does not tell its label.
        """
        named = [film(title) for title in titles if title.strip()]
        known = list(dict.fromkeys(f for one in named for f in self._by_key.get(one.parsed.key, ())))
        pairs = match_one_to_one(named, known, self._likeness)
        return [known[pairs[i]] if i in pairs else one for i, one in enumerate(named)]

    def _likeness(self, one: Film, other: Film) -> int:
        if not same_film(one.parsed, other.parsed):
            return 0
        # Among films of one title the most named one is meant, unless the year says otherwise.
        return (2_000_000 if one.parsed.year == other.parsed.year else 1_000_000) + min(self.count(other), 999_999)


@dataclass(frozen=True)
class Suggested:
    """Titles suggested at one place of a dialogue: the utterances of the turn that they would replace."""

    utterances: frozenset[str]
    titles: tuple[str, ...]


class Suggestions:
    """Where a dialogue's suggested films come from: a JSONL file, else an endpoint, else nowhere."""

    def __init__(self, by_dialogue: Mapping[str, Sequence[Suggested]], suggester: Suggester | None) -> None:
        self._by_dialogue = by_dialogue
        self._suggester = suggester

    def of(self, dialogue: str, utterances: Iterable[str], context: str) -> list[str]:
        """Titles for a turn: those that the file has for one of its utterances, else the dialogue's first."""
        rows = self._by_dialogue.get(dialogue, ())
        if rows:
            wanted = set(utterances)
            return list(next((row for row in rows if row.utterances & wanted), rows[0]).titles)
        return self._suggester.suggest(context) if self._suggester else []


@dataclass(frozen=True)
class SuggestionSource:
    """A task's options on suggestions: a file, a column of it, an endpoint."""

    file: str | None
    column: str | None
    endpoint: Endpoint | None

    def open(self, data: str, intake: Intake) -> Suggestions:
        """The suggestions; without a `file` one in the data folder whose name says "llm" or "suggestions" is taken."""
        path = None
        if self.file is None:
            path = next(iter(_suggestion_files(Path(data))), None)
        elif self.file != "none":
            path = require_file(existing(Path(self.file)))
        rows: dict[str, list[Suggested]] = {}
        if path is not None:
            for dialogue, suggested in intake.collect("suggestions", intake.rows(path), self._parsed):
                rows.setdefault(dialogue, []).append(suggested)
        if path is None and self.endpoint is None:
            intake.note("no LLM suggestions: their places went to random movies")
        return Suggestions(rows, Suggester(self.endpoint) if self.endpoint else None)

    def _parsed(self, row: Row) -> tuple[str, Suggested]:
        value = row.value
        dialogue = next((value[key] for key in ("id", "dialog_id", "conversationId") if key in value), None)
        if not isinstance(dialogue, (str, int)):
            raise UserError("the row has no dialogue; it is keyed by 'id', 'dialog_id' or 'conversationId'")
        columns = [key for key in value if key == "suggestions" or key.startswith("llm_recs")]
        column = self.column or next(iter(columns), "suggestions")
        titles = need(value, column, list)
        if not all(isinstance(title, str) for title in titles):
            raise UserError(f"{column!r} is {shown(titles)}; it must be a list of titles")
        utterances: list[Any] = need(value, "utt_ids_of_response", list, [])
        return str(dialogue), Suggested(frozenset(map(str, utterances)), tuple(titles))


def _suggestion_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    named = (path for path in sorted(folder.glob("*.json*")) if {"llm", "suggestions"} & set(name_words(path)))
    return [path for path in named if path.is_file()]


def endpoint(url: str | None, model: str | None, cache: str) -> Endpoint | None:
    """The endpoint of a task's options, if there is one."""
    if url is None:
        return None
    if not model:
        raise UserError("llm_endpoint is given without llm_model; name the model that is asked there")
    return Endpoint(url, model, Path(cache))
