"""What a table of the texts' training labels ranks without reading the query: a leak of the list construction shows."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from irpo.chance import random_order
from irpo.sameness import text_key
from irpo.types import RankingExample

_DRAWS = 8


def ndcg(labels: Sequence[float], most: int = 10) -> float:
    """NDCG@10 of labels in the order of a ranking, gain 2^y - 1."""

    def dcg(ranked: Sequence[float]) -> float:
        return sum((2**y - 1) / math.log2(2 + i) for i, y in enumerate(ranked[:most]))

    return dcg(labels) / dcg(sorted(labels, reverse=True))


def blind_tables(train: Sequence[RankingExample], held: Sequence[RankingExample]) -> tuple[float, float]:
    """Mean NDCG@10 of a table, or of its reverse where that is better, and of random orders.

    The table is the log-odds of a text's training labels, 0 for a text never seen; ties fall at random.
    """
    good: Counter[str] = Counter()
    bad: Counter[str] = Counter()
    for example in train:
        for one in example.candidates:
            (good if one.relevance > 0 else bad)[text_key(one.text)] += 1
    found = dict.fromkeys((1, -1, 0), 0.0)
    for example in held:
        keys = [text_key(text) for text in example.texts]
        odds = [math.log((good[key] + 0.5) / (bad[key] + 0.5)) for key in keys]
        for draw in range(_DRAWS):
            lot = random_order(len(keys), draw, example.id)
            for sign in found:
                order = sorted(lot, key=lambda j: -sign * odds[j])
                found[sign] += ndcg([example.relevance[j] for j in order]) / _DRAWS / len(held)
    return max(found[1], found[-1]), found[0]
