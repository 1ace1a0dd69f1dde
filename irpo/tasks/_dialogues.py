"""What the recommendation tasks share: a dialogue becomes one list of films for a turn of the recommender."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from irpo.chance import Chance
from irpo.sameness import Title, parse_title, same_film, tidy
from irpo.tasks import Intake, Lists, Refused
from irpo.tasks._films import Catalogue, Film, Suggestions, among
from irpo.types import Candidate, RankingExample, UserError

Speaker = Literal["Seeker", "Recommender"]


@dataclass(frozen=True)
class Turn:
    """What one speaker says before the other speaks, and the films named in it, in order, repetitions kept."""

    speaker: Speaker
    text: str
    films: tuple[Film, ...] = ()
    utterances: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dialogue:
    """A recommendation dialogue; `accepted` are the films that the seeker took."""

    id: str
    turns: tuple[Turn, ...]
    accepted: frozenset[Film] = frozenset()


def merged(turns: Iterable[Turn]) -> tuple[Turn, ...]:
    """The turns with those in a row of one speaker as one, texts joined by a blank."""
    done: list[Turn] = []
    for turn in turns:
        if done and done[-1].speaker == turn.speaker:
            last = done.pop()
            text = tidy(f"{last.text} {turn.text}")
            turn = Turn(turn.speaker, text, last.films + turn.films, last.utterances + turn.utterances)
        done.append(turn)
    return tuple(done)


@dataclass(frozen=True)
class Recommendation:
    """A dialogue cut before a recommender's turn: the context, and the films recommended from there on."""

    context: str
    turn: Turn
    films: tuple[Film, ...]


def first_recommendation(dialogue: Dialogue) -> Recommendation:
    """The first turn of the recommender that names a film not mentioned before, after a context that is not empty.

    Its films are those that the recommender names there or later and that nobody mentioned before. Applied to
    ReDial's test file the rule gives the 1,319 lists of the IRPO paper (arXiv 2504.15477) to within 1 %, and its 88
    of INSPIRED. `Refused` where there is no such turn.
    """
    mentioned: list[Film] = []
    recommended: list[Film] = []
    start = -1
    for place, turn in enumerate(dialogue.turns):
        for one in turn.films:
            if among(one, mentioned):
                continue
            mentioned.append(one)
            spoken = start >= 0 or any(earlier.text for earlier in dialogue.turns[:place])
            if turn.speaker == "Recommender" and spoken:
                start = place if start < 0 else start
                recommended.append(one)
    if start < 0:
        raise Refused("no turn of the recommender names a new movie after a non-empty context")
    context = "\n".join(f"{turn.speaker}: {turn.text}" for turn in dialogue.turns[:start] if turn.text)
    return Recommendation(context, dialogue.turns[start], tuple(recommended))


@dataclass(frozen=True)
class FilmLists:
    """How a recommendation becomes a list of `size` films.

    Up to `ground_truth` recommended films (label 2): those that the seeker accepted first, then the most named ones of
    the corpus. Up to `llm` suggested films (label 1) that are neither recommended nor mentioned in the context. The
    rest (label 0) is drawn by the corpus's frequency among films that the dialogue does not name.
    """

    size: int
    ground_truth: int
    llm: int
    seed: int
    years: bool

    def __post_init__(self) -> None:
        if not (self.ground_truth >= 1 and self.llm >= 0 and self.size > self.ground_truth + self.llm):
            raise UserError(
                f"list_size {self.size}, ground_truth {self.ground_truth}, llm_suggested {self.llm}: "
                "at least 1 ground truth, and room for at least 1 random movie"
            )

    def build(self, dialogues: dict[str, list[Dialogue]], corpus: Catalogue, llm: Suggestions, intake: Intake) -> Lists:
        """The lists of each split."""
        built: Lists = {}
        for split, found in dialogues.items():
            maker = _Maker(self, corpus, llm, intake.dropped_of(split))
            built[split] = []
            for dialogue in found:
                try:
                    built[split].append(maker.example(dialogue))
                except Refused as refusal:
                    intake.drop(split, str(refusal))
            _note_places(split, built[split], self, intake)
        return built


@dataclass(frozen=True)
class _Maker:
    rule: FilmLists
    corpus: Catalogue
    suggestions: Suggestions
    dropped: Counter[str]

    def example(self, dialogue: Dialogue) -> RankingExample:
        found = first_recommendation(dialogue)
        truths = self._truths(found.films, dialogue.accepted)
        chosen = [(one, 2.0, "ground_truth") for one in truths]
        titles = self.suggestions.of(dialogue.id, found.turn.utterances, found.context) if self.rule.llm else []
        chosen += [(one, 1.0, "llm") for one in self._suggested(titles, dialogue, found)]
        taken = [one for one, _, _ in chosen]
        named = [one for turn in dialogue.turns for one in turn.films]

        def skip(one: Film) -> bool:
            return among(one, named) or self._shown_among(one, taken)

        drawn = self.corpus.drawn(Chance("random movies", self.rule.seed, dialogue.id), skip)
        while len(taken) < self.rule.size and (one := next(drawn, None)) is not None:
            taken.append(one)
            chosen.append((one, 0.0, "random"))
        if len(chosen) < 2:
            raise Refused("no other movie for the list: the corpus is too small")
        candidates = [Candidate(one.id, one.text(self.rule.years), label, source) for one, label, source in chosen]
        mixed = Chance("order", self.rule.seed, dialogue.id).shuffled(candidates)
        return RankingExample(dialogue.id, found.context, tuple(mixed))

    def _truths(self, films: Sequence[Film], accepted: frozenset[Film]) -> list[Film]:
        ranked = sorted(films, key=lambda one: (not among(one, accepted), -self.corpus.count(one), one.title))
        kept: list[Film] = []
        for one in ranked:
            if not self._shown_among(one, kept):
                kept.append(one)
        beyond = len(kept) - self.rule.ground_truth
        if beyond > 0:
            self.dropped[f"ground-truth movie beyond the first {self.rule.ground_truth}"] += beyond
        return kept[: self.rule.ground_truth]

    def _suggested(self, titles: Sequence[str], dialogue: Dialogue, found: Recommendation) -> list[Film]:
        start = dialogue.turns.index(found.turn)
        context = [one for turn in dialogue.turns[:start] for one in turn.films]
        kept: list[Film] = []
        for one in self.corpus.resolved(titles):
            if len(kept) == self.rule.llm:
                break
            if self._shown_among(one, found.films):
                self.dropped["suggestion that is a ground truth"] += 1
            elif among(one, context):
                self.dropped["suggestion that the context mentions"] += 1
            elif self._shown_among(one, kept):
                self.dropped["suggestion that repeats another one"] += 1
            else:
                kept.append(one)
        return kept

    def _shown_among(self, one: Film, others: Sequence[Film]) -> bool:
        """As `among`; where years are not shown they do not tell two candidates apart either."""
        if self.rule.years:
            return among(one, others)
        bare = Title(one.parsed.words, None)
        return any(one.id == other.id or same_film(bare, Title(other.parsed.words, None)) for other in others)


def _note_places(split: str, examples: Sequence[RankingExample], rule: FilmLists, intake: Intake) -> None:
    """Say how many of the places for suggestions were filled, whether their form shows, how many lists are short."""
    suggested = sum(c.source == "llm" for example in examples for c in example.candidates)
    places = rule.llm * len(examples)
    if suggested < places:
        intake.note(f"{split}: LLM suggestions fill {suggested} of {places} places; the others went to random movies")
    undated = sum(c.source == "llm" and parse_title(c.text).year is None for e in examples for c in e.candidates)
    if rule.years and 2 * undated > suggested:
        intake.note(f"{split}: {undated} suggestions show no year as other movies do: set years: false to hide it")
    short = sum(len(example.candidates) < rule.size for example in examples)
    if short:
        intake.note(f"{split}: {short} lists have fewer than {rule.size} candidates: the corpus names too few movies")
