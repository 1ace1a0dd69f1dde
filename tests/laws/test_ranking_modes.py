"""Laws of every registered ranking mode."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tiny import tiny_model, tiny_tokenizer

from irpo.prompting.prompts import PromptBuilder, Template
from irpo.ranking.modes import RANKING_MODES, Ranker
from irpo.scorers import Independent
from irpo.types import Candidate, RankingExample

FILMS = ("Alien", "Aliens", "Heat", "The Matrix", "The Godfather")
SHOWN = Template("{{ query }}\n{% for c in candidates %}[{{ c.name }}] {{ c.text }}\n{% endfor %}")
RANKER = Ranker(tiny_model(), PromptBuilder(tiny_tokenizer(), SHOWN), Independent())


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


@pytest.mark.parametrize("name", RANKING_MODES)
class TestEveryMode:
    def test_ranks_every_candidate_of_every_list_in_their_order(self, name):
        found = RANKING_MODES.build(name)(RANKER, examples())
        assert [x.id for x in found] == [e.id for e in examples()]
        for ranked, example in zip(found, examples(), strict=True):
            assert sorted(ranked.ranking.order) == list(range(len(example.candidates)))
            assert set(ranked.named.order) <= set(ranked.ranking.order)

    def test_no_label_and_no_source_reaches_the_model(self, name):
        mode = RANKING_MODES.build(name)
        assert mode(RANKER, examples()) == mode(RANKER, examples((0, 3, 0, 1, 5)))

    def test_neither_batch_nor_id_changes_a_ranking(self, name):
        mode = RANKING_MODES.build(name)
        alone = [mode(replace(RANKER, lists_per_batch=1), [replace(e, id="another")])[0] for e in examples()]
        assert [replace(x, id="") for x in told(mode(RANKER, examples()))] == [replace(x, id="") for x in told(alone)]

    def test_no_list_is_no_ranking(self, name):
        assert RANKING_MODES.build(name)(RANKER, []) == []
