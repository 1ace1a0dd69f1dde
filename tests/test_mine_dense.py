"""How far `irpo mine --by dense` looks: as far as it takes to have enough, whatever stands nearest."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from handmade import write_lines
from test_mine import mined, negatives

from irpo.mine.mining import ALL_CLOSE, CLOSE

LAST = 60  # the last text of the corpus; the answers are 0 and 1


class Numbers:
    """Embeds a text by the number that ends it, whose likeness to any query is 1 - n / 100; that of 0 is 0.805."""

    device, model_card_data = "cpu", SimpleNamespace(base_model="numbers")

    def __init__(self) -> None:
        self.queries: list[list[str]] = []
        self.texts = 0

    def encode_query(self, texts, **_):
        self.queries.append(texts)
        return np.array([[1, 0]] * len(texts), dtype=np.float32)

    def encode_document(self, texts, **_):
        self.texts += len(texts)
        numbers = [int(text.split()[-1]) for text in texts]
        likeness = np.array([1 - n / 100 if n else 0.805 for n in numbers], dtype=np.float32)
        return np.stack([likeness, np.sqrt(1 - likeness**2)], 1)

    def similarity(self, one, other):
        return torch.as_tensor(one) @ torch.as_tensor(other).T

    def similarity_pairwise(self, one, other):
        return (torch.as_tensor(one) * torch.as_tensor(other)).sum(-1)


@pytest.fixture
def searched(tmp_path, monkeypatch):
    """Mines two lists, whose answers are 0 and 1; returns the card, the negatives' numbers by list, and the model."""
    model = Numbers()
    monkeypatch.setattr("irpo.mine.searching.sentence_model", lambda _: model)
    texts = [{"id": f"d{n}", "text": f"This is the text {n}"} for n in range(LAST + 1)]
    corpus = str(write_lines(tmp_path / "corpus.jsonl", texts))
    other = {"id": "other", "text": "not searched", "relevance": 0}
    rows = [
        {"id": id, "query": id, "candidates": [texts[n] | {"relevance": 1}, other]}
        for n, id in enumerate(("far", "near"))
    ]

    def search(**options) -> tuple[dict, dict[str, list[int]], Numbers]:
        card, lists = mined(tmp_path, rows, by="dense", model="numbers", corpus=corpus, **options)
        found = {e.id: sorted(int(text.split()[-1]) for text in negatives(e)) for e in lists["train"]}
        return card, found, model

    return search


@pytest.mark.parametrize("wanted", [1, 3])
@pytest.mark.parametrize(("margin", "first"), [(0.05, 24), (0.3, 44), (0.42, 54)])
def test_what_stands_behind_many_that_are_too_close_is_found(searched, wanted, margin, first):
    """The ceiling is (1 - margin) 0.805: 0.765, 0.564 or 0.467; the first text below it scores 1 - first / 100."""
    card, found, model = searched(negatives=wanted, margin=margin)
    assert found["far"] == list(range(first, first + wanted))
    assert card["dropped"]["train"][CLOSE] >= first - 1
    assert model.texts == LAST + 1  # the corpus is embedded once


def test_only_queries_that_are_left_short_are_searched_for_again(searched):
    """Near has 6, 7 and 8 below its ceiling of 0.9405 among its nearest 15."""
    card, found, model = searched(negatives=3, margin=0.05)
    assert found["near"] == [6, 7, 8]
    assert model.queries == [["far", "near"], ["far"]]
    assert card["dropped"]["train"] == {CLOSE: 23 + 4}


def test_the_search_ends_with_the_pool(searched, monkeypatch):
    """Below 0.467 are those from 54 on, below 0.362 none; one query at a time is as good as all."""
    monkeypatch.setattr("irpo.mine.searching._RETURNED", 1)
    card, found, _ = searched(negatives=12, margin=0.42)
    assert found["far"] == list(range(54, LAST + 1))
    assert any("train: 1 lists have fewer than 12 negatives" in note for note in card["notes"])
    card, found, _ = searched(negatives=1, margin=0.55)
    assert list(found) == ["near"]
    assert card["dropped"]["train"][ALL_CLOSE] == 1
