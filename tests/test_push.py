"""`irpo push` against the stand-in of the hub, and rankers that lie there."""

import json
from pathlib import Path
from unittest import mock

import pytest
from commands import refused
from hub_stand_in import GUEST, OWNER, standing_in
from hub_users import point_at
from saved_runs import saved_run, tiny_base
from test_export import ranked

from irpo.export.merging import plan_of
from irpo.export.pushing import require_nothing_private
from irpo.export.writing import export
from irpo.types import UserError

ASK = ("a funny film", "Alien", "Heat", "Spaceballs")


@pytest.fixture(scope="module")
def hub():
    with standing_in() as hub:
        yield hub


@pytest.fixture
def user(hub, monkeypatch, tmp_path):
    """Who asks the hub; by default one who may write."""

    def come(token=OWNER):
        point_at(hub, tmp_path / "cache", monkeypatch, token=token)

    come()
    return come


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with data, an evaluation and a key."""
    run = saved_run(tmp_path_factory.mktemp("runs") / "mine")
    measured = {"name": "score", "mode": "score", "measures": {"NDCG@10": 0.8123}, "interval": [0.79, 0.83]}
    about = {"model": str(run), "task": "world", "lists_sha256": "1a"}
    told = {"about": about, "lists": 40, "main_measure": "NDCG@10", "rows": [measured]}
    (run / "evaluation").mkdir()
    (run / "evaluation" / "results.json").write_text(json.dumps(told))
    (run / "data_card.json").write_text(json.dumps({"sources": {"hub:allenai/ai2_arc/train": {}, "mine.jsonl": {}}}))
    return run


def test_a_run_is_pushed_and_ranks_from_the_hub_as_it_did(irpo, hub, user, run):
    code, _, err = irpo("push", run, "ann/ranker", "--private", "--license", "apache-2.0")
    assert code == 0, err
    assert "irpo rank --model ann/ranker" in err
    held = hub.repos["models/ann/ranker"]
    files = held.commits[held.refs["main"]]
    assert held.private
    assert {"README.md", "adapter_model.safetensors", "ranker.yaml", "strength.json", "tokenizer.json"} <= set(files)
    assert ranked("ann/ranker") == ranked(run)
    card = files["README.md"].decode()
    for part in (
        "license: apache-2.0",
        "irpo rank --model ann/ranker",
        "pipeline_tag: text-ranking",
        "- allenai/ai2_arc",
        "| this ranker | score | 0.8123 | 0.7900 to 0.8300 |",
    ):
        assert part in card


def test_nothing_private_leaves(irpo, hub, user, run, tmp_path):
    code, _, err = irpo("push", run, "ann/private")
    assert code == 0, err
    held = hub.repos["models/ann/private"]
    for name, content in held.commits[held.refs["main"]].items():
        for secret in (str(run.parent), "/root", "/home", OWNER, "funny film about"):
            assert secret.encode() not in content, (name, secret)
    out = export(plan_of(str(run), merge=False), tmp_path / "out").folder
    (out / "README.md").write_text(f"as in {tmp_path}")  # the folder the user is in
    refused(irpo("push", out, "ann/other"), "README.md: it names the folder you are in")
    assert "models/ann/other" not in hub.repos


def test_only_the_rankers_own_files_leave_and_a_dry_run_tells_them(irpo, hub, user, run, tmp_path):
    out = export(plan_of(str(run), merge=False), tmp_path / "out").folder
    own = {path.name for path in out.iterdir()}
    for name in ("evaluation/rankings.jsonl", ".env", "train.csv", ".cache/huggingface/x.json", "notes.md"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(f"{OWNER} {Path.cwd()}")
    code, _, err = irpo("push", out, "ann/own")
    assert code == 0, err
    held = hub.repos["models/ann/own"]
    assert set(held.commits[held.refs["main"]]) == own
    code, told, _ = irpo("push", out, "ann/own", "--dry-run")
    assert all(name in told for name in own)
    assert not any(name in told for name in ("rankings", ".env", "train.csv", "notes.md"))


@pytest.mark.parametrize("spelt", [str, lambda text: json.dumps(text)[1:-1]])
def test_a_token_is_found_in_any_file_that_leaves(tmp_path, monkeypatch, spelt):
    secret = "hf_é" + "x" * 30
    monkeypatch.setenv("HF_TOKEN", secret)
    (tmp_path / "merges.tiktoken").write_text("y" * 100 + spelt(secret))
    (tmp_path / "empty").touch()
    with pytest.raises(UserError, match=r"merges\.tiktoken: it names your token"):
        require_nothing_private(tmp_path, ["empty", "merges.tiktoken"])


@pytest.mark.parametrize(
    ("home", "text"),
    [
        ("/root", '{"data": "/root/data/clients.csv"}'),
        ("/root", '{"note": "as in\\n/root/data/clients.csv"}'),
        ("/r", "file:///r/clients.csv"),
        ("/home/ann", "as in /home/ann"),
    ],
)
def test_a_home_of_any_length_is_found(tmp_path, monkeypatch, home, text):
    monkeypatch.setenv("HOME", home)
    (tmp_path / "tokenizer_config.json").write_text(text)
    with pytest.raises(UserError, match=r"tokenizer_config\.json: it names your home"):
        require_nothing_private(tmp_path, ["tokenizer_config.json"])


@pytest.mark.parametrize("home", ["/", "/root", "/usr/local"])
def test_what_only_looks_like_a_home_leaves(tmp_path, monkeypatch, home):
    monkeypatch.setenv("HOME", home)
    tokens = ["/", "/root", "/root/", "/usr/local"]
    (tmp_path / "tokenizer.json").write_text(
        json.dumps({"model": {"vocab": {token: n for n, token in enumerate(tokens)}}})
    )
    (tmp_path / "vocab.txt").write_text("\n".join(tokens))
    (tmp_path / "README.md").write_text("https://example.org/root/films and data/root/films, /rooted")
    require_nothing_private(tmp_path, ["README.md", "tokenizer.json", "vocab.txt"])


def test_a_card_that_names_the_home_of_a_container_stays(irpo, hub, user, run, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/root")
    out = export(plan_of(str(run), merge=False), tmp_path / "out").folder
    assert irpo("push", out, "ann/container", "--dry-run")[0] == 0
    card = out / "README.md"
    card.write_text(card.read_text() + "\nTrained on /root/data/clients.csv.\n")
    refused(irpo("push", out, "ann/container"), "README.md: it names your home")
    assert "models/ann/container" not in hub.repos


@pytest.mark.parametrize("where", [(), ("--revision", "v1")])
def test_what_is_to_be_private_does_not_go_where_all_may_read(irpo, hub, user, run, where):
    commit = hub.put("ann/open", {".gitattributes": b"*.bin lfs"})
    refused(
        irpo("push", run, "ann/open", "--private", *where), "ann/open: not uploaded: that repository is public; make"
    )
    assert hub.repos["models/ann/open"].refs == {"main": commit}
    assert not any("/lfs/" in path or "preupload" in path for path in hub.paths())
    hub.put("ann/closed", {".gitattributes": b"*.bin lfs"}, private=True)
    code, _, err = irpo("push", run, "ann/closed", "--private", *where)
    assert code == 0, err


def test_a_second_push_leaves_nothing_of_the_first(irpo, hub, user, run, tmp_path):
    assert irpo("push", run, "ann/twice")[0] == 0
    held = hub.repos["models/ann/twice"]
    more = {".gitattributes": b"*.bin lfs", "images/plot.png": b"1", "notes.md": b"mine"}
    held.add("main", held.commits[held.refs["main"]] | more)
    out = export(plan_of(str(run), merge=True), tmp_path / "out", lists=0).folder
    code, _, err = irpo("push", out, "ann/twice")
    assert code == 0, err
    assert "removed there, of an earlier export: adapter_config.json, adapter_model.safetensors" in err
    assert set(held.commits[held.refs["main"]]) == {path.name for path in out.iterdir()} | set(more)
    assert ranked("ann/twice") == ranked(out)


def test_files_of_others_there_are_neither_removed_nor_read(irpo, hub, user, run, tmp_path):
    out = export(plan_of(str(run), merge=True), tmp_path / "out", lists=0).folder
    adapter = {path.name: path.read_bytes() for path in (run / "adapter").glob("adapter_*")}
    commit = hub.put("ann/theirs", adapter)
    refused(irpo("push", out, "ann/theirs"), "not uploaded: adapter_config.json lies there, which is of no export")
    assert hub.repos["models/ann/theirs"].refs["main"] == commit
    # As a push of an earlier release left it: whatever export.json does not list is not fetched.
    hub.put("ann/mixed", adapter | {path.name: path.read_bytes() for path in out.iterdir()} | {"evil.py": b"1"})
    assert ranked("ann/mixed") == ranked(out)
    assert not any("ann/mixed" in path and path.endswith(("adapter_model.safetensors", ".py")) for path in hub.paths())


def test_files_of_others_of_the_same_names_stay(irpo, hub, user, run):
    theirs = {path.name: path.read_bytes() for path in (run / "adapter").glob("adapter_*")}
    commit = hub.put("bob/lora", theirs | {"README.md": b"mine", ".gitattributes": b""})
    err = refused(irpo("push", run, "bob/lora"), "adapter_config.json lies there, which is of no export and which this")
    assert "would overwrite; give another repository, or delete it there" in err
    hub.put("bob/named", {"export.json": b"{}", "README.md": b"mine"})
    refused(irpo("push", run, "bob/named"), "export.json lies there, which is of no export")
    assert hub.repos["models/bob/lora"].refs["main"] == commit


def test_a_new_repository_may_have_a_card_already(irpo, hub, user, run):
    hub.put("ann/new", {"README.md": b"---\nlicense: mit\n---\n", ".gitattributes": b"*.bin lfs"})
    code, _, err = irpo("push", run, "ann/new")
    assert code == 0, err
    held = hub.repos["models/ann/new"]
    assert b"text-ranking" in held.commits[held.refs["main"]]["README.md"]


def test_a_dry_run_uploads_nothing(irpo, hub, user, run):
    code, out, err = irpo("push", run, "ann/dry", "--dry-run")
    assert code == 0, err
    assert "adapter_model.safetensors" in out
    assert "nothing was uploaded" in err
    assert "models/ann/dry" not in hub.repos
    assert hub.asked == []


def test_a_merged_folder_goes_to_a_branch(irpo, hub, user, run, tmp_path):
    out = export(plan_of(str(run), merge=True), tmp_path / "out", lists=0).folder
    code, _, err = irpo("push", out, "ann/merged", "--revision", "v1")
    assert code == 0, err
    assert ranked("ann/merged@v1") == ranked(out)
    assert set(hub.repos["models/ann/merged"].commits[hub.repos["models/ann/merged"].refs["main"]]) == set()


def test_pushing_fails_in_one_line_and_goes_on(irpo, hub, user, run, monkeypatch):
    user(None)
    refused(irpo("push", run, "ann/again"), "ann/again: not uploaded: the hub does not know you", "`hf auth login`")
    hub.silent = 0.5
    with mock.patch("irpo.hub.SECONDS", 0.1):
        refused(irpo("push", run, "ann/again"), f"the hub cannot be reached ({hub.url} does not answer)")
    user(GUEST)
    refused(irpo("push", run, "ann/again"), "your token may not do that", "log in with `hf auth login`")
    user()
    monkeypatch.setattr("huggingface_hub.lfs.http_backoff", _broken)
    refused(irpo("push", run, "ann/again"), "ann/again: not uploaded: ", "the same command goes on")
    monkeypatch.undo()
    user()
    assert irpo("push", run, "ann/again")[0] == 0


def _broken(*_, **__):
    raise ConnectionError("the line is dead")


def test_an_adapter_of_others_on_a_base_of_the_hub(irpo, hub, user, tmp_path):
    folder = tiny_base(tmp_path / "base")
    commit = hub.put("ann/base", folder)
    user()
    run = saved_run(tmp_path / "run", base="ann/base")
    theirs = {path.name: path.read_bytes() for path in (run / "adapter").iterdir() if path.name.startswith("adapter_")}
    hub.put("bob/adapter", theirs)
    code, out, err = irpo("rank", "--model", "bob/adapter", *ASK, "--json", "--strength", 2)
    assert code == 0, err
    assert len(json.loads(out)) == 3
    del theirs["adapter_model.safetensors"]
    hub.put("bob/pickled", theirs | {"adapter_model.bin": b"\x80\x04."})
    refused(irpo("rank", "--model", "bob/pickled", *ASK), "its weights, adapter_model.safetensors, are not there")

    # A run keeps to the commit of its base that it was trained on, and so does what is exported from it.
    (run / "run.json").write_text(json.dumps({"key": "1", "contents": {}, "commit": commit}))
    before = ranked(run)
    hub.put("ann/base", {"config.json": b"moved on"})
    user()
    assert ranked(run) == before
    out = export(plan_of(str(run), merge=False), tmp_path / "out").folder
    told = json.loads((out / "adapter_config.json").read_text())
    assert (told["base_model_name_or_path"], told["revision"]) == ("ann/base", commit)
    assert ranked(out) == before
    (out / "adapter_config.json").write_text(json.dumps(told | {"revision": "main"}))
    refused(irpo("rank", "--model", out, *ASK), "adapter_config.json is not as it was exported")
