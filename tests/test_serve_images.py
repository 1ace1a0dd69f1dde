"""The images of `configs/serve`: built where docker is, linted where hadolint is, and their words are ours."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from irpo.cli import app

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "configs" / "serve").glob("Dockerfile.c*[au]"))


def instructions(file):
    """Each instruction's word and the rest of it, its lines joined."""
    text = re.sub(r"^#.*\n", "", file.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


def of(file, word):
    return [rest for each, rest in instructions(file) if each == word]


def test_there_is_one_for_cpus_and_one_for_gpus():
    assert [file.name for file in FILES] == ["Dockerfile.cpu", "Dockerfile.cuda"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_hadolint_has_nothing_to_say(file):
    beside = Path(sys.executable).parent / "hadolint"
    hadolint = str(beside) if beside.exists() else shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    found = subprocess.run([hadolint, str(file)], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_what_is_copied_is_there_and_sent_to_the_builder(file):
    sent = {line[1:] for line in (ROOT / f"{file}.dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {name for rest in of(file, "COPY") if "--from" not in rest for name in rest.split()[:-1]}
    assert copied == sent
    assert [name for name in copied if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_the_command_is_one_that_irpo_takes(file):
    (entry,), (words,) = of(file, "ENTRYPOINT"), of(file, "CMD")
    assert json.loads(entry) == ["irpo", "serve"]
    command = typer.main.get_command(app).commands["serve"]
    given = command.make_context("serve", json.loads(words)).params
    assert (given["model"], given["host"], str(given["port"])) == ("/model", "0.0.0.0", *of(file, "EXPOSE"))
    assert f"127.0.0.1:{given['port']}/ready" in of(file, "HEALTHCHECK")[0]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_versions_are_pinned_and_nobody_is_root(file):
    assert all(re.match(r"python:3\.11\.\d+-slim-bookworm\b", base) for base in of(file, "FROM"))
    assert "-c constraints.txt" in " ".join(of(file, "RUN"))
    assert int(*of(file, "USER")) > 0


def test_the_image_is_built_and_serves():
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "info"], capture_output=True, check=False).returncode:
        pytest.skip("no docker daemon answers")
    base = of(FILES[0], "FROM")[0].split()[0]
    if subprocess.run([docker, "pull", "-q", base], capture_output=True, check=False).returncode:
        pytest.skip(f"docker cannot get {base}")
    build = [docker, "build", "-q", "-f", str(FILES[0]), str(ROOT)]
    image = subprocess.run(build, capture_output=True, text=True, check=True).stdout.strip()
    help_ = subprocess.run([docker, "run", "--rm", image, "--help"], capture_output=True, text=True, check=True).stdout
    assert "Serve a ranker over HTTP" in help_
