"""Rounds of on-policy training: what they leave behind, how they go on after a kill, and who draws the answers."""

from __future__ import annotations

import itertools
import json
import sys
import types

import pytest
import torch
from tiny import tiny_model
from training_lists import TEMPLATE, TOKENIZER, encoded, examples, trainer
from training_lists import method as method_of_lists
from transformers import TrainerCallback

import irpo.online.rounds as rounds_module
from irpo.config.schema import load_config
from irpo.online.rounds import Job, require_sound, run_rounds
from irpo.prompting.prompts import PromptBuilder
from irpo.ranking import SAMPLERS, Drawn, Sampling
from irpo.ranking.choosing import choice_of_run
from irpo.scoring.models import LoraOptions, add_lora
from irpo.scoring.tokens import prompted
from irpo.training.cost import read_cost
from irpo.training.job import method_of
from irpo.training.storing import accounted
from irpo.types import Diverged, UserError

BUILDER = PromptBuilder(TOKENIZER, TEMPLATE, "text")
LABELLED = PromptBuilder(TOKENIZER, TEMPLATE, "label")


def sampled(text: str) -> Drawn:
    return Drawn((*TOKENIZER(text, add_special_tokens=False)["input_ids"], 3), text)


# --- rounds -----------------------------------------------------------------------------------------------------------

BASE = ["models/embedded.yaml", "tasks/world.yaml"]
SMALL = [
    "training.lists_per_update=4", "training.learning_rate=0.01",
    "online.rounds=2", "online.updates_per_round=2", "online.samples=3", "online.min_valid=2", "online.draw=free",
]  # fmt: skip


class Scripted:
    """A sampler that gives whole rankings, some broken, by (seed, list, number); it moves no global state."""

    def __call__(self, model, tokenizer, items, sampling, max_new_tokens=None):
        found = []
        for item in items:
            texts = []
            for number in range(sampling.samples):
                generator = torch.Generator().manual_seed(sampling.seed % 1000 + 31 * number + len(item.prompt))
                order = torch.randperm(len(item.bodies), generator=generator).tolist()
                tokens = item.answer(order)
                texts.append(Drawn(tokens, tokenizer.decode(tokens, skip_special_tokens=True)))
            found.append([*texts[:-1], Drawn((5, 3), "nothing")])
        return found


@pytest.fixture
def scripted(monkeypatch):
    monkeypatch.setattr(SAMPLERS, "build", lambda spec: Scripted())


def job(method, *overrides, style="text", validation=3, model=None):
    config = load_config([*BASE, f"methods/{method}.yaml"], [*SMALL, *overrides])
    model = model or add_lora(tiny_model(), LoraOptions(r=4), seed=0)
    builder = PromptBuilder(TOKENIZER, TEMPLATE, style)
    return Job(config, model, builder, method_of(config), examples(8), examples(12)[9 : 9 + validation])


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def assert_same_weights(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def quiet(_):
    pass


@pytest.mark.parametrize("method", ["iterative_irpo", "reinforce", "larpo"])
def test_rounds_leave_adapters_states_and_curves(method, tmp_path, scripted):
    run = job(method)
    before = weights(run.model)
    metrics = run_rounds(run, tmp_path, quiet)
    after = weights(run.model)
    assert any(not torch.equal(before[name], after[name]) for name in before)
    states = [json.loads(line) for line in (tmp_path / "rounds.jsonl").read_text().splitlines()]
    assert [state["round"] for state in states] == [0, 1, 2]
    assert {"score NDCG@10", "generate strict NDCG@1", "coverage"} <= states[2]["measures"].keys()
    assert metrics["eval_NDCG@10"] == states[2]["measures"]["score NDCG@10"]
    picture = (tmp_path / "curves.svg").read_text(encoding="utf-8")
    assert all(f">{title}<" in picture for title in ("NDCG on validation lists", "Share", "Loss of a list"))
    for number in range(3):
        assert (tmp_path / f"rounds/{number:03d}/adapter/adapter_config.json").is_file()
        assert json.loads((tmp_path / f"rounds/{number:03d}/state.json").read_text()) == states[number]
        assert load_config([tmp_path / f"rounds/{number:03d}/config.yaml"]) == run.config  # a run that can be used
    costs = [read_cost(tmp_path / f"rounds/{number:03d}") for number in range(3)]
    assert [cost["tokens"] > 0 for cost in costs] == [False, True, True]
    log = [json.loads(line) for line in (tmp_path / "rounds/002/log.jsonl").read_text().splitlines()]
    assert all(torch.tensor(line.get("loss", 0.0)).isfinite() for line in log)


def test_every_round_keeps_and_is_measured_at_its_own_strength(tmp_path, scripted):
    run = job("reinforce", "ranking.strength=auto", "ranking.temperature=2")
    run_rounds(run, tmp_path, quiet)
    for number in range(3):
        home = tmp_path / f"rounds/{number:03d}"
        choice = choice_of_run(home, run.config)
        measures = json.loads((home / "state.json").read_text())["measures"]
        assert measures["score NDCG@10"] == pytest.approx(max(choice.curve.values()), abs=1e-6)
        assert (choice.lists, choice.temperature) == (3, 2.0)
    assert choice_of_run(tmp_path / "rounds/000", run.config).strength.plain  # nothing is learnt yet
    assert run.choice() == choice


def test_dropped_answers_stand_in_the_state(tmp_path, scripted):
    run_rounds(job("iterative_irpo", "online.prompts_per_round=5"), tmp_path, quiet)
    drawn = json.loads((tmp_path / "rounds/001/state.json").read_text())["drawn"]
    assert drawn["answers"] == 15
    assert drawn["kept"] == 10
    assert sum(drawn["dropped"].values()) == 5


@pytest.mark.parametrize(
    ("method", "reference"),
    [("iterative_irpo", "first"), ("iterative_irpo", "previous"), ("larpo", "previous"), ("reinforce", "first")],
)
def test_a_killed_run_ends_as_it_would_have(method, reference, tmp_path, scripted, monkeypatch):
    overrides = [f"online.reference={reference}"]
    whole = job(method, *overrides)
    run_rounds(whole, tmp_path / "whole", quiet)

    def dies(*_):
        raise KeyboardInterrupt

    first = job(method, *overrides)
    measured = rounds_module.measure
    calls = iter([measured, measured, dies])  # in the second round, after its updates
    monkeypatch.setattr(rounds_module, "measure", lambda *given: next(calls)(*given))
    with pytest.raises(KeyboardInterrupt):
        run_rounds(first, tmp_path / "killed", quiet)
    monkeypatch.setattr(rounds_module, "measure", measured)
    assert not (tmp_path / "killed/rounds/002/state.json").exists()
    again = job(method, *overrides)
    run_rounds(again, tmp_path / "killed", quiet)
    assert_same_weights(weights(again.model), weights(whole.model))
    assert (tmp_path / "killed/rounds.jsonl").read_text() == (tmp_path / "whole/rounds.jsonl").read_text()


@pytest.mark.parametrize("damage", [lambda file: file.write_bytes(file.read_bytes()[:-9]), lambda file: file.unlink()])
def test_a_round_whose_weights_are_damaged_is_taken_anew(damage, tmp_path, scripted, capsys):
    whole, again = job("iterative_irpo"), job("iterative_irpo")
    run_rounds(whole, tmp_path, quiet)
    damage(tmp_path / "rounds/002/adapter/adapter_model.safetensors")
    run_rounds(again, tmp_path, quiet)
    assert "round 2: adapter/adapter_model.safetensors is damaged; going back" in capsys.readouterr().err
    assert_same_weights(weights(again.model), weights(whole.model))


def test_a_round_whose_choice_of_a_strength_is_damaged_is_taken_anew(tmp_path, scripted, capsys):
    whole, again = (job("iterative_irpo", "ranking.strength=2") for _ in range(2))
    run_rounds(whole, tmp_path, quiet)
    (tmp_path / "rounds/002/strength.json").write_text("{}")
    run_rounds(again, tmp_path, quiet)
    assert "round 2: strength.json is damaged; going back" in capsys.readouterr().err
    assert_same_weights(weights(again.model), weights(whole.model))


def test_the_first_and_the_previous_policy_are_different_references(tmp_path, scripted):
    runs = {}
    for reference in ("first", "previous"):
        runs[reference] = job("iterative_irpo", f"online.reference={reference}")
        run_rounds(runs[reference], tmp_path / reference, quiet)
    one, other = (weights(run.model) for run in runs.values())
    assert any(not torch.equal(one[name], other[name]) for name in one)
    rounds_alike = [(tmp_path / r / "rounds/001/state.json").read_text() for r in runs]
    assert rounds_alike[0] == rounds_alike[1]  # in the first round they are the same policy


def test_a_precomputed_reference_serves_lists_of_any_length(tmp_path):
    """Computed beside a longer list, read beside a shorter one: the start's scores, as with the adapter off."""
    by_size = sorted(encoded(), key=lambda item: len(item.bodies))
    items = [item for pair in zip(by_size[:4], by_size[:3:-1], strict=True) for item in pair]
    found = []
    for reference in ("adapters_off", "precomputed"):
        of = method_of_lists(reference=reference)
        loop = trainer(tmp_path / reference, of, items=items, lists_per_update=2, updates=8)
        loop.train()
        found.append(weights(loop.model))
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["iterative_irpo", "reinforce"])
def test_a_round_that_diverges_is_told_and_the_round_before_stays(method, tmp_path, scripted, monkeypatch):
    """Even where the policy that draws the next answers is what is not finite."""

    class Breaks(TrainerCallback):
        def on_optimizer_step(self, args, state, control, model=None, **_):
            if "002" in args.output_dir:
                with torch.no_grad():
                    next(p for p in model.parameters() if p.requires_grad).fill_(torch.nan)

    make = rounds_module._trainer

    def breaking(*given):
        made = make(*given)
        made.add_callback(Breaks())
        return made

    monkeypatch.setattr(rounds_module, "_trainer", breaking)
    said = pytest.raises(Diverged, match=r"round 2, update 1: the weights are not finite.* the last good round is 1$")
    with said, accounted(tmp_path):
        run_rounds(job(method), tmp_path, quiet)
    told = json.loads((tmp_path / "diverged.json").read_text())
    assert (told["round"], told["update"], told["what"], told["last"]) == (2, 1, "weights", "the last good round is 1")
    assert told["lists"]
    assert not (tmp_path / "rounds" / "002" / "adapter").exists()


def test_too_few_valid_lists_stop_the_run_with_what_to_do(tmp_path, scripted):
    with pytest.raises(UserError, match=r"round 1: 6 lists of 9 drawn answers, online\.min_valid is 20") as caught:
        run_rounds(job("iterative_irpo", "online.min_valid=20", "online.prompts_per_round=3"), tmp_path, quiet)
    assert "unparseable" in str(caught.value)
    assert "SFT first" in str(caught.value)
    assert not (tmp_path / "rounds/001/state.json").exists()


def test_a_round_of_full_tuning_keeps_the_latest_weights_only(tmp_path, scripted):
    run = job("iterative_irpo", "model.tuning=full", "method.reference=precomputed", "online.reference=previous",
              model=tiny_model().requires_grad_(True))  # fmt: skip
    run_rounds(run, tmp_path, quiet)
    assert [p.parent.name for p in sorted(tmp_path.glob("rounds/*/model"))] == ["001", "002"]


@pytest.mark.parametrize(
    ("method", "overrides", "style", "said"),
    [
        ("iterative_irpo", (), "response", "choose larpo"),
        ("larpo", (), "response", "set online.max_response_tokens"),
        ("larpo", ("online.max_response_tokens=5",), "response", "judges rankings"),
        ("reinforce", ("online.method.reward={name: label}",), "text", "unknown reward 'label'"),
        ("iterative_irpo", ("online.sampler=vlm",), "text", "unknown sampler 'vlm'"),
        (
            "larpo",
            ("online.sampler=vllm", "model.tuning=full", "method.reference=precomputed", "online.reference=previous"),
            "text",
            "set model.tuning to 'lora'",
        ),
        ("larpo", ("method.scorer=list",), "text", "set method.scorer=independent"),
        ("larpo", ("method.scorer=label",), "text", "set method.scorer=independent"),
        ("larpo", ("method.nll_weight=1",), "text", "has no target list"),
        ("larpo", ("online.samples=1",), "text", "set online.samples to 2 or more"),
        ("reinforce", ("online.temperature=0.7",), "text", "online.temperature is 1"),
        ("reinforce", ("model.lora.dropout=0.1",), "text", "reinforce draws from the policy: set it to 0"),
        ("reinforce", ("method.objective=dpo",), "text", "takes method.objective=reinforce"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_drawn(method, overrides, style, said):
    config = load_config([*BASE, f"methods/{method}.yaml"], [*SMALL, f"prompt.style={style}", *overrides])
    with pytest.raises(UserError, match=said):
        require_sound(config, method_of(config))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["online.rounds=0"], "online.rounds = 0"),
        (["online.nonsense=1"], "unknown key 'online.nonsense'; the keys of 'online' are: method, rounds"),
        (
            ["model.tuning=full", "method.reference=precomputed"],
            "needs model.tuning 'lora'; with 'full' choose previous",
        ),
    ],
)
def test_a_wrong_setting_is_named(overrides, said):
    with pytest.raises(UserError, match=said):
        load_config([*BASE, "methods/reinforce.yaml"], overrides)


@pytest.mark.parametrize("memory", ["current", "previous", "all"])
def test_memory_decides_which_rounds_compete_and_asks_the_same_prompts(memory, tmp_path, scripted):
    overrides = ["online.rounds=3", "online.prompts_per_round=4", "online.updates_per_round=1"]
    run_rounds(job("larpo", f"online.method.memory={memory}", *overrides), tmp_path, quiet)
    texts = [(tmp_path / f"rounds/{n:03d}/answers.jsonl").read_text().splitlines() for n in (1, 2, 3)]
    answers = [{row["id"]: row["answers"] for row in map(json.loads, lines)} for lines in texts]
    assert (answers[0].keys() == answers[1].keys() == answers[2].keys()) == (memory != "current")
    counted = {"current": answers[2:], "previous": answers[1:], "all": answers}[memory]
    distinct = sum(len({tuple(a["tokens"]) for pools in counted for a in pools.get(id, ())}) for id in answers[2])
    assert json.loads((tmp_path / "rounds/003/state.json").read_text())["drawn"]["candidates"] == distinct


def test_passes_of_the_policy_are_measured_on_validation_prompts(scripted):
    run = job("larpo", "online.method.pass_reward=0.2")
    found = run.on_policy.measures(run.policy, prompted(BUILDER, run.validation, labels=True))
    assert set(found) == {"Pass@1", "Pass@2", "Pass@3", "mean_reward"}
    assert found["Pass@1"] == pytest.approx(2 / 3)  # two of three answers are rankings
    assert found["Pass@2"] == found["Pass@3"] == 1


def test_larpo_draws_free_responses_that_are_not_in_the_prompt(tmp_path, monkeypatch):
    """The real sampler, the style `response`, and a judge of the user's."""
    module = types.ModuleType("my_judge")
    module.spread = lambda example, answers: [float(sum(map(ord, a)) % 17) for a in answers]
    monkeypatch.setitem(sys.modules, "my_judge", module)
    reward = "online.method.reward={name: python, function: 'my_judge:spread'}"
    run = job("larpo", reward, "online.max_response_tokens=5", "online.rounds=2", style="response")
    run_rounds(run, tmp_path, quiet)
    state = json.loads((tmp_path / "rounds/002/state.json").read_text())
    rounds = [(tmp_path / f"rounds/{n:03d}/answers.jsonl").read_text().splitlines() for n in (1, 2)]
    first, second = ({r["id"]: r["answers"] for r in map(json.loads, lines)} for lines in rounds)
    kept = [{tuple(a["tokens"]) for a in first.get(id, []) + second[id]} for id in second]
    assert state["drawn"]["candidates"] == sum(map(len, kept)) > state["drawn"]["different"]
    assert "score NDCG@10" in state["measures"]
    assert "generate strict NDCG@10" not in state["measures"]
    rows = [json.loads(line) for line in (tmp_path / "rounds/001/answers.jsonl").read_text().splitlines()]
    assert all(len(a["tokens"]) <= 5 for row in rows for a in row["answers"])


# --- samplers ---------------------------------------------------------------------------------------------------------


def test_the_transformers_sampler_gives_the_tokens_of_its_texts():
    items = [q.tokens for q in prompted(BUILDER, examples(3), labels=True)]
    found = SAMPLERS.build("transformers")(tiny_model(), TOKENIZER, items, Sampling(samples=2, seed=1), 6)
    assert [len(answers) for answers in found] == [2, 2, 2]
    for each in itertools.chain(*found):
        assert 1 <= len(each.tokens) <= 6
        assert TOKENIZER.decode(each.tokens, skip_special_tokens=True) == each.text


def test_vllm_is_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match=r"pip install 'irpo\[vllm\]'"):
        SAMPLERS.build("vllm")(tiny_model(), TOKENIZER, [], Sampling())
