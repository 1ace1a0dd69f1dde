"""Mining as a task: what `irpo.tasks.preparing` writes into train.jsonl, eval.jsonl and a card that accounts for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from irpo.chance import Chance
from irpo.mine.asking import Asked, Columns, answers_of, name_of, of_list, of_pairs
from irpo.mine.searching import ByEmbeddings, ByWords, Found, Pool, Search
from irpo.sameness import same_answer, text_key, words_of
from irpo.tasks import TASKS, Intake, build_lists
from irpo.tasks import relevant_from as relevant_from_of
from irpo.tasks._retrieval import documents_of
from irpo.types import Candidate, RankingExample, UserError

By = Literal["bm25", "dense"]

NO_POSITIVE = "list without a relevant candidate"
NO_NEGATIVE = "list for which no negative was found: "
WORDLESS = (
    f"{NO_NEGATIVE}nothing else that is searched shares a word with its query (try --by dense, or a larger --corpus)"
)
ALONE = f"{NO_NEGATIVE}nothing else is searched (try a larger --corpus)"
ALL_CLOSE = f"{NO_NEGATIVE}what is left scores within the margin (try --margin off)"
ALL_DOUBTED = f"{NO_NEGATIVE}all that was found is relevant elsewhere or says the same (try a larger --corpus)"
SAME = "text that says the same as a relevant one"
ELSEWHERE = "text that is relevant for the same query in another list"
CLOSE = "text that scores within the margin of a relevant one"
EVALUATED = "text of the corpus that an evaluation list holds"
TRAINED = "text of the corpus that training calls relevant"
HELD = "relevant text that an evaluation list holds"
_CONTAINED = 5  # words from which a text that holds another one whole says the same


@dataclass(frozen=True)
class Known:
    """What speaks against a text as a negative, whatever its score."""

    relevant: Mapping[str, frozenset[str]]  # by question, keys of texts that any list calls relevant for it

    @classmethod
    def of(cls, asked: Mapping[str, Sequence[Asked]], texts: Mapping[str, str]) -> Known:
        """From the lists of all splits, and the `texts`, by id, of what they miss."""
        return cls(answers_of(asked, texts))

    def doubt(self, text: str, item: Asked) -> str:
        """Why a text that nobody judged may be relevant; "" where nothing says so."""
        if text_key(text) in self.relevant[item.question]:
            return ELSEWHERE
        return SAME if any(says_the_same(text, c.text) for c in item.kept) else ""


@dataclass(frozen=True)
class Mining:
    """Lists of what is relevant and of hard negatives, in an order that says nothing.

    `task` and its `options` give the lists that are mined for, or `pairs` rows of query and relevant text. Candidates
    with a label above 0 stay; those of label 0 become part of what is searched. Without a `corpus` that is the
    candidates of the same split. No training list shows a text of an evaluation list, as it came or as it was mined:
    evaluation is mined first, and takes nothing that training calls relevant. Evaluation lists that a first stage made
    stand as they are, and share their documents with training, as their task has it.
    """

    data: str = ""
    task: str = ""  # "": pairs
    options: Mapping[str, Any] = field(default_factory=dict)
    query: str = "query"  # what a row of pairs calls it
    positive: str = "positive"  # a text, or a list of texts
    by: By = "bm25"
    model: str = ""  # of dense: a SentenceTransformer
    negatives: int = 20  # of a list, at most
    margin: float | None = 0.05  # a negative scores at most (1 - margin) of what the relevant one does; None: no limit
    corpus: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.by not in ("bm25", "dense"):
            raise UserError(f"--by {self.by}: choose from bm25, dense")
        if (self.by == "dense") != bool(self.model):
            raise UserError("--by dense needs --model, a SentenceTransformer's folder or hub id, and nothing else does")
        if not 1 <= self.negatives <= 1000:
            raise UserError(f"--negatives {self.negatives}: give 1 to 1000")
        if self.margin is not None and not 0 <= self.margin < 1:
            raise UserError(f"--margin {self.margin:g}: give a share from 0 to below 1, such as 0.05, or off")

    @property
    def relevant_from(self) -> float:
        """The task's own."""
        return relevant_from_of(TASKS.build(self._spec)) if self.task else 1.0

    @property
    def _spec(self) -> dict[str, Any]:
        return spec_of(self.task, self.data, self.options)

    def build(self, intake: Intake) -> dict[str, Iterable[RankingExample]]:
        """See `irpo.tasks.Task`."""
        pairs = None if self.task else of_pairs(self.data, Columns(self.query, self.positive), intake)
        asked = asked_of(self._spec, intake) if pairs is None else pairs
        corpus = list(documents_in(self.corpus, intake)) if self.corpus else None
        standing = _standing(asked, intake)
        forget(asked.keys() - standing.keys(), intake)
        names, known = _names(asked), Known.of(asked, dict(corpus or ()))
        found: dict[str, Iterable[RankingExample]] = {}
        for split in sorted(asked):  # "eval" before "train"
            if split in standing:
                found[split] = standing[split]
                continue
            barred = frozenset[str]() if standing else _barred(split, asked, found.get("eval", ()))
            every = [_apart(item, barred) for item in asked[split]]
            intake.drop(split, HELD, sum(len(item.kept) for item in asked[split]) - sum(len(e.kept) for e in every))
            items = [item for item in every if item.kept]
            intake.drop(split, NO_POSITIVE, len(every) - len(items))
            pool = _pool(split, items, names, corpus, barred, intake)
            lists = self._lists(split, items, pool, known, intake)
            found[split] = list(lists) if split == "eval" else lists
        return found

    def _lists(
        self, split: str, asked: Sequence[Asked], pool: Pool, known: Known, intake: Intake
    ) -> Iterator[RankingExample]:
        def is_short(item: Asked, found: Found) -> bool:
            return len(self._negatives(item, found, pool, known)[0]) < self.negatives

        search: Search = ByEmbeddings(self.model, self.negatives, is_short) if self.by == "dense" else ByWords()
        short, untaught, dropped = 0, 0, Counter[str]()
        for item, found in zip(asked, search(pool, asked), strict=True):
            negatives, left_out = self._negatives(item, found, pool, known)
            dropped += left_out
            if not negatives:
                dropped[_why_none(left_out, self.by)] += 1
                continue
            short += len(negatives) < self.negatives
            candidates = [*item.kept, *negatives]
            untaught += taught_in_part(candidates)
            yield mixed(item, candidates, self.seed)
        for reason, count in dropped.items():
            intake.drop(split, reason, count)
        if short:
            more = "a larger corpus" if self.margin is None else "a larger corpus, or no margin,"
            intake.note(f"{split}: {short} lists have fewer than {self.negatives} negatives; {more} gives more")
        note_untaught(split, untaught, intake)

    def _negatives(self, item: Asked, found: Found, pool: Pool, known: Known) -> tuple[list[Candidate], Counter[str]]:
        """The hardest that nothing speaks against, and what was left out before the last of them, by its reason."""
        ceiling, own = found.ceiling(self.margin), {text_key(c.text) for c in item.kept}
        ids = {c.id for c in item.kept} | {id for id, _ in item.unlisted}
        negatives: list[Candidate] = []
        left_out = Counter[str]()
        for place, score in found.places:
            if len(negatives) == self.negatives:
                break
            id, text = pool.ids[place], pool.texts[place]
            key = text_key(text)
            if key in own or id in ids:
                continue
            if key not in item.refused and (why := known.doubt(text, item) or (CLOSE if score > ceiling else "")):
                left_out[why] += 1
                continue
            negatives.append(Candidate(id, text, 0.0, self.by, item.teachers.get(key)))
        return negatives, left_out


def _why_none(left_out: Mapping[str, int], by: By) -> str:
    """Why no negative is left of what was found."""
    if not left_out:
        return WORDLESS if by == "bm25" else ALONE
    return ALL_CLOSE if CLOSE in left_out else ALL_DOUBTED


def mixed(item: Asked, candidates: Sequence[Candidate], seed: int) -> RankingExample:
    """The list of these candidates, in an order drawn by (seed, id)."""
    drawn = Chance("mine", seed, item.id).shuffled(candidates)
    return listed(item, drawn)


def listed(item: Asked, candidates: Sequence[Candidate]) -> RankingExample:
    """The list of these candidates in this order; what else is known to be relevant is `unlisted`.

    Where a teacher scored only some of them, none has a score: those of the others cannot be made up.
    """
    there, texts = {c.id for c in candidates}, {text_key(c.text) for c in candidates}
    missed = [(c.id, c.relevance) for c in item.kept if c.id not in there and text_key(c.text) not in texts]
    missed += [(id, label) for id, label in item.unlisted if id not in there]
    if taught_in_part(candidates):
        candidates = [replace(c, teacher=None) for c in candidates]
    return RankingExample(item.id, item.query, tuple(candidates), item.group, unlisted=tuple(missed))


def taught_in_part(candidates: Iterable[Candidate]) -> bool:
    """Whether some of these have a teacher's score, and others have none."""
    return len({c.teacher is None for c in candidates}) > 1


def note_untaught(split: str, count: int, intake: Intake) -> None:
    """Say of how many lists `listed` took the teacher's scores away."""
    if count:
        intake.note(
            f"{split}: {count} lists go without the teacher's scores that they came with: what was found has none"
        )


def says_the_same(one: str, other: str) -> bool:
    """Whether two texts are one but for spelling, or the longer one holds the other whole.

    >>> says_the_same("The Rhine flows through Basel.", "Rhine flows through basel")
    True
    >>> says_the_same("It is long. The Rhine flows through Basel and Cologne.", "the Rhine flows through Basel")
    True
    """
    first, second = _spelt_out(one), _spelt_out(other)
    shorter = min(first, second, key=len)
    if len(shorter.split()) >= _CONTAINED and (first in second or second in first):
        return True
    return first == second or same_answer(one, other)


@lru_cache(maxsize=2**14)
def _spelt_out(text: str) -> str:
    """The words with a blank on either side, so that no word is found within another."""
    return f" {' '.join(words_of(text))} "


def _barred(split: str, asked: Mapping[str, Sequence[Asked]], evaluated: Iterable[RankingExample]) -> frozenset[str]:
    """Keys of the texts that a split may not show: what evaluation holds, or, of evaluation, what training needs."""
    own = frozenset(text_key(c.text) for item in asked.get("eval", ()) for c in item.candidates)
    if split == "eval":
        return frozenset(text_key(c.text) for item in asked.get("train", ()) for c in item.kept) - own
    return own.union(text_key(c.text) for example in evaluated for c in example.candidates)


def _apart(item: Asked, barred: frozenset[str]) -> Asked:
    """The same without the relevant texts that are barred: they are known, and not shown."""
    gone = [c for c in item.kept if text_key(c.text) in barred]
    if not gone:
        return item
    left = tuple(c for c in item.candidates if c not in gone)
    return replace(item, candidates=left, unlisted=(*item.unlisted, *((c.id, c.relevance) for c in gone)))


def _standing(asked: Mapping[str, Sequence[Asked]], intake: Intake) -> dict[str, list[RankingExample]]:
    """The evaluation lists where a first stage made them: in their order, with all their candidates."""
    lists = asked.get("eval", ())
    if not any(item.is_ranked for item in lists):
        return {}
    if "train" not in asked:
        raise UserError(
            "there are no training lists to mine for, and evaluation lists of a first stage stand as they are"
        )
    intake.note("eval: a first stage's lists stand as they are; training lists may show the same documents")
    return {"eval": [listed(item, item.candidates) for item in lists]}


def forget(splits: Iterable[str], intake: Intake) -> None:
    """Take back what a task noted of its lists, their order say, where others are made of them."""
    begins = tuple(f"{split}:" for split in splits)
    intake.notes[:] = [note for note in intake.notes if not note.startswith(begins)]


def _names(asked: Mapping[str, Sequence[Asked]]) -> dict[str, str]:
    """The ids of texts, by their keys, where each id stands for one text; none where ids are a list's own."""
    texts: dict[str, str] = {}
    names: dict[str, str] = {}
    for candidate in (c for items in asked.values() for item in items for c in item.candidates):
        key = text_key(candidate.text)
        if texts.setdefault(candidate.id, key) != key:
            return {}
        names.setdefault(key, candidate.id)
    return names


def _pool(
    split: str,
    asked: Sequence[Asked],
    names: Mapping[str, str],
    corpus: Sequence[tuple[str, str]] | None,
    barred: frozenset[str],
    intake: Intake,
) -> Pool:
    """What is searched for a split's lists: its own candidates, or the corpus; its relevant texts are always in it."""
    own = [(names.get(text_key(c.text)) or name_of(c.text), c) for item in asked for c in item.candidates]
    kept = [(id, c.text) for id, c in own if c.relevance > 0]
    searched = [(id, c.text) for id, c in own] if corpus is None else [*corpus, *kept]
    apart = [(id, text) for id, text in searched if text_key(text) not in barred]
    why = TRAINED if split == "eval" else EVALUATED
    intake.drop(split, why, len({text_key(text) for _, text in searched} & barred))
    return Pool.of(apart)


def spec_of(task: str, data: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """A task's mapping; one that is made, not read, has no data."""
    return {"name": task} | ({"data": data} if data else {}) | dict(options)


def asked_of(spec: Mapping[str, Any], intake: Intake) -> dict[str, list[Asked]]:
    """What a task's lists ask."""
    task = TASKS.build(spec)
    border = relevant_from_of(task)
    return {
        split: [of_list(example, border) for example in lists] for split, lists in build_lists(task, intake).items()
    }


def documents_in(corpus: str, intake: Intake) -> Iterator[tuple[str, str]]:
    """(id, text) of a corpus' rows; a title stands before its text."""
    return documents_of(intake.file_rows([Path(corpus)]), intake)
