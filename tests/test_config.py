"""The configuration: layering, one clear error per mistake, and every shipped file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from irpo.config.schema import load_config, to_yaml
from irpo.resources import configs_dir
from irpo.runs.key import run_key
from irpo.types import UnknownName, UserError

BASE = ["models/embedded.yaml", "tasks/world.yaml", "methods/irpo.yaml"]
SHIPPED = sorted(  # layers of a run; the others have tests of their own
    p.relative_to(configs_dir()).as_posix()
    for p in configs_dir().rglob("*.yaml")
    if p.parent.name not in ("suites", "launch")
)


@pytest.fixture
def write(tmp_path):
    def _write(text: str, name: str = "layer.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return _write


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_file_loads(name):
    assert load_config([*BASE, name]) == load_config([*BASE, f"configs/{name}"])


def test_shipped_files_cover_the_named_models_tasks_and_methods():
    stems = {kind: {Path(n).stem for n in SHIPPED if n.startswith(kind)} for kind in ("models", "tasks", "methods")}
    assert stems["models"] >= {"llama3.2-3b", "llama3.2-1b", "gemma2-2b", "phi3-mini", "embedded"}
    assert stems["models"] >= {"llama3.1-8b", "qwen3-4b", "qwen3-8b", "gemma3-4b", "mistral-7b-v0.3", "phi4-mini"}
    assert stems["tasks"] >= {"redial", "inspired", "hotpotqa", "musique", "arc", "commonsenseqa", "jsonl", "world"}
    assert stems["methods"] >= {"sft", "dpo", "sdpo", "irpo"}


def test_shipped_files_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config(BASE).model.name == "embedded"


def test_a_file_of_the_users_wins_over_the_shipped_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mine = tmp_path / "tasks" / "world.yaml"
    mine.parent.mkdir()
    mine.write_text("task: {name: jsonl, data: mine}\n")
    assert load_config(BASE).task == {"name": "jsonl", "data": "mine"}


def test_later_layers_win_and_mappings_merge(write):
    layer = write("model: {lora: {r: 4}}\ntraining: {learning_rate: 2e-5}\n")
    config = load_config([*BASE, layer], ["training.learning_rate=3e-5"])
    assert (config.model.name, config.model.lora.r, config.model.lora.alpha) == ("embedded", 4, 16)
    assert config.training.learning_rate == 3e-5


def test_a_plugin_with_another_name_replaces_the_options_of_the_earlier_one(write):
    assert load_config(BASE).method.objective == {"name": "irpo", "beta": 1.0, "metric": "ndcg"}
    layer = write("method: {objective: {name: dpo, beta: 0.5}}\n")
    assert load_config([*BASE, layer]).method.objective == {"name": "dpo", "beta": 0.5}
    assert load_config(BASE, ["method.objective=sft"]).method.objective == {"name": "sft"}
    assert load_config(BASE, ["method.objective.name=dpo"]).method.objective == {"name": "dpo"}


def test_a_plugin_with_the_same_name_keeps_its_options():
    objective = load_config(BASE, ["method.objective.beta=0.5", "method.objective.metric.k=3"]).method.objective
    assert objective == {"name": "irpo", "beta": 0.5, "metric": {"name": "ndcg", "k": 3}}


def test_a_model_with_another_name_keeps_its_settings():
    assert load_config(BASE, ["model.name=runs/x"]).model.lora.r == load_config(BASE).model.lora.r


def test_numbers_without_a_dot_are_numbers_in_plugin_options_too():
    assert load_config(BASE, ["method.objective.beta=1e-2"]).method.objective["beta"] == 0.01


def test_an_empty_section_sets_nothing(write):
    assert load_config([*BASE, write("training:\n# learning_rate: 1\n")]) == load_config(BASE)
    assert load_config([*BASE, write("")]) == load_config(BASE)


def test_an_unknown_key_names_itself_its_line_and_the_allowed_keys(write):
    layer = write("seed: 1\nmodel:\n  lora:\n    rank: 4\n")
    allowed = "the keys of 'model.lora' are: r, alpha, dropout, targets"
    with pytest.raises(UnknownName, match=re.escape(f"{layer}:4: unknown key 'model.lora.rank'; {allowed}")):
        load_config([*BASE, layer])


def test_an_unknown_key_on_top_lists_the_sections():
    with pytest.raises(UnknownName, match=r"override 'trainin\.updates=3': unknown key 'trainin'; the keys are: model"):
        load_config(BASE, ["trainin.updates=3"])


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("training.learning_rate=0", "training.learning_rate = 0: Input should be greater than 0"),
        ("training.learning_rate=fast", "training.learning_rate = 'fast'"),
        ("training.warmup_fraction=1", "less than 1"),
        ("model.quantization=int8", "'nf4' or 'none'"),
        ("model.lora.targets=3", "'all-linear', or: Input should be a valid list"),
        ("evaluation.modes=[]", "at least 1 item"),
        ("evaluation.measures=NDCG@10", "evaluation.measures = 'NDCG@10': Input should be a valid list"),
        (
            "evaluation.measures=[ndcg@10]",
            "unknown measure 'ndcg@10'; choose from NDCG@k, LNDCG@k, Recall@k, P@k",
        ),
        ("method.objective=3", "give a plug-in's name"),
        ("training=3", "training = 3"),
        ("ranking.strength=true", "ranking.strength = True: true and false are no value of this key"),
        ("model.tuning=full", "choose method.reference precomputed or none"),
        ("seed", "write key.sub=value"),
        ("=3", "write key.sub=value"),
        ("seed=[}", "not a YAML value"),
        ("seed=-1", "greater than or equal to 0"),
    ],
)
def test_a_bad_value_says_what_was_given_and_what_is_allowed(override, said):
    with pytest.raises(UserError, match=re.escape(said)) as caught:
        load_config(BASE, [override])
    assert "\n" not in str(caught.value)


def test_a_wrong_measure_is_the_one_thing_wrong():
    with pytest.raises(UserError, match=r"k a whole number from 1$"):
        load_config(BASE, ["evaluation.measures=[NDCG10]"])


def test_four_bits_need_an_adapter():
    with pytest.raises(UserError, match="4-bit weights take no gradient"):
        load_config(BASE, ["model.tuning=full", "model.quantization=nf4", "method.reference=none"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model:\n  name: a\n  name: b\n", "layer.yaml:3: key 'model.name' is given twice (first in line 2)"),
        ("model: {name: a\n", "layer.yaml:2: broken YAML"),
        ("- a\n", "layer.yaml:1: a configuration is a mapping"),
        ("training:\n  epochs: 0\n", "layer.yaml:2: training.epochs = 0"),
    ],
)
def test_a_bad_file_is_named_with_its_line(write, text, said):
    with pytest.raises(UserError, match=re.escape(said)):
        load_config([*BASE, write(text)])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("nowhere.yaml", "; shipped ones lie in embedded/, methods/, models/, rankers/, suites/, tasks/"),
        ("irpo.yaml", " (did you mean 'methods/irpo.yaml'?)"),
        ("methods/lipo_lamda.yaml", " (did you mean 'methods/lipo_lambda.yaml'?)"),
        ("tasks/none.yaml", "; the shipped ones in tasks/ are: arc, beir, commonsenseqa,"),
        ("training.updates", "an override is written key.sub=value"),
    ],
)
def test_a_missing_file_leads_to_the_shipped_ones(given, said):
    with pytest.raises(UserError, match=re.escape(f"no configuration file {given!r}") + ".*" + re.escape(said)):
        load_config([given])


@pytest.mark.parametrize("left_out", range(3))
def test_a_missing_section_says_how_to_give_it(left_out):
    files = [file for i, file in enumerate(BASE) if i != left_out]
    with pytest.raises(UserError, match=r"'(model|task|method)' is not set; give a file such as configs/"):
        load_config(files)


def test_yaml_round_trip_gives_the_same_config(write):
    config = load_config(
        BASE, ["model.lora.targets=[q_proj]", "evaluation.measures=[MRR, NDCG@10]", "training.report_to=[wandb]"]
    )
    again = load_config([write(to_yaml(config))])
    assert again == config


@pytest.mark.parametrize("text", ["1e5", "-1e-5", "1_0E3", "yes", "null", "0x1", "1:20", "a\u2028b"])
def test_a_text_that_looks_like_a_number_stays_a_text(write, text):
    config = load_config(BASE, [f'model.name="{text}"', f'task.data="{text}"'])
    assert load_config([write(to_yaml(config))]) == config


def test_a_runs_key_follows_the_settings_and_not_the_order_of_keys(write):
    one = write("model: {name: a}\ntask: {name: t, x: 1, y: 2}\nmethod: {objective: dpo}\n", "one.yaml")
    two = write("method: {objective: {name: dpo}}\ntask: {y: 2, x: 1, name: t}\nmodel: {name: a}\n", "two.yaml")
    assert run_key(load_config([one]), {}) == run_key(load_config([two]), {})
    assert run_key(load_config([one]), {}) != run_key(load_config([one], ["seed=1"]), {})


def test_a_config_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        load_config(BASE).seed = 1  # type: ignore[misc]


def test_four_bit_models_checkpoint_and_train_an_adapter():
    for name in ("llama3.2-3b", "llama3.2-1b", "gemma2-2b", "phi3-mini"):
        model = load_config([*BASE, f"models/{name}.yaml"]).model
        assert (model.quantization, model.tuning, model.gradient_checkpointing, model.lora.r) == (
            "nf4",
            "lora",
            True,
            16,
        )
