"""A list of films and a model to rank it, for the tests of ranking and measuring."""

from __future__ import annotations

from tiny import tiny_model, tiny_tokenizer

from irpo.prompting.prompts import PromptBuilder, Template
from irpo.ranking.reranker import Reranker
from irpo.scorers import Independent
from irpo.types import Candidate, RankingExample

TOKENIZER = tiny_tokenizer()
TEMPLATE = Template("{{ query }}\n{% for c in candidates %}[{{ c.name }}] {{ c.text }}\n{% endfor %}")
BUILDER = PromptBuilder(TOKENIZER, TEMPLATE)
FILMS = ("Alien", "Aliens", "Heat", "The Matrix", "The Godfather", "Movies")


def example(name="q", texts=FILMS, labels=(0, 3, 0, 1, 0, 0), group=None):
    candidates = tuple(Candidate(str(j), text, float(y)) for j, (text, y) in enumerate(zip(texts, labels, strict=True)))
    return RankingExample(name, "best movies", candidates, group)


def row(found, name):
    return next(row for row in found.rows if row.name == name)


LONG = tuple(
    f"The film number {i} tells of ships and stars and much else, and at its end the word is {i}" for i in range(8)
)


def tight(most=200):
    """A ranker whose prompt does not hold these documents whole."""
    return Reranker(tiny_model(), TOKENIZER, PromptBuilder(TOKENIZER, TEMPLATE, "text", most), Independent())
