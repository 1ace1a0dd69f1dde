"""ReDial (Li et al. 2018): which movie does the recommender name next?"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from irpo.rows import Row, need, shown
from irpo.sameness import tidy
from irpo.tasks import TASKS, Intake, Lists, Refused, Release
from irpo.tasks._dialogues import Dialogue, FilmLists, Turn, merged
from irpo.tasks._films import Catalogue, Film, SuggestionSource, endpoint, film
from irpo.types import UserError

RELEASE = Release(
    eval_names=("test", "dev"), suffixes=(".jsonl", ".json", ".parquet"), hub="community-datasets/re_dial"
)
MENTIONS_FILE = "movies_with_mentions.csv"


@TASKS.register("redial")
@dataclass(frozen=True)
class ReDial:
    """One list a dialogue: up to 3 movies that the recommender names (2), 5 suggested by an LLM (1), random ones (0).

    The turn is the first one of the recommender that names a movie not mentioned before, after a non-empty context.
    Accepted is what the seeker's form says was liked (the recommender's form where the seeker left none). Random
    movies follow the training dialogues' frequency; without a training split that of `movies_with_mentions.csv`, else
    of the evaluation dialogues. The website's files and the hub's rows are read alike.
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
    years: bool = True  # whether candidates show their year, as the dialogues do
    suggestions: str | None = None  # JSONL keyed by dialogue; default: the folder's own, if any; "none": no file
    suggestion_column: str | None = None  # default: the first that is "suggestions" or begins with "llm_recs"
    llm_endpoint: str | None = None  # OpenAI-compatible base URL, asked where the file has nothing
    llm_model: str | None = None
    llm_cache: str = ".cache/llm_suggestions.jsonl"

    def build(self, intake: Intake) -> Lists:
        """See `irpo.tasks.Task`."""
        lists = FilmLists(self.list_size, self.ground_truth, self.llm_suggested, self.seed, self.years)
        source = SuggestionSource(
            self.suggestions, self.suggestion_column, endpoint(self.llm_endpoint, self.llm_model, self.llm_cache)
        )
        splits = intake.splits(self.data, RELEASE)
        dialogues = {split: list(intake.collect(split, rows, parse_dialogue)) for split, rows in splits.items()}
        return lists.build(dialogues, self._corpus(dialogues, intake), source.open(self.data, intake), intake)

    def _corpus(self, dialogues: Mapping[str, list[Dialogue]], intake: Intake) -> Catalogue:
        mentions = Path(self.data) / MENTIONS_FILE
        if "train" not in dialogues and mentions.is_file():
            intake.note(f"no training split: random movies follow {MENTIONS_FILE}")
            return Catalogue(intake.collect("movies", intake.rows(mentions), _mention))
        return corpus_of(dialogues, intake)


def corpus_of(dialogues: Mapping[str, list[Dialogue]], intake: Intake) -> Catalogue:
    """How often the training dialogues name each film; the evaluation dialogues where there are none."""
    if "train" not in dialogues:
        intake.note("no training split: random movies follow the evaluation dialogues' own frequency")
    counted = dialogues.get("train") or dialogues.get("eval", [])
    return Catalogue((one, 1) for dialogue in counted for turn in dialogue.turns for one in turn.films)


def _mention(row: Row) -> tuple[Film, int]:
    count = need(row.value, "nbMentions", str)
    if not re.fullmatch(r"\s*\d{1,18}\s*", count):
        raise UserError(f"'nbMentions' is {shown(count)}; it must be a whole number")
    title = need(row.value, "movieName", str)
    if not title.strip():
        raise UserError("'movieName' is empty; it must be a title")
    return film(title, need(row.value, "movieId", str)), int(count)


def parse_dialogue(row: Row) -> Dialogue:
    """A row of the website's form or of the hub's; movie ids in the texts become titles."""
    value = row.value
    seeker, recommender = need(value, "initiatorWorkerId", (int, str)), need(value, "respondentWorkerId", (int, str))
    if seeker == recommender:
        raise Refused("seeker and recommender are one worker")
    films = {key: film(title, key) for key, title in _titles(value)}
    speakers = {seeker: "Seeker", recommender: "Recommender"}
    turns = []
    for message in need(value, "messages", list):
        if not isinstance(message, dict):
            raise UserError(f"'messages' holds {shown(message)}; it must hold objects")
        sender = need(message, "senderWorkerId", (int, str))
        if sender not in speakers:
            raise Refused("a message of neither the seeker nor the recommender")
        turns.append(_turn(speakers[sender], need(message, "text", str), films))
    dialogue_id = str(need(value, "conversationId", (str, int)))
    if not dialogue_id:
        raise UserError("'conversationId' is empty; it must name the dialogue")
    return Dialogue(dialogue_id, merged(turns), frozenset(films[key] for key in _liked(value) if key in films))


def _turn(speaker: Any, text: str, films: Mapping[str, Film]) -> Turn:
    named = tuple(films[key] for key in re.findall(r"@(\d+)", text) if key in films)
    titled = re.sub(r"@(\d+)", lambda found: films[found[1]].title if found[1] in films else found[0], text)
    return Turn(speaker, tidy(titled), named)


def _titles(value: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(id, title) of the movies mentioned; an empty questionnaire or table may be `[]`."""
    table = need(value, "movieMentions", (dict, list))
    pairs = list(table.items()) if isinstance(table, dict) else [_pair(item) for item in table]
    for key, title in pairs:
        if title is not None and not isinstance(title, str):
            raise UserError(f"'movieMentions' has the title {shown(title)}; it must be a text")
        if title and title.strip():
            yield str(key), title


def _pair(item: Any) -> tuple[str, Any]:
    if not isinstance(item, dict):
        raise UserError(f"'movieMentions' holds {shown(item)}; it must hold objects with 'movieId' and 'movieName'")
    return str(need(item, "movieId", (str, int))), item.get("movieName")


def _liked(value: Mapping[str, Any]) -> Iterator[str]:
    """Ids of the movies that the seeker liked: the seeker's form, else the recommender's."""
    for form in ("initiatorQuestions", "respondentQuestions"):
        answers = value.get(form)
        if not answers:
            continue
        if isinstance(need(value, form, (dict, list)), dict):
            pairs = list(answers.items())
        else:
            pairs = [(item.get("movieId"), item) for item in answers if isinstance(item, dict)]
        yield from (str(key) for key, answer in pairs if isinstance(answer, dict) and answer.get("liked") == 1)
        return
