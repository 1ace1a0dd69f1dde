"""What the multiple-choice tasks share: a question's choices, filled up with wrong answers to other questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from irpo.chance import Chance, in_test_split
from irpo.rows import Row, need, shown
from irpo.sameness import same_answer, tidy
from irpo.tasks import Intake, Lists, Refused, Release, groups_of
from irpo.tasks.mining import Draft, Mine, Miner, MinerName, distinct, search_words
from irpo.types import Candidate, RankingExample, UserError

# Shares of the training questions that may become validation lists: what lies below one of them and what lies above
# mine apart, so that no validation list holds a wrong answer that training lists show as wrong.
VALIDATION_SHARES = (0.05, 0.1, 0.2)


@dataclass(frozen=True)
class Question:
    """A stem, its choices (label, text) and the right one's label."""

    id: str
    stem: str
    choices: tuple[tuple[str, str], ...]
    answer: str

    @property
    def whole(self) -> str:
        """Stem and choices: what a search for similar questions compares."""
        return " ".join([self.stem, *(text for _, text in self.choices)])

    @property
    def mine(self) -> Mine:
        """The question's wrong answers."""
        wrong = (tidy(text) for label, text in self.choices if label != self.answer)
        return Mine(self.whole, tuple(text for text in wrong if text))

    @property
    def right(self) -> str:
        """The right answer's text."""
        return next(text for label, text in self.choices if label == self.answer)


@dataclass(frozen=True)
class ChoiceLists:
    """How a question becomes a list: its choices (right: label 1), then mined wrong answers (label 0) up to `size`.

    They are the wrong answers (two at most) to the questions that are most like this one, stem and choices; where too
    few questions are like it, to questions drawn at random. Never a re-spelling of the right answer or of another
    candidate, nor one whose words hold the right answer's or are held by them.

    A wrong answer that training lists show as wrong would tell itself in another list: evaluation lists mine the
    evaluation questions alone, and training questions are mined in parts that no `VALIDATION_SHARES` divides.
    """

    size: int
    seed: int
    miner: MinerName
    dense_model: str

    def __post_init__(self) -> None:
        if self.size < 2:
            raise UserError(f"list_size is {self.size}; a list has at least 2 candidates")

    def build(self, data: str, release: Release, intake: Intake) -> Lists:
        """The lists of each split that the data hold."""
        splits = intake.splits(data, release)
        questions = {split: list(intake.collect(split, rows, parse_question)) for split, rows in splits.items()}
        groups = groups_of((q.id, q.stem) for asked in questions.values() for q in asked)
        built: Lists = {}
        for split, asked in questions.items():
            units = [groups.get(q.id, q.id) for q in asked]
            shares = self._shares(units, intake) if split == "train" else ()
            parts = [sum(not in_test_split(unit, share) for share in shares) for unit in units]
            mines: list[list[Mine]] = [[] for _ in (*shares, 1)]
            for q, part in zip(asked, parts, strict=True):
                mines[part].append(q.mine)
            miners = [Miner(found, self.miner, self.dense_model) for found in mines]
            made = [self._list(q, miners[part], intake, split) for q, part in zip(asked, parts, strict=True)]
            built[split] = [replace(example, group=groups.get(example.id)) for example in made]
            short = sum(len(example.candidates) < self.size for example in made)
            if short:
                intake.note(f"{split}: {short} lists have fewer than {self.size} candidates: too few wrong answers")
        return built

    def _shares(self, units: Sequence[str], intake: Intake) -> tuple[float, ...]:
        """Those validation shares that leave a list's size of questions to mine on both sides of each."""
        kept: list[float] = []
        below = 0
        for share in VALIDATION_SHARES:
            inside = sum(in_test_split(unit, share) for unit in units)
            if inside - below >= self.size and len(units) - inside >= self.size:
                kept.append(share)
                below = inside
        if len(kept) < len(VALIDATION_SHARES):
            clean = " or ".join(f"{share:g}" for share in kept) or "not set"
            intake.note(
                f"train: {len(units)} questions are too few to mine apart for every validation share; validation lists "
                f"hold no wrong answer of training lists where training.validation_fraction is {clean}"
            )
        return tuple(kept)

    def _list(self, question: Question, miner: Miner, intake: Intake, split: str) -> RankingExample:
        drafts = [
            Draft(f"c{n}", text, 1.0, "ground_truth") if label == question.answer else Draft(f"c{n}", text, 0.0, "own")
            for n, (label, text) in enumerate(question.choices)
        ]
        chosen = distinct(drafts, intake.dropped_of(split))
        own = len(chosen)

        right = set(search_words(question.right))

        def new(text: str) -> bool:
            words = set(search_words(text))
            near_right = words <= right or (right and right <= words)  # "house" is right, so "own house" is not wrong
            return not near_right and not any(same_answer(text, c.text) for c in chosen)

        chance = Chance("wrong answers", self.seed, question.id)
        sources = {"mined": miner.similar(question.whole, new), "random": miner.drawn(chance, new)}
        for source, texts in sources.items():
            # Asked one by one, so that `new` sees each text that was taken.
            while len(chosen) < self.size and (text := next(texts, None)) is not None:
                chosen.append(Candidate(f"m{len(chosen) - own}", text, 0.0, source))
        mixed = Chance("order", self.seed, question.id).shuffled(chosen)
        return RankingExample(question.id, question.stem, tuple(mixed))


def parse_question(row: Row) -> Question:
    """A row of the website's form (`question` is an object) or of the hub's (`question` is the stem)."""
    value = row.value
    asked: Any = need(value, "question", (str, dict))
    if isinstance(asked, dict):
        stem, choices = need(asked, "stem", str), _choice_rows(need(asked, "choices", list))
    else:
        stem, choices = asked, _choice_columns(need(value, "choices", dict))
    answer = need(value, "answerKey", str, "").strip()
    if not answer:
        raise Refused("no answer (a test row)")
    labels = [label for label, _ in choices]
    if labels.count(answer) != 1:
        allowed = f"one of the choices' labels, each once: {shown(labels)}"
        raise UserError(f"'answerKey' is {shown(answer)}; it must be {allowed}")
    question = Question(need(value, "id", str), tidy(stem), tuple(choices), answer)
    for what, text in (("id", question.id), ("stem", question.stem), ("answer", question.right.strip())):
        if not text:
            raise UserError(f"question {shown(question.id)} has an empty {what}")
    return question


def _choice_rows(rows: list[Any]) -> list[tuple[str, str]]:
    for row in rows:
        if not isinstance(row, dict):
            raise UserError(f"'choices' holds {shown(row)}; it must hold objects with 'label' and 'text'")
    return [(need(row, "label", str), need(row, "text", str)) for row in rows]


def _choice_columns(table: Mapping[str, Any]) -> list[tuple[str, str]]:
    labels, texts = need(table, "label", list), need(table, "text", list)
    if len(labels) != len(texts) or not all(isinstance(part, str) for part in labels + texts):
        raise UserError(f"'choices' is {shown(table)}; it must hold as many texts as labels")
    return list(zip(labels, texts, strict=True))
