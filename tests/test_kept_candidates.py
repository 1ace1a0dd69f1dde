"""Candidates that are kept between queries score as those that are computed anew."""

import random
from dataclasses import replace

import pytest
import torch

from irpo import words
from irpo.api import config_from
from irpo.prompting.prompts import PromptBuilder, load_template
from irpo.ranking.engines import Here
from irpo.ranking.reranker import Reranker
from irpo.resources import prompts_dir
from irpo.scorers import SCORERS
from irpo.scoring.forward import score_lists
from irpo.scoring.kept import Kept, _state, score_kept
from irpo.scoring.strength import Strength
from irpo.scoring.tokens import prompted
from irpo.types import UserError
from tests.blocks import TOKENIZER, encoded, example, reordered
from tests.tiny import tiny_model, with_adapter

WINDOW = {"sliding_window": 40}
WINDOWED = ("gemma2", "gemma3", "gemma4", "mistral")
FAMILIES = [(family, WINDOW if family in WINDOWED else {}) for family in ("llama", "phi3", "qwen3", *WINDOWED)]


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch):
    """So that the labels of short lists go in parts as well."""
    monkeypatch.setattr("irpo.scoring.kept.TEXTS", 24)


def asked(*examples, style="label"):
    """Lists whose query stands behind the candidates, and a label behind its text."""
    builder = PromptBuilder(TOKENIZER, load_template(prompts_dir(), "behind", style), style, attention="block")
    return [p.tokens for p in prompted(builder, examples, labels=False)]


def fed_of(model):
    """How many tokens go through the model from here on."""
    fed = []
    model.get_input_embeddings().register_forward_hook(lambda _, args, __: fed.append(args[0].numel()))
    return fed


@pytest.mark.parametrize("style", ["label", "text"])
@pytest.mark.parametrize(("family", "config"), FAMILIES, ids=[f for f, _ in FAMILIES])
def test_kept_candidates_score_as_new_ones(family, config, style):
    model, kept = tiny_model(family, **config), Kept()
    scorer = SCORERS.build({"label": "label", "text": "independent"}[style])
    first, shuffled = example(9), random.Random(0).sample(range(9), 9)
    other = reordered(example(9, query="rather something else"), shuffled[:7])  # some of them, in another order
    items = asked(first, other, example(4, 5), style=style)
    for item, expected in zip(items, score_lists(model, TOKENIZER, items, scorer), strict=True):
        (found,) = score_kept(model, [item], scorer, kept)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_a_new_query_takes_no_candidate_again():
    model, kept, scorer = tiny_model(), Kept(), SCORERS.build("label")
    one, two = asked(example(20), example(20, query="rather something else"))
    score_kept(model, [one], scorer, kept)
    fed = fed_of(model)
    score_kept(model, [two], scorer, kept)
    labels = sum(block.stop - block.own for block in two.blocks)
    assert sum(fed) == labels + len(two.prompt) - two.blocks[-1].stop + len(two.heads[0])
    assert len(kept) == 21


def test_what_is_kept_is_of_one_state_of_the_model():
    """Policy and reference, a strength by the adapter, and weights after an update: each has its own."""
    model, scorer = with_adapter(tiny_model()), SCORERS.build("label")
    kept, items = Kept(), asked(example(5))
    here = Here(model, TOKENIZER, kept)
    for strength in (Strength(), Strength(3.0), Strength(2.0, "adapter"), Strength()):
        found = here.scores(items, scorer, strength, "sum")
        expected = Here(model, TOKENIZER).scores(items, scorer, strength, "sum")
        assert found[0] == pytest.approx(expected[0], abs=1e-4)
    with torch.no_grad():
        next(p for n, p in model.named_parameters() if "lora_B" in n).add_(0.1)
    found, expected = (engine.scores(items, scorer, Strength(), "sum") for engine in (here, Here(model, TOKENIZER)))
    assert found[0] == pytest.approx(expected[0], abs=1e-4)


def test_what_is_kept_is_bounded():
    model, scorer = tiny_model(), SCORERS.build("label")
    items = asked(*(example(6, seed) for seed in range(4)))
    whole = Kept()
    expected = score_kept(model, items, scorer, whole)
    small = Kept(whole.bytes // 3)
    torch.testing.assert_close(score_kept(model, items, scorer, small), expected)
    assert small.bytes <= whole.bytes // 3
    assert 0 < len(small) < len(whole)


def test_prompts_that_cannot_be_kept_are_refused():
    model, scorer = tiny_model(), SCORERS.build("label")
    with pytest.raises(UserError, match="labels, which this template writes first"):
        score_kept(model, encoded(example(3)), scorer, Kept())
    full = PromptBuilder(TOKENIZER, load_template(prompts_dir(), "behind", "label"), "label")
    with pytest.raises(UserError, match="in prompts of blocks alone"):
        score_kept(model, [p.tokens for p in prompted(full, [example(3)], labels=False)], scorer, Kept())


def test_adapters_on_one_base_keep_their_own():
    """Which of two is on is part of the state, and so is which is merged; what is written past it is let go of."""
    model, scorer, items = with_adapter(tiny_model()), SCORERS.build("label"), asked(example(5))
    model.add_adapter("books", model.peft_config["default"])
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B.books" in name:
                weight.normal_(generator=torch.Generator().manual_seed(len(name)))
    kept, found = Kept(), {}
    for name in ("default", "books", "default"):
        model.set_adapter(name)
        (found[name],) = score_kept(model, items, scorer, kept)
        torch.testing.assert_close(found[name], score_lists(model, TOKENIZER, items, scorer)[0], atol=1e-4, rtol=1e-4)
    assert (found["books"] - found["default"]).abs().max() > 1e-2
    states = []
    for name in ("default", "books"):
        model.merge_adapter([name])
        states.append(_state(model))
        model.unmerge_adapter()
    assert states[0] != states[1]
    for weight in model.parameters():
        weight.data.mul_(1.5)
    kept.clear()
    assert (len(kept), kept.bytes) == (0, 0)
    torch.testing.assert_close(score_kept(model, items, scorer, kept), score_lists(model, TOKENIZER, items, scorer))


def test_an_option_of_the_engine_keeps_candidates():
    """`kept` GiB of the engine `transformers`: a second query reads no candidate again, and ranks as without."""
    layers = ["quickstart.yaml", "methods/lipo_lambda.yaml", "prompt.attention=block", "prompt.template=behind"]
    like = config_from([*layers, "prompt.style=label", "method.scorer=label"])
    engine = words.engine_of("{name: transformers, kept: 0.01}", None, None)
    keeping = Reranker.load("embedded", like=like, engine=engine)
    assert keeping.kept.room == int(0.01 * 2**30)
    plain, films = replace(keeping, kept=None), ["Golden Blues", "Iron Tales", "Pale Road", "Last Days"]
    keeping.rank("a western", films)
    fed = fed_of(keeping.model)
    rows = keeping.rank("a comedy", films)
    again = sum(fed)
    fed.clear()
    expected = plain.rank("a comedy", films)
    assert again < sum(fed)
    assert [row.index for row in rows] == [row.index for row in expected]
    assert [row.score for row in rows] == pytest.approx([row.score for row in expected], abs=1e-4)


@pytest.mark.parametrize(
    ("layers", "engine", "problem"),
    [
        ([], {"name": "transformers", "kept": 1}, "set prompt.attention to block"),
        (["prompt.attention=block"], {"name": "transformers", "kept": 1}, "set prompt.template to behind"),
        ([], {"name": "transformers", "kept": 0}, "give the GiB, above 0"),
        ([], {"name": "vllm", "kept": 1}, "unknown option 'kept'"),
    ],
)
def test_an_engine_that_cannot_keep_is_refused_before_weights_are_loaded(layers, engine, problem, monkeypatch):
    monkeypatch.setattr("irpo.runs.load_weights", None)
    like = config_from(["quickstart.yaml", "methods/lipo_lambda.yaml", "prompt.style=label", *layers])
    with pytest.raises(UserError, match=problem):
        Reranker.load("embedded", like=like, engine=engine)
