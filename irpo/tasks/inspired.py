"""INSPIRED (Hayati et al. 2020): which movie does the recommender name next?"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from irpo.rows import Row, need, read_rows, shown
from irpo.sameness import tidy
from irpo.tasks import TASKS, Intake, Lists, Release, split_files
from irpo.tasks._dialogues import Dialogue, FilmLists, Speaker, Turn, merged
from irpo.tasks._films import Film, SuggestionSource, endpoint, film
from irpo.tasks._hub import is_hub
from irpo.tasks._intake import unwritable
from irpo.tasks.redial import corpus_of
from irpo.types import UserError

RELEASE = Release(eval_names=("test", "dev"), suffixes=(".tsv", ".csv"))
ACCEPTED = frozenset({"accept_rating_good", "accept_rating_mod", "accept_others"})  # the release's "accept_new"
_SPEAKERS: dict[str, Speaker] = {"RECOMMENDER": "Recommender", "SEEKER": "Seeker"}


@TASKS.register("inspired")
@dataclass(frozen=True)
class Inspired:
    """One list a dialogue: up to 3 movies that the recommender names (2), 5 suggested by an LLM (1), random ones (0).

    The turn is the first one of the recommender that names a movie not mentioned before, after a non-empty context.
    A movie is accepted where `fine_label`, in the row that names it or in the seeker's reply, says so; the release
    repeats one label in all rows of a dialogue, so there the corpus's frequency decides among its movies. Candidates
    show no year, because neither the dialogues nor the suggestions have one: it would tell the labels apart.

    Also read: turn-level rows (`full_situation`, `movies`), where a split has no rows of dialogues.
    """

    # A film that someone suggested (1) was not recommended in the dialogue.
    relevant_from: ClassVar[float] = 2.0
    # The cache is written as lists are made: what it holds when that begins decides nothing.
    words: ClassVar[tuple[str, ...]] = ("suggestion_column", "llm_endpoint", "llm_model", "llm_cache")

    data: str
    seed: int = 0
    list_size: int = 20
    ground_truth: int = 3  # at most
    llm_suggested: int = 5  # at most
    years: bool = False  # whether candidates show their year
    suggestions: str | None = None  # JSONL keyed by dialogue; default: the folder's own, if any; "none": no file
    suggestion_column: str | None = None  # default: the first that is "suggestions" or begins with "llm_recs"
    llm_endpoint: str | None = None  # OpenAI-compatible base URL, asked where the file has nothing
    llm_model: str | None = None
    llm_cache: str = ".cache/llm_suggestions.jsonl"

    def build(self, intake: Intake) -> Lists:
        """See `irpo.tasks.Task`."""
        if is_hub(self.data):
            there = "the hub has INSPIRED in others' adaptations alone, not as its authors publish it"
            raise UserError(f"data: 'hub': {there}; give the folder of its files")
        lists = FilmLists(self.list_size, self.ground_truth, self.llm_suggested, self.seed, self.years)
        source = SuggestionSource(
            self.suggestions, self.suggestion_column, endpoint(self.llm_endpoint, self.llm_model, self.llm_cache)
        )
        dialogues = {}
        for split, paths in split_files(Path(self.data), RELEASE).items():
            whole = [path for path in paths if not _is_turn_level(path)]
            rows = (row for path in whole or paths for row in intake.rows(path))
            if whole:
                dialogues[split] = _dialogues(intake.collect(split, rows, _utterance))
            else:
                dialogues[split] = _from_turns(intake.collect(split, rows, _situation))
                intake.note(f"{split}: turn-level rows; the movies that the seeker names are not marked in them")
        return lists.build(dialogues, corpus_of(dialogues, intake), source.open(self.data, intake), intake)


def _is_turn_level(path: Path) -> bool:
    first = next(iter(read_rows(path)), None)
    return first is not None and "full_situation" in first.value


@dataclass(frozen=True)
class _Utterance:
    dialogue: str
    turn: Turn
    label: str


def _utterance(row: Row) -> _Utterance:
    value = row.value
    speaker = need(value, "speaker", str)
    if speaker not in _SPEAKERS:
        raise UserError(f"'speaker' is {shown(speaker)}; it must be {' or '.join(_SPEAKERS)}")
    films = tuple(film(name) for name in need(value, "movies", str).split(";") if name.strip())
    turn = Turn(_SPEAKERS[speaker], tidy(need(value, "text", str)), films, (need(value, "utt_id", str).strip(),))
    dialogue = need(value, "dialog_id", str)
    if not dialogue:
        raise UserError("'dialog_id' is empty; it must name the dialogue")
    return _Utterance(dialogue, turn, need(value, "fine_label", str, "").strip())


def _dialogues(utterances: Iterable[_Utterance]) -> list[Dialogue]:
    by_dialogue: dict[str, list[_Utterance]] = {}
    for utterance in utterances:
        by_dialogue.setdefault(utterance.dialogue, []).append(utterance)
    return [
        Dialogue(name, merged(u.turn for u in said), frozenset(_accepted(said))) for name, said in by_dialogue.items()
    ]


def _accepted(said: list[_Utterance]) -> Iterator[Film]:
    """Films that the recommender names where the row's label, or one of the seeker's reply, is an acceptance."""
    for place, utterance in enumerate(said):
        if utterance.turn.speaker == "Recommender" and utterance.turn.films:
            labels = {utterance.label} | _reply_labels(said[place + 1 :])
            if labels & ACCEPTED:
                yield from utterance.turn.films


def _reply_labels(rest: list[_Utterance]) -> set[str]:
    labels: set[str] = set()
    replied = False
    for utterance in rest:
        if utterance.turn.speaker == "Seeker":
            replied = True
            labels.add(utterance.label)
        elif replied:
            break
    return labels


@dataclass(frozen=True)
class _Situation:
    """The dialogue before a recommender's turn, and the films that the turn names."""

    id: str
    text: str
    films: tuple[Film, ...]


def _situation(row: Row) -> _Situation:
    cell = need(row.value, "movies", str)
    try:
        titles = ast.literal_eval(cell)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        titles = None
    if not isinstance(titles, list) or not all(isinstance(title, str) for title in titles):
        raise UserError(f"'movies' is {shown(cell)}; it must be a list of titles in Python's notation")
    if problem := unwritable(titles):
        raise UserError(f"'movies' is {shown(cell)}; {problem}")
    number = row.value.get("") or str(row.line)
    films = tuple(film(title) for title in titles if title.strip())
    return _Situation(f"situation-{number}", need(row.value, "full_situation", str), films)


def _from_turns(situations: Iterable[_Situation]) -> list[Dialogue]:
    """Dialogues from their situations: one continues the last where it begins with the same text."""
    groups: list[list[_Situation]] = []
    for situation in situations:
        if groups and _continues(situation.text, groups[-1][-1].text.rstrip()):
            groups[-1].append(situation)
        else:
            groups.append([situation])
    return [_joined(group) for group in groups]


def _continues(text: str, before: str) -> bool:
    # A situation in which nothing was said yet begins every dialogue.
    return text.startswith(before) and text.rstrip() != before and len(_spoken(before)) > 1


def _joined(group: list[_Situation]) -> Dialogue:
    turns = _spoken(group[-1].text)
    named: dict[int, tuple[Film, ...]] = {}
    for situation in group:
        place = len(_spoken(situation.text)) - 1
        named[place] = named.get(place, ()) + situation.films
    filled = [Turn(turn.speaker, turn.text, named.get(place, ())) for place, turn in enumerate(turns)]
    return Dialogue(group[0].id, merged(filled))


def _spoken(text: str) -> list[Turn]:
    """The turns of a situation; the last one is the recommender's, still to be said."""
    turns = []
    for found in re.finditer(r"^(System|User):(.*(?:\n(?!System:|User:).*)*)", text, flags=re.MULTILINE):
        turns.append(Turn("Recommender" if found[1] == "System" else "Seeker", tidy(found[2])))
    return turns
