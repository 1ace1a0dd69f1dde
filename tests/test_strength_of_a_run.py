"""A run's own strength: chosen, kept, told, and used by whoever ranks with the run."""

import json
import math

import pytest
from small_runs import config_of, lines

from irpo import api, pipeline
from irpo.config.schema import OnlineConfig, PromptConfig, RankingConfig, TrainingConfig, to_yaml
from irpo.progress import BEST
from irpo.ranking.choosing import Choice, choice_of_run
from irpo.ranking.reranker import Reranker
from irpo.runs import CHOICE, require_place
from irpo.runs.key import LATER, run_key, settings
from irpo.scoring.strength import GRID, PLAIN, Strength, named
from irpo.types import UserError

CHOOSES = ("method.nll_weight=0", "method.objective.beta=1", "ranking.strength=auto", "ranking.temperature=2")
DOCUMENTS = ["Alien (1979)", "Heat (1995)", "Spaceballs (1987)"]


@pytest.fixture(scope="module")
def chosen(tmp_path_factory):
    """A run that chose its strength, and how it ended."""
    out = tmp_path_factory.mktemp("chosen") / "run"
    return out, pipeline.train(config_of(*CHOOSES), out)


def test_the_choice_its_curve_and_its_ends_are_in_the_run_and_its_card(chosen):
    out, outcome = chosen
    told = json.loads((out / CHOICE).read_text())
    assert Choice.of(told) == outcome.choice
    assert list(told["curve"]) == list(map(named, GRID))
    assert (told["policy"], told["reward"]) == (told["curve"]["1"], told["curve"]["reward"])
    best = told["curve"][named(outcome.choice.strength.value)]
    assert best == max(told["curve"].values()) == pytest.approx(outcome.after)
    assert (told["measure"], told["lists"]) == (BEST, outcome.lists)
    assert told["temperature"] == 2
    card = (out / "README.md").read_text()
    assert str(outcome.choice) in card
    assert all(f"{mean:.4f}" in card for mean in told["curve"].values())


def test_the_kept_checkpoint_is_the_best_at_its_best_strength(chosen):
    out, outcome = chosen
    means = [line[f"eval_{BEST}"] for line in lines(out) if f"eval_{BEST}" in line and line["update"]]
    assert outcome.after == pytest.approx(max(means))


def test_a_ranker_takes_the_runs_choice_or_another(chosen):
    out, outcome = chosen
    own = Reranker.load(str(out))
    assert (own.strength, own.temperature) == (outcome.choice.strength, outcome.choice.temperature)
    assert sum(row.probability for row in own.rank("a funny film", DOCUMENTS)) == pytest.approx(1)
    other = Reranker.load(str(out), strength=7, strength_by="adapter")
    assert (other.strength, other.temperature) == (Strength(7, "adapter"), None)
    assert Reranker.load(str(out), strength="reward").strength == Strength(math.inf)
    other_prompt = Reranker.load(str(out), style="text")
    assert (other_prompt.strength, other_prompt.temperature) == (outcome.choice.strength, None)
    with pytest.raises(UserError, match="strength 'reward'"):
        Reranker.load(str(out), strength="reward", strength_by="adapter")


def test_an_evaluation_says_its_strength(chosen, tmp_path):
    out, _ = chosen
    found = api.evaluate(str(out), tmp_path, modes=["score"], max_lists=4, strength="reward")
    assert found.setting.strength == "reward by logits"
    assert json.loads((tmp_path / "results.json").read_text())["setting"]["strength"] == "reward by logits"
    report = (tmp_path / "report.md").read_text()
    assert "- strength: reward by logits" in report
    assert "\n- score at strength reward by logits: log pi - log pi_ref\n" in report  # constrain was not measured
    plain = api.evaluate(str(out), tmp_path, modes=["score"], max_lists=4, strength=1)
    assert "at strength" not in (tmp_path / "report.md").read_text()
    assert plain.setting.strength == "1"
    assert plain.setting.protocol == found.setting.protocol  # they may stand in one table


def test_the_command_ranks_at_a_strength(chosen, irpo):
    out, _ = chosen

    def ranked(*flags):
        return irpo("rank", "--model", out, "a film", *DOCUMENTS, "--json", *flags)

    code, said, told = ranked()
    assert code == 0
    assert all(0 < row["probability"] < 1 for row in json.loads(said))
    assert "no probabilities" not in told
    _, said, told = ranked("--strength", "7", "--strength-by", "adapter")  # no value of the grid
    assert [row["probability"] for row in json.loads(said)] == [None] * 3
    assert "note: no probabilities, for the run's temperature was fitted at its own strength and prompt\n" in told
    assert "note: ranked at strength 7 by adapter\n" in told
    _, _, told = ranked("--strength", "7", "--mode", "generate")
    assert "ranked at strength" not in told  # a free answer is the policy's
    for flags in (
        ("--strength", "auto"),
        ("--strength-by", "weights"),
        ("--strength", "reward", "--strength-by", "adapter"),
    ):
        code, _, told = ranked(*flags)
        assert code == 2
        assert told.startswith("error: ")
        assert told.count("\n") == 1


def test_a_choice_that_is_lost_is_missed_and_made_anew(tmp_path):
    out = tmp_path / "run"
    config = config_of(*CHOOSES, "training.updates=2")
    first = pipeline.train(config, out)
    (out / CHOICE).unlink()
    with pytest.raises(UserError, match=r"'strength\.json', .* is missing or damaged; use train"):
        Reranker.load(str(out))
    assert pipeline.train(config, out, resume=True).choice == first.choice
    assert Reranker.load(str(out)).strength == first.choice.strength
    assert pipeline.train(config, out, resume=True) is None  # it is finished
    (out / CHOICE).write_text('{"strength": 3}')
    assert pipeline.train(config, out, resume=True).choice == first.choice


@pytest.mark.parametrize(
    "damage",
    [{"by": "weights"}, {"by": "adapter", "strength": "reward"}, {"strength": -1}, {"temperature": 0}, {"curve": None}],
)
def test_a_choice_that_cannot_be_is_damaged(damage, tmp_path):
    (tmp_path / CHOICE).write_text(json.dumps(Choice(temperature=2).as_dict() | damage))
    with pytest.raises(UserError, match=r"'strength\.json', .* is missing or damaged"):
        choice_of_run(tmp_path, config_of(*CHOOSES))


def test_a_base_model_has_no_strength():
    with pytest.raises(UserError, match="strength 3 needs a LoRA adapter"):
        Reranker.load("embedded", strength=3)


# ---- settings --------------------------------------------------------------------------------------------------------


def test_no_temperature_is_fitted_without_lists_to_fit_it_to(tmp_path):
    with pytest.raises(
        UserError, match=r"ranking\.temperature 'auto' is fitted to validation lists, and there is none"
    ):
        pipeline.train(config_of("ranking.temperature=auto", "training.validation_fraction=0"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_without_lists_to_choose_by_auto_is_the_policy_and_says_so(tmp_path, capsys):
    config = config_of("ranking.strength=auto", "training.validation_fraction=0", "training.updates=1")
    pipeline.train(config, tmp_path / "run")
    assert "ranking.strength stays 1" in " ".join(capsys.readouterr().err.split())
    assert Reranker.load(str(tmp_path / "run")).strength.plain
    assert pipeline.train(config, tmp_path / "run", resume=True) is None  # it is finished


def test_a_strength_that_is_given_is_told_where_nothing_is_measured(tmp_path, capsys):
    config = config_of("ranking.strength=3", "training.validation_fraction=0", "training.updates=1")
    pipeline.train(config, tmp_path / "run")
    assert "\nstrength: 3 by logits\n" in capsys.readouterr().err
    assert "\n- strength: 3 by logits\n" in (tmp_path / "run" / "README.md").read_text()


def test_without_an_adapter_auto_is_the_policy():
    full = config_of("ranking.strength=auto", "model.tuning=full", "method.reference=precomputed")
    assert full.ranks.strength == 1
    assert config_of("ranking.strength=auto").ranks.strength == "auto"


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["ranking.strength=0"], "greater than 0"),
        (["ranking.strength=most"], "'reward' or 'auto'"),
        (["ranking.temperature=-1"], "greater than 0"),
        (["ranking.strength=reward", "ranking.strength_by=adapter"], "set strength_by to 'logits'"),
        (["ranking.strength=2", "model.tuning=full", "method.reference=precomputed"], "needs model.tuning 'lora'"),
        (["ranking.strenght=2"], "did you mean 'ranking.strength'"),
    ],
)
def test_settings_that_cannot_be(overrides, says):
    with pytest.raises(UserError, match=says) as error:
        config_of(*overrides)
    assert "\n" not in str(error.value)


def test_a_run_without_a_strength_keeps_its_key(tmp_path):
    plain = config_of()
    assert not [name for name in settings(plain) if name.startswith("ranking.")]
    assert run_key(config_of("ranking.strength=1.0"), {}) == run_key(plain, {})
    keys = {run_key(config_of(*some), {}) for some in ([], ["ranking.strength=2"], ["ranking.temperature=auto"])}
    assert len(keys) == 3


def test_a_run_that_goes_on_otherwise_is_told_what_it_was(tmp_path):
    (tmp_path / "config.yaml").write_text(to_yaml(config_of()))
    with pytest.raises(UserError, match=r"ranking\.strength_by is 'adapter' and was 'logits' in "):
        require_place(tmp_path, config_of("ranking.strength_by=adapter"), resume=True)


def test_what_came_later_stands_at_its_default():
    sections = {
        "ranking": RankingConfig,
        "online": OnlineConfig,
        "prompt": PromptConfig,
        "training": TrainingConfig,
    }
    for name, value in LATER.items():
        section, _, key = name.partition(".")
        assert sections[section].model_fields[key].default == value


def test_a_run_that_chooses_nothing_writes_nothing(tmp_path):
    outcome = pipeline.train(config_of("training.updates=1"), tmp_path / "run")
    assert outcome.choice is None
    assert not (tmp_path / "run" / CHOICE).exists()
    assert Reranker.load(str(tmp_path / "run")).strength == PLAIN
