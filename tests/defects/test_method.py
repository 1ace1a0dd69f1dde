"""Defects of methods, objectives, the training step and on-policy rounds, each under the name of its point."""

from __future__ import annotations

import json
import re
import sys
import textwrap
from pathlib import Path

import pytest
from tiny import tiny_model
from training_lists import TEMPLATE, TOKENIZER, examples

from irpo.catalogue import entries, kinds
from irpo.config import load_config
from irpo.models import LoraOptions, add_lora
from irpo.online.rounds import Job, run_rounds
from irpo.pipeline import method_of
from irpo.prompting import PromptBuilder
from irpo.registry import load_plugins
from irpo.types import UserError

PACKAGE = Path(__file__).parents[2] / "irpo"
BASE = ["models/embedded.yaml", "tasks/world.yaml"]

# --- B7: on-policy methods are plug-ins -----------------------------------------------------------------------------

OWN = '''
    """Best of n: the first list of each prompt is the answer of the highest reward against the others."""

    from dataclasses import dataclass
    from typing import ClassVar

    from irpo.online import ON_POLICY, Course
    from irpo.online.policy import as_answers


    @ON_POLICY.register("best_of_n")
    @dataclass(frozen=True)
    class BestOfN:
        """The longest answer of a prompt against the others."""

        course: ClassVar[Course] = Course()

        margin: int = 0  # tokens

        def require_sound(self, online, style, method):
            pass

        def lists(self, policy, now):
            drawn = policy.draw(now.questions, now.key)
            found = []
            for question, answers in zip(now.questions, drawn, strict=True):
                tokens = [answer.tokens for answer in answers]
                longest = max(map(len, tokens)) - self.margin
                labels = [float(len(t) >= longest) + number for number, t in enumerate(tokens)]
                found.append(as_answers(question.tokens, tokens, labels))
            return found, {"answers": sum(map(len, drawn)), "kept": len(found)}

        def measures(self, policy, questions):
            return {"own": 0.5}
'''


def test_b7_a_users_own_on_policy_method_is_one_file(tmp_path, monkeypatch):
    (tmp_path / "my_rounds.py").write_text(textwrap.dedent(OWN))
    monkeypatch.syspath_prepend(tmp_path)
    load_plugins(["my_rounds"])
    overrides = ["online={method: {name: best_of_n, margin: 1}, rounds: 1, updates_per_round: 1, min_valid: 1}",
                 "online.samples=2", "online.max_response_tokens=4", "training.lists_per_update=2"]  # fmt: skip
    config = load_config([*BASE, "methods/lambdarank.yaml"], overrides)
    model = add_lora(tiny_model(), LoraOptions(r=4), seed=0)
    builder = PromptBuilder(TOKENIZER, TEMPLATE, "text")
    run_rounds(Job(config, model, builder, method_of(config), examples(4), examples(6)[4:]), tmp_path, lambda _: None)
    state = json.loads((tmp_path / "rounds/001/state.json").read_text())
    assert state["drawn"]["kept"] == 2
    assert state["measures"]["own"] == 0.5
    sys.modules.pop("my_rounds")


def test_b7_nobody_asks_for_the_name_of_an_on_policy_method():
    """Outside of its own file a name stands in messages alone."""
    asks = re.compile(r"""[!=]= *["'](iterative|reinforce|larpo)["']|["'](iterative|reinforce|larpo)["']:""")
    found = [
        f"{path.name}:{number}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if asks.search(line)
    ]
    assert found == []


def test_b7_on_policy_methods_are_listed_with_their_options():
    assert kinds("on_policy") == ("on_policy",)
    rows = {row["name"]: row for row in entries("on_policy")}
    assert {"iterative", "larpo", "reinforce"} <= rows.keys()
    assert "memory=all" in rows["larpo"]["options"]
    assert "reward=labels" in rows["reinforce"]["options"]


@pytest.mark.parametrize("key", ["name: larpo", "memory: previous", "reward: {name: labels}"])
def test_b7_a_config_of_the_old_shape_gets_one_line(key, tmp_path):
    old = tmp_path / "old.yaml"
    old.write_text(f"online:\n  {key}\n")
    said = rf"^{old}:1: online: {key.partition(':')[0]} moved into the method: write online.method: \{{name: \.\.\."
    with pytest.raises(UserError, match=said):
        load_config([*BASE, "methods/irpo.yaml", old])


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("{name: iterative, memory: all}", "unknown option 'memory' of on-policy method 'iterative'"),
        ("{name: larpo, memory: never}", "memory = 'never'"),
        ("nobody", "unknown on-policy method 'nobody'; choose from"),
        ("{name: larpo, high_temperature: 0}", "high_temperature = 0"),
    ],
)
def test_b7_options_are_those_of_the_method(method, said):
    config = load_config([*BASE, "methods/larpo.yaml"], [f"online.method={method}"])
    with pytest.raises(UserError, match=said):
        Job(config, None, None, method_of(config), (), ()).on_policy  # noqa: B018
