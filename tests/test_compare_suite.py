"""A suite's file: its entries, its layers, its mistakes, and the search that is the same for every method."""

from __future__ import annotations

import pytest

from irpo.compare.planning import Planner
from irpo.compare.searching import Setting, chosen, points, setting_at, settings_of
from irpo.compare.suite import Dimension, Suite, narrowed, read_suite
from irpo.types import UserError

SHIPPED = ("quickstart", "quick", "paper", "online", "methods")
SMALL = """
title: small
models: [models/embedded.yaml]
tasks: [{name: world, layers: [tasks/world.yaml], set: {task.train_lists: 40}}]
methods: [base, methods/sft.yaml, {name: IRPO, layers: [methods/irpo.yaml], set: {training.updates: 3}}]
layers: [quickstart.yaml]
set: {training.updates: 2}
seeds: 3
search:
  trials: 4
  space:
    training.learning_rate: [0.001, 0.003]
    beta: {key: [method.objective.beta, method.objective.tau], values: [0.1, 1.0]}
"""


@pytest.fixture
def suite(tmp_path):
    (tmp_path / "suite.yaml").write_text(SMALL)
    return read_suite(tmp_path / "suite.yaml")


def mistake(folder, text):
    """What is said of a suite's file."""
    (folder / "suite.yaml").write_text(text)
    with pytest.raises(UserError) as error:
        read_suite(folder / "suite.yaml")
    return str(error.value)


def test_entries_may_be_short(suite):
    assert [(m.name, m.trains) for m in suite.methods] == [("base", False), ("sft", True), ("IRPO", True)]
    assert suite.models[0].name == "embedded"
    assert suite.seeds == (0, 1, 2)
    assert suite.references == ("base", "sft")


def test_what_is_more_particular_wins(suite):
    model, task = suite.models[0], suite.tasks[0]
    by_name = {m.name: m for m in suite.methods}
    config = suite.config(model, task, by_name["IRPO"], {"method.objective.beta": 0.3}, 7)
    assert (config.training.updates, config.training.evaluate_every) == (3, 12)  # the method's, the layer's
    assert (config.task["train_lists"], config.method.objective["beta"], config.seed) == (40, 0.3, 7)
    assert suite.config(model, task, by_name["sft"], {}, 0).training.updates == 2


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_suite_makes_configurations(name, tmp_path):
    suite = read_suite(f"suites/{name}.yaml")
    for task in suite.tasks:
        given = task.model_copy(update={"set": task.set | ({"task.data": str(tmp_path)} if task.data else {})})
        for method in suite.methods:
            assert suite.config(suite.models[0], given, method, {}, 0).seed == 0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("modles: [x]", "suite.yaml:13: unknown key 'modles'; the keys are: title, about, models"),
        ("against: [DPO]", "against: 'DPO' is no method of this suite"),
        ("strengths: [2]", "suite.yaml:13: strengths.0"),
        ("orders: 0", "suite.yaml:13: orders"),
        ("strengths: []", "suite.yaml:13: strengths"),
        ("strengths: [auto, auto]", "strengths: 'auto' stands there twice"),
        ("measures: []", "suite.yaml:13: measures"),
        ("rankers: [{name: IRPO, layers: [rankers/first.yaml]}]", "methods: two are called 'IRPO'"),
        ("rankers: [{name: a-b, layers: [rankers/first.yaml]}, {name: a b, layers: [x.yaml]}]", "'a-b' and 'a b'"),
        ("decoded_lists: true", "suite.yaml:13: decoded_lists: true and false are no value of this key"),
    ],
)
def test_a_mistake_is_one_line_with_its_place(tmp_path, line, message):
    told = mistake(tmp_path, SMALL.strip() + "\n" + line + "\n")
    assert message in told
    assert "\n" not in told


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds: 3", "seeds: [0, 0]", "seeds: 0 stands there twice"),
        ("seeds: 3", "seeds: [-1]", "seeds.0"),
        ("methods/sft.yaml,", "{name: IRPO 2},", "it has no layers, so no objective: write methods/irpo.yaml"),
        ("methods/sft.yaml,", "{set: {training.updates: 3}},", "methods: one has neither a name nor layers"),
        ("training.updates: 3", "task.candidates: 3", "'IRPO' sets task.candidates: lists are the same for all"),
        ("training.updates: 3", "evaluation: {max_lists: 3}", "'IRPO' sets evaluation.max_lists"),
        ("training.learning_rate:", "task.candidates:", "task.candidates is of the comparison, not of a method"),
        ("name: world,", "name: world, trials: 3,", "'world' says 'trials', which is not of tasks"),
    ],
)
def test_what_would_be_passed_over_in_silence_is_a_mistake(tmp_path, old, new, message):
    assert old in SMALL
    assert message in mistake(tmp_path, SMALL.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[method.objective.beta, method.objective.tau]", "method.objective.betta", "no method of this suite has"),
        ("training.updates: 2", "training.validation_fraction: 0", "a search chooses on validation lists"),
        ("training.updates: 2", "evaluation.modes: [constrain]", "the tables of a suite are by score"),
        ("task.train_lists: 40", "task.train_listss: 40", "train_listss"),
    ],
)
def test_a_mistake_in_settings_is_told_before_anything_is_built(tmp_path, old, new, message):
    assert old in SMALL
    (tmp_path / "suite.yaml").write_text(SMALL.replace(old, new, 1))
    with pytest.raises(UserError) as error:
        Planner(read_suite(tmp_path / "suite.yaml"), tmp_path / "out").require_configs()
    assert message in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_title_is_the_files_name_where_it_says_none(tmp_path):
    (tmp_path / "losses.yaml").write_text(SMALL.replace("title: small\n", ""))
    assert read_suite(tmp_path / "losses.yaml").title == "losses"


def test_only_may_name_a_ranker(tmp_path):
    text = SMALL + "rankers: [{name: FIRST, layers: [rankers/first.yaml]}]"
    (tmp_path / "suite.yaml").write_text(text)
    suite = read_suite(tmp_path / "suite.yaml")
    assert narrowed(suite, ["method=IRPO"]).rankers == ()
    one = narrowed(suite, ["method=first"])
    assert [m.name for m in (*one.methods, *one.rankers)] == ["base", "FIRST"]


def test_two_of_one_name_are_refused(tmp_path):
    (tmp_path / "suite.yaml").write_text(SMALL.replace("methods/sft.yaml,", "methods/sft.yaml, methods/sft.yaml,"))
    with pytest.raises(UserError, match="two are called 'sft'"):
        read_suite(tmp_path / "suite.yaml")


def test_a_mistake_in_a_method_names_its_own_line(tmp_path):
    (tmp_path / "suite.yaml").write_text(SMALL)
    suite = read_suite(tmp_path / "suite.yaml")
    wrong = suite.methods[1].model_copy(update={"set": {"training.updats": 2}})
    with pytest.raises(UserError, match=r"override 'training.updats=2': unknown key .*did you mean"):
        suite.config(suite.models[0], suite.tasks[0], wrong, {}, 0)


def test_only_narrows_and_keeps_the_untrained_model(suite):
    part = narrowed(suite, ["method=irpo"])
    assert [m.name for m in part.methods] == ["base", "IRPO"]
    with pytest.raises(UserError, match="the suite has no task 'arc'; it has world"):
        narrowed(suite, ["task=arc"])
    with pytest.raises(UserError, match="write task=NAME"):
        narrowed(suite, ["arc"])


def test_data_of_a_user_take_the_place_of_the_hub(tmp_path):
    tasks = {t.name: t for t in read_suite("suites/paper.yaml").tasks}
    assert tasks["arc"].set["task.data"] == "hub"
    assert tasks["inspired"].set["task.data"] == "inspired"  # not on the hub
    tasks = {t.name: t for t in read_suite("suites/paper.yaml", tmp_path).tasks}
    assert tasks["arc"].set["task.data"] == str(tmp_path / "arc_challenge")
    with pytest.raises(UserError, match="no such folder"):
        read_suite("suites/paper.yaml", tmp_path / "none")


# --- the search -------------------------------------------------------------------------------------------------------


def test_a_block_takes_every_value_equally_often_and_pairs_most_of_them():
    space = {"a": Dimension(values=(1, 2, 3, 4)), "b": Dimension(values=(1, 2))}
    block = [dict(point) for point in points(space, 8)]
    assert sorted(p["a"] for p in block) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert sorted(p["b"] for p in block) == [0] * 4 + [1] * 4
    assert len({(p["a"], p["b"]) for p in block}) == 8  # of the eight pairs all
    assert points(space, 13)[:8] == points(space, 8)  # a longer search begins as a whole block


def test_a_short_search_tries_no_point_twice_where_there_are_enough():
    for sizes in ((2, 2), (3, 2), (4, 4)):
        space = {name: Dimension(values=tuple(range(n))) for name, n in zip(("rate", "beta"), sizes, strict=True)}
        for count in (2, 3, 4):
            found = points(space, count)
            assert len(set(found)) == count
            assert len({dict(point)["rate"] for point in found}) == min(count, sizes[0])


def test_a_method_takes_of_a_point_what_it_has(suite):
    by_name = {m.name: m for m in suite.methods}
    config = {name: suite.config(suite.models[0], suite.tasks[0], m, {}, 0) for name, m in by_name.items()}
    tried = {name: settings_of(suite, m, config[name]) for name, m in by_name.items()}
    assert tried["base"] == []
    # SFT has a learning rate alone: of four points two are the same setting, trained with another seed.
    assert sorted(seed for _, seed in tried["sft"]) == [1000, 1000, 1001, 1001]
    assert {key for s, _ in tried["IRPO"] for key in s.keys} == {"training.learning_rate", "method.objective.beta"}
    assert [s.keys["training.learning_rate"] for s, _ in tried["IRPO"]] == [
        s.keys["training.learning_rate"] for s, _ in tried["sft"]
    ]


def test_a_method_may_have_other_values_or_none(suite):
    search = suite.search
    method = suite.methods[2].model_copy(update={"space": {"beta": (1.0, 10.0), "training.learning_rate": None}})
    config = suite.config(suite.models[0], suite.tasks[0], method, {}, 0)
    found = [setting_at(suite, method, config, point) for point in points(search.space, 4)]
    assert {s.named["beta"] for s in found} == {1.0, 10.0}
    assert all(set(s.named) == {"beta"} for s in found)


def test_the_best_mean_is_chosen_and_the_first_of_equals():
    a, b = (Setting((("rate", "training.learning_rate", rate),)) for rate in (0.1, 0.2))
    assert chosen([(a, 0.5), (b, 0.9), (b, 0.3)]) == b  # .6 against .5
    assert chosen([(a, 0.5), (b, 0.5)]) == a


def test_the_suite_of_every_objective_has_every_offline_objective():
    from irpo.objectives import OBJECTIVES

    suite = read_suite("suites/methods.yaml")
    task, model = suite.tasks[0], suite.models[0]
    titles = {suite.config(model, task, m, {}, 0).method.title for m in suite.methods if m.trains}
    teachers = {name for name in OBJECTIVES if getattr(OBJECTIVES.build(name).needs, "teacher", False)}
    assert titles == set(OBJECTIVES) - {"reinforce"} - teachers


def test_a_suite_is_data():
    assert Suite.model_validate(read_suite("suites/quickstart.yaml").model_dump()).title == "Quickstart"
