"""Prefix-shared scores are those of K separate sequences run through the model's own forward."""

import pytest
import torch
from tiny import FAMILIES, assert_same_gradients, tiny_model, tiny_tokenizer
from torch.nn.attention.flex_attention import flex_attention

from irpo.prompting.prompts import Prompt
from irpo.scorers import SCORERS
from irpo.scoring.attention import SPLIT
from irpo.scoring.batching import make_batch
from irpo.scoring.forward import score_batch, score_lists
from irpo.scoring.tokens import EncodedList, encode
from irpo.types import target_order

TOKENIZER = tiny_tokenizer()
LISTS = [
    (
        "Rank the movies for the viewer, best first: Alien, Aliens, Heat, The Matrix.",
        ["Alien", "Aliens", "Heat", "The Matrix"],
    ),
    ("Which?", ["Alien", "A rather longer title that takes many more tokens", "B"]),
    ("A question and ten passages. " * 4, ["x", "yy", "zzz", "wwww", "Heat 2"]),
]
WINDOWS = {
    "gemma2": {"sliding_window": 8},
    "gemma3": {"sliding_window": 8},
    "gemma4": {"sliding_window": 8},
    "mistral": {"sliding_window": 8},
    "phi3": {"sliding_window": 8},
    "qwen3": {"sliding_window": 8, "use_sliding_window": True, "layer_types": ["sliding_attention", "full_attention"]},
}
CASES = [(family, {}) for family in FAMILIES] + sorted(WINDOWS.items())


def encoded(style: str) -> list[EncodedList]:
    items = []
    for prompt, names in LISTS:
        shown = names if style == "text" else tuple("ABCDEFGH"[: len(names)])
        relevance = [float(j % 3) for j in range(len(names))]
        items.append(encode(TOKENIZER, Prompt(prompt + "\n", tuple(shown), style, chat=False), relevance, id=prompt))
    return items


def span_logprob(model, before, span) -> torch.Tensor:
    """log p(span | before) by the model's own forward pass over one whole sequence."""
    ids = torch.tensor([[*before, *span]])
    logp = model(input_ids=ids).logits[0, :-1].float().log_softmax(-1)
    each = logp.gather(-1, ids[0, 1:, None]).squeeze(-1)
    return each[len(before) - 1 :].sum()


def separate(model, item: EncodedList) -> torch.Tensor:
    return torch.stack([span_logprob(model, item.prompt + item.heads[0], body) for body in item.bodies])


@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
@pytest.mark.parametrize("style", ["text", "label"])
@pytest.mark.parametrize(
    ("family", "config"), CASES, ids=lambda value: "-".join(value) if isinstance(value, dict) else value
)
def test_same_as_separate(family, config, style, left):
    model = tiny_model(family, **config)
    items = encoded(style)
    batch = make_batch(items, SCORERS.build("independent"), target=True, left=left)
    with torch.no_grad():
        scores = score_batch(model, batch)
        for row, whole, item in zip(scores.first, scores.target, items, strict=True):
            torch.testing.assert_close(row[: len(item.bodies)], separate(model, item), atol=1e-5, rtol=1e-5)
            answer = item.answer(target_order(item.relevance))
            torch.testing.assert_close(whole, span_logprob(model, item.prompt, answer), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
@pytest.mark.parametrize(
    ("family", "config"), CASES, ids=lambda value: "-".join(value) if isinstance(value, dict) else value
)
def test_packed_rows_same_as_separate_with_gradients(family, config, left, monkeypatch):
    """Several lists in one row, several chunks of the head; values, and gradients in every weight below the head."""
    model = tiny_model(family, **config)
    model.get_output_embeddings().requires_grad_(False)
    monkeypatch.setattr("irpo.scoring.head.HEAD_BYTES", 4 * model.config.get_text_config().vocab_size * 3)
    items = [*encoded("text"), *encoded("text")]
    batch = make_batch(items, SCORERS.build("independent"), left=left)
    assert len(batch.ids) < len(items)
    weights = [p for p in model.parameters() if p.requires_grad]
    ours = score_batch(model, batch).first
    ours = torch.cat([row[: len(item.bodies)] for row, item in zip(ours, items, strict=True)])
    theirs = torch.cat([separate(model, item) for item in items])
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    pull = torch.randn(len(ours), generator=torch.Generator().manual_seed(0))
    mine, alone = (torch.autograd.grad(scores @ pull, weights) for scores in (ours, theirs))
    assert_same_gradients(mine, alone)


@pytest.mark.parametrize("window", [8, 64, 512])
@pytest.mark.parametrize("family", [family for family in WINDOWS if family != "gemma2"])
def test_split_attention_same_as_a_dense_mask(family, window, monkeypatch):
    """A window within the trunk, one that ends among the branches, one longer than the row; rows of several lists."""
    monkeypatch.setattr("irpo.scoring.attention.PART_COLUMNS", {"cpu": 24})
    config = {**WINDOWS[family], "sliding_window": window}
    items = [*encoded("text"), *encoded("text")]
    batch = make_batch(items, SCORERS.build("independent"), target=True)
    assert 0 < batch.trunk < 64 < batch.ids.shape[1] < 512
    found = []
    for attention in ("sdpa", None):
        model = tiny_model(family, attention=attention, **config)
        scores = score_batch(model, batch)
        pull = torch.randn(scores.first.shape, generator=torch.Generator().manual_seed(0))
        loss = (scores.first * pull)[batch.mask].sum() + 0.1 * scores.target.sum()
        found.append((scores.first, torch.autograd.grad(loss, list(model.parameters()))))
    assert model.config._attn_implementation == SPLIT
    (ours, mine), (theirs, others) = found
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    assert_same_gradients(mine, others)


@pytest.mark.parametrize(
    ("family", "config"),
    [("llama", {}), ("gemma2", WINDOWS["gemma2"]), ("gemma3", WINDOWS["gemma3"]), ("mistral", WINDOWS["mistral"])],
)
def test_flex_attention_same_as_dense_masks(family, config, monkeypatch):
    """The block masks that a GPU runs compiled, here without compiling."""
    wrapped = "transformers.integrations.flex_attention.WrappedFlexAttention.__call__"
    monkeypatch.setattr(wrapped, lambda _: flex_attention)
    items = [*encoded("text"), *encoded("text")]
    batch = make_batch(items, SCORERS.build("independent"), target=True)
    model = tiny_model(family, **config)
    with torch.no_grad():
        expected = score_batch(model, batch)
        model.set_attn_implementation("flex_attention")
        found = score_batch(model, batch)
    torch.testing.assert_close(found.first, expected.first, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.target, expected.target, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_list_scorer_same_as_one_sequence(family):
    model = tiny_model(family)
    for item, row in zip(
        encoded("text"), score_lists(model, TOKENIZER, encoded("text"), SCORERS.build("list")), strict=True
    ):
        before = item.prompt
        for rank, j in enumerate(target_order(item.relevance)):
            before += item.heads[rank]
            with torch.no_grad():
                expected = span_logprob(model, before, item.bodies[j])
            torch.testing.assert_close(row[j], expected, atol=1e-5, rtol=1e-5)
            before += item.bodies[j]


def test_label_scorer_is_independent_on_labels():
    model, items = tiny_model(), encoded("label")
    pairs = [score_lists(model, TOKENIZER, items, SCORERS.build(name)) for name in ("label", "independent")]
    torch.testing.assert_close(*pairs)


def test_gradients_same_as_separate():
    model, items = tiny_model("gemma2"), encoded("text")
    scores = score_batch(model, make_batch(items[:1], SCORERS.build("independent"))).first
    weights = torch.arange(1.0, 1 + len(items[0].bodies))
    ours = torch.autograd.grad((scores[0] * weights).sum(), list(model.parameters()))
    theirs = torch.autograd.grad((separate(model, items[0]) * weights).sum(), list(model.parameters()))
    torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_stepwise_same_as_one_sequence_a_rank(family):
    """At every rank, the label scores are the model's own after the prompt and the ranking so far."""
    model, items = tiny_model(family), encoded("label")
    with torch.no_grad():
        scores = score_batch(model, make_batch(items, SCORERS.build("stepwise")))
        for table, present, item in zip(scores.table, scores.present, items, strict=True):
            before, placed = item.prompt, set()
            for rank, chosen in enumerate(target_order(item.relevance)):
                before += item.heads[rank]
                for j, body in enumerate(item.bodies):
                    assert present[rank, j] == (j not in placed)
                    if j not in placed:
                        expected = span_logprob(model, before, body)
                        torch.testing.assert_close(table[rank, j], expected, atol=1e-5, rtol=1e-5)
                before += item.bodies[chosen]
                placed.add(chosen)
            assert not present[len(item.bodies) :].any()
