"""Free and constrained decoding on tiny random models: batches change nothing, and a permutation is a permutation."""

from __future__ import annotations

import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from tiny import FAMILIES, VOCABULARY, tiny_model, tiny_tokenizer

from irpo.prompting.prompts import STYLES, PromptBuilder, Template
from irpo.ranking import Sampling, Walk, answer_tokens, constrained_ranking, generate_text, sample_text
from irpo.ranking.guided import follow
from irpo.scoring.tokens import EncodedList, encode
from irpo.types import Candidate, RankingExample

TOKENIZER = tiny_tokenizer()
TEMPLATE = Template("{{ query }}\n{% for c in candidates %}[{{ c.name }}] {{ c.text }}\n{% endfor %}")
FILMS = ("Alien", "Aliens", "Heat", "The Matrix", "The Godfather", "The")


def lists(style: str = "text", count: int = 5) -> list[EncodedList]:
    """Lists of 2 to 6 films with prompts of different lengths."""
    items = []
    for i in range(count):
        candidates = tuple(Candidate(str(j), text) for j, text in enumerate(FILMS[: 2 + i % 5]))
        example = RankingExample(f"q{i}", "best movies " * (1 + 3 * (i % 4)), candidates)
        prompt = PromptBuilder(TOKENIZER, TEMPLATE, style).build(example)
        items.append(encode(TOKENIZER, prompt, example.relevance, id=example.id))
    return items


@torch.no_grad()
def literal_greedy(model, item: EncodedList, stop: set[int], limit: int) -> str:
    """One full forward pass a token, no cache, no padding."""
    tokens: list[int] = []
    for _ in range(limit):
        token = int(model(torch.tensor([[*item.prompt, *tokens]])).logits[0, -1].argmax())
        if token in stop:
            break
        tokens.append(token)
    return TOKENIZER.decode(tokens, skip_special_tokens=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_batched_text_is_the_greedy_text(family):
    model = tiny_model(family)
    items = lists()
    stop = {items[0].tail[-1], TOKENIZER.eos_token_id}
    texts = generate_text(model, TOKENIZER, items, lists_per_batch=2, max_new_tokens=12)
    assert texts == [literal_greedy(model, item, stop, 12) for item in items]


def test_text_does_not_depend_on_the_batch():
    model = tiny_model()
    together = generate_text(model, TOKENIZER, lists(), lists_per_batch=5)
    alone = [generate_text(model, TOKENIZER, [item], lists_per_batch=1)[0] for item in lists()]
    assert together == alone
    assert any(together)


def test_text_ends_with_the_turn():
    model = tiny_model()
    item = lists()[0]
    first = generate_text(model, TOKENIZER, [item], lists_per_batch=1, max_new_tokens=3)[0]
    model.get_output_embeddings().weight.data[item.tail[-1]] *= 100
    states = model.model(torch.tensor([item.prompt])).last_hidden_state[0, -1]
    if states @ model.get_output_embeddings().weight[item.tail[-1]] < 0:
        model.get_output_embeddings().weight.data[item.tail[-1]] *= -1
    assert first != ""
    assert generate_text(model, TOKENIZER, [item], lists_per_batch=1) == [""]


def test_the_models_own_settings_are_left_alone(caplog):
    model = tiny_model()
    plain = generate_text(model, TOKENIZER, lists(), lists_per_batch=2)
    own = {"temperature": 0.6, "top_p": 0.9, "top_k": 3, "repetition_penalty": 5.0, "max_length": 30, "num_beams": 2}
    model.generation_config.update(**own, do_sample=True, eos_token_id=[2, 3])
    before = model.generation_config.to_dict()
    model.train()
    state = torch.random.get_rng_state()
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        assert generate_text(model, TOKENIZER, lists(), lists_per_batch=2) == plain
    finally:
        logger.removeHandler(caplog.handler)
    assert not caplog.records
    assert model.generation_config.to_dict() == before
    assert all(module.training for module in model.modules())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_adapters_take_part():
    model = tiny_model()
    plain = generate_text(model, TOKENIZER, lists(), lists_per_batch=3)
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear"))
    assert generate_text(adapted, TOKENIZER, lists(), lists_per_batch=3) == plain  # a fresh adapter is nothing
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
    assert generate_text(adapted, TOKENIZER, lists(), lists_per_batch=3) != plain
    with adapted.disable_adapter():
        assert generate_text(adapted, TOKENIZER, lists(), lists_per_batch=3) == plain


def test_samples_depend_on_seed_and_list_alone():
    model = tiny_model()
    drawn = sample_text(model, TOKENIZER, lists(), Sampling(samples=3), lists_per_batch=4, max_new_tokens=6)
    alone = [
        sample_text(model, TOKENIZER, [item], Sampling(samples=3), lists_per_batch=1, max_new_tokens=6)[0]
        for item in reversed(lists())
    ]
    assert drawn == alone[::-1]
    assert all(len(set(texts)) == 3 for texts in drawn)
    other = sample_text(model, TOKENIZER, lists(), Sampling(samples=3, seed=1), lists_per_batch=4, max_new_tokens=6)
    assert other != drawn
    cold = sample_text(model, TOKENIZER, lists(), Sampling(temperature=1e-6), lists_per_batch=4)
    assert [texts[0] for texts in cold] == generate_text(model, TOKENIZER, lists(), lists_per_batch=4)


def test_samples_follow_the_softmax():
    model = tiny_model()
    item = lists()[0]
    with torch.no_grad():
        expected = (model(torch.tensor([item.prompt])).logits[0, -1] / 0.7).softmax(-1)
    sampling = Sampling(temperature=0.7, samples=2000)
    drawn = sample_text(model, TOKENIZER, [item], sampling, lists_per_batch=500, max_new_tokens=1)[0]
    likeliest = int(expected[256:].argmax()) + 256  # a token whose text is its own
    share = sum(text == TOKENIZER.decode([likeliest]) for text in drawn) / len(drawn)
    p = float(expected[likeliest])
    assert abs(share - p) < 4 * (p * (1 - p) / len(drawn)) ** 0.5


@torch.no_grad()
def literal_constrained(model, item: EncodedList) -> tuple[int, ...]:
    """At every rank a walk down the trie of the bodies left, one full forward pass a token."""
    text, order = list(item.prompt), []
    while len(order) < len(item.bodies):
        text += item.heads[len(order)]
        alive, body = [j for j in range(len(item.bodies)) if j not in order], ()
        while all(item.bodies[j] != body for j in alive):
            logits = model(torch.tensor([text])).logits[0, -1]
            token = max({item.bodies[j][len(body)] for j in alive}, key=lambda t: float(logits[t]))
            body, text = (*body, token), [*text, token]
            alive = [j for j in alive if item.bodies[j][: len(body)] == body]
        order.append(alive[0])
    return tuple(order)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("family", FAMILIES)
def test_constrained_ranking_is_the_greedy_walk(family, style):
    model = tiny_model(family)
    items = lists(style)
    rankings = constrained_ranking(model, TOKENIZER, items, lists_per_batch=3)
    assert [r.order for r in rankings] == [literal_constrained(model, item) for item in items]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["gemma3", "mistral", "phi3"])
def test_a_window_shorter_than_the_prompt_counts_positions_not_columns(family, attention):
    """Gaps between the runs of a batch stand in the cache as columns, and must not push tokens out of the window."""
    model = tiny_model(family, attention=attention, sliding_window=8)
    for style in STYLES:
        items = lists(style)
        rankings = constrained_ranking(model, TOKENIZER, items, lists_per_batch=len(items))
        assert [r.order for r in rankings] == [literal_constrained(model, item) for item in items]


def test_forced_tokens_cost_no_pass_of_their_own():
    """As many passes as decisions: one for each candidate but the last, where first tokens tell candidates apart."""
    model = tiny_model()
    bodies = tuple((10 + j, 40 + j, 70 + j, 9) for j in range(6))
    items = [EncodedList(str(n), (1,) * (3 + n), ((5, 6),) * 6, bodies, (3,), (0.0,) * 6) for n in range(3)]
    walks = [Walk(item) for item in items]
    assert follow(model, items, walks) == 5
    assert [walk.order for walk in walks] == [literal_constrained(model, item) for item in items]


@pytest.mark.parametrize("family", FAMILIES)
def test_samples_share_one_pass_over_their_prompt(family):
    """The prompts' tokens go through the model once a prompt, and the answers are those drawn one by one."""
    model = tiny_model(family, **({} if family in ("llama", "phi3", "qwen3") else {"sliding_window": 8}))
    fed = []
    hook = model.get_input_embeddings().register_forward_hook(lambda _, args, __: fed.append(args[0].numel()))
    items, sampling = lists()[:2], Sampling(samples=4)
    together = sample_text(model, TOKENIZER, items, sampling, lists_per_batch=8, max_new_tokens=5)
    width = max(len(item.prompt) for item in items)
    assert fed[0] == 2 * (width - 1)
    assert sum(fed[1:]) <= 8 * 5
    hook.remove()
    alone = [sample_text(model, TOKENIZER, [i], sampling, lists_per_batch=1, max_new_tokens=5)[0] for i in items]
    assert together == alone


@pytest.mark.parametrize("seed", range(4))
def test_an_end_of_turn_in_a_name_does_not_end_the_list(seed):
    model = tiny_model(seed=seed)
    end = TOKENIZER.eos_token_id
    bodies = ((end, 7), (8, end), (end, end), (8, 9))
    item = EncodedList("q", (1, 9), ((5,),) * 4, bodies, (end,), (0.0,) * 4)
    ranking = constrained_ranking(model, TOKENIZER, [item], lists_per_batch=1)[0]
    assert ranking.order == literal_constrained(model, item)


def test_constrained_ranking_survives_broken_logits():
    model = tiny_model()
    model.get_output_embeddings().weight.data.fill_(float("nan"))
    rankings = constrained_ranking(model, TOKENIZER, lists(), lists_per_batch=2)
    assert [sorted(r.order) for r in rankings] == [list(range(len(item.bodies))) for item in lists()]


token = st.integers(4, 8)  # few tokens: shared beginnings, bodies within bodies, duplicates
parts = st.lists(token, max_size=2).map(tuple)


@st.composite
def adversarial_lists(draw):
    bodies = draw(st.lists(st.lists(token, min_size=1, max_size=4).map(tuple), min_size=1, max_size=6))
    heads = tuple(draw(parts) for _ in bodies)
    prompt = tuple(draw(st.lists(token, min_size=1, max_size=5)))
    return EncodedList("q", prompt, heads, tuple(bodies), (*draw(parts), 3), (0.0,) * len(bodies))


@settings(max_examples=200)
@given(adversarial_lists(), st.randoms(use_true_random=False))
def test_every_walk_writes_a_permutation(item, random):
    walk, taken = Walk(item), []
    while not walk.done:
        assert len(walk.allowed()) == len(set(walk.allowed())) > 0
        taken.append(random.choice(walk.allowed()))
        walk.step(taken[-1])
        assert len(taken) < answer_tokens(item)
    assert sorted(walk.order) == list(range(len(item.bodies)))
    assert list(item.answer(walk.order))[: len(taken)] == taken
    assert walk.allowed() == []


@settings(max_examples=200)
@given(adversarial_lists(), st.randoms(use_true_random=False))
def test_every_order_can_be_walked(item, random):
    """Where bodies end in a token of their own, as names do, no order is out of reach."""
    bodies = tuple((*body, 9) for body in item.bodies)
    item = EncodedList(item.id, item.prompt, item.heads, bodies, item.tail, item.relevance)
    order = random.sample(range(len(bodies)), len(bodies))
    walk = Walk(item)
    for taken in item.answer(order):
        walk.step(taken)
    assert [bodies[j] for j in walk.order] == [bodies[j] for j in order]


def test_a_body_within_another_can_be_either():
    item = EncodedList("q", (1,), ((), (5,)), ((6,), (6, 7)), (3,), (0.0, 0.0))
    for tokens, order in (([6, 5], (0, 1)), ([6, 7], (1, 0))):
        walk = Walk(item)
        for taken in tokens:
            walk.step(taken)
        assert walk.done
        assert walk.order == order
    with pytest.raises(ValueError, match="not one of those allowed"):
        Walk(item).step(9)


MODEL = tiny_model(vocab_size=VOCABULARY)


@settings(max_examples=25)
@given(st.lists(adversarial_lists(), min_size=1, max_size=4), st.integers(1, 3))
def test_any_model_ranks_any_list(items, lists_per_batch):
    rankings = constrained_ranking(MODEL, TOKENIZER, items, lists_per_batch=lists_per_batch)
    assert [sorted(r.order) for r in rankings] == [list(range(len(item.bodies))) for item in items]


def test_nothing_from_nothing():
    assert generate_text(MODEL, TOKENIZER, [], lists_per_batch=2) == []
    assert constrained_ranking(MODEL, TOKENIZER, [], lists_per_batch=2) == []
    with pytest.raises(ValueError, match="temperature > 0"):
        Sampling(temperature=0)
