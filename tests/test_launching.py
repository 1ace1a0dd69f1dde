"""How a command is started as several processes, and how they end: no orphan, one line."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from irpo import launching, meeting, processes, words
from irpo.launching import ended, launch, launch_file
from irpo.resources import configs_dir
from irpo.types import UserError

SHIPPED = sorted(path.stem for path in (configs_dir() / "launch").glob("*.yaml"))
KINDS = {"ddp": "MULTI_GPU", "fsdp2": "FSDP", "fsdp2_qlora": "FSDP", "zero2": "DEEPSPEED", "zero3": "DEEPSPEED"}
ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent


def free_port() -> str:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])


# --- the shipped configurations ---------------------------------------------------------------------------------------


def of_accelerate(name):
    """The launcher's arguments as accelerate itself makes them of a shipped file."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    given = ["--config_file", str(launch_file(name)), "--num_processes", "2", "--main_process_port", "0"]
    return _validate_launch_command(launch_command_parser().parse_args([*given, "-m", "irpo"]))[0]


def test_the_shipped_configurations_are_those_that_are_tested():
    assert list(KINDS) == SHIPPED


@pytest.mark.parametrize("name", KINDS)
def test_accelerate_reads_a_shipped_configuration(name):
    assert launching._kind(launch_file(name)) == KINDS[name]
    args = of_accelerate(name)
    assert (args.multi_gpu, args.use_fsdp, args.use_deepspeed) == tuple(
        KINDS[name] == kind for kind in launching._TYPES
    )
    assert launch_file(name).read_text().startswith("# Take it whe")  # when, where


@pytest.mark.parametrize("name", ["fsdp2", "fsdp2_qlora"])
def test_fsdp_is_its_second_version_in_the_processes_environment(name):
    from accelerate.utils.launch import prepare_multi_gpu_env

    environment = prepare_multi_gpu_env(of_accelerate(name))
    assert (environment["ACCELERATE_USE_FSDP"], environment["FSDP_VERSION"]) == ("true", "2")
    assert environment["FSDP_RESHARD_AFTER_FORWARD"] == "true"


@pytest.mark.parametrize(("name", "stage"), [("zero2", 2), ("zero3", 3)])
def test_deepspeed_reads_the_configuration_that_accelerate_makes_for_it(name, stage, monkeypatch):
    from accelerate.utils import DeepSpeedPlugin
    from accelerate.utils.launch import prepare_deepspeed_cmd_env

    pytest.importorskip("deepspeed", reason="DeepSpeed is an extra")
    args = of_accelerate(name)
    args.deepspeed_fields_from_accelerate_config = ""
    for key, value in prepare_deepspeed_cmd_env(args)[1].items():
        monkeypatch.setenv(key, value)
    from deepspeed.runtime.config import DeepSpeedConfig

    made = DeepSpeedPlugin().deepspeed_config
    whole = {**made, "train_micro_batch_size_per_gpu": 1, "train_batch_size": 1, "gradient_clipping": 1.0}
    assert DeepSpeedConfig({key: value for key, value in whole.items() if value != "auto"}).zero_config.stage == stage


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("distributed_type: 'NO'", "distributed_type is NO; write MULTI_GPU or FSDP or DEEPSPEED"),
        ("distributed_type: MULTI_GPU\nnum_machines: 2", "num_machines is 2; start one of them on each machine"),
        ("distributed_type: MULTI_GPU\nspeed: 3", "unknown keys (['speed'])"),
        ("[]", "no configuration that accelerate can read"),
    ],
)
def test_a_configuration_of_ones_own_that_does_not_serve(tmp_path, text, said):
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(UserError, match=re.escape(said)):
        launch(["train"], 2, str(tmp_path / "own.yaml"))


def test_a_configuration_that_is_not_there():
    with pytest.raises(UserError, match="did you mean 'fsdp2'"):
        launch_file("fdsp2")
    with pytest.raises(UserError, match="choose from ddp, fsdp2, fsdp2_qlora, zero2, zero3"):
        launch_file("everything")


def test_more_processes_than_gpus_and_deepspeed_that_is_not_there(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match=r"--processes 3: there are 2 GPU\(s\) here"):
        launch(["train"], 3, "ddp")
    monkeypatch.setattr(launching, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'irpo\[deepspeed\]'"):
        launch(["train"], 2, "zero2")


def test_a_way_of_sharing_needs_processes():
    with pytest.raises(UserError, match="--processes says how many"):
        words.as_processes(None, "fsdp2")


def test_one_of_several_processes_starts_no_more(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(UserError, match="this is one of several already"):
        launch(["train"], 2, "ddp")


def test_before_they_have_met_the_first_speaks(monkeypatch, capsys):
    from irpo.progress import say

    for number in ("0", "1"):
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("RANK", number)
        assert processes.is_first() == (number == "0")
        assert (processes.rank(), processes.count()) == (0, 1)  # nothing is shared out yet
        say(f"process {number}")
    assert capsys.readouterr().err == "process 0\n"


# --- how they ended ---------------------------------------------------------------------------------------------------


@dataclass
class Failure:
    pid: int
    exitcode: int


@pytest.mark.parametrize(
    ("failures", "code", "said"),
    [
        ({1: Failure(9, -9), 0: Failure(8, -15)}, 1, "process 1 of 2 (pid 9) was killed by SIGKILL, as the system"),
        ({0: Failure(8, meeting.LOST), 1: Failure(9, -11)}, 1, "process 1 of 2 (pid 9) was killed by SIGSEGV"),
        ({0: Failure(8, 1)}, 1, "process 0 of 2 (pid 8) ended with exit code 1; what it said stands above"),
        ({0: Failure(8, 143), 1: Failure(9, 143)}, 143, None),
    ],
)
def test_the_first_that_failed_says_how_the_job_ended(failures, code, said):
    found, line = ended(failures, {}, 2)
    assert found == code
    assert line is None if said is None else line.startswith(said)


def test_what_processes_leave_to_be_said_is_said_once():
    both = {1: Failure(9, 2), 0: Failure(8, -15)}
    assert ended(both, {0: "error: no", 1: "error: no"}, 2) == (2, "error: no")
    assert ended(both, {1: "error: no"}, 2) == (2, "process 1: error: no")
    assert ended({0: Failure(8, 1)}, {0: "Traceback ..."}, 2) == (1, "Traceback ...")


def test_an_error_that_is_no_death_is_not_taken_for_one(monkeypatch):
    here = meeting.Peer(0, meeting.platform.node(), os.getpid())
    monkeypatch.setattr(meeting, "_peers", (here,))
    assert meeting.lost(RuntimeError("shapes (2, 3) and (4, 5)")) is None
    assert meeting.lost(ValueError("Connection closed by peer")) is None
    assert not here.dead


# --- real processes ---------------------------------------------------------------------------------------------------


class Job:
    """A command that was started, with what it says in a file."""

    def __init__(self, folder: Path, fate: str, *command: str, tail: tuple[str, ...] = ()) -> None:
        self.file = folder / f"{fate}.txt"
        environment = {**os.environ, "FATE": fate, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
        words = [
            "evaluate",
            "--model",
            "embedded",
            "--task",
            "world",
            "--out",
            str(folder / "out"),
            "--plugin",
            "fates",
        ]
        with self.file.open("w") as file:
            whole = [*command, *words, *tail]
            self.process = subprocess.Popen(whole, env=environment, stdout=file, stderr=file, start_new_session=True)

    @property
    def said(self) -> str:
        return "".join(line for line in self.file.read_text().splitlines(True) if not line.startswith("fate of"))

    def ranks(self) -> list[int]:
        """The ids of both processes, once they have met."""
        end = time.monotonic() + 300
        while time.monotonic() < end and self.process.poll() is None:
            found = re.findall(r"fate of \d: (\d+)\n", self.file.read_text())
            if len(found) == 2:
                return [int(each) for each in found]
            time.sleep(0.05)
        raise AssertionError(self.file.read_text())

    def end(self, seconds: float = 300) -> int:
        """The exit code; no process is left where it does not come to one."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


HERE = (sys.executable, "-m", "irpo")
TWO = ("--processes", "2")


def alive(pids):
    return [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]


def gone_within(pids, seconds) -> bool:
    end = time.monotonic() + seconds
    while alive(pids) and time.monotonic() < end:
        time.sleep(0.05)
    return not alive(pids)


def test_a_process_that_dies_ends_the_job_and_a_line_says_which(tmp_path):
    job = Job(tmp_path, "killed", *HERE, tail=TWO)
    ranks = job.ranks()
    assert job.end() == 1
    assert re.fullmatch(
        rf"error: process 1 of 2 \(pid ({'|'.join(map(str, ranks))})\) was killed by SIGKILL, as the system does where "
        "memory runs out; the others were ended; the same command does what is left\n",
        job.said,
    )
    assert not alive(ranks)


def test_under_torchrun_the_process_that_is_left_says_which_is_gone(tmp_path):
    job = Job(tmp_path, "killed", str(BIN / "torchrun"), "--nproc-per-node", "2", "--standalone", "-m", "irpo")
    job.ranks()
    assert job.end() == 1
    (line,) = [line for line in job.said.splitlines() if line.startswith("error: ")]
    assert re.match(r"error: process 1 of 2 is gone \(pid \d+\); the others were ended", line)


def test_a_mistake_that_all_processes_meet_is_one_line(tmp_path):
    job = Job(tmp_path, "", *HERE, tail=(*TWO, "--model", "./nowhere"))
    assert job.end() == 2
    assert re.match("(process 1: )?error: ", job.said)  # 0 was some seconds behind
    assert job.said.count("\n") == 1
    assert "./nowhere" in job.said


def test_a_mistake_that_one_process_meets_bears_its_number(tmp_path):
    job = Job(tmp_path, "alone", *HERE, tail=TWO)
    assert job.end() == 2
    assert job.said == "process 1: error: the road is closed\n"


def test_ctrl_c_reaches_the_processes_and_a_second_one_ends_them_at_once(tmp_path):
    job = Job(tmp_path, "stubborn", *HERE, tail=TWO)
    ranks = job.ranks()
    job.process.send_signal(signal.SIGINT)
    time.sleep(1)
    assert (job.process.poll(), len(alive(ranks))) == (None, 2)  # it waits for them
    job.process.send_signal(signal.SIGINT)
    assert job.end(20) == 130  # not the 30 s of the launcher's patience
    assert gone_within(ranks, 5)
    assert job.said == ""


def test_no_process_outlives_a_launcher_that_is_killed(tmp_path):
    job = Job(tmp_path, "waits", *HERE, tail=TWO)
    ranks = job.ranks()
    job.process.kill()
    job.process.wait()
    assert gone_within(ranks, 60)
