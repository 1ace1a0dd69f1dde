"""HotpotQA, distractor setting (Yang et al. 2018): find the paragraphs that the answer takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from irpo.rows import Row, need, shown
from irpo.tasks import TASKS, Intake, Lists, Refused, Release
from irpo.tasks._passages import Account, Passage, PassageLists, in_groups
from irpo.types import RankingExample, UserError

RELEASE = Release(eval_names=("dev", "test"), prefer="distractor", hub="hotpotqa/hotpot_qa", hub_config="distractor")


@TASKS.register("hotpotqa")
@dataclass(frozen=True)
class HotpotQA:
    """Supporting passages have label 1, the others 0; `list_size` candidates, each cut to `max_words` words.

    The unit is the paragraph, or the sentence with the facts' own labels. A passage is its position in the question,
    never its title. The website's JSON list and the hub's rows are read alike.
    """

    data: str
    seed: int = 0
    list_size: int = 10
    max_words: int = 50  # of "title: passage"; 0 leaves it uncut
    unit: Literal["paragraph", "sentence"] = "paragraph"
    level: Literal["easy", "medium", "hard"] | None = None  # of the training rows; the paper's 15,661 are "hard"

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
        if account.split == "train" and self.level is not None and need(value, "level", str) != self.level:
            raise Refused(f"level is not {self.level}")
        example_id = need(value, "_id" if "_id" in value else "id", str)
        question, paragraphs = need(value, "question", str), _paragraphs(value)
        if "supporting_facts" not in value:
            raise Refused("no supporting facts (a test row)")
        facts, lost = located(paragraphs, _facts(value))
        account.drop("supporting fact that is not in the context", lost)
        if self.unit == "paragraph":
            supporting = {place for place, _ in facts}
            passages = [
                Passage(f"p{i}", title, " ".join(s.strip() for s in sentences), i in supporting)
                for i, (title, sentences) in enumerate(paragraphs)
            ]
        else:
            passages = [
                Passage(f"p{i}s{j}", title, sentence, (i, j) in facts)
                for i, (title, sentences) in enumerate(paragraphs)
                for j, sentence in enumerate(sentences)
            ]
        return lists.build(example_id, question, passages, account)


Paragraph = tuple[str, list[str]]  # title, sentences


def located(paragraphs: list[Paragraph], facts: list[tuple[str, int]]) -> tuple[set[tuple[int, int]], int]:
    """Facts (title, sentence) as places (paragraph, sentence), and how many are nowhere.

    Of several paragraphs under one title the first that has such a sentence is meant.
    """
    places, lost = set(), 0
    for title, sentence in facts:
        fitting = [i for i, (name, texts) in enumerate(paragraphs) if name == title and 0 <= sentence < len(texts)]
        if fitting:
            places.add((fitting[0], sentence))
        else:
            lost += 1
    return places, lost


def _paragraphs(value: Mapping[str, Any]) -> list[Paragraph]:
    context = need(value, "context", (list, dict))
    pairs = _columns(context, "title", "sentences", "context") if isinstance(context, dict) else context
    for pair in pairs:
        sound = isinstance(pair, (list, tuple)) and len(pair) == 2 and isinstance(pair[0], str)
        if not sound or not isinstance(pair[1], list) or not all(isinstance(s, str) for s in pair[1]):
            raise UserError(f"'context' holds {shown(pair)}; a paragraph is [title, [sentence, ...]]")
    return [(title, sentences) for title, sentences in pairs]


def _facts(value: Mapping[str, Any]) -> list[tuple[str, int]]:
    facts = need(value, "supporting_facts", (list, dict))
    pairs = _columns(facts, "title", "sent_id", "supporting_facts") if isinstance(facts, dict) else facts
    for pair in pairs:
        if not isinstance(pair, (list, tuple)) or [type(part) for part in pair] != [str, int]:
            raise UserError(f"'supporting_facts' holds {shown(pair)}; a fact is [title, sentence number]")
    return [(title, sentence) for title, sentence in pairs]


def _columns(table: Mapping[str, Any], first: str, second: str, name: str) -> list[tuple[Any, Any]]:
    a, b = need(table, first, list), need(table, second, list)
    if len(a) != len(b):
        raise UserError(f"{name!r} has {len(a)} under {first!r} and {len(b)} under {second!r}; they must be as many")
    return list(zip(a, b, strict=True))
