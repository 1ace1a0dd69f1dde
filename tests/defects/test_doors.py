"""The doors: what they import, and one line for each mistake that can be seen before a model is needed.

A test is named after the point of the list of defects that it holds shut.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from irpo import cli
from irpo.layers import parse_value
from irpo.types import UserError

HEAVY = ("transformers.trainer", "peft", "bitsandbytes", "accelerate", "datasets", "torch._dynamo")
TRAIN = ("train", "models/embedded.yaml", "tasks/world.yaml", "methods/irpo.yaml")


@pytest.fixture
def irpo(monkeypatch, capsys, tmp_path):
    """Runs `irpo ...` in an empty folder; gives exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        monkeypatch.setattr("sys.argv", ["irpo", *map(str, words)])
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        return (code, *capsys.readouterr())

    return run


def refused(result, *says):
    """The one line of a mistake, whose parts are checked."""
    code, _, err = result
    assert code == 2, err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    for part in says:
        assert part in err
    return err


def in_a_fresh_python(*words: str, cwd: Path | None = None, **environment: str) -> tuple[set[str], str]:
    """What `irpo ...` imports of `HEAVY`, and what it prints on stderr."""
    code = (
        "import sys, atexit\n"
        f"atexit.register(lambda: print('IMPORTED', *[m for m in {HEAVY} if m in sys.modules], file=sys.stderr))\n"
        f"sys.argv = ['irpo', *{list(words)}]\n"
        "from irpo.cli import main\nmain()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=cwd, env=os.environ | environment
    )
    said, _, imported = done.stderr.rpartition("IMPORTED")
    return set(imported.split()), said


MISTAKES = {
    "prepare": ["prepare", "--task", "world", "--out", "lists", "train_lists=20", "eval_lists=5"],
    "list": ["list", "--json"],
    "an option in YAML": [*TRAIN, "method.objective.bta=1", "--out", "x"],
    "a model's name": [*TRAIN, "model.name=./nowhere", "--out", "x"],
    "rank with a wrong path": ["rank", "--model", "runs/nowhere", "query", "a", "b"],
    "evaluate with a wrong path": ["evaluate", "--model", "./nowhere", "--out", "x"],
    "an output folder": [*TRAIN, "--out", "taken/x"],
}


@pytest.mark.parametrize("words", MISTAKES.values(), ids=MISTAKES)
def test_a1_what_needs_no_model_imports_no_training_stack(tmp_path, words):
    (tmp_path / "taken").write_text("a file")
    imported, said = in_a_fresh_python(*words, cwd=tmp_path)
    assert imported == set()
    assert "Traceback" not in said


def test_m2_a_missing_kernel_of_the_hub_is_nobodys_concern(caplog):
    import logging

    import irpo  # noqa: F401 - what is hushed is hushed on import

    for name, line in {
        "bitsandbytes.backends.cpu.ops": "Failed to load CPU gemm_4bit_forward from kernels-community: %s. Please",
        "transformers.trainer_utils": "mtime may not be reliable on this filesystem, falling back",
    }.items():
        with caplog.at_level("WARNING"):
            logging.getLogger(name).warning(line, "No module named 'kernels'")
            assert caplog.records == []
            logging.getLogger(name).warning("something of concern")
        assert len(caplog.records) == 1
        caplog.clear()


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
    "method:\n  objective: null\n  objectives:\n    - name: irpo\n    - name: dpo\n      bta: 2\n": (
        "layer.yaml:6: unknown option 'bta' of objective 'dpo'",
    ),
    "online:\n  name: larpo\n  sampler:\n    name: transformers\n    answers: 3\n": (
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


@pytest.mark.parametrize("command", ["train", "prepare", "evaluate", "quickstart"])
@pytest.mark.parametrize("out", ["file", "file/below", "x" * 300])
def test_u18_an_output_folder_that_cannot_be(irpo, tmp_path, command, out):
    (tmp_path / "file").write_text("mine")
    words = {
        "train": TRAIN,
        "prepare": ("prepare", "--task", "world"),
        "evaluate": ("evaluate", "--model", "embedded", "--task", "world"),
        "quickstart": ("quickstart",),
    }[command]
    refused(irpo(*words, "--out", out), "--out")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


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


def test_u18_a_wrong_path_is_the_mistake_and_not_the_task(irpo):
    refused(irpo("evaluate", "--model", "runs/nowhere/1", "--out", "x"), "cannot load model 'runs/nowhere/1'")


@pytest.mark.parametrize(("query", "documents"), [("", ["a", "b"]), ("  ", ["a", "b"]), ("q", ["a", " "])])
def test_u18_nothing_is_not_ranked(irpo, query, documents):
    refused(irpo("rank", "--model", "embedded", query, *documents), "empty")


def test_u18_a_byte_order_mark_is_no_part_of_a_document(tmp_path):
    (tmp_path / "docs.txt").write_text("\ufeffa\nb\n", encoding="utf-8")
    assert cli._lines(tmp_path / "docs.txt") == ["a", "b"]


def test_s3_a_file_here_never_stands_in_for_a_package(tmp_path):
    for name in ("scipy", "numpy", "jinja2"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('run by mistake')\n")
    (tmp_path / "my_own_metric.py").write_text("LOADED = True\n")
    _, said = in_a_fresh_python("list", "metrics", "--plugin", "my_own_metric", cwd=tmp_path, PYTHONSAFEPATH="1")
    assert said == ""


def test_u14_prepare_prints_a_summary(irpo, tmp_path):
    code, out, err = irpo("prepare", "--task", "world", "--out", "lists", "train_lists=20", "eval_lists=5")
    assert code == 0, err
    assert len(out.splitlines()) < 12
    assert "20 lists" in out
    assert json.loads((tmp_path / "lists" / "card.json").read_text())["splits"]["train"]["lists"] == 20
