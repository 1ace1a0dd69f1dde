"""What the policy draws and what becomes of it: dropped answers, the gradient of REINFORCE, rewards, LarPO's lists."""

from __future__ import annotations

import itertools
import sys
import types
from dataclasses import replace

import pytest
import torch
from tiny import VOCABULARY, tiny_model
from training_lists import TEMPLATE, TOKENIZER, examples

from irpo.lists import ScoredLists
from irpo.measures import pass_at
from irpo.objectives import OBJECTIVES
from irpo.online.iterative import drawn_lists
from irpo.online.policy import as_answers
from irpo.online.pools import JudgedAnswer, Negatives, different, merged
from irpo.online.questions import choose
from irpo.online.rewards import REWARDS, require_judge
from irpo.prompting.prompts import PromptBuilder
from irpo.ranking import Drawn
from irpo.scorers import SCORERS
from irpo.scoring.batching import make_batch
from irpo.scoring.forward import score_batch
from irpo.scoring.tokens import EncodedList, PromptedList, prompted
from irpo.types import UserError

BUILDER = PromptBuilder(TOKENIZER, TEMPLATE, "text")
LABELLED = PromptBuilder(TOKENIZER, TEMPLATE, "label")


def ask(builder, examples) -> list[PromptedList]:
    return prompted(builder, examples, labels=True)


def sampled(text: str) -> Drawn:
    return Drawn((*TOKENIZER(text, add_special_tokens=False)["input_ids"], 3), text)


# --- drawn rankings ---------------------------------------------------------------------------------------------------


def test_only_complete_permutations_become_lists_and_the_rest_is_counted():
    (question,) = ask(LABELLED, examples(1))  # three candidates
    texts = ["[C] > [A] > [B]", "[C] > [A]", "[A] > [A] > [B] > [C]", "[Z] > [A] > [B] > [C]", "hm", "[C] > [A] > [B]"]
    kept, dropped = drawn_lists([question], [[sampled(text) for text in texts]])
    assert [item.id for item in kept] == ["list-0#0", "list-0#5"]
    assert dropped == {"missing": 1, "repeated": 1, "unknown": 1, "unparseable": 1}
    assert kept[0].bodies == tuple(question.tokens.bodies[j] for j in (2, 0, 1))
    assert kept[0].relevance == tuple(question.example.relevance[j] for j in (2, 0, 1))


def test_order_given_scores_the_answer_as_it_was_drawn():
    """The in-context list's log-probability, heads and end aside, is that of the drawn text."""
    (question,) = ask(BUILDER, examples(1))
    order = (1, 2, 0)
    text = question.prompt.form.write([question.prompt.names[j] for j in order])
    (item,), _ = drawn_lists([question], [[sampled(text)]])
    model = tiny_model()
    scores = score_batch(model, make_batch([item], SCORERS.build({"name": "list", "order": "given"}))).first[0]
    answer = question.tokens.answer(order)
    ids = torch.tensor([question.tokens.prompt + answer])
    logp = model(ids).logits[0, len(question.tokens.prompt) - 1 : -1].log_softmax(-1)
    at, want = 0, []
    for rank, j in enumerate(order):
        at += len(question.tokens.heads[rank])
        body = question.tokens.bodies[j]
        want.append(sum(logp[at + t, token] for t, token in enumerate(body)).item())
        at += len(body)
    torch.testing.assert_close(scores, torch.tensor(want), rtol=1e-4, atol=1e-4)


def test_questions_of_a_round_depend_on_the_key_alone():
    questions = ask(BUILDER, examples(8))
    names = [q.example.id for q in choose(questions, 4, 0, "round", 1)]
    assert names == [q.example.id for q in choose(questions[::-1], 4, 0, "round", 1)]
    assert names != [q.example.id for q in choose(questions, 4, 0, "round", 2)]


# --- REINFORCE --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kl", [0.0, 0.3])
@pytest.mark.parametrize("samples", [1, 2, 3])
def test_the_expected_gradient_is_that_of_the_expected_reward(samples, kl):
    """Every tuple of answers of a categorical policy, weighted by its probability, in float64."""
    generator = torch.Generator().manual_seed(samples)
    logits = torch.randn(4, generator=generator, dtype=torch.float64).requires_grad_()
    reference = torch.randn(4, generator=generator, dtype=torch.float64).log_softmax(-1)
    rewards = torch.tensor([1.0, 0.25, -0.5, 0.0], dtype=torch.float64)
    logp = logits.log_softmax(-1)
    tuples = torch.tensor(list(itertools.product(range(4), repeat=samples)))
    mask = torch.ones(tuples.shape, dtype=torch.bool)
    noise = torch.zeros(tuples.shape, dtype=torch.float64)
    lists = ScoredLists(logp[tuples], reference[tuples], rewards[tuples], mask, noise)
    losses = OBJECTIVES.build("reinforce", kl_weight=kl)(lists)
    chances = logp.detach()[tuples].sum(-1).exp()
    (got,) = torch.autograd.grad((chances * losses).sum(), logits, retain_graph=True)
    wanted = -(logp.exp() * rewards).sum() + kl * (logp.exp() * (logp - reference)).sum()
    torch.testing.assert_close(got, torch.autograd.grad(wanted, logits)[0])


def every_answer(vocabulary, end, length):
    """All answers that end in `end` or are cut at a length."""
    open_, found = [()], []
    for _ in range(length):
        open_ = [(*tokens, t) for tokens in open_ for t in range(vocabulary)]
        found += [tokens for tokens in open_ if tokens[-1] == end]
        open_ = [tokens for tokens in open_ if tokens[-1] != end]
    return found + open_


def test_the_gradient_through_a_model_is_that_of_its_expected_reward():
    """A model of five tokens, all answers of up to two; pairs of them as one row over a shared prompt."""
    model = tiny_model(vocab_size=5, num_hidden_layers=1, pad_token_id=0, bos_token_id=1, eos_token_id=4).double()
    answers = every_answer(5, end=4, length=2)
    rewards = [float((3 * sum(a) + len(a)) % 7) / 7 for a in answers]
    asked = EncodedList("x", (1, 2, 3), ((),), ((0, 4),), (), (0.0,))
    whole = as_answers(asked, answers, rewards)

    def logps(item):
        return score_batch(model, make_batch([item], SCORERS.build("independent"))).first[0]

    chances = logps(whole).double().exp()
    assert chances.sum().item() == pytest.approx(1, abs=1e-5)
    weights = [p for p in model.parameters() if p.requires_grad]
    wanted = torch.autograd.grad(-(chances * torch.tensor(rewards)).sum(), weights)
    objective = OBJECTIVES.build("reinforce")
    table = logps(whole)
    pairs = torch.tensor(list(itertools.product(range(len(answers)), repeat=2)))
    lists = ScoredLists(
        table[pairs], torch.zeros_like(table[pairs]), torch.tensor(rewards)[pairs],
        torch.ones(pairs.shape, dtype=torch.bool), torch.zeros_like(table[pairs]),
    )  # fmt: skip
    likely = table.detach()[pairs].sum(-1).exp()
    got = torch.autograd.grad((likely * objective(lists)).sum(), weights)
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
    pair = as_answers(asked, [answers[3], answers[7]], [rewards[3], rewards[7]])
    torch.testing.assert_close(logps(pair), table[[3, 7]])


# --- rewards ----------------------------------------------------------------------------------------------------------


def test_labels_reward_what_is_named_and_nothing_else():
    (question,) = ask(LABELLED, examples(1))  # labels 0, 1, 2
    perfect, last, nothing = REWARDS.build("labels")(question, ["[C] > [B] > [A]", "[A] > [C]", "no idea"])
    assert perfect == 1.0
    assert 0 < last < 1
    assert nothing == 0


def test_labels_cannot_judge_free_responses():
    builder = PromptBuilder(TOKENIZER, TEMPLATE, "response")
    with pytest.raises(UserError, match="draws free answers; choose"):
        REWARDS.build("labels")(ask(builder, examples(1))[0], ["a"])


def test_a_reward_model_that_is_not_there_is_found_before_anything_is_drawn():
    reward = REWARDS.build({"name": "model", "model": "./nowhere"})
    with pytest.raises(UserError, match=r"reward 'model': cannot load model '\./nowhere': there is no such folder"):
        require_judge(reward, "text")


def test_a_function_of_the_users_is_a_reward(monkeypatch):
    module = types.ModuleType("my_rewards")
    module.short = lambda example, answers: [-len(a) for a in answers]
    module.broken = lambda example, answers: [float("nan")] * len(answers)
    monkeypatch.setitem(sys.modules, "my_rewards", module)
    (question,) = ask(BUILDER, examples(1))
    assert REWARDS.build({"name": "python", "function": "my_rewards:short"})(question, ["ab", ""]) == [-2.0, 0.0]
    with pytest.raises(UserError, match="not as many finite numbers"):
        REWARDS.build({"name": "python", "function": "my_rewards:broken"})(question, ["a"])
    for spec in ("my_rewards:none", "no_such_module:f", "my_rewards"):
        with pytest.raises(UserError, match="reward 'python'"):
            REWARDS.build({"name": "python", "function": spec})


def test_any_sequence_classifier_is_a_reward(tmp_path):
    from transformers import AutoModelForSequenceClassification, LlamaConfig

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    for labels in (1, 2):
        torch.manual_seed(0)
        config = LlamaConfig(vocab_size=VOCABULARY, num_labels=labels, pad_token_id=0, **sizes)
        AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / str(labels))
        TOKENIZER.save_pretrained(tmp_path / str(labels))
    (question,) = ask(BUILDER, examples(1))
    judge = REWARDS.build({"name": "model", "model": str(tmp_path / "1")})
    answers = ["Heat", "The Matrix and Aliens", "Heat"]
    together = judge(question, answers)
    alone = [judge(question, [answer])[0] for answer in answers]
    assert together == pytest.approx(alone, abs=1e-5)  # padding changes nothing
    assert together[0] == pytest.approx(together[2])
    assert together[0] != pytest.approx(together[1])
    with pytest.raises(UserError, match="has 2 labels"):
        REWARDS.build({"name": "model", "model": str(tmp_path / "2")})(question, answers)
    assert len(REWARDS.build({"name": "model", "model": str(tmp_path / "2"), "label": 1})(question, answers)) == 3
    with pytest.raises(UserError, match="cannot be loaded"):
        REWARDS.build({"name": "model", "model": str(tmp_path / "none")})(question, answers)


# --- LarPO ------------------------------------------------------------------------------------------------------------


def answer(token, reward):
    return JudgedAnswer((token, 3), f"answer {token}", reward)


POOLS = {
    "list-0": (answer(10, 0.1), answer(11, 0.9), answer(12, 0.5)),
    "list-1": (answer(20, 0.2), answer(21, 0.3)),
    "list-2": (answer(30, 0.7), answer(31, 0.6)),
}


def first_tokens(item):
    return [body[0] for body in item.bodies]


def test_hardest_negatives_are_the_other_answers_graded():
    lists, dropped = Negatives("hardest").lists(ask(BUILDER, examples(3)), POOLS)
    assert not dropped
    assert first_tokens(lists[0]) == [10, 11, 12]
    assert lists[0].relevance == (0, 2, 1)
    assert lists[0].prompt == ask(BUILDER, examples(1))[0].tokens.prompt


def test_hard_negatives_are_drawn_hotter_and_worth_less():
    high = {"list-0": (answer(40, 0.0), answer(41, 1.0), answer(42, 0.4)), "list-1": (), "list-2": (answer(43, 0.7),)}
    lists, dropped = Negatives("hard").lists(ask(BUILDER, examples(3)), POOLS, high)
    assert first_tokens(lists[0]) == [11, 40, 42]
    assert lists[0].relevance == (2, 0, 1)
    assert dropped == {"no second answer": 2}


@pytest.mark.parametrize("kind", ["easy", "easiest"])
def test_easier_negatives_answer_other_prompts(kind):
    lists, dropped = Negatives(kind, count=2).lists(ask(BUILDER, examples(3)), POOLS)
    assert not dropped
    assert [first_tokens(item)[0] for item in lists] == [11, 21, 30]  # each prompt's best
    assert set(first_tokens(lists[0])[1:]) == {21, 30}
    assert all(item.relevance == (1, 0, 0) for item in lists)


def test_easy_negatives_come_from_the_most_alike_prompt():
    queries = ["red apples", "blue boats", "apples that are green", "boats at sea, blue"]
    asked = ask(BUILDER, [replace(e, query=q) for e, q in zip(examples(4), queries, strict=True)])
    pools = {f"list-{i}": (answer(10 + i, 1.0),) for i in range(4)}
    lists, _ = Negatives("easy", count=1).lists(asked, pools)
    assert [first_tokens(item) for item in lists] == [[10, 12], [11, 13], [12, 10], [13, 11]]


def test_answers_of_one_worth_teach_nothing():
    pools = {"list-0": (answer(10, 0.5), answer(11, 0.5)), "list-1": (answer(20, 0.2),)}
    lists, dropped = Negatives().lists(ask(BUILDER, examples(2)), pools)
    assert lists == []
    assert dropped == {"all rewards the same": 1, "no second answer": 1}


def test_memory_merges_earlier_rounds_without_repeats():
    earlier = {"list-0": (answer(10, 0.1), answer(50, 0.8)), "list-9": (answer(60, 1.0),)}
    pool = merged([earlier, POOLS])
    assert set(pool) == set(POOLS)  # prompts of this round alone
    assert [a.tokens[0] for a in pool["list-0"]] == [10, 50, 11, 12]
    assert different([answer(1, 0.0), answer(2, 0.0), answer(1, 0.0)]) == (answer(1, 0.0), answer(2, 0.0))


def test_pass_at_n():
    assert pass_at(0, 5, 3) == 0
    assert pass_at(3, 5, 3) == 1  # only two do not suit
    assert pass_at(2, 5, 1) == pytest.approx(2 / 5)
    assert pass_at(2, 4, 2) == pytest.approx(1 - 1 / 6)
    with pytest.raises(ValueError, match="Pass@6"):
        pass_at(2, 5, 6)
