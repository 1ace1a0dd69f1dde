"""Lists, prompts and losses are what they were before the house was rebuilt."""

from __future__ import annotations

import json

import golden
import pytest

WAS = json.loads(golden.GOLDEN.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def now():
    return {"lists": dict(golden.lists()), "prompts": dict(golden.prompts()), "losses": dict(golden.losses())}


def test_lists_are_as_they_were(now) -> None:
    assert now["lists"], "no task could be built"
    for name, splits in now["lists"].items():
        assert splits == WAS["lists"][name], name


@pytest.mark.parametrize("name", sorted(WAS["prompts"]))
def test_prompts_and_tokens_are_as_they_were(name, now) -> None:
    assert now["prompts"][name] == WAS["prompts"][name]


@pytest.mark.parametrize("name", sorted(WAS["losses"]))
def test_losses_are_as_they_were(name, now) -> None:
    assert now["losses"][name] == pytest.approx(WAS["losses"][name], abs=1e-10)
