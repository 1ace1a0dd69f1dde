"""Laws of every registered ranking mode."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tiny import tiny_model, tiny_tokenizer, with_adapter

from irpo.prompting.prompts import PromptBuilder, Template
from irpo.ranking.modes import RANKING_MODES, Ranker
from irpo.scorers import Independent
from irpo.scoring.strength import PLAIN, Strength, named
from irpo.types import Candidate, RankingExample

FILMS = ("Alien", "Aliens", "Heat", "The Matrix", "The Godfather")
SHOWN = Template("{{ query }}\n{% for c in candidates %}[{{ c.name }}] {{ c.text }}\n{% endfor %}")
RANKER = Ranker(with_adapter(tiny_model()), PromptBuilder(tiny_tokenizer(), SHOWN), Independent())
AT_STRENGTH = [pytest.param(replace(RANKER, strength=s), id=f"strength {named(s.value)}") for s in (PLAIN, Strength(3))]
BY_PARTS = (
    {"name": "window", "size": 3, "stride": 2, "by": "generate"},
    {"name": "tournament", "size": 2, "keep": 1, "tournaments": 2},
    {"name": "setwise", "size": 2, "k": 2, "by": "constrain"},
)


def working(spec, ranker):
    """The mode, and the ranker with a prompt that suits it."""
    mode = RANKING_MODES.build(spec)
    return mode, replace(ranker, builder=replace(ranker.builder, style=getattr(mode, "style", "text")))


def examples(labels=(2, 0, 1, 0, 0)):
    return [
        RankingExample(
            f"q{i}",
            "best movies " * (1 + 2 * (i % 3)),
            tuple(Candidate(str(j), FILMS[(i + j) % 5], labels[j], f"source {labels[j]}") for j in range(2 + i % 4)),
        )
        for i in range(6)
    ]


def told(found):
    """All but the scores, which batches may round."""
    return [replace(x, scores=None) for x in found]


@pytest.mark.parametrize("ranker", AT_STRENGTH)
@pytest.mark.parametrize(
    "spec", [*RANKING_MODES, *(pytest.param(spec, id=f"{spec['name']} small") for spec in BY_PARTS)]
)
class TestEveryMode:
    def test_ranks_every_candidate_of_every_list_in_their_order(self, spec, ranker):
        mode, ranker = working(spec, ranker)
        found = mode(ranker, examples())
        assert [x.id for x in found] == [e.id for e in examples()]
        for ranked, example in zip(found, examples(), strict=True):
            assert sorted(ranked.ranking.order) == list(range(len(example.candidates)))
            assert set(ranked.named.order) <= set(ranked.ranking.order)

    def test_no_label_and_no_source_reaches_the_model(self, spec, ranker):
        mode, ranker = working(spec, ranker)
        assert mode(ranker, examples()) == mode(ranker, examples((0, 3, 0, 1, 5)))

    def test_neither_batch_nor_id_changes_a_ranking(self, spec, ranker):
        mode, ranker = working(spec, ranker)
        alone = [mode(replace(ranker, lists_per_batch=1), [replace(e, id="another")])[0] for e in examples()]
        assert [replace(x, id="") for x in told(mode(ranker, examples()))] == [replace(x, id="") for x in told(alone)]

    def test_no_list_is_no_ranking(self, spec, ranker):
        mode, ranker = working(spec, ranker)
        assert mode(ranker, []) == []
