"""A full disk, a quota, a read-only folder, a name that is too long: one line with path and bytes, nothing torn.

On a real small file system where one can be mounted (Linux, as root); what is simulated runs everywhere.
"""

from __future__ import annotations

import errno
import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import TRAIN, refused
from compare_results import DIGEST, frame
from safetensors.torch import save_file
from small_runs import SMALL, config_of, lines
from training_lists import encoded, method, trainer

from irpo import disk, pipeline
from irpo.compare.gather import write_plan
from irpo.disk import NoRoom, add_lines, cause, free_at, require, written
from irpo.evaluation import EvaluationOptions, evaluate, write_results
from irpo.evaluation.writing import bytes_of_results
from irpo.files import atomic_file, atomic_folder
from irpo.folders import whole_folder
from irpo.runs.checkpoints import all_in, problem
from irpo.tasks import preparing
from irpo.training.finite import Watch
from irpo.training.reference import reference_tables
from irpo.training.storing import checkpoint_bytes, learnt_bytes
from irpo.types import UserError

WORLD = ("--task", "world", "train_lists=40", "eval_lists=10")


class Small:
    """A file system of its own in memory."""

    def __init__(self, folder):
        self.folder = folder

    def mount(self, options):
        return subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", self.folder], capture_output=True, check=False
        )

    def fill(self, leave=0):
        """Take all but so many bytes."""
        count = free_at(self.folder) - leave
        (self.folder / "filler").write_bytes(b"x" * max(0, count))

    def torn(self):
        """Files that only a process in the middle of its work has."""
        return [p for p in self.folder.rglob("*") if p.name.startswith(".")]


@pytest.fixture
def small(tmp_path):
    """Gives `small(size)`; skips where no file system can be mounted."""
    if sys.platform != "linux" or shutil.which("mount") is None:
        pytest.skip("no small file system can be mounted on this system")
    mounted = []

    def of(size):
        made = Small(tmp_path / f"small{len(mounted)}")
        made.folder.mkdir()
        if made.mount(f"size={size}").returncode:
            pytest.skip("mounting a small file system needs root")
        mounted.append(made)
        return made

    yield of
    for made in mounted:
        subprocess.run(["umount", "-l", made.folder], check=False)


# --- what an error says -----------------------------------------------------------------------------------------------

SAID = {
    "safetensors": (Exception("Error while serializing: I/O error: No space left on device (os error 28)"), 28),
    "safetensors, closed": (Exception('I/O error: Read-only file system (os error 30) at path "/x/.tmp"'), 30),
    "safetensors, limit": (Exception("Error while serializing: I/O error: File too large (os error 27)"), 27),
    "torch": (RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"), None),
    "torch, at its end": (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"), None),
    "torch, closed": (RuntimeError("open file failed with strerror: Read-only file system"), 30),
    "the system": (OSError(errno.ENOSPC, "No space left on device"), 28),
    "a quota": (OSError(errno.EDQUOT, "Disk quota exceeded"), errno.EDQUOT),
    "arrow": (OSError(28, "Error writing bytes to file. Detail: [errno 28] No space left on device"), 28),
}


@pytest.mark.parametrize("what", SAID)
def test_every_library_s_word_for_it_is_known(what):
    error, code = SAID[what]
    assert cause(error) == (True, code)
    wrapped = ValueError("saving failed")
    wrapped.__cause__ = error
    assert cause(wrapped) == (True, code)


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2"), OSError(errno.ENOENT, "No such file"), KeyError("a")])
def test_other_errors_pass(tmp_path, error):
    assert not cause(error)[0]
    with pytest.raises(type(error)), written(tmp_path / "a"):
        raise error


def test_what_a_line_says(tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "free_at", lambda path: 3_000_000)
    path = tmp_path / "checkpoint-20"
    said = str(NoRoom(path, 28, needed=12_000_000, kept="the last good checkpoint is checkpoint-10"))
    assert said == (f"{path}: the disk is full: 12 MB needed, 3.0 MB free; the last good checkpoint is checkpoint-10")
    assert (
        str(NoRoom(path, errno.EDQUOT, needed=12_000_000)) == f"{path}: the quota is used up: 12 MB needed, 3.0 MB free"
    )
    assert str(NoRoom(path, 28)) == f"{path}: the disk is full: more than 3.0 MB needed, 3.0 MB free"
    assert str(NoRoom(path, 30, needed=5000)) == f"{path}: the file system is read-only (5 kB needed)"
    assert "the disk is full" in str(NoRoom(path, None, needed=12_000_000)), "torch does not say, but there is no room"
    assert str(NoRoom(path, None, needed=1000)) == f"{path}: cannot be written whole (1 kB needed)"


def test_one_process_can_say_it_for_all(tmp_path):
    error = NoRoom(tmp_path, 30, needed=5, kept="nothing")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), vars(again)) == (str(error), vars(error))


def test_an_error_elsewhere_is_not_the_path_s(tmp_path):
    with pytest.raises(PermissionError), written(tmp_path / "out" / "a"):
        raise PermissionError(errno.EACCES, "Permission denied", "/somewhere/else")
    with pytest.raises(NoRoom, match="permission denied"), written(tmp_path / "a"):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "a"))


def test_space_is_asked_for_before(tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "free_at", lambda path: 10_000_000)
    assert require(tmp_path, 1_000_000, "results") == (
        "disk: 1.0 MB needed (results), 10 MB free",
        False,
    )
    assert disk.near(tmp_path, 9_000_000, "results").endswith("10 MB free: a near thing")
    assert disk.near(tmp_path, 1_000_000, "results") == ""
    with pytest.raises(UserError, match=r"the disk has no room: 11 MB needed \(results\), 10 MB free"):
        require(tmp_path, 11_000_000, "results")


# --- writing on a real one --------------------------------------------------------------------------------------------


def _many(path):
    with atomic_file(path) as file:
        file.writelines("x" * 999 + "\n" for _ in range(1000))


def _tensors(path):
    with whole_folder(path) as folder:
        save_file({"a": torch.zeros(2**17)}, str(folder / "a.safetensors"))


def _optimizer(path):
    with whole_folder(path) as folder:
        torch.save({"a": torch.zeros(2**17)}, folder / "a.pt")


def _several(path):
    with atomic_folder(path, owned=("a", "b"), last="b") as folder:
        for name in ("a", "b"):
            with atomic_file(folder / name) as file:
                file.write("x" * 300_000)


def _content(path):
    return {p.relative_to(path): p.read_bytes() for p in path.rglob("*") if p.is_file()} or path.read_bytes()


@pytest.mark.parametrize("write", [_many, _tensors, _optimizer, _several])
def test_a_full_disk_leaves_nothing_half_written(small, write):
    place = small("400k")
    path = place.folder / "out"
    with pytest.raises(NoRoom, match=r"/out: the disk is full: .* needed, .* free$") as error:
        write(path)
    assert "\n" not in str(error.value)
    assert list(place.folder.iterdir()) == []
    place.mount("remount,size=2m")
    write(path)
    before = _content(path)
    place.fill()
    with pytest.raises(NoRoom):
        write(path)
    assert (
        {p.relative_to(path): p.read_bytes() for p in path.rglob("*") if p.is_file()} or path.read_bytes()
    ) == before


def test_a_line_is_whole_or_not_there(small):
    place = small("8k")
    path = place.folder / "log.jsonl"
    add_lines(path, json.dumps({"update": 1}) + "\n")
    with pytest.raises(NoRoom, match=r"log.jsonl: the disk is full: 10 kB needed, .* free"):
        add_lines(path, "x" * 9999 + "\n")
    assert path.read_text() == '{"update": 1}\n'
    add_lines(path, json.dumps({"update": 2}) + "\n")
    assert len(path.read_text().splitlines()) == 2


def test_no_more_files(small):
    place = small("1m,nr_inodes=4")
    for name in "abc":
        (place.folder / name).touch()
    with pytest.raises(NoRoom, match=r"the disk is full: .*, and no room for another file \(inodes\)"):
        _many(place.folder / "d")


# --- training ---------------------------------------------------------------------------------------------------------


def test_a_checkpoint_that_does_not_fit_leaves_the_last_good_one(small, monkeypatch, capsys):
    """And with more room the run goes on from it to the end that it would have had."""
    place = small("240k")  # config, cards and two checkpoints of some 80 kB
    out, config = place.folder / "run", config_of("training.evaluate_every=1", "training.updates=3")
    with monkeypatch.context() as patch:
        patch.setattr(disk, "require", lambda *_: ("", False))  # as if another's files had come later
        with pytest.raises(
            NoRoom,
            match=r"run/checkpoints/checkpoint-(\d): the disk is full: \d+ kB needed, \d+ kB free; the last good "
            r"checkpoint is checkpoint-\d$",
        ) as error:
            pipeline.train(config, out)
    failed, last = (int(part.partition("-")[2]) for part in (error.value.path.name, error.value.kept.split()[-1]))
    kept = all_in(out / "checkpoints")
    assert failed == last + 1
    assert kept[-1].name == f"checkpoint-{last}"
    assert [problem(path) for path in kept] == [None] * len(kept)
    assert place.torn() == []
    assert not (out / "adapter").exists()
    place.mount("remount,size=2m")
    pipeline.train(config, out, resume=True)
    assert f"going on from checkpoint-{last}" in capsys.readouterr().err
    assert (out / "adapter").is_dir()
    assert [line["update"] for line in lines(out) if "eval_NDCG@10" in line] == [0, 1, 2, 3]


@pytest.mark.parametrize("failing", ["torch.save", "irpo.training.saving.write_cost"])
def test_a_write_that_is_cut_short_is_told_everywhere(tmp_path, monkeypatch, failing):
    """The same, simulated: the second checkpoint's files cannot be written."""
    module, _, name = failing.rpartition(".")
    real = getattr(sys.modules[module], name)
    texts = {"torch.save": RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")}
    error = texts.get(failing, OSError(28, "No space left on device"))

    def full(*given, **named):
        if any("checkpoint-4" in str(part) for part in given):
            Path(str(given[1] if name != "write_cost" else given[0] / "half")).write_bytes(b"half")
            raise error
        return real(*given, **named)

    monkeypatch.setattr(f"{module}.{name}", full)
    monkeypatch.setattr("irpo.disk.free_at", lambda path: 1000)
    run = trainer(tmp_path, method("irpo"), items=encoded(count=8), updates=4, evaluate_every=2)
    with pytest.raises(NoRoom, match=r"checkpoint-4: the disk is full: \d+ kB needed, 1 kB free"):
        run.go(None)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["checkpoint-2"]
    assert problem(tmp_path / "checkpoints" / "checkpoint-2") is None


def test_a_checkpoint_takes_what_was_said(tmp_path):
    """An upper bound, and not far above: of a run whose weights weigh more than its small files."""
    run = trainer(tmp_path, method("irpo"), items=encoded(count=4), updates=2, evaluate_every=2)
    run.go(None)
    (folder,) = all_in(tmp_path / "checkpoints")
    said, took = checkpoint_bytes(run.model, "sgd"), disk.lies_under(folder)
    assert took <= said
    weights = (folder / "adapter_model.safetensors").stat().st_size
    assert weights <= learnt_bytes(run.model) <= weights + 50_000
    assert Watch().before == ()


def test_a_run_that_cannot_fit_is_refused_before_it_begins(small, irpo):
    place = small("400k")
    code, _, err = irpo(*TRAIN, *SMALL, "--out", place.folder / "run")
    assert code == 2
    said = err.splitlines()[-1]
    assert said.startswith(f"error: --out {place.folder / 'run'}: the disk has no room: ")
    assert "needed (2 checkpoint(s) of 161 kB at once, and what is learnt: " in said
    assert list(place.folder.iterdir()) == []


def test_a_reference_cache_that_is_full_ends_no_run(small, capsys):
    place = small("8k")
    place.fill()
    run = trainer(place.folder.parent, method("irpo"), items=encoded(count=4))
    items, common = encoded(count=4), {"length": "sum", "pad_id": 0, "tokens_per_batch": 500}
    found = reference_tables(run.model, items, run.method.scorer, cache=place.folder / "reference", **common)
    assert found.keys() == {item.id for item in items}
    said = [line for line in capsys.readouterr().err.splitlines() if "not kept" in line]
    assert len(said) == 1
    assert "the disk is full" in said[0] or "No space left" in said[0]
    assert place.torn() == []


# --- the other commands -----------------------------------------------------------------------------------------------


def commands(out):
    """Each with a folder to write."""
    return {
        "prepare": ("prepare", *WORLD, "--out", out),
        "evaluate": ("evaluate", "--model", "embedded", *WORLD, "--mode", "score", "--out", out),
        "train": (*TRAIN, *SMALL, "--out", out),
        "compare": ("compare", "suites/quick.yaml", "--out", out),
    }


@pytest.mark.parametrize("name", ["prepare", "evaluate", "train", "compare"])
def test_a_read_only_folder_is_one_line(small, irpo, name):
    place = small("100k")
    place.mount("remount,ro")
    refused(irpo(*commands(place.folder / "out")[name]), str(place.folder / "out"), "ead-only file system")


@pytest.mark.parametrize("name", ["prepare", "evaluate", "train", "compare"])
def test_a_name_that_is_too_long_is_one_line(tmp_path, irpo, name):
    refused(irpo(*commands(tmp_path / ("x" * 300))[name]), "x" * 300, "ile name too long")


def test_results_that_do_not_fit_leave_the_old_ones(small, irpo, monkeypatch):
    """And nothing is ranked twice: what was ranked lies there until there is room for the results."""
    place = small("400k")
    words = commands(place.folder / "out")["evaluate"]
    assert irpo(*words, "--max-lists", "2")[0] == 0
    before = {path.name: path.read_bytes() for path in (place.folder / "out").iterdir()}
    place.fill(leave=12_000)
    refused(irpo(*words), "out: the disk has no room: ", "(the results)")
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "bytes_of_results", lambda *_: 0)  # as if another's files had come later
        code, _, err = irpo(*words)
    assert code == 2
    assert err.splitlines()[-1].startswith(f"error: {place.folder / 'out'}: the disk is full: more than ")
    assert {path.name: path.read_bytes() for path in (place.folder / "out").iterdir() if path.is_file()} == before
    (place.folder / "filler").unlink()
    code, _, err = irpo(*words)
    assert code == 0
    assert "going on: 10 of 10 lists of mode score were ranked before" in err


def test_a_report_that_does_not_fit_is_one_line(small, irpo, tmp_path):
    write_plan(tmp_path, frame(), (), 0)
    (tmp_path / "lists").mkdir()
    told = {"id": "q", "unit": "q", "query": "q", "texts": ["a", "b"], "relevance": [1, 0]}
    (tmp_path / "lists" / f"{DIGEST}.jsonl").write_text(json.dumps(told) + "\n")
    place = small("24k")
    refused(
        irpo("report", tmp_path, "--out", place.folder / "out"), f"{place.folder / 'out'}/", "the disk is full: more"
    )
    assert place.torn() == []
    place.mount("remount,ro")
    refused(
        irpo("report", tmp_path, "--out", place.folder / "out2"), f"{place.folder / 'out2'}", "ead-only file system"
    )


def test_lists_that_do_not_fit_are_one_line(small, irpo, monkeypatch):
    place = small("24k")
    words = commands(place.folder / "out")["prepare"]
    refused(irpo(*words), "out: the disk is full: 1.0 MB needed, ", " free")
    monkeypatch.setattr(preparing, "_LEAST", 0)  # as if another's files had come later
    refused(irpo(*words), "out: the disk is full: more than ", " free")
    assert list(place.folder.iterdir()) == []


def test_results_take_about_what_was_said(tmp_path):
    from test_going import LISTS, ranker_of

    ranker = ranker_of()
    options = EvaluationOptions(("score", "generate"), lists_per_batch=5)
    found = evaluate(LISTS, ranker.builder, ranker.model, ranker.scorer, options)
    write_results(tmp_path, found)
    took, said = disk.lies_under(tmp_path), bytes_of_results(LISTS, 2, len(options.measures))
    assert took <= said <= 4 * took + 50_000
