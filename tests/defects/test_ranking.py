"""Ranking: a test for every point of the list of defects, by its name there."""

from __future__ import annotations

import sys
import types
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar, Literal

import pytest
import torch
from ranked_lists import BUILDER, FILMS, LONG, TOKENIZER, example, row, tight
from tiny import tiny_model
from torch.utils._python_dispatch import TorchDispatchMode

from irpo import cli
from irpo.config.checks import checked_config
from irpo.evaluation import EvaluationOptions, evaluate
from irpo.ranking import SAMPLERS, Sampling, answer_tokens, constrained_ranking, in_batches
from irpo.ranking.choosing import ndcg_of
from irpo.ranking.modes import RANKING_MODES, Ranker
from irpo.ranking.reranker import Reranker, notes_on
from irpo.scorers import Independent
from irpo.scoring.models import LoraOptions, add_lora
from irpo.scoring.tokens import prompted
from irpo.types import Ranking, UserError

# ---- W2 --------------------------------------------------------------------------------------------------------------


def with_scores(monkeypatch, scores):
    """Every list gets these scores, whatever the model."""

    def constant(model, tokenizer, items, scorer, **_):
        return [torch.tensor(scores[: len(item.bodies)]) for item in items]

    monkeypatch.setattr("irpo.scoring.forward.score_lists", constant)


NAN, LOW = float("nan"), float("-inf")


@pytest.mark.parametrize(
    "scores", [[0.0] * 6, [NAN] * 6, [1.0, NAN, 2.0, 2.0, LOW, 1.0], [NAN, 1.0, 1.0, NAN, LOW, 2.0]]
)
def test_w2_what_is_measured_is_what_a_user_gets(monkeypatch, scores):
    with_scores(monkeypatch, scores)
    model = tiny_model()
    measured = evaluate([example("an id")], BUILDER, model, Independent(), EvaluationOptions(("score",)))
    (order,) = (ranking.order for ranking in row(measured, "score").rankings.values())
    ranked = Reranker(model, TOKENIZER, BUILDER, Independent()).rank("best movies", FILMS)
    assert [r.index for r in ranked] == list(order)
    trained = ndcg_of(torch.tensor(scores), example().relevance, 10, RANKING_KEY(model))
    assert trained == measured.values["score"]["NDCG@10"]["an id"]
    assert [s for s in scores if s == s and s > LOW] == [] or scores[order[0]] == max(s for s in scores if s == s)


def RANKING_KEY(model):
    from irpo.ranking.modes import key_of

    return key_of(prompted(BUILDER, [example()], labels=False)[0].tokens)


def test_w2_equal_scores_do_not_follow_the_input(monkeypatch):
    with_scores(monkeypatch, [0.0] * 6)
    rankers = Reranker(tiny_model(), TOKENIZER, BUILDER, Independent())
    orders = {tuple(r.index for r in rankers.rank(f"query {i}", FILMS)) for i in range(5)}
    assert len(orders) > 1
    assert tuple(range(6)) not in orders


@pytest.mark.parametrize("mode", ["score", "generate", "constrain"])
def test_w2_every_mode_gives_the_user_what_is_measured(mode):
    model = tiny_model()
    measured = evaluate([example("an id")], BUILDER, model, Independent(), EvaluationOptions((mode,)))
    order = measured.rows[1 if mode == "generate" else 0].rankings["an id"].order
    ranked = Reranker(model, TOKENIZER, BUILDER, Independent()).rank("best movies", FILMS, mode)
    assert [r.index for r in ranked] == list(order)


# ---- G7, G8 ----------------------------------------------------------------------------------------------------------


class Waits(TorchDispatchMode):
    """Counts the numbers that are fetched one by one: on a card each waits for all that was asked of it."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += "_local_scalar_dense" in str(func)
        return func(*args, **(kwargs or {}))


def test_g7_guided_decoding_fetches_no_single_numbers():
    items = [asked.tokens for asked in prompted(BUILDER, [example(f"q{i}") for i in range(4)], labels=False)]
    with Waits() as waits:
        constrained_ranking(tiny_model(), TOKENIZER, items, lists_per_batch=4)
    assert waits.count <= 2  # the random model and transformers may ask for one, no decision does


def test_g8_a_card_decodes_as_many_lists_as_its_cache_holds():
    (item,) = (asked.tokens for asked in prompted(BUILDER, [example()], labels=False))
    answer = answer_tokens(item)
    passages = [replace(item, prompt=(5,) * (1500 - answer))] * 100  # HotpotQA's length
    assert {len(batch) for batch in in_batches(passages, "cuda")[:-1]} == {65_536 // 1500}
    mixed = [replace(item, prompt=(5,) * n) for n in range(10, 4000, 40)]
    for device, room in (("cuda", 65_536), ("cpu", 16_384)):
        batches = in_batches(mixed, device)
        assert sorted(i for batch in batches for i in batch) == list(range(len(mixed)))
        widths = [[len(mixed[i].prompt) + answer for i in batch] for batch in batches]
        assert all(max(width) * len(width) <= room for width in widths)
        assert all(min(width) >= max(later) for width, later in pairwise(widths))
    assert [len(batch) for batch in in_batches(mixed, "cuda", 8)][:3] == [8, 8, 8]


def test_g2_a_batch_that_does_not_fit_is_ranked_in_parts(monkeypatch):
    sizes = []

    def hungry(model, tokenizer, items, scorer, **_):
        sizes.append(len(items))
        if len(items) > 2:
            raise torch.OutOfMemoryError
        return [torch.arange(float(len(item.bodies))) for item in items]

    monkeypatch.setattr("irpo.scoring.forward.score_lists", hungry)
    lists = [example(f"q{i}") for i in range(5)]
    found = RANKING_MODES.build("score")(Ranker(tiny_model(), BUILDER, Independent()), lists)
    assert [x.id for x in found] == [e.id for e in lists]
    assert sizes == [5, 2, 3, 1, 2]


# ---- W13 -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("four_bit", [False, True])
def test_w13_vllm_draws_from_the_weights_that_are_trained(monkeypatch, four_bit):
    asked = {}

    class LLM:
        def __init__(self, **settings):
            asked.update(settings)

        def generate(self, prompts, settings, **_):
            return [types.SimpleNamespace(outputs=[types.SimpleNamespace(token_ids=(70, 3))]) for _ in prompts]

    vllm, lora, request = (types.ModuleType(n) for n in ("vllm", "vllm.lora", "vllm.lora.request"))
    vllm.LLM, vllm.SamplingParams, vllm.lora, lora.request = LLM, lambda **k: types.SimpleNamespace(**k), lora, request
    request.LoRARequest = lambda *_: None
    for module in (vllm, lora, request):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr("irpo.ranking.sampling.four_bit_layers", lambda model: 7 * four_bit, raising=False)
    monkeypatch.setattr("irpo.scoring.models.four_bit_layers", lambda model: 7 * four_bit)
    model = add_lora(tiny_model(), LoraOptions(r=4), seed=0)
    items = [asked.tokens for asked in prompted(BUILDER, [example()], labels=False)]
    SAMPLERS.build({"name": "vllm", "memory_fraction": 0.3 + 0.1 * four_bit})(model, TOKENIZER, items, Sampling())
    assert asked.get("quantization") == ("bitsandbytes" if four_bit else None)


def test_b1_a_modes_name_and_options_are_checked_with_the_configuration():
    layers = ["models/embedded.yaml", "tasks/world.yaml", "methods/irpo.yaml"]
    with pytest.raises(UserError, match=r"\[score, guess\].*unknown ranking mode 'guess'"):
        checked_config(layers, ["evaluation.modes=[score, guess]"])
    with pytest.raises(UserError, match="unknown option 'window' of ranking mode 'score'"):
        checked_config(layers, ["evaluation.modes=[{name: score, window: 5}]"])


# ---- B1 --------------------------------------------------------------------------------------------------------------


def test_b1_a_mode_is_one_class(monkeypatch):
    """A mode of a user's own is measured, and ranks, without a word of ours."""
    monkeypatch.setattr(RANKING_MODES, "_classes", dict(RANKING_MODES._classes))

    @RANKING_MODES.register("backwards")
    @dataclass(frozen=True)
    class Backwards:
        """As the scorer would not."""

        writes: ClassVar[bool] = False
        of: Literal["score", "constrain"] = "score"

        def __call__(self, ranker, examples):
            found = RANKING_MODES.build(self.of)(ranker, examples)
            return [replace(x, ranking=Ranking(x.ranking.order[::-1])) for x in found]

    mode = {"name": "backwards", "of": "constrain"}
    found = evaluate([example()], BUILDER, tiny_model(), Independent(), EvaluationOptions((mode, "constrain")))
    back, forth = (r.rankings["q"].order for r in found.rows[:2])
    assert back == forth[::-1]
    ranked = Reranker(tiny_model(), TOKENIZER, BUILDER, Independent()).rank("best movies", FILMS, mode)
    assert tuple(r.index for r in ranked) == back


# ---- U3, U4, U8: what a user is told --------------------------------------------------------------------------------


def test_u3_rank_marks_the_documents_that_were_cut():
    rows = tight().rank("best movies", ["Heat", *LONG])
    cut = {row.index: row.cut for row in rows}
    assert cut[0] == 0
    assert all(cut[j] > 0 for j in range(1, 9))
    assert "cut by" in rows[[row.index for row in rows].index(3)].note
    (note,) = notes_on(rows, 200)
    assert note.startswith("8 of 9 documents were cut to fit 200 tokens")
    assert str(sum(cut.values())) in note
    assert "--max-tokens" in note
    assert notes_on(tight(4096).rank("best movies", ["Heat", *LONG]), 4096) == []


def test_u3_the_command_says_it(monkeypatch, capsys):
    monkeypatch.setattr(Reranker, "load", classmethod(lambda cls, name, **_: tight()))
    monkeypatch.setattr("sys.argv", ["irpo", "rank", "--model", "embedded", "best movies", "Heat", *LONG])
    with pytest.raises(SystemExit, match="0"):
        cli.main()
    out, err = capsys.readouterr()
    assert "8 of 9 documents were cut" in " ".join(err.split())
    assert out.count("cut by") == 8


def test_u4_more_tokens_are_given_as_far_as_the_model_has_positions():
    with pytest.raises(UserError, match=r"1000000.*positions"):
        Reranker.load("embedded", max_tokens=1_000_000)
    assert Reranker.load("embedded", max_tokens=2000).builder.max_tokens == 2000
    with pytest.raises(UserError, match="--max-tokens"):
        tight(64).rank("best movies", LONG)


@pytest.mark.parametrize("command", ["rank", "evaluate"])
def test_u4_the_commands_take_them(command, monkeypatch, tmp_path):
    asked = {}

    def load(cls, name, **given):
        asked.update(given)
        raise UserError("asked")

    monkeypatch.setattr(Reranker, "load", classmethod(load))
    rest = ["best movies", "a", "b"] if command == "rank" else ["--task", "world", "--out", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", ["irpo", command, "--model", "embedded", "--max-tokens", "777", *rest])
    with pytest.raises(SystemExit):
        cli.main()
    assert asked["max_tokens"] == 777


def test_u8_rank_says_what_the_model_did_not_name(monkeypatch):
    monkeypatch.setattr("irpo.ranking.generate_text", lambda *_, **__: ["1. Heat\n2. Alien\n"])
    rows = Reranker(tiny_model(), TOKENIZER, BUILDER, Independent()).rank("best movies", FILMS, "generate")
    assert [(row.index, row.named) for row in rows[:2]] == [(2, True), (0, True)]
    assert [row.note for row in rows] == ["", ""] + ["not named by the model"] * 4
    assert any("does not name 4 of 6 documents" in note for note in notes_on(rows, 4096))
