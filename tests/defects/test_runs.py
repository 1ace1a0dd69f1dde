"""Runs that are killed, moved, damaged, doubled or made longer, and what training says of itself."""

import json
import shutil
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_runs import config_of, lines
from training_lists import encoded, learned, method, trainer

import irpo.training.trainer
from irpo import pipeline
from irpo.config.schema import load_config
from irpo.training.arguments import Loop
from irpo.types import UserError

ITEMS = encoded(count=8)


def weights(run):
    return load_file(run / "adapter" / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run, to be copied."""
    out = tmp_path_factory.mktemp("finished") / "run"
    pipeline.train(config_of(), out)
    return out


@pytest.fixture
def run(finished, tmp_path):
    """A copy of it that a test may damage."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def unfinished(run):
    """The run as it is when its process dies after the last checkpoint."""
    (run / "README.md").unlink()
    shutil.rmtree(run / "adapter")
    return run


def test_l1_a_run_whose_configuration_has_no_bytes_begins_anew(tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    (out / "config.yaml").touch()
    pipeline.train(config_of(), out, resume=True)
    assert load_config([out / "config.yaml"]).training.updates == 4


class Killed(BaseException):
    """What no code catches, as a kill."""


@pytest.mark.parametrize("kept", [0, 100])
def test_l2_a_run_whose_model_card_is_torn_is_not_finished(kept, run):
    card = (run / "README.md").read_text()
    (run / "README.md").write_text(card[:kept])
    pipeline.train(config_of(), run, resume=True)
    assert (run / "README.md").read_text() == card


def test_l2_a_run_without_its_weights_is_not_finished(run, capsys):
    shutil.rmtree(run / "adapter")
    pipeline.train(config_of(), run, resume=True)
    assert (run / "adapter").is_dir()
    assert "nothing is left to do" not in capsys.readouterr().err


def test_l3_two_processes_do_not_write_one_run(tmp_path, monkeypatch):
    out, real = tmp_path / "run", irpo.training.trainer.ListTrainer.go

    def meanwhile(loop, checkpoint):
        monkeypatch.setattr(irpo.training.trainer.ListTrainer, "go", real)
        with pytest.raises(UserError, match="another process is writing there"):
            pipeline.train(config_of(), out, resume=True)
        real(loop, checkpoint)

    monkeypatch.setattr(irpo.training.trainer.ListTrainer, "go", meanwhile)
    pipeline.train(config_of(), out)
    assert not (out / ".lock").exists()


def test_l3_a_dead_owner_holds_nothing(tmp_path):
    from irpo.runs import claimed

    code = f"from irpo.runs import claimed\nfrom pathlib import Path\nwith claimed(Path({str(tmp_path)!r})):\n"
    code += "    print('held', flush=True)\n    input()"
    owner = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert owner.stdout.readline() == "held\n"
    with pytest.raises(UserError, match=f"process {owner.pid} on "), claimed(tmp_path):
        pass
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    with claimed(tmp_path):
        pass


def test_l3_a_mistake_leaves_no_folder(tmp_path):
    with pytest.raises(UserError, match="none of"):
        pipeline.train(config_of("training.validation_fraction=0.99999"), tmp_path / "new" / "run")
    assert not (tmp_path / "new").exists()


def test_l5_a_run_goes_on_where_it_was_moved_to(unfinished, tmp_path, finished, monkeypatch, capsys):
    new = unfinished.rename(tmp_path / "elsewhere")
    state = json.loads((new / "checkpoints/checkpoint-4/trainer_state.json").read_text())
    state["best_model_checkpoint"] = str(tmp_path / "gone" / "checkpoints" / Path(state["best_model_checkpoint"]).name)
    (new / "checkpoints/checkpoint-4/trainer_state.json").write_text(json.dumps(state))
    monkeypatch.chdir(tmp_path)
    pipeline.train(config_of(), Path("elsewhere"), resume=True)
    torch.testing.assert_close(weights(new), weights(finished), atol=0, rtol=0)
    assert "damaged" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["trainer_state.json", "optimizer.pt", "adapter_model.safetensors"])
def test_l6_a_damaged_checkpoint_falls_back_to_the_one_before(name, unfinished, finished, capsys):
    file = unfinished / "checkpoints" / "checkpoint-4" / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content[:-7])
    pipeline.train(config_of(), unfinished, resume=True)
    said = capsys.readouterr().err
    assert f"checkpoint-4: {name} is damaged; going back" in said
    assert "going on from checkpoint-2" in said
    torch.testing.assert_close(weights(unfinished), weights(finished), atol=0, rtol=0)


@pytest.mark.parametrize("seal", ["[]", "7", "{}", "[" * 100_000, '{"trainer_state.json": []}'])
def test_l6_a_damaged_seal_is_none(seal, unfinished, finished):
    newest = max((unfinished / "checkpoints").iterdir(), key=lambda path: int(path.name.rpartition("-")[2]))
    (newest / "whole.json").write_text(seal)
    (unfinished / "checkpoints" / "checkpoint-\u00b2").mkdir()
    pipeline.train(config_of(), unfinished, resume=True)
    torch.testing.assert_close(weights(unfinished), weights(finished), atol=0, rtol=0)


def test_l6_a_state_that_is_none(unfinished, finished, capsys):
    (unfinished / "checkpoints" / "checkpoint-4" / "trainer_state.json").write_text("7")
    pipeline.train(config_of(), unfinished, resume=True)
    assert "checkpoint-4: trainer_state.json is damaged; going back" in capsys.readouterr().err
    torch.testing.assert_close(weights(unfinished), weights(finished), atol=0, rtol=0)


def test_l6_a_damaged_line_of_the_log_is_dropped(unfinished, finished):
    log = unfinished / "log.jsonl"
    log.write_bytes(b"{}\n\x00\xff\n[]\nnull\n" + log.read_bytes() + b'{"update": 2')
    pipeline.train(config_of(), unfinished, resume=True)
    assert [line["update"] for line in lines(unfinished)] == [line["update"] for line in lines(finished)]


def test_l6_without_a_whole_checkpoint_the_run_begins_anew(unfinished, finished):
    for path in (unfinished / "checkpoints").glob("*/trainer_state.json"):
        path.write_text("")
    pipeline.train(config_of(), unfinished, resume=True)
    torch.testing.assert_close(weights(unfinished), weights(finished), atol=0, rtol=0)
    assert [line["update"] for line in lines(unfinished)] == [line["update"] for line in lines(finished)]


def test_l6_the_best_and_the_newest_checkpoint_are_kept(tmp_path):
    from irpo.runs import checkpoints

    for update in (2, 4, 10):
        (tmp_path / f"checkpoint-{update}").mkdir()
    checkpoints.prune(tmp_path, best=str(tmp_path / "checkpoint-2"))
    assert [path.name for path in checkpoints.all_in(tmp_path)] == ["checkpoint-2", "checkpoint-10"]
    (tmp_path / "checkpoint-11").mkdir()
    checkpoints.prune(tmp_path, best=None)
    assert [path.name for path in checkpoints.all_in(tmp_path)] == ["checkpoint-10", "checkpoint-11"]


def test_l13_the_adapters_configuration_does_not_follow_the_hash_seed(tmp_path):
    pipeline.train(config_of("model.lora.targets=all-linear", "training.updates=1"), tmp_path / "run")
    targets = json.loads((tmp_path / "run" / "adapter" / "adapter_config.json").read_text())["target_modules"]
    assert targets == sorted(targets)
    assert len(targets) > 3


def test_an_adapter_whose_base_has_changed_says_so(run, capsys):
    from irpo.runs import load_weights

    told = json.loads((run / "run.json").read_text())
    load_weights(str(run))
    assert "note" not in capsys.readouterr().err
    told["contents"]["model.name"] = "another"
    (run / "run.json").write_text(json.dumps(told))
    load_weights(str(run))
    assert "'embedded' is not as it was when this adapter was trained" in capsys.readouterr().err


def test_b5_a_key_does_not_depend_on_paths_or_logging(tmp_path):
    from irpo.runs.key import contents, run_key

    def key(config, lists="abc"):
        return run_key(config, contents(config, "template", lists))

    base = config_of()
    for free in ("training.logging_every=1", "training.tokens_per_batch=99", "evaluation.modes=[score]", "task.data=x"):
        assert key(config_of(free)) == key(base), free
    for decisive in ("training.learning_rate=0.02", "seed=1", "method.nll_weight=0.5", "model.lora.r=3"):
        assert key(config_of(decisive)) != key(base), decisive
    assert key(base, "other lists") != key(base)
    folders = [tmp_path / "a" / "model", tmp_path / "b" / "other"]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"weights")
    keys = {key(config_of(f"model.name={folder}")) for folder in folders}
    assert len(keys) == 1
    (folders[0] / "model.safetensors").write_bytes(b"Weights")
    assert key(config_of(f"model.name={folders[0]}")) not in keys


def test_a_run_whose_anchor_was_weighed_by_the_whole_list_does_not_go_on_by_its_tokens():
    from irpo.runs.key import contents, differing

    changed = "the unit of method.nll_weight"
    anchored, plain = (contents(config_of(f"method.nll_weight={weight}"), "template", "lists") for weight in (1, 0))
    before = {name: value for name, value in anchored.items() if name != changed}  # as such a run has it
    assert set(differing(before, anchored)) == {changed}
    assert changed not in plain


def test_b5_a_run_goes_on_with_other_logging_and_names_the_setting_that_differs(unfinished, capsys):
    with pytest.raises(UserError, match=r"training\.learning_rate is 0\.02 and was 0\.01 in .*config\.yaml"):
        pipeline.train(config_of("training.learning_rate=0.02"), unfinished, resume=True)
    with pytest.raises(UserError, match=r"the training lists changed|task\.seed is 5"):
        pipeline.train(config_of("task.seed=5"), unfinished, resume=True)
    pipeline.train(config_of("training.logging_every=1"), unfinished, resume=True)
    assert (unfinished / "README.md").is_file()


def test_b5_lists_that_changed_under_a_run_are_named(unfinished):
    told = json.loads((unfinished / "run.json").read_text())
    told["contents"]["the training lists"] = "0" * 64
    (unfinished / "run.json").write_text(json.dumps(told))
    with pytest.raises(UserError, match="the training lists changed since"):
        pipeline.train(config_of(), unfinished, resume=True)


def test_u18_a_finished_run_can_be_made_longer(run):
    pipeline.train(config_of("training.updates=6"), run, resume=True)
    assert lines(run)[-1]["update"] == 6
    assert load_config([run / "config.yaml"]).training.updates == 6
    with pytest.raises(UserError, match=r"training\.updates is 3 and was 6 .* may grow"):
        pipeline.train(config_of("training.updates=3"), run, resume=True)


def with_validation(out, **settings):
    settings = {"evaluate_every": 1, "updates": 20, "patience": 2, "learning_rate": 1e-9, **settings}
    loop = Loop(patience=settings.pop("patience"))
    return trainer(out, method("dpo"), items=ITEMS, validation=ITEMS[:4], loop=loop, **settings)


def test_w10_a_run_that_stopped_early_stays_stopped(tmp_path):
    run = with_validation(tmp_path)
    run.go(None)
    assert run.state.global_step == 3
    again = with_validation(tmp_path)
    again.go(tmp_path / "checkpoints" / "checkpoint-3")
    assert again.state.global_step == 3
    torch.testing.assert_close(learned(again.model), learned(run.model), atol=0, rtol=0)


def test_w11_a_line_after_a_break_speaks_of_the_same_updates(tmp_path):
    settings = {"updates": 6, "patience": None, "evaluate_every": 2, "logging_every": 5, "learning_rate": 0.1}
    whole = with_validation(tmp_path / "whole", **settings)
    whole.go(None)
    broken = with_validation(tmp_path / "broken", **settings)
    save = broken._save_checkpoint

    def dying(*args):
        save(*args)
        if broken.state.global_step == 4:
            raise Killed

    broken._save_checkpoint = dying
    with pytest.raises(Killed):
        broken.go(None)
    again = with_validation(tmp_path / "broken", **settings)
    again.go(tmp_path / "broken" / "checkpoints" / "checkpoint-4")
    (expected,) = (line for line in lines(tmp_path / "whole") if line["update"] == 5 and "loss" in line)
    (found,) = (line for line in lines(tmp_path / "broken") if line["update"] == 5 and "loss" in line)
    for name in ("loss", "reward_margin", "rho_entropy"):
        assert found[name] == pytest.approx(expected[name], rel=1e-5), name


def test_d1_the_first_update_learns(tmp_path):
    run = trainer(tmp_path, method("sft"), updates=10, warmup_fraction=0.3, schedule="cosine", learning_rate=1.0)
    run.go(None)
    rates = [line["learning_rate"] for line in lines(tmp_path) if "learning_rate" in line]
    assert rates[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert all(earlier > later > 0 for earlier, later in pairwise(rates[3:]))


def test_b10_one_process_is_all_of_them():
    from irpo import processes

    assert (processes.rank(), processes.count(), processes.is_first()) == (0, 1, True)
    assert processes.gather(processes.share([3, 1, 2])) == [3, 1, 2]
    assert processes.agree("x") == "x"


def test_b10_shares_come_together_in_the_order_before(monkeypatch):
    """Three processes, played one after the other."""
    from irpo import processes

    items, parts = list(range(8)), []

    class Group:
        def __init__(self, rank):
            self.get_rank, self.get_world_size = (lambda: rank), (lambda: 3)

        def all_gather_object(self, found, own):
            found[:] = parts

    for rank in range(3):
        monkeypatch.setattr(processes, "_group", lambda rank=rank: Group(rank))
        parts.append(processes.share(items))
    assert all(processes.gather(part) == items for part in parts)
