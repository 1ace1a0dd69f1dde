"""What validation lists choose: the strength that ranks them best, and the temperature of their likeliest scores."""

import json
import math
from dataclasses import replace

import pytest
import torch
from tiny import tiny_model, with_adapter
from training_lists import TEMPLATE, TOKENIZER, encoded, method, trainer

import irpo.training.validation as validation_module
from irpo.config.schema import RankingConfig
from irpo.evaluation import EvaluationOptions, evaluate
from irpo.measures import ndcg
from irpo.progress import BEST
from irpo.prompting.prompts import PromptBuilder
from irpo.ranking.choosing import (
    Choice,
    best_of,
    fitted_temperature,
    ndcg_of,
    probabilities,
    strength_value,
    strengthened,
)
from irpo.ranking.modes import key_of
from irpo.ranking.reranker import Reranker
from irpo.scorers import Independent
from irpo.scoring.models import LoraOptions, add_lora
from irpo.scoring.strength import GRID, Strength, score_at
from irpo.scoring.tokens import prompted
from irpo.training.arguments import Loop
from irpo.training.validation import Look, Validation, choice_of
from irpo.types import Candidate, RankingExample, UserError

AUTO = RankingConfig(strength="auto")
ITEMS = encoded(count=4)

# ---- strength --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("curve", "best"),
    [
        ({0.5: 0.9, 1: 0.8, math.inf: 0.7}, 0.5),
        ({0.5: 0.8, 1: 0.8, 3: 0.8, math.inf: 0.8}, 1),
        ({0.5: 0.7, 1: 0.6, 3: 0.8, 10: 0.8, math.inf: 0.8}, 3),
        ({0.5: 0.8, 1: 0.6, 1.5: 0.8}, 1.5),
        ({0.5: 0.8, 1: 0.6, 2: 0.8}, 0.5),  # both a factor 2 away
    ],
)
def test_of_equal_means_the_strength_nearest_1_is_taken(curve, best):
    assert best_of(curve) == best


@pytest.mark.parametrize("by", ["logits", "adapter"])
def test_each_point_of_the_curve_is_what_ranking_at_that_strength_measures(by):
    model = with_adapter(tiny_model())
    look = Validation(ITEMS, Independent(), ranking=RankingConfig(strength="auto", strength_by=by)).look(
        model, TOKENIZER
    )
    assert list(look.curve) == [value for value in GRID if by == "logits" or value < math.inf]
    hidden = [item.without_labels() for item in ITEMS]
    for value, mean in look.curve.items():
        scores = score_at(model, TOKENIZER, hidden, Independent(), Strength(value, by))
        each = [ndcg_of(row, item.relevance, 10, key_of(item)) for row, item in zip(scores, ITEMS, strict=True)]
        assert mean == pytest.approx(sum(each) / len(each))
    assert look.mean == max(look.curve.values()) == pytest.approx(sum(look.values.values()) / len(look.values))
    assert look.strength == Strength(best_of(look.curve), by)


def test_what_has_learnt_nothing_stays_at_strength_1():
    look = Validation(ITEMS, Independent(), ranking=AUTO).look(
        add_lora(tiny_model(), LoraOptions(r=2), seed=0), TOKENIZER
    )
    assert look.strength.plain
    assert math.inf not in look.curve  # a reward of 0 for every candidate would rank by chance
    assert len(set(look.curve.values())) == 1


def test_the_reference_is_taken_once(monkeypatch):
    model, passes, real = with_adapter(tiny_model()), [], validation_module.score_lists
    monkeypatch.setattr(validation_module, "score_lists", lambda *a, **k: passes.append(1) or real(*a, **k))
    lists = Validation(ITEMS, Independent(), ranking=AUTO)
    assert lists.look(model, TOKENIZER).curve == lists.look(model, TOKENIZER).curve
    assert len(passes) == 3


FILMS = ("Alien", "Heat", "The Matrix", "Aliens", "Movies", "The Godfather")


def film_lists(count: int, grades: dict[str, float], start: int = 0) -> list[RankingExample]:
    """Lists of 5 of the films in changing orders; what a film is worth is the same in all."""
    made = []
    for i in range(start, start + count):
        order = torch.randperm(len(FILMS), generator=torch.Generator().manual_seed(i)).tolist()[:5]
        candidates = tuple(Candidate(FILMS[j], FILMS[j], grades[FILMS[j]]) for j in order)
        made.append(RankingExample(f"films-{i}", "best", candidates))
    return made


def with_prior(spread: float):
    """A tiny model whose head prefers tokens by chance, `spread` nats more or less each."""
    model = tiny_model()
    bias = spread * torch.randn(model.config.vocab_size, generator=torch.Generator().manual_seed(3))
    model.lm_head.bias = torch.nn.Parameter(bias, requires_grad=False)
    return add_lora(model, LoraOptions(r=4), seed=0)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A run against a planted prior, which likes films the more the less they are worth; prompts, validation lists."""
    model, builder = with_prior(4.0), PromptBuilder(TOKENIZER, TEMPLATE, "text")
    liked = Reranker(model.eval(), TOKENIZER, builder, Independent()).rank("best", FILMS)
    grades = {row.text: max(0, row.rank - 3) for row in liked}
    aside = film_lists(8, grades, start=100)
    lists = tuple([p.tokens for p in prompted(builder, some, labels=True)] for some in (film_lists(40, grades), aside))
    run = trainer(
        tmp_path_factory.mktemp("planted"),
        method({"name": "irpo", "beta": 1.0}),
        items=lists[0],
        validation=lists[1],
        model=model,
        loop=Loop(ranking=AUTO),
        updates=16,
        learning_rate=0.01,
        evaluate_every=8,
    )
    run.args.optim = "adamw_torch"
    run.go(None)
    return run, builder, aside


def test_auto_undoes_a_planted_prior(planted):
    """A bias on the head's tokens decides the order of log pi; what was learnt is in log pi - log pi_ref."""
    run, *_ = planted
    look = run.look()
    assert sum(run.before.values()) / len(run.before) < 0.6
    assert look.strength.value > 1
    assert look.mean > look.curve[1] + 0.1


def test_the_checkpoint_is_chosen_by_what_the_user_will_get(planted):
    run, builder, aside = planted
    look = run.look()
    ranker = Reranker(run.model.eval(), TOKENIZER, builder, Independent(), strength=look.strength)
    options = EvaluationOptions(("score",), strength=ranker.strength)
    measured = evaluate(aside, builder, ranker.model, ranker.scorer, options).values["score"]["NDCG@10"]
    assert measured == pytest.approx(look.values)
    logged = [json.loads(line) for line in run.log_file.read_text().splitlines()]
    seen = [line for line in logged if f"eval_{BEST}" in line and line["update"]]
    assert max(line[f"eval_{BEST}"] for line in seen) == pytest.approx(look.mean)
    assert all(strength_value(line["eval_strength"]) > 1 for line in seen)
    for example in aside[:2]:
        order = [row.index for row in ranker.rank(example.query, example.texts)]
        assert ndcg(order, example.relevance, 10) == pytest.approx(measured[example.id])


# ---- temperature -----------------------------------------------------------------------------------------------------


def test_a_temperature_worked_by_hand():
    """Two candidates 3 nats apart, the first relevant in 3 lists of 4: sigmoid(3 / T) = 3 / 4."""
    scores = [torch.tensor([1.0, -2.0])] * 4
    relevant = [[True, False]] * 3 + [[False, True]]
    assert fitted_temperature(scores, relevant) == pytest.approx(3 / math.log(3))


def test_several_relevant_candidates_share_the_target():
    """Mean shares of 4/11 and 4/11, and 1/11 thrice, are softmax(log 4, log 4, 0, 0, 0): T is 1."""
    scores = torch.tensor([math.log(4.0)] * 2 + [0.0] * 3)
    lists = [[True, True, False, False, False]] * 8 + [[False, False, True, True, True]] * 3
    assert fitted_temperature([scores] * 11, lists) == pytest.approx(1.0)


@pytest.mark.parametrize("temperature", [0.3, 2.5])
def test_a_known_temperature_is_recovered(temperature):
    chance = torch.Generator().manual_seed(5)
    table = 2 * torch.randn(1000, 6, generator=chance, dtype=torch.float64)
    shares = torch.softmax(table / temperature, -1)
    drawn = torch.multinomial(shares, 1, generator=chance)
    relevant = torch.zeros_like(table).scatter(1, drawn, 1.0).bool().tolist()
    found = fitted_temperature(list(table), relevant)
    # The variance of 1 / T by Fisher's information: one over the sum of the lists' variances of s under softmax(s / T).
    spread = ((shares * table**2).sum(-1) - (shares * table).sum(-1) ** 2).sum() ** -0.5
    assert abs(1 / found - 1 / temperature) < 4 * float(spread)


def test_lists_that_tell_nothing_of_a_temperature_are_left_out():
    silent = [(torch.tensor([1.0, 2.0]), [False, False]), (torch.ones(2), [True, False])]
    silent.append((torch.tensor([math.nan, 0.0]), [True, False]))
    assert fitted_temperature(*zip(*silent, strict=True)) is None
    telling = [(torch.tensor([2.0, 0.0, 1.0]), [True, False, False]), (torch.tensor([0.0, 1.0]), [True, False])]
    whole = fitted_temperature(*zip(*telling, strict=True))
    assert fitted_temperature(*zip(*silent, *telling, strict=True)) == pytest.approx(whole)


@pytest.mark.parametrize("scores", [[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]])
def test_scores_that_part_the_relevant_from_the_others_have_no_temperature(scores):
    """The likelihood only grows, towards 0 where they stand first, without end where they stand last."""
    assert fitted_temperature([torch.tensor(scores)] * 3, [[True, False, False]] * 3) is None


@pytest.mark.parametrize("temperature", [0.1, 1.0, 40.0])
def test_probabilities_sum_to_1_and_keep_the_order(temperature):
    scores = [-3.0, 0.5, 0.25, -1.0]
    found = probabilities(scores, temperature)
    assert sum(found) == pytest.approx(1)
    assert sorted(range(4), key=found.__getitem__) == sorted(range(4), key=scores.__getitem__)
    assert found[1] / found[2] == pytest.approx(math.exp(0.25 / temperature))


def test_a_ranking_shows_probabilities_where_there_is_a_temperature():
    plain = Reranker(tiny_model(), TOKENIZER, PromptBuilder(TOKENIZER, TEMPLATE, "text"), Independent())
    without, rows = (ranker.rank("best", FILMS) for ranker in (plain, replace(plain, temperature=2.0)))
    assert [row.index for row in rows] == [row.index for row in without]
    assert [row.probability for row in without] == [None] * len(FILMS)
    assert sum(row.probability for row in rows) == pytest.approx(1)
    assert rows[0].probability / rows[1].probability == pytest.approx(math.exp((rows[0].score - rows[1].score) / 2))
    assert {row.probability for row in replace(plain, temperature=2.0).rank("best", FILMS, "constrain")} == {None}


# ---- the choice ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", GRID)
@pytest.mark.parametrize("temperature", [None, 2.25])
def test_a_choice_is_read_back_as_it_was(value, temperature):
    by = "logits" if value == math.inf else "adapter"
    choice = Choice(Strength(value, by), temperature, {1: 0.5, value: 0.75}, lists=8, groups=3)
    assert Choice.of(json.loads(json.dumps(choice.as_dict(), allow_nan=False))) == choice


def test_another_strength_goes_without_the_temperature():
    choice = Choice(Strength(3), 2.0)
    assert strengthened(choice, None, None) is choice
    assert strengthened(choice, 3, "logits") is choice
    assert strengthened(choice, "reward", None) == Choice(Strength(math.inf))
    assert strengthened(choice, None, "adapter") == Choice(Strength(3, "adapter"))
    assert strengthened(Choice(Strength(1), 2.0), None, "adapter").temperature == 2.0  # both are the policy


@pytest.mark.parametrize("word", ["auto", "0", "-1", "nan", "much"])
def test_words_that_are_no_strength(word):
    with pytest.raises(UserError, match="give a number above 0, or 'reward'"):
        strength_value(word)


def test_a_given_strength_is_kept_without_lists():
    ranking = RankingConfig(strength=3, strength_by="adapter", temperature=2)
    assert choice_of(None, ranking, (), 1.0) == Choice(Strength(3, "adapter"), 2.0)


def test_a_temperature_is_fitted_to_the_chosen_scores_and_the_tasks_relevant_labels(capsys):
    """The first of two is relevant in 3 lists of 4 and 3 nats ahead: sigmoid(3 / T) is 3 / 4 where labels count from 2.

    Where they count from 1 all are relevant, and only equal scores would do.
    """
    labels = [(2.0, 1.0)] * 3 + [(1.0, 2.0)]
    lists = [
        RankingExample(
            f"{i}", "best", tuple(Candidate(str(j), str(j), y) for j, y in enumerate(pair)), f"group {i % 2}"
        )
        for i, pair in enumerate(labels)
    ]
    look = Look(Strength(3), {}, {1: 0.5, 3: 0.75}, (torch.tensor([1.0, -2.0]),) * 4)
    ranking = RankingConfig(strength="auto", temperature="auto")
    choice = choice_of(look, ranking, lists, relevant_from=2.0)
    assert choice.temperature == pytest.approx(3 / math.log(3))
    assert (choice.strength, choice.lists, choice.groups, choice.curve) == (Strength(3), 4, 2, look.curve)
    assert capsys.readouterr().err == ""
    assert choice_of(look, ranking, lists, relevant_from=1.0).temperature is None
    assert "no temperature fits" in capsys.readouterr().err
