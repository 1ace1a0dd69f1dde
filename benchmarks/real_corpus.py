"""What a model for the real tasks reads while it is pretrained: training texts of the six datasets, and unranked lists.

Every text comes from a file of training rows. A training list is told by a hash of its id (or of the question that it
shares with others), the one by which `irpo train` sets validation lists aside:

- below `UNREAD`: nothing of it is read, so that validation lists, of a `training.validation_fraction` up to this, are
  as new to the model as evaluation lists are;
- below `UNANSWERED`: only what tells no label: the passages of a question, a dialogue up to the recommendation, the
  list without an order;
- from there on: dialogues to their end, questions with their right answer, questions behind the passages that support
  them. This is what a pretrained model would bring along: some facts.

Rows of running text pack such documents (and INSPIRED's training dialogues, which no list here asks for). Rows of lists
are the tasks' own prompts over some of a list's candidates, answered by all of these in random order, whatever their
labels: what is learned is the language, what stands together, and how a list is written, not how it is ranked. A text
that also stands in an evaluation list (a passage that two questions share) is left out, and with it the list.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from embedded_corpus import COPYING_FIRST, Corpus, Row, phrase

from irpo.chance import in_test_split
from irpo.prompting.prompts import load_template, prompt_builder
from irpo.resources import prompts_dir
from irpo.rows import read_rows
from irpo.sameness import text_key
from irpo.scoring.tokens import encode
from irpo.tasks import TASKS, Intake, Lists, build_lists
from irpo.tasks.mining import first_words
from irpo.tasks.redial import RELEASE, parse_dialogue
from irpo.types import RankingExample

FOLDERS = {"redial": "redial", "commonsenseqa": "commonsenseqa", "hotpotqa": "hotpotqa", "arc": "arc_challenge"}
WHOLE = {"hotpotqa": {"max_words": 0}}  # options by which candidates are not cut
INSPIRED = "inspired"  # a folder of turn-level training rows
UNREAD = 0.2  # of the training lists, by the hash that sets validation lists aside
UNANSWERED = 0.5  # of them: those below this are read without what tells a label
TOLD_WORDS = 12  # a candidate of so many words is a passage; an answer or a title may stand anywhere
CUTS = (8, 12, 16)  # words of a passage in a list
FEWEST = 3  # candidates of a list
ROW = 256  # tokens of a row of running text
MAX_TOKENS = 1024  # of a list: prompt and answer
# Of running text, lists of the tasks, lists of phrases about nothing.
SHARES = (0.5, 0.35, 0.15)


@dataclass(frozen=True)
class Texts:
    """What may be read: documents, and the lists of each task, their candidates uncut."""

    documents: tuple[str, ...]
    lists: dict[str, tuple[RankingExample, ...]]

    def told(self) -> Iterator[str]:
        """Every text, for the tokenizer and for whoever looks for one that must not be here."""
        yield from self.documents
        for examples in self.lists.values():
            for example in examples:
                yield example.query
                yield from example.texts


def read(unit: str) -> bool:
    """Whether a training list may be read at all."""
    return not in_test_split(unit, UNREAD)


def answered(unit: str) -> bool:
    """Whether it may be read with what tells its labels."""
    return not in_test_split(unit, UNANSWERED)


def training_texts(data: Path) -> Texts:
    """The texts of a folder that holds the tasks' folders; INSPIRED's may be missing."""
    documents: list[str] = []
    lists = {}
    for task, folder in FOLDERS.items():
        built = build_lists(TASKS.build(task, data=str(data / folder), **WHOLE.get(task, {})), Intake())
        barred = evaluation_texts(built)
        lists[task] = tuple(e for e in built["train"] if read(e.unit) and not barred & keys_of(e))
        told = dialogues(data / folder, lists[task]) if task == "redial" else told_by(task, lists[task])
        documents += told
    if (data / INSPIRED).is_dir():
        documents += situations(sorted((data / INSPIRED).glob("*train*.csv")))
    return Texts(tuple(dict.fromkeys(documents)), lists)


def evaluation_texts(lists: Lists) -> frozenset[str]:
    """The plain forms of what evaluation lists ask and show, short answers that stand anywhere left out."""
    return frozenset(key for e in lists["eval"] for key in keys_of(e))


def keys_of(example: RankingExample) -> frozenset[str]:
    """The plain forms of a list's query and of those candidates that tell where they are from."""
    told = [text for text in example.texts if len(text.split()) >= TOLD_WORDS]
    return frozenset(map(text_key, (example.query, *told)))


def told_by(task: str, examples: Iterable[RankingExample]) -> Iterator[str]:
    """Documents of questions: every passage; of an answered question, it and what is right."""
    for e in examples:
        right = [c.text for c in e.candidates if c.relevance > 0]
        if task == "hotpotqa":
            yield from e.texts
        if answered(e.unit):
            yield "\n".join([*right, e.query] if task == "hotpotqa" else [e.query, *right])


def dialogues(folder: Path, examples: Sequence[RankingExample]) -> Iterator[str]:
    """Documents of training dialogues: an answered one to its end, others up to the recommendation."""
    by_id = {e.id: e for e in examples}
    intake = Intake()
    for one in intake.collect("train", intake.splits(str(folder), RELEASE)["train"], parse_dialogue):
        if (e := by_id.get(one.id)) is not None:
            said = "\n".join(f"{turn.speaker}: {turn.text}" for turn in one.turns if turn.text)
            yield said if answered(e.unit) else e.query


def situations(files: Iterable[Path]) -> Iterator[str]:
    """INSPIRED's dialogues of turn-level rows, each row of which repeats the last and goes on."""
    last = ""
    for path in files:
        for row in read_rows(path):
            text = row.value["full_situation"].strip().removesuffix("System:").strip()
            if not text.startswith(last):
                yield _renamed(last)
            last = text
    yield _renamed(last)


def _renamed(text: str) -> str:
    return text.replace("System: ", "Recommender: ").replace("User: ", "Seeker: ")


def tokenizer_texts(texts: Texts, seed: int) -> Iterator[str]:
    """What the tokenizer's merges are learned from: the texts, also as a list shows them, the prompts, numbers."""
    rng = random.Random(seed)
    for text in texts.told():
        yield text
        yield f" {text}"
    yield from [f"{n}. " for n in range(1, 101)] * 30
    yield from (phrase(rng, 3, 12) for _ in range(1000))
    for task in FOLDERS:
        yield from [load_template(prompts_dir(), task, "text").source] * 30


class RealCorpus:
    """Rows for one tokenizer, drawn by a seed."""

    def __init__(self, tokenizer: Any, texts: Texts, seed: int) -> None:
        self.tokenizer, self.texts = tokenizer, texts
        self.rng = random.Random(seed)
        self.phrases = Corpus(tokenizer, seed)
        self.builders = {task: prompt_builder(tokenizer, task, "text", MAX_TOKENS) for task in texts.lists}
        self.running = self._running()

    def text_row(self) -> Row:
        """The next tokens of the documents, in random order without end."""
        return Row([next(self.running) for _ in range(ROW)], [True] * ROW, "text")

    def list_row(self, task: str) -> Row:
        """Some of a list's candidates in one random order in the prompt, in another in the answer."""
        example = self.rng.choice(self.texts.lists[task])
        count = self.rng.randint(min(FEWEST, len(example.candidates)), len(example.candidates))
        chosen = self.rng.sample(example.candidates, count)
        if task == "hotpotqa":
            words = self.rng.choice(CUTS)
            chosen = [replace(c, text=first_words(c.text, words)) for c in chosen]
        shown = replace(example, candidates=tuple(chosen))
        item = encode(self.tokenizer, self.builders[task].build(shown), shown.relevance)
        ids = [*item.prompt, *item.answer(self.rng.sample(range(count), count))]
        return Row(ids, [True] * len(ids), f"list_{task}")

    def rows(self, copying_first: int = COPYING_FIRST) -> Iterator[Row]:
        """All kinds of rows without end, in fixed shares, once copying has been learned by itself."""
        yield from (self.phrases.repeats_row() for _ in range(copying_first))
        makers = [
            self.text_row,
            lambda: self.list_row(self.rng.choice(list(self.builders))),
            lambda: self.phrases.generic_row("text"),
        ]
        while True:
            yield self.rng.choices(makers, SHARES)[0]()

    def _running(self) -> Iterator[int]:
        while True:
            for text in self.rng.sample(self.texts.documents, len(self.texts.documents)):
                yield from self.tokenizer(text)["input_ids"]
                yield self.tokenizer.eos_token_id
