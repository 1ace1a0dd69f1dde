"""A run's folder may be somebody else's: what it names runs, and what it holds is opened, on the user's word alone."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml
from commands import TRAIN, refused
from safetensors.torch import load_file
from small_runs import SMALL, config_of

from irpo import api, pipeline
from irpo.config.checks import checked_config
from irpo.config.schema import to_yaml
from irpo.ranking.reranker import Reranker
from irpo.resources import embedded_dir
from irpo.runs import checkpoints
from irpo.scoring.models import load_model, load_tokenizer
from irpo.types import UserError

EVIL = "a_plugin_of_somebody_else"
ROUTES = {
    "evaluate": ["evaluate", "--model", "theirs", "--out", "x"],
    "evaluate --like": ["evaluate", "--model", "embedded", "--like", "theirs", "--out", "x"],
    "rank": ["rank", "--model", "theirs", "q", "a", "b"],
    "train": ["train", "theirs/config.yaml", "--out", "x"],
    "estimate": ["estimate", "theirs/config.yaml"],
}


@pytest.fixture
def theirs(tmp_path, monkeypatch):
    """A run of somebody else's in `theirs`, and the file that shows whether its code has run."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / f"{EVIL}.py").write_text("open('ran', 'w').close()\ndef judge(example, answers): ...\n")
    folder = tmp_path / "theirs"
    (folder / "adapter").mkdir(parents=True)
    write(folder, f"plugins=[{EVIL}]")
    yield folder
    sys.modules.pop(EVIL, None)


def write(folder, *overrides):
    (folder / "config.yaml").write_text(to_yaml(config_of(*overrides)))


@pytest.mark.parametrize("words", ROUTES.values(), ids=ROUTES)
def test_what_a_run_names_is_not_imported_and_the_line_names_it(theirs, irpo, words):
    said = refused(irpo(*words), EVIL, "--trust-plugins", "--plugin", "theirs")
    assert not (theirs.parent / "ran").exists()
    assert not (theirs.parent / "x").exists()
    assert said.count(EVIL) == 1


@pytest.mark.parametrize("words", ROUTES.values(), ids=ROUTES)
def test_the_users_word_imports_it(theirs, irpo, words):
    """The run has no weights, nor are there any to be made: what stops each route now is something else."""
    write(theirs, f"plugins=[{EVIL}]", "task.world_seed=-7.5")
    _, _, said = irpo(*words, "--trust-plugins")
    assert (theirs.parent / "ran").exists()
    assert "trust" not in said


def test_a_module_that_the_user_names_is_trusted(theirs, irpo):
    for words in (["--plugin", EVIL], ["--plugin", EVIL, "--trust-plugins"]):
        _, _, said = irpo(*ROUTES["evaluate"], *words)
        assert "adapter" in said
        sys.modules.pop(EVIL)
    checked_config(["theirs/config.yaml"], [f"plugins=[{EVIL}]"])
    sys.modules.pop(EVIL)
    (theirs.parent / "mine.yaml").write_text(f"plugins: [{EVIL}]\n")
    checked_config(["theirs/config.yaml", "mine.yaml"])


def test_from_python_too(theirs):
    for load in (
        lambda **trust: Reranker.load("theirs", **trust),
        lambda **trust: api.evaluate("theirs", "x", **trust),
        lambda **trust: api.train(["theirs/config.yaml", "task.world_seed=-7.5"], "x", **trust),
    ):
        with pytest.raises(UserError, match=f"^theirs.* names the plug-ins {EVIL}, which would run code"):
            load()
        assert not (theirs.parent / "ran").exists()
        with pytest.raises(UserError) as error:
            load(trust_plugins=True)
        assert "trust" not in str(error.value)
        (theirs.parent / "ran").unlink()
        sys.modules.pop(EVIL)


def test_a_run_on_their_run_imports_nothing(theirs, irpo):
    code, _, said = irpo(*TRAIN, "model.name=theirs", "task.train_lists=40", "--out", "x")
    assert code == 2
    assert said.splitlines()[-1].startswith("error: no adapter in ")
    assert not (theirs.parent / "ran").exists()


def test_the_function_of_their_reward_is_a_plug_in_too(theirs):
    online = {"method": {"name": "reinforce", "reward": {"name": "python", "function": f"{EVIL}:judge"}}}
    own = yaml.safe_load((theirs / "config.yaml").read_text()) | {"plugins": [], "online": online}
    (theirs / "config.yaml").write_text(yaml.safe_dump(own))
    with pytest.raises(UserError, match=EVIL):
        checked_config(["theirs/config.yaml"])
    assert not (theirs.parent / "ran").exists()
    checked_config(["theirs/config.yaml"], trust_plugins=True)
    assert (theirs.parent / "ran").exists()


def test_a_layer_of_the_users_is_the_users_word(theirs):
    (theirs.parent / "config.yaml").write_text(f"plugins: [{EVIL}]\n")
    checked_config(["models/embedded.yaml", "tasks/world.yaml", "methods/irpo.yaml", "config.yaml"])
    assert (theirs.parent / "ran").exists()


def test_what_is_imported_already_runs_nothing_more(theirs):
    write(theirs, "plugins=[json, irpo.objectives.irpo]")
    checked_config(["theirs/config.yaml"])


def test_the_key_is_not_sent_where_a_run_says(theirs, monkeypatch):
    task = {"name": "inspired", "data": ".", "llm_endpoint": "http://theirs.example", "llm_model": "m"}
    own = yaml.safe_load((theirs / "config.yaml").read_text()) | {"plugins": [], "task": task}
    (theirs / "config.yaml").write_text(yaml.safe_dump(own))
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    for ask in (lambda: api.evaluate("theirs", "x"), lambda: checked_config(["theirs/config.yaml"])):
        with pytest.raises(UserError, match=r"the endpoint 'http://theirs.example', which would be sent your OPENAI"):
            ask()
    checked_config(["theirs/config.yaml"], ["task.llm_endpoint=http://theirs.example"])
    monkeypatch.delenv("OPENAI_API_KEY")
    checked_config(["theirs/config.yaml"])


# --- pickles and code in folders of weights ---------------------------------------------------------------------------


class Bomb:
    """A pickle that makes a file when it is opened as one."""

    def __reduce__(self):
        return open, ("went_off", "w")


def bomb(path, *, zipped=True):
    """Two forms of it: torch's archive, and the bare pickle."""
    torch.save(Bomb(), path, _use_new_zipfile_serialization=zipped)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run stopped at update 2 of 4, with its checkpoint, and the words that it goes on with."""
    folder = tmp_path_factory.mktemp("own") / "run"
    pipeline.train(config_of("training.updates=2"), folder, advises=False)
    return folder


@pytest.fixture
def run(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(trained, tmp_path / "run"))


def newest(run):
    return checkpoints.all_in(run / "checkpoints")[-1]


def go_on(run):
    pipeline.train(config_of("training.updates=4"), run, resume=True, advises=False)


PICKLES = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin")


def test_these_are_the_pickles_of_a_checkpoint(run):
    held = {path.name for path in newest(run).iterdir()}
    assert set(PICKLES) == {name for name in held if Path(name).suffix in (".pt", ".pth", ".bin", ".pkl", ".ckpt")}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", PICKLES)
def test_a_bomb_among_them_does_not_go_off(run, name, zipped):
    """In a checkpoint that says it is whole: what is opened is opened as tensors, and refused in one line."""
    bomb(newest(run) / name, zipped=zipped)
    checkpoints.seal(newest(run))
    if name == "training_args.bin":
        go_on(run)  # nobody opens it
    else:
        with pytest.raises(UserError, match=rf"{name}.*checkpoint") as error:
            go_on(run)
        assert "\n" not in str(error.value)
    assert not Path("went_off").exists()


def test_only_going_on_opens_any(run, irpo, monkeypatch):
    """Evaluate, rank, train on it, compare two of its evaluations: of pickles not even the bytes are read."""
    monkeypatch.chdir(run.parent)
    for path in run.rglob("*"):
        if path.name in PICKLES:
            bomb(path)
    bomb(run / "adapter" / "adapter_model.bin")
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("a pickle is opened"))
    for words in (
        ("evaluate", "--model", "run", "--out", "e", "--mode", "score", "--max-lists", "2"),
        ("rank", "--model", "run", "q", "a", "b"),
        ("diff", "e", "e"),
        (*TRAIN, *SMALL, "model.name=run", "training.updates=1", "--out", "on"),
    ):
        code, _, said = irpo(*words)
        assert code == 0, said
    assert not Path("went_off").exists()


@pytest.mark.parametrize("kind", ["adapter", "model"])
def test_a_runs_weights_are_no_pickle(run, kind):
    if kind == "adapter":
        weights = run / "adapter" / "adapter_model.safetensors"
        torch.save(load_file(weights), weights.with_name("adapter_model.bin"))
        weights.unlink()
        says = "adapter_model.safetensors, are not there"
    else:
        shutil.copytree(embedded_dir(), run / "model")
        weights = run / "model" / "model.safetensors"
        torch.save(load_file(weights), weights.with_name("pytorch_model.bin"))
        weights.unlink()
        says = "safetensors"
    with pytest.raises(UserError, match=says):
        Reranker.load(str(run))


def test_a_models_pickle_holds_tensors_or_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(embedded_dir(), "old")
    weights = load_file("old/model.safetensors")
    Path("old/model.safetensors").unlink()
    torch.save(weights, "old/pytorch_model.bin")
    assert load_model("./old").num_parameters() > 0
    bomb(Path("old/pytorch_model.bin"))
    with pytest.raises(UserError, match=r"cannot load model '\./old'"):
        load_model("./old")
    assert not Path("went_off").exists()


def test_a_models_own_code_is_not_run_nor_offered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("the user is asked"))
    shutil.copytree(embedded_dir(), "own")
    config = json.loads(Path("own/config.json").read_text())
    code = {"model_type": "ours", "auto_map": {"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"}}
    Path("own/config.json").write_text(json.dumps(config | code))
    Path("own/code.py").write_text("open('went_off', 'w')\n")
    tokenizer = json.loads(Path("own/tokenizer_config.json").read_text())
    theirs = {"tokenizer_class": "Ours", "auto_map": {"AutoTokenizer": ["code.T", "code.T"]}}
    Path("own/tokenizer_config.json").write_text(json.dumps(tokenizer | theirs))
    for load in (load_model, load_tokenizer):
        with pytest.raises(UserError, match=r"code of its own to be run \(auto_map\), which is never done"):
            load("./own")
    Path("own/tokenizer_config.json").write_text(json.dumps(tokenizer))
    with pytest.raises(UserError, match="auto_map"):
        Reranker.load("./own")
    Path("own/config.json").write_text(json.dumps(config | {"auto_map": code["auto_map"]}))
    assert load_model("./own").num_parameters() > 0  # transformers knows this family: its own code is what runs
    assert not Path("went_off").exists()
