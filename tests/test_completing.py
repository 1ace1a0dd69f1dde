"""What a shell completes, asked as bash asks it, and that nothing heavy is loaded for an answer."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from irpo import cli, completing
from irpo.catalogue import registry_of
from irpo.resources import configs_dir

ASK = "import sys; sys.argv = ['irpo']; from irpo.cli import main; main()"


@pytest.fixture
def completed(irpo, monkeypatch, tmp_path):
    """The words that bash is offered for the last of a line's words."""
    for name in ("runs/first", "elsewhere"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.yaml").touch()
    (tmp_path / "mine.yaml").touch()

    def complete(line):
        for name, value in asking(line).items():
            monkeypatch.setenv(name, value)
        return irpo()[1].split()

    return complete


def asking(line):
    words = line.split(" ")
    return {"_IRPO_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("irpo gu", ["guide"]),
        ("irpo train --res", ["--resume"]),
        ("irpo train models/llama3.2", ["models/llama3.2-1b.yaml", "models/llama3.2-3b.yaml"]),
        ("irpo train methods/ir", ["methods/irpo.yaml", "methods/irpo_sampled.yaml"]),
        ("irpo train mi", ["mine.yaml"]),
        ("irpo train runs/f", ["runs/first/config.yaml"]),
        ("irpo estimate --launch fsdp2_", ["fsdp2_qlora"]),
        ("irpo prepare --task ar", ["arc"]),
        ("irpo evaluate --mode constr", ["constrain"]),
        ("irpo rank --mode generate_", ["generate_strengthened"]),
        ("irpo rank --model e", ["elsewhere", "embedded"]),
        ("irpo rank --model ru", ["runs/first"]),
        ("irpo rank --model runs/", ["runs/first"]),
        ("irpo compare suites/qui", ["suites/quick.yaml", "suites/quickstart.yaml"]),
        ("irpo guide own", ["own_data"]),
        ("irpo list obj", ["objectives"]),
        ("irpo evaluate --style la", ["label"]),
        ("irpo evaluate --engine v", ["vllm"]),
    ],
)
def test_bash_is_offered(completed, line, offered):
    assert completed(line) == offered


@pytest.mark.parametrize("kind", ["task", "mode", "engine"])
def test_the_names_in_the_sources_are_those_that_are_registered(kind):
    own = {n for n in registry_of(f"{kind}s") if registry_of(f"{kind}s").get(n).__module__.startswith("irpo.")}
    assert set(completing.registered(kind)) == own


def test_every_shipped_layer_is_offered():
    folders = ("models", "tasks", "methods", "embedded")
    shipped = {f"{f}/{path.name}" for f in folders for path in (configs_dir() / f).glob("*.yaml")}
    assert set(completing.layers("")) >= shipped


def test_every_model_task_mode_and_layer_flag_completes():
    wanted = {"launch", "model", "task", "mode", "style", "engine", "layers", "like", "strength_by"}
    for name, command in typer.main.get_command(cli.app).commands.items():
        for parameter in command.params:
            if parameter.name in wanted and (name, parameter.name) != ("mine", "model"):  # any SentenceTransformer
                assert parameter._custom_shell_complete is not None, (name, parameter.name)


def test_an_answer_is_quick_and_loads_no_torch(tmp_path):
    code = f"{ASK[:-6]}\ntry: main()\nfinally: open('loaded', 'w').write(' '.join(sys.modules))"
    environment = os.environ | asking("irpo train models/l") | {"PYTHONPATH": os.pathsep.join(sys.path)}
    times = []
    for _ in range(3):  # of the processor, and the best of three: a busy machine is not a slow answer
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert "models/llama3.1-8b.yaml" in done.stdout, done.stderr
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        if times[-1] < 2:
            break
    assert min(times) < 2
    assert not {"torch", "transformers", "numpy"} & set((tmp_path / "loaded").read_text().split())


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash here")
def test_the_script_that_irpo_installs_completes_in_bash(irpo, tmp_path, monkeypatch):
    # typer looks for a shell among this process's parents, of which none may be one.
    monkeypatch.setattr("typer.completion._get_shell_name", lambda: "bash")
    code, script, _ = irpo("--show-completion")
    assert code == 0
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    (bin_folder / "irpo").write_text(f"#!{sys.executable}\n{ASK}\n")
    (bin_folder / "irpo").chmod(0o755)
    asked = "\nCOMP_WORDS=(irpo train models/emb); COMP_CWORD=2; _irpo_completion irpo; echo ${COMPREPLY[@]}"
    path = os.pathsep.join([str(bin_folder), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "PYTHONPATH": os.pathsep.join([str(Path.cwd()), *sys.path])}
    done = subprocess.run(["bash", "-c", script + asked], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["models/embedded.yaml"]
