"""LarPO's candidate lists: answers to a prompt and their rewards, over rounds, and negatives of four kinds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from irpo.chance import Chance
from irpo.files import atomic_file, json_line
from irpo.online.policy import as_answers
from irpo.rows import read_rows
from irpo.scoring.tokens import EncodedList, PromptedList
from irpo.tasks.mining import Bm25
from irpo.tasks.preferences import Labels, labels_from_scores

Hardness = Literal["easiest", "easy", "hard", "hardest"]


@dataclass(frozen=True)
class JudgedAnswer:
    """An answer to a prompt: its tokens (the end of turn included, where it was reached), its text, its reward."""

    tokens: tuple[int, ...]
    text: str
    reward: float


Pool = tuple[JudgedAnswer, ...]  # different answers to one prompt
Pools = Mapping[str, Pool]  # by the example's id


def different(answers: Sequence[JudgedAnswer]) -> Pool:
    """The answers without repeats of the same tokens, the first of each kept."""
    found: dict[tuple[int, ...], JudgedAnswer] = {}
    for answer in answers:
        found.setdefault(answer.tokens, answer)
    return tuple(found.values())


def merged(rounds: Sequence[Pools]) -> dict[str, Pool]:
    """One pool a prompt, of all its answers in these rounds, the latest round last; only prompts of that last one."""
    latest = rounds[-1]
    return {id: different([a for pools in rounds for a in pools.get(id, ())]) for id in latest}


def write_pools(path: Path, pools: Pools) -> None:
    """The pools of a round, one prompt a line."""
    with atomic_file(path) as file:
        for id, pool in pools.items():
            answers = [{"reward": a.reward, "text": a.text, "tokens": list(a.tokens)} for a in pool]
            file.write(json_line({"id": id, "answers": answers}) + "\n")


def read_pools(path: Path) -> dict[str, Pool]:
    """What `write_pools` wrote."""
    rows = [row.value for row in read_rows(path)]
    return {
        row["id"]: tuple(JudgedAnswer(tuple(a["tokens"]), a["text"], a["reward"]) for a in row["answers"])
        for row in rows
    }


@dataclass(frozen=True)
class Negatives:
    """Which answers a prompt's best answer is set against (LarPO, section 3.2, by hardness).

    `hardest`: the other answers, drawn at the round's own temperature; `hard`: those drawn at a higher one, of a lower
    reward than the best; `easy`: the best answers to the prompts most like this one (BM25); `easiest`: answers to
    prompts drawn at random. In the last two the best answer has label 1 and all others 0: no judge saw them together.
    """

    kind: Hardness = "hardest"
    labels: Labels = "rank"
    count: int = 3  # of easy and easiest negatives
    seed: int = 0

    def lists(
        self, questions: Sequence[PromptedList], pools: Pools, high: Pools | None = None
    ) -> tuple[list[EncodedList], Counter[str]]:
        """A list of candidates for each question that has any to compare; the others are counted under the reason."""
        kept: list[EncodedList] = []
        dropped: Counter[str] = Counter()
        foreign = self._foreign(questions) if self.kind in ("easy", "easiest") else {}
        for question in questions:
            id = question.example.id
            best = max(pools[id], key=lambda a: a.reward)
            others = [max(pools[other], key=lambda a: a.reward) for other in foreign.get(id, ())]
            candidates = self._candidates(pools[id], best, others, (high or {}).get(id, ()))
            rewards = [float(a is best) for a in candidates] if foreign else [a.reward for a in candidates]
            labels = labels_from_scores(rewards, self.labels)
            if len(candidates) < 2:
                dropped["no second answer"] += 1
            elif not any(labels):
                dropped["all rewards the same"] += 1
            else:
                kept.append(as_answers(question.tokens, [a.tokens for a in candidates], labels))
        return kept, dropped

    def _candidates(self, pool: Pool, best: JudgedAnswer, others: Sequence[JudgedAnswer], high: Pool) -> Pool:
        if self.kind == "hardest":
            return pool
        if self.kind == "hard":
            return different([best, *(a for a in high if a.reward < best.reward)])
        return different([best, *others])

    def _foreign(self, questions: Sequence[PromptedList]) -> dict[str, list[str]]:
        """The ids of the questions whose answers serve as negatives, by the question's own id."""
        ids = [q.example.id for q in questions]
        if self.kind == "easiest":
            drawn = {id: Chance("easiest", self.seed, id).shuffled(ids) for id in ids}
            return {id: [other for other in order if other != id][: self.count] for id, order in drawn.items()}
        search = Bm25([q.example.query for q in questions])
        found = {}
        for question, id in zip(questions, ids, strict=True):
            scores = search(question.example.query)
            order = sorted(range(len(ids)), key=lambda j, scores=scores: (-round(float(scores[j]), 4), ids[j]))  # type: ignore[misc]
            found[id] = [ids[j] for j in order if ids[j] != id][: self.count]
        return found
