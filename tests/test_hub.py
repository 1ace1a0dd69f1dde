"""What the hub holds, through the commands: fetched, refused, broken off, out of reach."""

import io
import json
import os
import subprocess
import sys
import time
from types import ModuleType
from unittest import mock

import pytest
import torch
from commands import refused
from handmade import hub_question, question
from hub_stand_in import GUEST, MEMBER, standing_in
from hub_users import point_at
from huggingface_hub import constants
from saved_runs import tiny_base
from tiny import tiny_model

from irpo.hub import offline

ASK = ("a funny film", "Alien", "Heat", "Spaceballs")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model's folder."""
    return tiny_base(tmp_path_factory.mktemp("hub") / "tiny")


@pytest.fixture(scope="module")
def hub(folder):
    with standing_in() as hub:
        hub.put("ann/open", folder)
        hub.put("meta/gated", folder, gated=True)
        yield hub


@pytest.fixture
def user(hub, monkeypatch, tmp_path):
    """Says who asks the hub; by default nobody that it knows."""

    def come(token=None):
        point_at(hub, tmp_path / "cache", monkeypatch, token=token)

    come()
    return come


def ranked(irpo, model, *words):
    code, out, err = irpo("rank", "--model", model, *ASK, "--json", *words)
    assert code == 0, err
    return [(row["text"], row["score"]) for row in json.loads(out)]


def test_an_open_model_ranks_as_its_folder_does(irpo, hub, user, folder):
    assert ranked(irpo, "ann/open") == ranked(irpo, folder)
    assert any(path.endswith("/model.safetensors") for path in hub.paths())


def test_a_gated_model_says_what_to_accept_and_where_to_log_in(irpo, hub, user):
    refused(
        irpo("rank", "--model", "meta/gated", *ASK),
        f"cannot load model 'meta/gated': it is gated: accept its terms at {hub.url}/meta/gated, then log in with",
        "`hf auth login`",
    )
    user(GUEST)
    refused(
        irpo("rank", "--model", "meta/gated", *ASK),
        f"the account of your token has no access (`hf auth whoami`): accept its terms at {hub.url}/meta/gated",
    )
    user(MEMBER)
    assert len(ranked(irpo, "meta/gated")) == 3


def test_a_name_that_is_not_there(irpo, hub, user):
    for token in (None, MEMBER):  # the hub tells strangers 401, members 404
        user(token)
        refused(irpo("rank", "--model", "ann/opne", *ASK), "there is no such folder; the hub has no model 'ann/opne'")
    user("hf_of_last_year")
    refused(
        irpo("rank", "--model", "ann/open", *ASK), "the hub does not know you (no token, or one that it does not take)"
    )


def test_a_revision_is_pinned(irpo, hub, user, tmp_path):
    first = hub.repos["models/ann/open"].refs["main"]
    other = tiny_base(tmp_path / "other", seed=1)
    before = ranked(irpo, "ann/open")
    hub.put("ann/open", other)
    after = ranked(irpo, "ann/open")
    assert ranked(irpo, f"ann/open@{first}") == before != after
    hub.repos["models/ann/open"].refs["main"] = first
    refused(
        irpo("rank", "--model", "ann/open@v9", *ASK), "cannot load model 'ann/open@v9': the hub has no such revision"
    )


def test_a_connection_that_breaks_off_goes_on_where_it_was(irpo, hub, user, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 500)  # of 10 MB
    hub.drops["model.safetensors"] = 1000
    ranked(irpo, "ann/open")
    asked = [told for told in hub.asked if told[0] == "GET" and told[1].endswith("/model.safetensors")]
    assert [told[2] for told in asked] == ["", "bytes=1000-"]


def test_a_warm_cache_serves_where_the_hub_is_not_asked_and_a_cold_one_says_so(irpo, hub, user, monkeypatch):
    before = ranked(irpo, "ann/open")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    hub.asked.clear()
    assert ranked(irpo, "ann/open") == before
    says = "it is not in the cache, and HF_HUB_OFFLINE keeps the hub from being asked"
    refused(irpo("rank", "--model", "meta/gated", *ASK), f"there is no such folder; {says}")
    assert hub.asked == []


@pytest.mark.parametrize("how", ["closed", "silent"])
def test_a_hub_that_does_not_answer_costs_seconds(irpo, hub, user, monkeypatch, how):
    before = ranked(irpo, "ann/open")
    monkeypatch.setattr("irpo.hub.SECONDS", 0.2)
    if how == "silent":
        hub.silent = 30
    else:
        for name in ("huggingface_hub.constants.ENDPOINT", "huggingface_hub.hf_api.api.endpoint"):
            monkeypatch.setattr(name, "http://127.0.0.1:9")
    start = time.monotonic()
    assert ranked(irpo, "ann/open") == before
    refused(irpo("rank", "--model", "meta/gated", *ASK), "it is not in the cache, and the hub cannot be reached (http")
    assert time.monotonic() - start < 25  # the libraries alone would take half a minute


def test_an_error_of_one_repository_is_no_silence_of_the_hub(irpo, hub, user, monkeypatch):
    monkeypatch.setitem(hub.refuses, "/bad/model", 500)
    refused(irpo("rank", "--model", "bad/model", *ASK), "answers with error 500: try again later")
    assert len(ranked(irpo, "ann/open")) == 3


def test_threads_that_want_the_cache_leave_the_process_as_it_was(monkeypatch):
    """Blocks that overlap, not only those that lie in each other."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    first, second, third = offline(True), offline(False), offline(True)
    first.__enter__()
    second.__enter__()
    assert constants.HF_HUB_OFFLINE
    third.__enter__()
    first.__exit__(None, None, None)
    assert constants.HF_HUB_OFFLINE  # the third wants it
    third.__exit__(None, None, None)
    assert not constants.HF_HUB_OFFLINE
    second.__exit__(None, None, None)
    assert not constants.HF_HUB_OFFLINE


def test_datasets_that_are_imported_meanwhile_are_not_left_offline(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delitem(sys.modules, "datasets.config", raising=False)
    monkeypatch.delenv("HF_DATASETS_OFFLINE", raising=False)
    late = ModuleType("datasets.config")
    late.HF_HUB_OFFLINE = True
    with offline(True):
        monkeypatch.setitem(sys.modules, "datasets.config", late)
    assert not late.HF_HUB_OFFLINE


# --- what a repository may not do -------------------------------------------------------------------------------------


def test_pickled_weights_are_read_as_tensors_and_run_nothing(irpo, hub, user, folder, tmp_path):
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".safetensors"}
    saved = io.BytesIO()
    torch.save(tiny_model().state_dict(), saved)
    hub.put("old/model", files | {"pytorch_model.bin": saved.getvalue()})
    assert ranked(irpo, "old/model") == ranked(irpo, folder)

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "run.txt"), "w"))

    saved = io.BytesIO()
    torch.save({"lm_head.weight": Evil()}, saved)
    hub.put("evil/pickle", files | {"pytorch_model.bin": saved.getvalue()})
    refused(irpo("rank", "--model", "evil/pickle", *ASK), "cannot load model 'evil/pickle'")
    assert not (tmp_path / "run.txt").exists()


def test_code_of_a_repository_is_neither_fetched_nor_run(irpo, hub, user, folder):
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    config = json.loads(files["config.json"])
    theirs = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    told = config | {"auto_map": theirs, "model_type": "evil", "architectures": ["Evil"]}
    hub.put("evil/code", files | {"config.json": json.dumps(told).encode(), "evil.py": b"open('run.txt', 'w')"})
    refused(
        irpo("rank", "--model", "evil/code", *ASK),
        "it asks for code of its own to be run (auto_map), which is never done",
    )
    assert not any(path.endswith(".py") for path in hub.paths())


# --- datasets ---------------------------------------------------------------------------------------------------------

CARD = """---
configs:
- config_name: ARC-Challenge
  data_files:
  - {split: train, path: train.jsonl}
  - {split: test, path: test.jsonl}
---
"""


@pytest.fixture
def arc(hub):
    """Puts ARC's rows on the hub, gated or not; gives the commit."""

    def put(*, gated=False):
        rows = [hub_question(question(name)) for name in ("sky", "grass", "coal", "leg", "fish", "bird")]
        files = {"train.jsonl": rows[:5], "test.jsonl": rows[5:]}
        lines = {name: "".join(f"{json.dumps(row)}\n" for row in part).encode() for name, part in files.items()}
        hub.repos.pop("datasets/allenai/ai2_arc", None)
        return hub.put("allenai/ai2_arc", {"README.md": CARD.encode(), **lines}, kind="datasets", gated=gated)

    return put


def prepared(irpo, tmp_path, name, data="hub"):
    code, _, err = irpo("prepare", "--task", "arc", "--data", data, "--out", tmp_path / name)
    assert code == 0, err
    return (tmp_path / name / "train.jsonl").read_text()


def test_a_dataset_of_the_hub_is_read_kept_and_pinned(irpo, hub, user, arc, tmp_path, monkeypatch):
    first = arc()
    lists = prepared(irpo, tmp_path, "a")
    assert "sky" in lists
    hub.put("allenai/ai2_arc", {"README.md": CARD.encode()}, kind="datasets")  # its rows are gone
    assert prepared(irpo, tmp_path, "b", f"hub@{first}") == lists
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    assert prepared(irpo, tmp_path, "c") == lists


def test_a_dataset_that_cannot_be_had_is_one_line(irpo, hub, user, arc, tmp_path):
    words = ("prepare", "--task", "arc", "--out", tmp_path / "x")
    arc(gated=True)
    page = f"{hub.url}/datasets/allenai/ai2_arc"
    says = f"'allenai/ai2_arc' cannot be had from the hub (it is gated: accept its terms at {page}, then log in with"
    refused(irpo(*words, "--data", "hub"), says, "`hf auth login`", "; give the folder of its files")
    del hub.repos["datasets/allenai/ai2_arc"]
    refused(irpo(*words, "--data", "hub"), "the hub has no dataset 'allenai/ai2_arc', or not for you")
    hub.silent = 0.5
    with mock.patch("irpo.hub.SECONDS", 0.1):
        refused(irpo(*words, "--data", "hub"), "it is not in the cache, and the hub cannot be reached")
    user(MEMBER)
    arc(gated=True)
    refused(irpo(*words, "--data", "hub@v9"), "the hub has no such revision of it")
    assert "sky" in prepared(irpo, tmp_path, "mine")


def test_a_process_of_its_own_is_told_by_its_environment(hub, user, folder, tmp_path):
    """Everything else here is told in this process, whose libraries were imported long before."""
    told = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0", "HF_TOKEN": GUEST}
    words = [sys.executable, "-m", "irpo", "rank", "--model", "meta/gated", *ASK]
    done = subprocess.run(words, env=os.environ | told, capture_output=True, text=True)
    refused((done.returncode, done.stdout, done.stderr), f"accept its terms at {hub.url}/meta/gated as that account")
