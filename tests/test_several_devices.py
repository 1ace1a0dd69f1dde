"""The guide to several devices: each of its command lines is run here, or read by what it is given to."""

from __future__ import annotations

import json
import os
import re
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file
from small_runs import SMALL
from test_launching import BIN, ROOT, free_port

from irpo import api
from irpo.resources import configs_dir
from irpo.runs.checkpoints import WHOLE
from irpo.types import UserError

GUIDE = (ROOT / "irpo" / "guides" / "several_devices.md").read_text(encoding="utf-8")
LINES = [line for block in re.findall(r"```sh\n(.*?)```", GUIDE, re.DOTALL) for line in block.splitlines()]
TINY = ["models/embedded.yaml", "tasks/world.yaml", "methods/irpo.yaml", *SMALL, "training.logging_every=1"]
OTHERS = os.environ.get("PYTHONPATH", "")
PATHS = {"PYTHONPATH": f"{ROOT}{os.pathsep}{OTHERS}", "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", **PATHS}


def line_of(*start: str) -> list[str]:
    """The words of the guide's only line that has these among them."""
    (found,) = [line for line in LINES if all(word in shlex.split(line) for word in start)]
    return shlex.split(found)


def changed(words: list[str], **options: str) -> list[str]:
    """The words with other values of options, by their names without dashes before and with _ for - within."""
    words = list(words)
    for name, value in options.items():
        at = next(i for i, word in enumerate(words) if word.lstrip("-").replace("-", "_") == name)
        words[at + 1] = value
    return words


def begun(words: list[str], **environment: str) -> subprocess.Popen:
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "cwd": ROOT}
    return subprocess.Popen(words, env=ENVIRONMENT | environment, **given)


def succeeds(*jobs: subprocess.Popen) -> None:
    said = [job.communicate(timeout=900)[0] for job in jobs]  # torchrun may wait 300 s for the other node to end
    assert [job.returncode for job in jobs] == [0] * len(jobs), "\n".join(said)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run of one process."""
    out = tmp_path_factory.mktemp("alone") / "run"
    api.train(TINY, out)
    return out


def require_same_run(run: Path, other: Path) -> None:
    mine, theirs = (load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (run, other))
    for name, weight in theirs.items():
        torch.testing.assert_close(mine[name], weight, rtol=0, atol=1e-4)
    curves = [[json.loads(line).get("loss") for line in (one / "log.jsonl").open()] for one in (run, other)]
    assert curves[0] == pytest.approx(curves[1], abs=1e-4)


def test_two_nodes_by_the_torchrun_line_are_one_process(alone, tmp_path):
    line = line_of("torchrun", "--nnodes")
    words = changed(
        line[: line.index("train") + 1], nproc_per_node="1", master_addr="127.0.0.1", master_port=free_port()
    )
    both = [changed(words, node_rank=str(node)) for node in (0, 1)]
    succeeds(*[begun([*node, *TINY, "--out", str(tmp_path / "run")]) for node in both])
    require_same_run(tmp_path / "run", alone)


def slurm_job() -> str:
    """A job's number for which the script takes a free port."""
    while True:
        number = secrets.randbelow(20000)
        with socket.socket() as one, suppress(OSError):
            one.bind(("127.0.0.1", 20000 + number))
            return str(number)


def test_two_nodes_by_the_slurm_script_sharing_by_fsdp2_are_one_process(alone, tmp_path):
    tools = tmp_path / "bin"
    tools.mkdir()
    starts = """
while [ "${1#-}" != "$1" ]; do shift; done
SLURM_NODEID=0 "$@" & first=$!
SLURM_NODEID=1 "$@"
wait $first
"""
    for name, text in {"srun": starts, "scontrol": "echo 127.0.0.1; sleep 0.3; echo 127.0.0.2"}.items():
        (tools / name).write_text(f"#!/bin/bash\n{text}\n")
        (tools / name).chmod(0o755)
    slurm = {"SLURM_JOB_NODELIST": "node[0-1]", "SLURM_NNODES": "2", "SLURM_JOB_ID": slurm_job()}
    line = line_of("sbatch", "models/llama3.2-3b.yaml")
    script = ROOT / line[line.index("sbatch") + 1]
    whole = ["bash", str(script), str(tmp_path / "run"), *TINY]
    succeeds(begun(whole, PATH=f"{tools}:{ENVIRONMENT['PATH']}", LAUNCH="fsdp2", **slurm))
    require_same_run(tmp_path / "run", alone)


def test_zero2_is_one_process_and_goes_on_as_it_began(alone, tmp_path):
    pytest.importorskip("deepspeed", reason="DeepSpeed is an extra")
    out = tmp_path / "run"
    words = [sys.executable, "-m", "irpo", "train", *TINY, "--out", str(out), "--processes", "2", "--launch", "zero2"]
    succeeds(begun(words))
    require_same_run(out, alone)
    for name in ("README.md", "adapter", "checkpoints/checkpoint-4"):
        shutil.rmtree(out / name) if (out / name).is_dir() else (out / name).unlink()
    with pytest.raises(UserError, match="was written by zero2 on 2 process"):
        api.train(TINY, out, resume=True)
    succeeds(begun([*words, "--resume"]))
    require_same_run(out, alone)


def test_a_killed_process_ends_training_and_one_process_goes_on_to_the_same_result(alone, tmp_path):
    out = tmp_path / "run"
    job = begun([sys.executable, "-m", "irpo", "train", *TINY, "--out", str(out), "--processes", "2"])
    while not (out / "checkpoints" / "checkpoint-2" / WHOLE).exists() and job.poll() is None:
        time.sleep(0.02)
    victims = {psutil.Process(pid.pid).environ()["RANK"]: pid for pid in psutil.Process(job.pid).children()}
    victims["1"].kill()
    began = time.monotonic()
    said = job.communicate(timeout=300)[0]
    assert time.monotonic() - began < 60
    assert job.returncode == 1
    (line,) = [line for line in said.splitlines() if "error" in line or "Traceback" in line]
    assert re.match(rf"error: process 1 of 2 \(pid {victims['1'].pid}\) was killed by SIGKILL.*--resume goes on", line)
    api.train(TINY, out, resume=True)
    require_same_run(out, alone)


# --- the other lines --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", LINES)
def test_a_line_of_the_guide_is_one_that_its_program_takes(line):
    words = [word for word in shlex.split(line) if "=" not in word or word != shlex.split(line)[0]]
    CHECKS[words[0]](words)


def takes_command(words):
    """irpo takes its flags, and its layers make a configuration."""
    import typer

    from irpo.cli import app
    from irpo.config.schema import load_config

    command = typer.main.get_command(app).commands[words[0]]
    parameters = command.make_context(words[0], list(words[1:])).params
    if words[0] == "train":
        files = [word for word in parameters["layers"] if "=" not in word]
        load_config(files, [word for word in parameters["layers"] if "=" in word])


def takes_launch(words):
    """accelerate's launcher takes the flags, and the rest is irpo's."""
    from accelerate.commands.launch import launch_command_parser

    args = launch_command_parser().parse_args(words[2:])
    assert (words[1], args.module, args.training_script) == ("launch", True, "irpo")
    assert (ROOT / args.config_file).is_file()
    takes_command(args.training_script_args)


def takes_torchrun(words):
    """torchrun takes the flags, and the rest is irpo's."""
    from torch.distributed.run import get_args_parser

    args = get_args_parser().parse_args(words[1:])
    assert (args.module, args.training_script) == (True, "irpo")
    takes_command(args.training_script_args)


def takes_sbatch(words):
    """The script is there and bash can read it; the rest is irpo's."""
    assert subprocess.run(["bash", "-n", ROOT / words[1]], check=False).returncode == 0
    takes_command(["train", *words[3:], "--out", words[2]])


def prints_a_file(words):
    """It is run, and says where a file lies."""
    said = subprocess.run([sys.executable, *words[1:]], capture_output=True, text=True, cwd=ROOT, check=True)
    assert Path(said.stdout.strip()) == configs_dir() / "launch" / "fsdp2.yaml"


CHECKS = {
    "irpo": lambda words: takes_command(words[1:]),
    "accelerate": takes_launch,
    "torchrun": takes_torchrun,
    "sbatch": takes_sbatch,
    "python": prints_a_file,
}


def test_the_guide_tells_of_every_shipped_configuration():
    named = re.findall(r"^\| `(\w+)`(?: \(the default\))? \|", GUIDE, re.MULTILINE)
    assert named == sorted(path.stem for path in (configs_dir() / "launch").glob("*.yaml"))
