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

from irpo import api, cli
from irpo.config.layers import parse_value
from irpo.config.schema import load_config
from irpo.evaluation.report import _told
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
    "another's folder": [*TRAIN, "--out", "mine"],
    "a template": [*TRAIN, "prompt.template=nowhere.jinja", "--out", "x"],
    "a broken row": [*TRAIN, "task={name: jsonl, data: mine}", "--out", "x"],
}


@pytest.mark.parametrize("words", MISTAKES.values(), ids=MISTAKES)
def test_a1_what_needs_no_model_imports_no_training_stack(tmp_path, words):
    (tmp_path / "taken").write_text("a file")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "train.jsonl").write_text('{"id": \n')
    imported, said = in_a_fresh_python(*words, cwd=tmp_path)
    assert imported == set()
    assert "Traceback" not in said
    if words[0] not in ("prepare", "list"):
        assert len([line for line in said.splitlines() if line.startswith("error: ")]) == 1


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


def strangers(folder: Path) -> None:
    """Files that bear the names of installed packages."""
    for name in ("scipy", "numpy", "jinja2", "typer", "psutil", "dataclasses"):
        (folder / f"{name}.py").write_text("raise SystemExit('run by mistake')\n")


def test_s3_a_file_here_never_stands_in_for_a_package(tmp_path):
    strangers(tmp_path)
    (tmp_path / "my_own_metric.py").write_text("LOADED = True\n")
    _, said = in_a_fresh_python("list", "metrics", "--plugin", "my_own_metric", cwd=tmp_path, PYTHONSAFEPATH="1")
    assert said == ""


def test_s3_nor_under_python_m(tmp_path):
    strangers(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "irpo", "--help"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_s4_what_prepare_and_a_report_print_is_shown_and_not_obeyed(irpo, tmp_path):
    row = {"id": "a", "query": "q", "candidates": [{"id": c, "text": c, "relevance": 1} for c in "xy"]}
    (tmp_path / "train\x1b[2J.jsonl").write_text(f"{json.dumps(row)}\n7\n")
    code, out, err = irpo("prepare", "--task", "jsonl", "--data", "train\x1b[2J.jsonl", "--out", "o", "--skip-bad-rows")
    assert code == 0
    assert r"train\x1b[2J.jsonl:2" in out
    assert "\x1b" not in out + err
    assert _told("a\x9b2Jb") == r"a\x9b2Jb"


def test_l4_prepare_killed_while_it_replaces_leaves_no_card_over_other_lists(monkeypatch, tmp_path):
    class Killed(BaseException):
        pass

    def replaces(source, target):
        if Path(target).name == "train.jsonl" and Path(target).parent.name == "lists":
            raise Killed
        real(source, target)

    real = os.replace
    api.prepare({"name": "world", "train_lists": 20, "eval_lists": 5}, tmp_path / "lists")
    monkeypatch.setattr(os, "replace", replaces)
    with pytest.raises(Killed):
        api.prepare({"name": "world", "train_lists": 30, "eval_lists": 5}, tmp_path / "lists")
    assert not (tmp_path / "lists" / "card.json").exists()


@pytest.mark.parametrize(
    "words",
    [
        ("train", "{long}", "--out", "o"),
        ("rank", "--model", "{long}", "q", "a", "b"),
        ("rank", "--model", "embedded", "q", "--file", "{long}"),
        ("prepare", "--task", "jsonl", "--data", "{long}", "--out", "o"),
        ("evaluate", "--task", "world", "--model", "embedded", "--out", "o/{long}"),
    ],
)
def test_u18_a_name_that_no_file_can_have(irpo, words):
    refused(irpo(*(word.format(long="a" * 300) for word in words)), "File name too long")


@pytest.mark.parametrize("words", [("\udcff", "a", "b"), ("q", "a", "\udcff")])
def test_t_an_argument_that_is_not_utf_8(irpo, words):
    refused(irpo("rank", "--model", "embedded", *words), r"holds '\udcff', half of a surrogate pair")


def test_u3_a_document_of_a_file_ends_at_its_line_and_nowhere_else(tmp_path):
    (tmp_path / "docs.txt").write_bytes("a\u2028b\x0cc\r\nd\n".encode())
    assert cli._lines(tmp_path / "docs.txt") == ["a\u2028b\x0cc", "d"]


def test_u14_prepare_prints_a_summary(irpo, tmp_path):
    code, out, err = irpo("prepare", "--task", "world", "--out", "lists", "train_lists=20", "eval_lists=5")
    assert code == 0, err
    assert len(out.splitlines()) < 12
    assert "20 lists" in out
    assert json.loads((tmp_path / "lists" / "card.json").read_text())["splits"]["train"]["lists"] == 20


def test_u13_a_hub_that_does_not_answer_is_asked_once(monkeypatch):
    import datasets
    from huggingface_hub import HfApi

    from irpo.tasks._hub import load_hub

    asked = []

    def silent(self, *args, **kwargs):
        asked.append(args)
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(HfApi, "dataset_info", silent)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)

    def load(*spec, **_):
        assert datasets.config.HF_HUB_OFFLINE  # so that the library tries nothing itself
        raise ConnectionError("not in the cache")

    monkeypatch.setattr("datasets.load_dataset", load)
    with pytest.raises(UserError, match="the hub cannot be reached: go online, or give the folder"):
        load_hub("hub", "allenai/ai2_arc", None)
    assert len(asked) == 1
    assert not datasets.config.HF_HUB_OFFLINE


def test_d5_a_revision_of_the_hub_can_be_pinned(monkeypatch):
    import transformers

    from irpo.scoring import models
    from irpo.tasks._hub import load_hub

    asked = []
    monkeypatch.setattr("datasets.load_dataset", lambda *spec, **more: asked.append((*spec, more)) or {})
    load_hub("hub@v2", "allenai/ai2_arc", "ARC-Challenge")
    assert asked == [("allenai/ai2_arc", "ARC-Challenge", {"revision": "v2"})]

    def tokenizer(place, revision):
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


IMPLIED = {"accelerate", "pytrec-eval-terrier", "bitsandbytes"}  # other libraries import them for us


def test_m3_what_is_imported_is_declared_and_nothing_else():
    import ast
    import re
    import tomllib

    root = Path(__file__).parents[2]
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + [
        x for key in ("llm", "dense", "vllm") for x in project["optional-dependencies"][key]
    ]
    declared = {re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0].lower().replace("_", "-") for line in wanted}
    names = {"yaml": "pyyaml"}
    imported = set()
    for path in (root / "irpo").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                imported.add(node.module.partition(".")[0])
    foreign = {names.get(name, name.replace("_", "-")) for name in imported - set(sys.stdlib_module_names) - {"irpo"}}
    assert foreign - declared == set()
    assert declared - foreign - IMPLIED == set()


def test_m3_memory_is_known_where_unix_is_not(monkeypatch):
    from types import SimpleNamespace

    import psutil

    from irpo import processes as machine

    assert machine.memory() > 2**28
    assert machine.peak_of_process() > 2**24
    monkeypatch.setitem(sys.modules, "resource", None)  # Windows has none
    monkeypatch.delattr("os.sysconf", raising=False)
    monkeypatch.setattr(psutil, "Process", lambda: SimpleNamespace(memory_info=lambda: SimpleNamespace(peak_wset=7)))
    assert machine.peak_of_process() == 7
    assert machine.memory() > 2**28


def quickstart_of(monkeypatch, write):
    """The quickstart whose training is `write(folder)`, and nothing measured."""
    from irpo import quickstart

    def compare(work, out, config_file):
        write(work)
        return {}

    monkeypatch.setattr(quickstart, "_compare", compare)
    return quickstart.run


def test_u2_an_earlier_quickstart_stays_until_the_new_one_is_whole(monkeypatch, tmp_path):
    def write(folder, text="new"):
        (folder / "irpo").mkdir()
        (folder / "irpo" / "report.md").write_text(text)
        (folder / "report.md").write_text(text)

    def fails(folder):
        write(folder)
        raise KeyboardInterrupt

    out = tmp_path / "runs" / "quickstart"
    quickstart_of(monkeypatch, lambda folder: write(folder, "old"))(out)
    (out / "notes.txt").write_text("mine")
    (out / "irpo-mine").mkdir()
    with pytest.raises(KeyboardInterrupt):
        quickstart_of(monkeypatch, fails)(out)
    assert (out / "report.md").read_text() == (out / "irpo" / "report.md").read_text() == "old"
    quickstart_of(monkeypatch, write)(out)
    assert (out / "report.md").read_text() == (out / "irpo" / "report.md").read_text() == "new"
    assert (out / "notes.txt").read_text() == "mine"
    assert (out / "irpo-mine").is_dir()
    assert [path.name for path in out.parent.iterdir()] == ["quickstart"]


def test_l10_what_a_dead_quickstart_left_goes_with_the_next(monkeypatch, tmp_path):
    out = tmp_path / "quickstart"
    code = f"import os\nfrom irpo import quickstart as q\nwith q._beside(q.Path({str(out)!r})):\n    os._exit(0)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)
    assert len(list(tmp_path.iterdir())) == 1
    quickstart_of(monkeypatch, lambda folder: None)(out)
    assert [path.name for path in tmp_path.iterdir()] == ["quickstart"]


def test_u14_a_part_of_a_larger_job_names_no_folder_that_will_not_be_there(tmp_path, capsys):
    from irpo import pipeline

    layers = ["models/embedded.yaml", "tasks/world.yaml", "methods/sft.yaml"]
    small = ["task.train_lists=20", "task.eval_lists=2", "training.updates=1", "training.lists_per_update=1"]
    label = ["prompt.style=label", "model.lora.r=1", "model.lora.targets=[q_proj]", "training.max_validation_lists=2"]
    pipeline.train(load_config(layers, [*small, *label]), tmp_path / "part", alone=False)
    said = capsys.readouterr().err
    assert "validation NDCG@10" in said
    assert str(tmp_path) not in said


def test_u12_the_report_says_what_was_compared(tmp_path):
    from irpo.config.schema import load_config
    from irpo.quickstart import _length, _subject

    files = ["methods/irpo.yaml", "quickstart.yaml"]
    assert _subject(load_config(files)) == "The embedded model on its synthetic world: LoRA rank 8"
    own = load_config(files, ["task={name: jsonl, data: mine}", "model.name=runs/x", "training.updates=null"])
    assert _subject(own) == "runs/x on the task jsonl: mine: LoRA rank 8"
    assert _length(own) == "passes over the data: 1, in updates"


def package(folder: Path, name: str, module: str, text: str) -> None:
    """An installed package with one plug-in module."""
    (folder / f"{module}.py").write_text(text)
    about = folder / f"{name}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[irpo.plugins]\nmine = {module}\n")


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """A folder of installed packages, which are looked for anew; the second is a kind of plug-in of theirs."""
    from irpo.registry import load_installed

    (tmp_path / "kinds_of_theirs.py").write_text("from irpo.registry import Registry\nKIND = Registry('thing')\n")
    monkeypatch.syspath_prepend(tmp_path)
    load_installed.cache_clear()
    yield tmp_path
    load_installed.cache_clear()
    for name in ("kinds_of_theirs", "plugin_of_theirs"):
        sys.modules.pop(name, None)


PLUGIN = """
from dataclasses import dataclass
from kinds_of_theirs import KIND

@KIND.register('theirs')
@dataclass(frozen=True)
class Theirs:
    k: int = 1
"""


@pytest.mark.parametrize("first", ["build", "list", "contains"])
def test_b12_plugins_of_installed_packages_are_found(installed, first):
    package(installed, "irpo-theirs", "plugin_of_theirs", PLUGIN)
    from kinds_of_theirs import KIND  # type: ignore[import-not-found]

    assert {
        "build": lambda: KIND.build({"name": "theirs", "k": 3}).k == 3,
        "list": lambda: list(KIND) == ["theirs"],
        "contains": lambda: "theirs" in KIND,
    }[first]()


def test_b12_an_installed_plugin_that_is_broken_is_named(installed):
    package(installed, "irpo-theirs", "plugin_of_theirs", "import no_such_module_at_all\n")
    from kinds_of_theirs import KIND  # type: ignore[import-not-found]

    with pytest.raises(UserError, match="'plugin_of_theirs' of the installed package 'irpo-theirs' cannot be imported"):
        KIND.build("theirs")


def test_b12_the_commands_are_functions(monkeypatch, tmp_path):
    import types
    from inspect import signature

    import irpo

    card = irpo.prepare({"name": "world", "train_lists": 20, "eval_lists": 5}, tmp_path / "lists")
    assert card["splits"]["eval"]["lists"] == 5
    calls = []
    fake = types.ModuleType("irpo.pipeline")
    fake.train = lambda *args, **kwargs: calls.append((args, kwargs)) or {}
    fake.evaluate = lambda *args, **kwargs: calls.append((args, kwargs)) or {}
    monkeypatch.setitem(sys.modules, "irpo.pipeline", fake)
    monkeypatch.setattr(irpo, "pipeline", fake, raising=False)
    irpo.train([*TRAIN[1:], "training.updates=3"], tmp_path / "run", resume=True)
    ((config, out), given) = calls.pop()
    assert (config.training.updates, out, given) == (3, tmp_path / "run", {"resume": True})
    with pytest.raises(UserError, match=r"override 'method\.objective\.bta=1': unknown option 'bta'"):
        irpo.train([*TRAIN[1:], "method.objective.bta=1"], tmp_path / "run")
    irpo.evaluate("embedded", tmp_path / "e", task={"name": "world", "world_seed": 2}, modes=["score"], max_lists=4)
    ((model, task, out, settings), _) = calls.pop()
    assert (model, task, settings.max_lists, len(settings.modes)) == (
        "embedded",
        {"name": "world", "world_seed": 2},
        4,
        1,
    )
    assert all(signature(f).return_annotation for f in (irpo.prepare, irpo.train, irpo.evaluate))


def test_d5_the_card_names_the_model_as_the_hub_knows_it():
    from irpo.config.schema import load_config
    from irpo.training.outcome import model_card

    config = load_config(["models/phi4-mini.yaml", *TRAIN[2:]], ["model.name=who/what@abc123"])
    cuts = {"prompts_cut": 0, "special_texts": 0}
    text = model_card(config, {"notes": [], "splits": {}}, cuts, None, key="0")
    assert "base_model: who/what\n" in text
    assert "`who/what@abc123`" in text
