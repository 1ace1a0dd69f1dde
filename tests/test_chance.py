"""Chance from a hash of a key."""

from __future__ import annotations

import hashlib
from collections import Counter

from irpo.chance import Chance, fingerprint, in_test_split, key_of, number_of, order_of, random_order


def test_chance_is_the_same_everywhere():
    digest = hashlib.sha256(b'[0, "x"]' + bytes(8)).digest()
    assert Chance(0, "x").below(1000) == int.from_bytes(digest[:8], "big") % 1000
    assert Chance(0, "an id").shuffled("abcd") == ["a", "d", "c", "b"]
    assert Chance(1, "an id").shuffled(range(50)) != Chance(0, "an id").shuffled(range(50))


def test_chance_is_even():
    orders = Counter("".join(Chance(0, str(i)).shuffled("abc")) for i in range(3000))
    assert len(orders) == 6
    assert all(abs(count - 500) < 105 for count in orders.values())  # 5 standard deviations


def test_a_split_is_a_function_of_the_id():
    ids = [f"id {i}" for i in range(4000)]
    assert abs(sum(in_test_split(i, 0.25) for i in ids) - 1000) < 140
    assert all(in_test_split(i, 0.5) for i in ids if in_test_split(i, 0.25))
    assert not any(in_test_split(i, 0.0) for i in ids)
    assert all(in_test_split(i, 1.0) for i in ids)


def test_numbers_orders_and_names_are_sha256():
    octets = hashlib.sha256("é".encode()).digest()
    assert fingerprint("é", 64) == octets.hex()
    assert number_of("é", octets=7) == int.from_bytes(octets[:7], "big")
    assert key_of(0, "é") == "0\0'\\xe9'"
    assert key_of("a", "b") != key_of("a, b")
    keys = [str(i) for i in range(9)]
    assert [keys[i] for i in order_of(keys)] == sorted(keys, key=lambda key: hashlib.sha256(key.encode()).digest())
    assert random_order(9, "ties", 0) == order_of([f"'ties'\x000\x00{i}" for i in range(9)])


def test_a_lone_surrogate_has_a_hash_too():
    assert fingerprint("\ud800") == fingerprint("\\ud800")
