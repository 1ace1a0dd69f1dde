"""Defects of methods, objectives, the training step and on-policy rounds, each under the name of its point."""

from __future__ import annotations

import json
import math
import pkgutil
import re
import sys
import textwrap
import weakref
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import tiny_model
from torch._subclasses.fake_tensor import FakeTensorMode
from training_lists import TEMPLATE, TOKENIZER, encoded, examples, method, taught, trainer

from irpo import online
from irpo.catalogue import entries, kinds
from irpo.config.schema import load_config
from irpo.lists import ScoredLists
from irpo.measures import ndcg
from irpo.objectives import OBJECTIVES, loss
from irpo.online.rounds import Job, run_rounds
from irpo.pipeline import method_of
from irpo.progress import BEST, Tally
from irpo.prompting.prompts import PromptBuilder
from irpo.registry import load_plugins
from irpo.scorers import check_model
from irpo.scoring.forward import score_batch
from irpo.scoring.models import LoraOptions, adapter_off, add_lora
from irpo.training.figures import figures, ndcg_of_table
from irpo.training.method import Noise, table_of
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
    builder = PromptBuilder(TOKENIZER, TEMPLATE, "response")
    run_rounds(Job(config, model, builder, method_of(config), examples(4), examples(6)[4:]), tmp_path, lambda _: None)
    state = json.loads((tmp_path / "rounds/001/state.json").read_text())
    assert state["drawn"]["kept"] == 2
    assert state["measures"]["own"] == 0.5
    sys.modules.pop("my_rounds")


def test_b7_nobody_asks_for_the_name_of_an_on_policy_method_or_a_sampler():
    """Outside of its own file a name stands in messages alone."""
    names = "iterative|reinforce|larpo|vllm"
    asks = re.compile(rf"""[!=]= *["']({names})["']|["']({names})["']:""")
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


# --- W6: losers of every lower label ----------------------------------------------------------------------------------


def drawn_pairs(name, labels, draws=2000, **options):
    """How often each (winner, loser) is drawn: the candidates whose gradient pulls up, and down."""
    relevance = torch.tensor([labels]).repeat(draws, 1)
    generator = torch.Generator().manual_seed(0)
    policy = torch.zeros(relevance.shape, dtype=torch.float64).requires_grad_()
    noise = torch.rand(relevance.shape, generator=generator, dtype=torch.float64)
    lists = ScoredLists(policy, torch.zeros_like(policy).detach(), relevance, relevance >= 0, noise)
    (grad,) = torch.autograd.grad(OBJECTIVES.build(name, **options)(lists).sum(), policy)
    return Counter((int(row.argmin()), int(row.argmax())) for row in grad)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dpo", {}),
        ("ipo", {}),
        ("simpo", {}),
        ("cpo", {"nll": 0.0}),
        ("slic", {"nll": 0.0}),
        ("sdpo", {"negatives": 1}),
    ],
)
def test_w6_every_ordered_pair_can_be_drawn(name, options):
    labels = (2.0, 1.0, 0.0, 1.0)
    found = drawn_pairs(name, labels, **options)
    assert set(found) == {(i, j) for i in range(4) for j in range(4) if labels[i] > labels[j]}
    for winner, losers in ((0, (1, 2, 3)), (1, (2,)), (3, (2,))):  # a winner is one of three, its losers equally likely
        for loser in losers:
            assert found[winner, loser] == pytest.approx(2000 / 3 / len(losers), rel=0.25)


def test_w6_a_positive_of_sdpo_stands_against_all_below_it():
    policy = torch.tensor([[0.0, 1.0, 4.0]], dtype=torch.float64)
    value = loss("sdpo", policy, 0 * policy, torch.tensor([[2.0, 1.0, 0.0]]), positives="all")
    top = math.log(1 + math.exp(1) + math.exp(4))
    assert value.item() == pytest.approx(top + math.log(1 + math.exp(3)))


# --- W7: ties of a walk, and lists without a label --------------------------------------------------------------------


def stepwise_losses(objective, items, noise, model):
    """Loss of each list in one batch."""
    of = method(objective, "stepwise")
    batch = of.batch(items, 0, noise)
    with torch.no_grad():
        reference = of.reference_scores(model, batch, noise, {})
        return of.loss(table_of(batch, of.policy_scores(model, batch, noise, reference), reference, noise))


def moved_model():
    model = add_lora(tiny_model(), LoraOptions(r=4), seed=0)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("objective", ["list_mle", "larpo_list_mle"])
def test_w7_ties_are_drawn_by_a_walk_too(objective):
    model = moved_model()
    tied = [replace(item, relevance=(1.0, 1.0, 1.0, 0.0, 0.0)[: len(item.bodies)]) for item in encoded("label")[2:3]]
    found = {round(stepwise_losses(objective, tied, Noise(seed), model).item(), 4) for seed in range(5)}
    assert len(found) > 2
    given = {round(stepwise_losses("irpo", tied, Noise(seed), model).item(), 4) for seed in range(3)}
    assert len(given) == 1  # its ties stand in the given order


def test_w7_a_walk_with_drawn_ties_is_plackett_luce_of_what_is_unplaced():
    """The scores of each rank are those of the answer that the walk has written by then."""
    model, noise = moved_model(), Noise(3)
    (item,) = [replace(item, relevance=(1.0, 1.0, 0.0, 1.0, 0.0)) for item in encoded("label")[2:3]]
    numbers = noise.of(item).tolist()
    order = sorted(range(5), key=lambda j: (-item.relevance[j], -numbers[j]))
    expected, prefix = 0.0, item.prompt + item.heads[0]
    with torch.no_grad():
        for rank, chosen in enumerate(order):
            rewards = []
            for base in (False, True):
                with adapter_off(model) if base else nullcontext():
                    logp = model(torch.tensor([prefix])).logits[0, -1].log_softmax(-1)
                rewards.append(torch.stack([logp[item.bodies[j][0]] for j in order[rank:]]))
            scores = rewards[0] - rewards[1]
            expected += (scores.logsumexp(-1) - scores[0]).item()
            if rank < 4:
                prefix = prefix + item.bodies[chosen] + item.heads[rank + 1]
    assert stepwise_losses("list_mle", [item], noise, model).item() == pytest.approx(expected, abs=1e-4)


def test_w7_a_fixed_reference_cannot_follow_drawn_ties():
    with pytest.raises(UserError, match=r"ListMLE with the scorer Stepwise draws .*=adapters_off"):
        method("list_mle", "stepwise", reference="precomputed")
    method("list_mle", "label", reference="precomputed")
    method("irpo", "stepwise", reference="precomputed")


@pytest.mark.parametrize("objective", ["infonca", "irpo", "list_mle", "larpo_list_mle", "kto", "point_mse"])
def test_w7_a_list_without_a_label_has_one_loss_in_any_batch(objective):
    model, items = moved_model(), encoded("label")[:3]
    items[1] = items[1].without_labels()
    together = stepwise_losses(objective, items, Noise(), model)
    alone = [stepwise_losses(objective, [item], Noise(), model) for item in items]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-4, rtol=1e-4)


# --- G2: out of memory ------------------------------------------------------------------------------------------------


def out_of_memory(above):
    """`score_batch` on a device that holds batches of so many tokens."""

    def limited(model, batch, **rest):
        if batch.tokens > above:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return score_batch(model, batch, **rest)

    return limited


@pytest.mark.parametrize("module", ["irpo.scoring.forward", "irpo.training.reference"])
def test_g2_validation_and_a_precomputed_reference_halve_their_batches(module, tmp_path, monkeypatch, capsys):
    of = method("irpo", reference="precomputed")
    whole = trainer(tmp_path / "whole", of, validation=encoded()[:4])
    monkeypatch.setattr(f"{module}.score_batch", out_of_memory(above=200))
    run = trainer(tmp_path / "halved", of, validation=encoded()[:4])
    assert run.measure()[f"eval_{BEST}"] == whole.measure()[f"eval_{BEST}"]
    assert "out of memory: batches of" in capsys.readouterr().err


def test_g2_one_list_alone_is_the_end_of_halving(tmp_path, monkeypatch):
    """Of validation and of an update: it goes on to no smaller batch than one list."""
    run = trainer(tmp_path, method("irpo"), validation=encoded()[:4], tokens_per_batch=200)
    monkeypatch.setattr("irpo.training.method.score_batch", out_of_memory(above=30))
    with pytest.raises(UserError, match="out of memory with one list a batch"):
        run.go(None)
    assert run.tokens_per_batch >= 50
    monkeypatch.setattr("irpo.scoring.forward.score_batch", out_of_memory(above=30))
    with pytest.raises(UserError, match="out of memory with one list a batch"):
        run.measure()


def test_g2_nothing_is_freed_while_the_error_holds_the_forward_pass(tmp_path, monkeypatch):
    run = trainer(tmp_path, method("irpo"), tokens_per_batch=200, updates=1)
    held, freed = [], []

    class Activations:
        pass

    def failing(model, batch, **_):
        activations = Activations()
        held.append(weakref.ref(activations))
        if len(held) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return compute_loss(model, batch, **_)

    compute_loss = run.compute_loss
    monkeypatch.setattr(run, "compute_loss", failing)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: freed.append((held[0](), sys.exc_info()[0])))
    monkeypatch.setattr("irpo.progress.peak_memory", lambda: 0)
    run.training_step(run.model, encoded()[:4])
    assert freed == [(None, None)]


def test_g2_a_model_without_room_is_no_family_that_cannot_be_scored(monkeypatch):
    monkeypatch.setattr("irpo.scorers.score_batch", out_of_memory(above=0))
    with pytest.raises(UserError, match=r"^out of memory"):
        check_model(tiny_model())


# --- G6: no step waits for the device ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def valueless():
    """A model whose tensors have a shape, and no value that could be read."""
    mode, model = FakeTensorMode(), add_lora(tiny_model(), LoraOptions(r=4), seed=0)
    for module in model.modules():
        for name, p in module.named_parameters(recurse=False):
            fake = torch.nn.Parameter(mode.from_tensor(p.detach()), requires_grad=p.requires_grad)
            module._parameters[name] = fake
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = mode.from_tensor(buffer)
    return mode, model


@pytest.mark.parametrize(
    ("objective", "scorer"),
    [
        *((name, "independent") for name in OBJECTIVES if name not in ("irpo_sampled",)),
        ("list_mle", "stepwise"),
        ("irpo", "stepwise"),
    ],
)
def test_g6_a_step_reads_nothing_back_from_the_device(objective, scorer, valueless):
    of, noise, tally = method(objective, scorer), Noise(), Tally()
    given = of.batch(taught(encoded("label" if scorer == "stepwise" else "text")[:3]), 0, noise)
    mode, model = valueless
    with mode:
        tables = {name: mode.from_tensor(t) for name, t in vars(given).items() if isinstance(t, torch.Tensor)}
        batch = replace(given, **tables)
        reference = of.reference_scores(model, batch, noise, {})
        lists = table_of(batch, of.policy_scores(model, batch, noise, reference), reference, noise)
        of.loss(lists).sum().backward()
        shown = figures(of, lists)
    tally.add(given, shown)
    assert tally.lists == 3
    assert tally.sums


def test_g6_the_table_of_ndcg_is_that_of_the_lists():
    generator = torch.Generator().manual_seed(0)
    relevance = torch.randint(0, 4, (50, 12), generator=generator).float()
    scores = torch.randint(0, 6, (50, 12), generator=generator).float()  # with ties
    mask = torch.arange(12) < torch.randint(1, 13, (50, 1), generator=generator)
    rows = zip(scores, relevance, mask, strict=True)
    lists = [(row[m].tolist(), y[m].tolist()) for row, y, m in rows]
    orders = [sorted(range(len(row)), key=lambda j, row=row, y=y: (-row[j], y[j])) for row, y in lists]
    expected = torch.tensor([ndcg(order, y, 10) for order, (_, y) in zip(orders, lists, strict=True)])
    torch.testing.assert_close(ndcg_of_table(scores, relevance, mask, 10), expected, atol=1e-6, rtol=1e-5)


def test_b7_a_module_of_the_package_is_a_method_unless_it_is_shared():
    """One file holds a method: no list of names is kept beside it."""
    names = {found.name for found in pkgutil.iter_modules(online.__path__)} - set(online._SHARED)
    assert set(online._SHARED) < {found.name for found in pkgutil.iter_modules(online.__path__)}
    assert {online.ON_POLICY.get(name).__module__ for name in ("iterative", "larpo", "reinforce")} == {
        f"irpo.online.{name}" for name in names
    }
