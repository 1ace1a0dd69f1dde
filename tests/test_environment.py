"""What a run's folder says of where it was made, and of its data."""

import getpass
import json
import platform
import shutil
import subprocess
from pathlib import Path

import pytest
from small_runs import config_of

from irpo import pipeline, runs
from irpo.runs import environment as module
from irpo.runs.environment import commit, cpu_model, environment, environment_file
from irpo.tasks.preparing import build

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def test_it_names_versions_and_the_machines_kind():
    found = environment()
    assert found["python"] == platform.python_version()
    assert found["threads"] >= 1
    assert found["packages"]["torch"]
    assert set(found["packages"]) == set(module.PACKAGES)
    assert cpu_model()


def test_it_names_no_user_host_or_path():
    text = json.dumps(environment())
    assert "/" not in text
    for private in (platform.node(), getpass.getuser(), Path.home().name, Path.cwd().name):
        assert f'"{private}"' not in text
        assert f" {private} " not in text


def git(folder, *words):
    own = ("-c", "user.name=n", "-c", "user.email=e@x", "-c", "commit.gpgsign=false")
    command = ["git", "-C", folder, *own, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@needs_git
def test_a_commit_has_a_plus_where_our_code_was_changed(tmp_path, monkeypatch):
    assert commit(tmp_path) is None
    (tmp_path / "irpo").mkdir()
    (tmp_path / "irpo" / "code.py").write_text("1")
    git(tmp_path, "init")
    assert commit(tmp_path) is None  # nothing is committed yet
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    head = git(tmp_path, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))  # as inside a hook
    assert commit(tmp_path) == head
    (tmp_path / "notes").write_text("not run")
    assert commit(tmp_path) == head
    (tmp_path / "irpo" / "more.py").write_text("2")
    assert commit(tmp_path) == f"{head}+"


@needs_git
def test_a_package_inside_somebody_elses_repository_is_no_checkout(tmp_path):
    git(tmp_path, "init")
    (tmp_path / "site-packages").mkdir()
    assert commit(tmp_path / "site-packages") is None


def test_a_run_that_goes_on_elsewhere_keeps_where_it_was_before(tmp_path, monkeypatch):
    for version in ("1", "2", "2", "1", "3"):
        monkeypatch.setattr(module, "environment", lambda version=version: {"python": version})
        (tmp_path / "environment.json").write_text(environment_file(tmp_path))
    found = json.loads((tmp_path / "environment.json").read_text())
    assert found == {"python": "3", "earlier": [{"python": "2"}, {"python": "1"}]}


def test_a_runs_folder_holds_what_it_comes_from(tmp_path):
    config, out = config_of("training.updates=1"), tmp_path / "run"
    pipeline.train(config, out)
    assert json.loads((out / "environment.json").read_text()) == environment()
    card = json.loads((out / "data_card.json").read_text())
    assert card.items() >= json.loads(json.dumps(build(config.task)[1])).items()
    assert (out / "config.yaml").is_file()
    assert {"loss", "eval_NDCG@10"} <= {key for line in (out / "log.jsonl").open() for key in json.loads(line)}


def test_a_run_from_before_there_were_such_files_goes_on_and_loads(tmp_path):
    out = tmp_path / "run"
    pipeline.train(config_of("training.updates=2"), out)
    key = json.loads((out / "run.json").read_text())
    for name in ("environment.json", "data_card.json", "cost.json", "README.md"):
        (out / name).unlink()
    runs.load_weights(str(out))
    pipeline.train(config_of("training.updates=2"), out, resume=True)
    assert json.loads((out / "run.json").read_text()) == key
    assert (out / "environment.json").is_file()
    assert (out / "data_card.json").is_file()
