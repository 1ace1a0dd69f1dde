"""Each text once, mining, drawing: the rules by which lists are made."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from itertools import islice

import pytest

from irpo.chance import Chance
from irpo.tasks.mining import Draft, Mine, Miner, distinct, first_words, weighted_draw
from irpo.types import UserError


def test_empty_and_repeated_texts():
    drafts = [Draft("a", " x  y ", 0, "s"), Draft("b", " ", 0, "s"), Draft("c", "X y", 2, "t"), Draft("d", "z", 0, "s")]
    dropped: Counter[str] = Counter()
    kept = distinct(drafts, dropped)
    assert [(c.id, c.text, c.relevance, c.source) for c in kept] == [("c", "x y", 2, "t"), ("d", "z", 0, "s")]
    assert dropped == {"candidate with an empty text": 1, "candidate with the text of another one in its list": 1}


def test_first_words():
    assert first_words(" a  b c ", 2) == "a b"
    assert first_words(" a  b c ", 0) == "a b c"


MINES = [
    Mine("the colour of the sky", ("green", "brown", "violet")),
    Mine("the colour of grass", ("white", "orange")),
    Mine("legs of a spider", ("six", "four")),
]


def test_mining_goes_by_likeness_two_a_place():
    assert list(Miner(MINES).similar("colour of a sky", lambda text: True)) == ["green", "brown", "white", "orange"]
    assert list(Miner(MINES).similar("colour of a sky", lambda text: text != "green"))[:2] == ["brown", "violet"]
    assert list(Miner(MINES).similar("nothing alike", lambda text: True)) == []
    assert list(Miner([]).similar("colour", lambda text: True)) == []


def test_mining_does_not_depend_on_the_order_of_what_is_mined():
    same = [Mine("a red house", (text,)) for text in "hgfedcba"]
    for mines in (same, same[::-1]):
        assert list(Miner(mines).similar("red house", lambda text: True)) == list("abcdefgh")


def test_mining_sees_what_was_taken_meanwhile():
    taken: list[str] = []
    for text in Miner(MINES).similar("colour", lambda text: not taken):
        taken.append(text)
    assert len(taken) == 1


def test_random_places_come_once():
    drawn = list(Miner(MINES).drawn(Chance(0), lambda text: True))
    assert sorted(drawn) == ["brown", "four", "green", "orange", "six", "white"]


def test_many_places_come_in_order_of_likeness():
    mines = [Mine("fish " * (1 + i % 7) + f"word{i}", (f"text {i:03}",)) for i in range(500)]
    found = list(Miner(mines).similar("fish", lambda text: True))
    assert len(set(found)) == 500
    assert list(islice(Miner(mines).similar("fish", lambda text: True), 10)) == found[:10]


def test_dense_mining_without_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(UserError, match=r"irpo\[dense\]"):
        Miner(MINES, "dense", "a model")


def test_dense_mining_uses_the_model(monkeypatch):
    import types

    import numpy as np

    class Model:
        def __init__(self, name):
            assert name == "a model"

        def encode(self, texts, **options):
            return np.array([[1.0, 0.0] if "spider" in text or "insect" in text else [0.0, 1.0] for text in texts])

    fake = types.SimpleNamespace(SentenceTransformer=Model)
    monkeypatch.setitem(sys.modules, "sentence_transformers", fake)
    assert list(Miner(MINES, "dense", "a model").similar("insect", lambda text: True)) == ["six", "four"]


def test_weighted_draw_follows_the_weights_without_replacement():
    weights = [0, 60, 30, 10]
    draws = [list(weighted_draw(Chance(i), weights, lambda place: False)) for i in range(1000)]
    assert all(sorted(draw) == [1, 2, 3] for draw in draws)
    first = Counter(draw[0] for draw in draws)
    assert abs(first[1] - 600) < 78
    assert abs(first[2] - 300) < 73
    # Given 1 first, 2 comes next with 30 / 40.
    second = Counter(draw[1] for draw in draws if draw[0] == 1)
    assert abs(second[2] / first[1] - 0.75) < 0.09


def test_weighted_draw_ends_where_one_weight_dwarfs_the_others():
    assert set(weighted_draw(Chance(0), [10**9, 1, 2], lambda place: False)) == {0, 1, 2}
    assert list(weighted_draw(Chance(0), [], lambda place: False)) == []
    assert list(weighted_draw(Chance(0), [3, 4], lambda place: True)) == []


def test_nothing_depends_on_pythons_hash_seed():
    program = (
        "from irpo.tasks.mining import *;"
        "m = [Mine(f'red house {i % 3} {w}', (w,)) for i, w in enumerate('one two three four five six'.split())];"
        "print(list(Miner(m).similar('red house one 2 six', lambda t: True)), Chance(3, 'x').shuffled(range(9)))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
