"""MuSiQue (Trivedi et al. 2022): find the paragraphs of a multi-hop question among 20."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from irpo.rows import Row, need, shown
from irpo.tasks import TASKS, Intake, Lists, Refused, Release
from irpo.tasks._passages import Account, Passage, PassageLists, in_groups
from irpo.tasks.mining import search_words
from irpo.types import RankingExample, UserError

RELEASE = Release(eval_names=("dev", "test"), prefer="ans", hub="dgslibisey/MuSiQue")


@TASKS.register("musique")
@dataclass(frozen=True)
class MuSiQue:
    """Supporting paragraphs have label 1, the others 0; `list_size` candidates, each cut to `max_words` words.

    All supporting ones are kept and distractors drawn. A paragraph is its `idx`: titles repeat within a question.
    Unanswerable questions are refused. The data mark no sentences: with `unit: sentence` each step of the question's
    decomposition supports one sentence of its paragraph, the one that shares most words with the step's question among
    those that hold its answer (among all, where none does).
    """

    data: str
    seed: int = 0
    list_size: int = 10
    max_words: int = 50  # of "title: passage"; 0 leaves it uncut
    unit: Literal["paragraph", "sentence"] = "paragraph"

    def build(self, intake: Intake) -> Lists:
        """See `irpo.tasks.Task`."""
        lists = PassageLists(self.list_size, self.max_words, self.seed)
        built: Lists = {}
        for split, rows in intake.splits(self.data, RELEASE).items():
            account = Account(intake, split)

            def parse(row: Row, account: Account = account) -> RankingExample:
                return self._example(row.value, lists, account)

            built[split] = list(intake.collect(split, rows, parse))
        return in_groups(built)

    def _example(self, value: Mapping[str, Any], lists: PassageLists, account: Account) -> RankingExample:
        if not need(value, "answerable", bool, True):
            raise Refused("unanswerable")
        example_id, question = need(value, "id", str), need(value, "question", str)
        passages = [_paragraph(item) for item in need(value, "paragraphs", list)]
        if len({passage.id for passage in passages}) != len(passages):
            raise UserError("'paragraphs' has one 'idx' twice; a paragraph is known by its idx")
        if self.unit == "sentence":
            passages = _sentences(passages, need(value, "question_decomposition", list))
        return lists.build(example_id, question, passages, account)


def _paragraph(item: Any) -> Passage:
    if not isinstance(item, dict):
        raise UserError(f"'paragraphs' holds {shown(item)}; it must hold objects")
    if "is_supporting" not in item:
        raise Refused("paragraphs without is_supporting (a test row)")
    title, text = need(item, "title", str), need(item, "paragraph_text", str)
    return Passage(f"p{need(item, 'idx', int)}", title, text, need(item, "is_supporting", bool))


def _sentences(paragraphs: list[Passage], steps: list[Any]) -> list[Passage]:
    split = {p.id: [s for s in re.split(r"(?<=[.!?])\s+(?=[\"'(\[]?[A-Z0-9])", p.text) if s] for p in paragraphs}
    supporting = set()
    for step in steps:
        if not isinstance(step, dict):
            raise UserError(f"'question_decomposition' holds {shown(step)}; it must hold objects")
        place = f"p{step.get('paragraph_support_idx')}"
        if split.get(place):
            asked, answer = need(step, "question", str), need(step, "answer", str)
            supporting.add((place, _supporting_sentence(split[place], asked, answer)))
    return [
        Passage(f"{p.id}s{number}", p.title, sentence, (p.id, number) in supporting)
        for p in paragraphs
        for number, sentence in enumerate(split[p.id])
    ]


def _supporting_sentence(sentences: list[str], question: str, answer: str) -> int:
    holding = [i for i, s in enumerate(sentences) if answer.casefold() in s.casefold()] or list(range(len(sentences)))
    asked = set(search_words(question))
    return max(holding, key=lambda i: (len(asked & set(search_words(sentences[i]))), -i))
