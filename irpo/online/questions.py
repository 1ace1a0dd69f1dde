"""What the policy is asked: a list of the task, its prompt and its tokens; and what becomes of drawn answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from irpo.chance import Chance, number_of
from irpo.encoding import EncodedList, encode
from irpo.evaluation.results import kind_of
from irpo.generation import Drawn
from irpo.parsing import parse_ranking
from irpo.prompting import Prompt, PromptBuilder
from irpo.types import RankingExample


@dataclass(frozen=True)
class Question:
    """A list of the task as the policy is asked about it."""

    example: RankingExample
    prompt: Prompt
    item: EncodedList


def ask(builder: PromptBuilder, examples: Sequence[RankingExample]) -> list[Question]:
    """The examples as questions, in their order."""
    prompts = [builder.build(example) for example in examples]
    return [
        Question(e, p, encode(builder.tokenizer, p, e.relevance, id=e.id))
        for e, p in zip(examples, prompts, strict=True)
    ]


def choose(questions: Sequence[Question], count: int, *key: str | int) -> list[Question]:
    """`count` questions (all, where there are no more) in an order that depends on the key and the ids alone."""
    by_id = sorted(questions, key=lambda q: q.example.id)
    return Chance("questions", *key).shuffled(by_id)[:count]


def seed_of(*key: str | int) -> int:
    """A seed in [0, 2^32) that depends on the key alone.

    >>> seed_of(0, 1) == seed_of(0, 1) != seed_of(0, 2)
    True
    """
    return number_of("/".join(map(str, key)), octets=4)


def in_order(item: EncodedList, order: Sequence[int], id: str) -> EncodedList:
    """The list with its candidates in this order: what `order: given` then scores is the answer as it was written."""
    return replace(
        item,
        id=id,
        bodies=tuple(item.bodies[j] for j in order),
        relevance=tuple(item.relevance[j] for j in order),
    )


def drawn_lists(
    questions: Sequence[Question], answers: Sequence[Sequence[Drawn]]
) -> tuple[list[EncodedList], Counter[str]]:
    """The drawn answers that are complete permutations, as lists in their order with the ground truth's labels.

    The others are left out and counted, each under the first thing that is wrong with it (missing, repeated, unknown,
    unparseable); nothing takes their place.
    """
    kept: list[EncodedList] = []
    dropped: Counter[str] = Counter()
    for question, samples in zip(questions, answers, strict=True):
        for number, sample in enumerate(samples):
            ranking, problems = parse_ranking(sample.text, question.prompt.names, question.prompt.style)
            if problems:
                dropped[kind_of(problems[0])] += 1
            else:
                kept.append(in_order(question.item, ranking.order, f"{question.example.id}#{number}"))
    return kept, dropped


def as_answers(item: EncodedList, answers: Sequence[tuple[int, ...]], rewards: Sequence[float]) -> EncodedList:
    """Whole answers to the item's prompt as its candidates, with rewards for labels."""
    return EncodedList(item.id, item.prompt, ((),) * len(answers), tuple(answers), (), tuple(rewards))
