"""Configurations: one line, with file and line, for each mistake in one, and what the shipped ones hold."""

from __future__ import annotations

import pytest
from commands import TRAIN, refused

from irpo.config.layers import parse_value
from irpo.types import UserError

VALUES = {
    "a month 99": "2001-99-99",
    "hexadecimal of nothing": "0x_",
    "beyond Unicode": '"\\U00110000"',
    "half a pair": '"\\ud800"',
    "!!bool": "!!bool x",
    "!!timestamp": "!!timestamp x",
    "a date": "2001-01-01",
    "a set": "!!set {a}",
    "deep": "[" * 2000,
    "long": "9" * 5000,
    "in a circle": "&a {x: *a}",
    "NUL": "a\0b",
    "a key that is no text": "{1: 2}",
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_t_a_value_that_yaml_or_python_cannot_hold(irpo, value, tmp_path):
    with pytest.raises(UserError, match="override"):
        parse_value(value, "override")
    if "\0" not in value:
        refused(irpo(*TRAIN, f"task.data={value}", "--out", "x"), "override 'task.data=")
    (tmp_path / "layer.yaml").write_text(f"seed: 1\ntask:\n  data: {value}\n")
    refused(irpo(*TRAIN, "layer.yaml", "--out", "x"), "layer.yaml")


# Nine times nine times ... of one letter, in a few lines.
LAUGHS = b"a: [x]\n" + b"".join(b"%c: &%c [%s]\n" % (c, c, b",".join([b"*%c" % (c - 1)] * 9)) for c in b"cdefghi")
LAUGHS = LAUGHS.replace(b"*b", b"x")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"seed: 1\ntask: &a {x: *a}\n", "layer.yaml: broken YAML: nested too deep"),
        (b"seed: 1\nx: \0\n", "layer.yaml:2: broken YAML: the character #x0000"),
        (b"seed: 1\nx: \xff\n", "layer.yaml:2: byte 0xff is not UTF-8"),
        (b"seed: 1\n\nx: 2001-99-99\n", "layer.yaml:3: broken YAML: the value '2001-99-99' is no timestamp"),
        (LAUGHS, "holds too much"),
    ],
)
def test_t_a_file_that_is_no_configuration(irpo, tmp_path, text, says):
    (tmp_path / "layer.yaml").write_bytes(text)
    refused(irpo(*TRAIN, "layer.yaml", "--out", "x"), says)


@pytest.mark.parametrize("name", ["['']", "[.x]", "[a..b]", "['a b']"])
def test_t_a_plugin_that_is_no_modules_name(irpo, name):
    refused(irpo(*TRAIN, f"plugins={name}", "--out", "x"), "override", "is no module's name")
    refused(irpo("list", "--plugin", ""), "is no module's name")


OPTIONS = {
    "method:\n  objective:\n    bta: 1\n": ("layer.yaml:3: unknown option 'bta' of objective 'irpo'", "mean 'beta'?"),
    "method:\n  objective:\n    beta: fast\n": ("layer.yaml:3: objective 'irpo': beta = 'fast'",),
    "method:\n  objective:\n    metric:\n      name: precision\n      kk: 1\n": ("layer.yaml:5: unknown option 'kk'",),
    "method:\n  objective:\n    metric: [ndcg]\n": ("layer.yaml:3: positional metric: ['ndcg']; give a name",),
    "method:\n  scorer: independant\n": ("layer.yaml:2: unknown scorer 'independant'", "mean 'independent'?"),
    "task:\n  train_list: 5\n": ("layer.yaml:2: unknown option 'train_list' of task 'world'",),
    "evaluation:\n  modes:\n    - score\n    - scorre\n": (
        "layer.yaml:4: unknown ranking mode 'scorre'",
        "mean 'score'?",
    ),
    "online:\n  method:\n    name: larpo\n    memori: all\n": ("layer.yaml:4: unknown option 'memori' of on-policy",),
    "method:\n  objective: null\n  objectives:\n    - name: irpo\n    - name: dpo\n      bta: 2\n": (
        "layer.yaml:6: unknown option 'bta' of objective 'dpo'",
    ),
    "online:\n  method: larpo\n  sampler:\n    name: transformers\n    answers: 3\n": (
        "layer.yaml:5: unknown option 'answers' of sampler",
    ),
}


@pytest.mark.parametrize(("text", "says"), OPTIONS.items(), ids=range(len(OPTIONS)))
def test_t_a_plugins_options_keep_file_and_line(irpo, tmp_path, text, says):
    (tmp_path / "layer.yaml").write_text(text)
    refused(irpo(*TRAIN, "layer.yaml", "--out", "x"), *says)


def test_t_an_overrides_option_is_the_overrides(irpo):
    override = "method.objective={name: irpo, metric: {name: precision, k: x}}"
    refused(irpo(*TRAIN, override, "--out", "x"), f"override {override!r}: ", "k = 'x'")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("training.updates",), "an override is written key.sub=value"),
        (("models/embeded.yaml",), "(did you mean 'models/embedded.yaml'?)"),
        (("learning_rate=1",), "(did you mean 'training.learning_rate'?)"),
        (("training.learning_rat=1",), "(did you mean 'training.learning_rate'?)"),
        (("method.objective=irpoo",), "(did you mean 'irpo'?)"),
    ],
)
def test_u18_did_you_mean(irpo, words, says):
    err = refused(irpo(*TRAIN, *words, "--out", "x"), says)
    assert "methods/sft.yaml" not in err  # not the list of all files


def test_d5_a_revision_of_the_hub_can_be_pinned(monkeypatch):
    import transformers

    from irpo.scoring import models
    from irpo.tasks._hub import load_hub

    asked = []
    monkeypatch.setattr("datasets.load_dataset", lambda *spec, **more: asked.append((*spec, more)) or {})
    load_hub("hub@v2", "allenai/ai2_arc", "ARC-Challenge")
    assert asked == [("allenai/ai2_arc", "ARC-Challenge", {"revision": "v2"})]

    def tokenizer(place, revision, **_):
        asked.append((place, revision))
        raise OSError("enough")

    monkeypatch.setattr(models, "require_there", lambda name: None)
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", tokenizer)
    with pytest.raises(UserError, match="cannot load model 'who/what@abc123'"):
        models.load_tokenizer("who/what@abc123")
    assert asked[-1] == ("who/what", "abc123")


def test_d1_every_model_config_carries_a_learning_rate_for_lora():
    from irpo.config.schema import load_config
    from irpo.resources import configs_dir

    files = sorted((configs_dir() / "models").glob("*.yaml"))
    assert len(files) >= 11
    for file in files:
        config = load_config([file, "tasks/world.yaml", "methods/sft.yaml"])
        assert config.model.tuning == "lora"
        assert 5e-5 <= config.training.learning_rate <= 3e-4, file.name


def test_d5_the_card_names_the_model_as_the_hub_knows_it():
    from irpo.config.schema import load_config
    from irpo.training.outcome import model_card

    config = load_config(["models/phi4-mini.yaml", *TRAIN[2:]], ["model.name=who/what@abc123"])
    cuts = {"prompts_cut": 0, "special_texts": 0}
    text = model_card(config, {"notes": [], "splits": {}}, cuts, None, key="0")
    assert "base_model: who/what\n" in text
    assert "`who/what@abc123`" in text
