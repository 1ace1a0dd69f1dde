"""Prompts of blocks before which nothing stands: the template begins with a candidate, the tokenizer has no markup."""

import pytest
import torch
from tokenizers import processors

from irpo.prompting.prompts import PromptBuilder, Template
from irpo.ranking import constrained_ranking
from irpo.scorers import SCORERS
from irpo.scoring.batching import make_batch
from irpo.scoring.forward import score_batch, score_lists
from irpo.scoring.kept import Kept, score_kept
from irpo.scoring.tokens import prompted
from irpo.types import target_order
from tests.blocks import by_hand, example, logp_by_hand, walked_by_hand
from tests.tiny import tiny_model, tiny_tokenizer

WINDOW = {"sliding_window": 12}
FAMILIES = [("llama", {}), ("gemma2", WINDOW), ("qwen3", {}), ("mistral", WINDOW)]
FIRST = Template("{% for c in candidates %}{{ c.text }} [{{ c.name }}]\n{% endfor %}Query: {{ query }}")
BARE = tiny_tokenizer(chat=False)
BARE.backend_tokenizer.post_processor = processors.Sequence([])  # no beginning of a sequence, as GPT-2's has none


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch):
    """So that short lists go in parts as well."""
    monkeypatch.setattr("irpo.scoring.attention.PART_COLUMNS", {"cpu": 24, "cuda": 24})
    monkeypatch.setattr("irpo.scoring.kept.TEXTS", 24)


def asked(*examples):
    builder = PromptBuilder(BARE, FIRST, "label", attention="block")
    items = [p.tokens for p in prompted(builder, examples, labels=True)]
    assert all(item.blocks[0].start == 0 for item in items)
    return items


@pytest.mark.parametrize("attention", [None, "eager"])
@pytest.mark.parametrize(("family", "config"), FAMILIES, ids=[f for f, _ in FAMILIES])
def test_scores_are_those_of_an_explicit_mask(family, config, attention):
    """Lists of several lengths in one batch, and one alone."""
    model = tiny_model(family, attention=attention, **config)
    items = asked(example(5, 1), example(2, 2), example(9, 3), example(24, 4, query="another film"))
    for some in (items, items[3:]):
        with torch.no_grad():
            found = score_batch(model, make_batch(some, SCORERS.build("label"), target=True))
            for row, target, item in zip(found.first, found.target, some, strict=True):
                expected = logp_by_hand(model, item, item.heads[0])[-1][[body[0] for body in item.bodies]]
                torch.testing.assert_close(row[: len(expected)], expected, atol=1e-5, rtol=1e-5)
                whole = by_hand(model, item, item.answer(target_order(item.relevance))).sum()
                torch.testing.assert_close(target, whole, atol=5e-5, rtol=1e-5)


@pytest.mark.parametrize("room", [2**30, 20_000])
@pytest.mark.parametrize(("family", "config"), FAMILIES, ids=[f for f, _ in FAMILIES])
def test_candidates_are_kept(family, config, room):
    """Where there is little room, too: what stands before the candidates is let go of first, and is nothing."""
    model, kept, scorer = tiny_model(family, **config), Kept(room), SCORERS.build("label")
    items = asked(example(9), example(9, query="rather something else"), example(3, 5), example(3, 5))
    for item, expected in zip(items, score_lists(model, BARE, items, scorer), strict=True):
        (found,) = score_kept(model, [item], scorer, kept)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_nothing_that_was_let_go_of_is_all_that_was_missing():
    model, kept, scorer = tiny_model(), Kept(), SCORERS.build("label")
    (item,) = asked(example(4))
    first = score_kept(model, [item], scorer, kept)
    kept._held.popitem(last=False)
    torch.testing.assert_close(score_kept(model, [item], scorer, kept), first)


def test_answers_go_on_behind_them():
    model, items = tiny_model(), asked(example(4, 1), example(6, 2))
    with torch.no_grad():
        for item, ranking in zip(items, constrained_ranking(model, BARE, items), strict=True):
            assert ranking.order == walked_by_hand(model, item)
