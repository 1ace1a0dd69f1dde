"""Strength: between the reference and the policy, and beyond; in scores, along walks and in free text."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import pytest
import torch
from tiny import FAMILIES, tiny_model, tiny_tokenizer, with_adapter

from irpo.prompting.prompts import PromptBuilder, Template
from irpo.ranking import SAMPLERS, Sampling, constrained_ranking, generate_text, sample_answers
from irpo.ranking.modes import RANKING_MODES, Ranker
from irpo.scorers import SCORERS, Independent
from irpo.scoring.forward import score_lists
from irpo.scoring.models import LoadOptions, load_model, without_dropout
from irpo.scoring.strength import GRID, PLAIN, Strength, adapter_scaled, at_strength, named, score_at
from irpo.scoring.tokens import EncodedList, encode, prompted
from irpo.types import Candidate, RankingExample, UserError

TOKENIZER = tiny_tokenizer()
SHOWN = Template("{{ query }}\n{% for c in candidates %}[{{ c.name }}] {{ c.text }}\n{% endfor %}")
FILMS = ("Alien", "Aliens", "Heat", "The Matrix", "The Godfather", "The")
REWARD = Strength(math.inf)
LEARNT = {"llama": {}, "gemma2": {}, "gemma3": {"sliding_window": 8}, "lfm2": {}}  # a cap, a window, no attention


def examples(count: int = 3) -> list[RankingExample]:
    """Lists of 3 to 6 films with prompts of different lengths."""
    return [
        RankingExample(f"q{i}", "best movies " * (1 + 3 * i), tuple(Candidate(t, t) for t in FILMS[: 3 + i % 4]))
        for i in range(count)
    ]


def lists(style: str = "text", count: int = 3) -> list[EncodedList]:
    builder = PromptBuilder(TOKENIZER, SHOWN, style)
    if style == "pointwise":
        return [p.tokens for p in prompted(builder, examples(count), labels=False)]
    return [encode(TOKENIZER, builder.build(x), x.relevance, id=x.id) for x in examples(count)]


def adapted(family: str = "llama", base=None, **config):
    """A model with an adapter that has learnt something."""
    return with_adapter(without_dropout(tiny_model(family, **config)) if base is None else base)


@cache
def learnt(family: str = "llama"):
    return adapted(family, **LEARNT.get(family, {}))


def scored(model, strength=None, scorer="independent"):
    built = SCORERS.build(scorer)
    items = lists(built.style or "text")
    if strength is None:
        return score_lists(model, TOKENIZER, items, built)
    return score_at(model, TOKENIZER, items, built, strength)


def same(found, expected) -> bool:
    return all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_the_score_is_a_line_through_reference_and_policy():
    policy, reference = torch.tensor([-1.0, -4.0]), torch.tensor([-3.0, -2.0])
    assert at_strength(policy, reference, 1) is policy
    for value in GRID[:-1]:
        expected = [-3.0 + value * (-1 - -3), -2.0 + value * (-4 - -2)]
        torch.testing.assert_close(at_strength(policy, reference, value), torch.tensor(expected))
    torch.testing.assert_close(at_strength(policy, reference, math.inf), torch.tensor([-1.0 + 3, -4 + 2]))


@pytest.mark.parametrize("scorer", SCORERS)
class TestScores:
    def test_at_1_they_are_todays_bit_for_bit(self, scorer):
        for by in ("logits", "adapter"):
            assert same(scored(learnt(), Strength(1, by), scorer), scored(learnt(), None, scorer))
        assert same(scored(tiny_model(), PLAIN, scorer), scored(tiny_model(), None, scorer))  # no adapter is asked for

    def test_the_reward_is_the_difference_and_others_lie_on_the_line(self, scorer):
        policy = scored(learnt(), None, scorer)
        with learnt().disable_adapter():
            reference = scored(learnt(), None, scorer)
        found = scored(learnt(), REWARD, scorer)
        assert same(found, [p - r for p, r in zip(policy, reference, strict=True)])
        assert all(row.abs().max() > 0.01 for row in found)
        for value in (0.5, 3):
            expected = [(1 - value) * r + value * p for p, r in zip(policy, reference, strict=True)]
            for row, literal in zip(scored(learnt(), Strength(value), scorer), expected, strict=True):
                torch.testing.assert_close(row, literal)

    def test_a_scaled_adapter_is_one_with_larger_weights(self, scorer):
        found, larger = scored(learnt(), Strength(2.5, "adapter"), scorer), adapted()
        for name, parameter in larger.named_parameters():
            if "lora_B" in name:
                parameter.data *= 2.5
        for row, expected in zip(found, scored(larger, None, scorer), strict=True):
            torch.testing.assert_close(row, expected)
        assert not same(found, scored(learnt(), None, scorer))


def test_a_reference_may_be_a_merged_run():
    """A run on a run: what its own adapter is taken off from is the merged model."""
    merged = adapted().merge_and_unload()
    before = scored(merged)
    found = scored(adapted(base=merged), REWARD)
    policy = scored(adapted(base=adapted().merge_and_unload()))
    for row, after, start in zip(found, policy, before, strict=True):
        torch.testing.assert_close(row, after - start)


@pytest.mark.parametrize("by", ["logits", "adapter"])
def test_four_bits_have_every_strength(tmp_path, by):
    tiny_model().save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    base = load_model(str(tmp_path), LoadOptions(quantization="nf4"), torch.device("cpu"))
    reference, model = scored(base), adapted(base=base)
    assert same(scored(model, Strength(1, by)), scored(model))
    weak = scored(model, Strength(1e-6, by))
    for row, expected in zip(weak, reference, strict=True):
        torch.testing.assert_close(row, expected, atol=1e-3, rtol=0)


def test_the_adapter_has_its_scale_back_whatever_happens():
    model = adapted()
    layers = [module for module in model.modules() if hasattr(module, "lora_B")]
    before = [layer.scaling for layer in layers]

    def fails() -> None:
        with adapter_scaled(model, 3):
            assert [layer.scaling["default"] for layer in layers] == [3 * scaling["default"] for scaling in before]
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError):
        fails()
    assert all(layer.scaling is scaling for layer, scaling in zip(layers, before, strict=True))
    with adapter_scaled(model, 1):
        assert all(layer.scaling is scaling for layer, scaling in zip(layers, before, strict=True))


@torch.no_grad()
def next_token(model, text: list[int], strength: Strength) -> torch.Tensor:
    """log p of every next token, mixed and not normalised anew: one forward pass over the whole text, no cache."""
    if strength.by == "adapter":
        with adapter_scaled(model, strength.value):
            return model(torch.tensor([text])).logits[0, -1].double().log_softmax(-1)
    policy = model(torch.tensor([text])).logits[0, -1].double().log_softmax(-1)
    with model.disable_adapter():
        reference = model(torch.tensor([text])).logits[0, -1].double().log_softmax(-1)
    if math.isinf(strength.value):
        return policy - reference
    return (1 - strength.value) * reference + strength.value * policy


def literal_constrained(model, item: EncodedList, strength: Strength) -> tuple[int, ...]:
    """At every rank a walk down the trie of the bodies left."""
    text, order = list(item.prompt), []
    while len(order) < len(item.bodies):
        text += item.heads[len(order)]
        alive, body = [j for j in range(len(item.bodies)) if j not in order], ()
        while all(item.bodies[j] != body for j in alive):
            values = next_token(model, text, strength)
            token = max({item.bodies[j][len(body)] for j in alive}, key=lambda t: float(values[t]))
            body, text = (*body, token), [*text, token]
            alive = [j for j in alive if item.bodies[j][: len(body)] == body]
        order.append(alive[0])
    return tuple(order)


STRENGTHS = [Strength(0.25), PLAIN, Strength(3), REWARD, Strength(0.25, "adapter"), Strength(3, "adapter")]


def spelt(strength: Strength) -> str:
    return f"{named(strength.value)}-{strength.by}"


EVERY = [("llama", strength) for strength in STRENGTHS]
EVERY += [(family, strength) for family in LEARNT if family != "llama" for strength in (Strength(3), REWARD)]


@pytest.mark.parametrize(("family", "strength"), EVERY, ids=lambda x: x if isinstance(x, str) else spelt(x))
@pytest.mark.parametrize("style", ["text", "label"])
def test_a_constrained_list_is_the_greedy_walk_at_every_strength(family, style, strength):
    model, items = learnt(family), lists(style)
    rankings = constrained_ranking(model, TOKENIZER, items, lists_per_batch=3, strength=strength)
    assert [sorted(r.order) for r in rankings] == [list(range(len(item.bodies))) for item in items]
    assert [r.order for r in rankings] == [literal_constrained(model, item, strength) for item in items]


def test_strengths_rank_differently():
    found = [constrained_ranking(learnt(), TOKENIZER, lists(count=8), strength=strength) for strength in STRENGTHS]
    for i, rankings in enumerate(found):
        assert all(rankings != others for others in found[:i]), STRENGTHS[i]


@pytest.mark.parametrize("strength", [Strength(0.5), Strength(3), Strength(3, "adapter")], ids=spelt)
@pytest.mark.parametrize("family", LEARNT)
def test_free_text_is_the_greedy_one_at_its_strength(family, strength):
    model, items = learnt(family), lists()
    texts = generate_text(model, TOKENIZER, items, lists_per_batch=3, max_new_tokens=5, strength=strength)
    for item, text in zip(items, texts, strict=True):
        tokens: list[int] = []
        while len(tokens) < 5:
            token = int(next_token(model, [*item.prompt, *tokens], strength).argmax())
            if token in (item.tail[-1], TOKENIZER.eos_token_id):
                break
            tokens.append(token)
        assert text == TOKENIZER.decode(tokens, skip_special_tokens=True)
    assert generate_text(model, TOKENIZER, items, lists_per_batch=1, max_new_tokens=5, strength=strength) == texts


@pytest.mark.parametrize("family", FAMILIES)
def test_samples_at_a_strength_depend_on_seed_and_list_alone(family):
    sampling, items = Sampling(samples=3, strength=Strength(2)), lists(count=2)

    def drawn(items: list[EncodedList], sampling: Sampling, size: int):
        return sample_answers(learnt(family), TOKENIZER, items, sampling, lists_per_batch=size, max_new_tokens=5)

    together = drawn(items, sampling, 6)
    assert together == [drawn([item], sampling, 1)[0] for item in items]
    assert together != drawn(items, replace(sampling, strength=PLAIN), 6)


def test_samples_follow_the_mixture_normalised_anew():
    model, item, strength = learnt(), lists()[0], Strength(2)
    expected = (next_token(model, list(item.prompt), strength) / 0.7).softmax(-1)
    sampling = Sampling(temperature=0.7, samples=2000, strength=strength)
    (drawn,) = sample_answers(model, TOKENIZER, [item], sampling, lists_per_batch=1000, max_new_tokens=1)
    likeliest = int(expected.argmax())
    share, p = sum(answer.tokens == (likeliest,) for answer in drawn) / len(drawn), float(expected[likeliest])
    assert abs(share - p) < 4 * (p * (1 - p) / len(drawn)) ** 0.5
    assert abs(float((next_token(model, list(item.prompt), PLAIN) / 0.7).softmax(-1)[likeliest]) - p) > 0.1


@pytest.mark.parametrize("name", RANKING_MODES)
def test_modes_rank_at_the_rankers_strength(name):
    """But `generate`, which writes as the policy does."""
    mode = RANKING_MODES.build(name)
    ranker = Ranker(learnt(), PromptBuilder(TOKENIZER, SHOWN, getattr(mode, "style", "text")), Independent())
    plain, strong = mode(ranker, examples()), mode(replace(ranker, strength=Strength(4)), examples())
    assert (strong == plain) == (name == "generate")
    if name == "generate_strengthened":
        assert plain == RANKING_MODES.build("generate")(ranker, examples())


@pytest.mark.parametrize("value", [0, -1, math.nan])
def test_a_strength_is_above_0(value):
    with pytest.raises(UserError, match="give a number above 0, or 'reward'"):
        Strength(value)


def test_what_cannot_be_is_refused_in_one_line():
    with pytest.raises(UserError, match="strength 'reward' has no likeness in an adapter"):
        Strength(math.inf, "adapter")
    ranker = Ranker(tiny_model(), PromptBuilder(TOKENIZER, SHOWN), Independent(), strength=Strength(2))
    for mode in map(RANKING_MODES.build, RANKING_MODES):
        with pytest.raises(UserError, match="strength 2 needs a LoRA adapter"):
            ranker.require(mode)
    for strength in (Strength(2), Strength(2, "adapter"), REWARD):
        with pytest.raises(UserError, match=f"strength {named(strength.value)} needs a LoRA adapter"):
            scored(tiny_model(), strength)
    with pytest.raises(UserError, match="strength 'reward' ranks and cannot write freely"):
        generate_text(learnt(), TOKENIZER, lists(), strength=REWARD)
    with pytest.raises(UserError, match="sampler 'vllm' draws from the policy, at strength 1"):
        SAMPLERS.build("vllm")(learnt(), TOKENIZER, lists(), Sampling(strength=Strength(2)))
    ranker = Ranker(learnt(), PromptBuilder(TOKENIZER, SHOWN), Independent(), strength=REWARD)
    ranker.require(RANKING_MODES.build("generate"))
    with pytest.raises(UserError, match="strength 'reward' ranks and cannot write freely"):
        ranker.require(RANKING_MODES.build("generate_strengthened"))
