"""What the multi-hop tasks share: a question's passages become a list of supporting ones and sampled distractors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from irpo.chance import Chance
from irpo.tasks import Intake, Lists, Refused, groups_of
from irpo.tasks.mining import Draft, distinct, first_words
from irpo.types import Candidate, RankingExample, UserError


@dataclass(frozen=True)
class Passage:
    """A paragraph or a sentence; its id is its position, because titles repeat within a question."""

    id: str
    title: str
    text: str
    supporting: bool


@dataclass(frozen=True)
class PassageLists:
    """How passages become a list: all supporting ones (label 1), distractors (label 0) drawn up to `size`.

    A candidate's text is "title: passage", cut to `max_words` words. A question with fewer passages gives a shorter
    list. Should the supporting ones alone fill the list, its last places go to distractors: one at least is kept.
    """

    size: int
    max_words: int
    seed: int

    def __post_init__(self) -> None:
        if self.size < 2:
            raise UserError(f"list_size is {self.size}; a list has at least 2 candidates")
        if self.max_words < 0:
            raise UserError(f"max_words is {self.max_words}; it must be 0 (uncut) or more")

    def build(self, example_id: str, question: str, passages: Sequence[Passage], account: Account) -> RankingExample:
        """The list of one question; `Refused` where nothing supports the answer or only one passage is there."""
        drafts = [
            Draft(p.id, self._text(p), float(p.supporting), "ground_truth" if p.supporting else "distractor")
            for p in passages
        ]
        candidates = distinct(drafts, account.intake.dropped_of(account.split))
        supporting = [c for c in candidates if c.relevance > 0]
        others = [c for c in candidates if c.relevance == 0]
        if not supporting:
            raise Refused("no supporting passage")
        if len(candidates) < 2:
            raise Refused("fewer than two passages")
        keep = min(len(supporting), self.size - 1 if others else self.size)
        account.drop("supporting passage beyond the list's size", len(supporting) - keep)
        drawn = Chance("distractors", self.seed, example_id).shuffled(others)[: self.size - keep]
        chosen: list[Candidate] = supporting[:keep] + drawn
        mixed = Chance("order", self.seed, example_id).shuffled(chosen)
        return RankingExample(example_id, question, tuple(mixed))

    def _text(self, passage: Passage) -> str:
        if not passage.text.strip():
            return ""
        whole = f"{passage.title.strip()}: {passage.text}" if passage.title.strip() else passage.text
        return first_words(whole, self.max_words)


def in_groups(lists: Lists) -> Lists:
    """The lists, those that ask one question in one group."""
    groups = groups_of((e.id, e.query) for examples in lists.values() for e in examples)
    return {split: [replace(e, group=groups.get(e.id)) for e in examples] for split, examples in lists.items()}


@dataclass(frozen=True)
class Account:
    """Where one split's omissions are counted."""

    intake: Intake
    split: str

    def drop(self, reason: str, count: int = 1) -> None:
        """Count something that was left out of this split."""
        self.intake.drop(self.split, reason, count)
