"""The wheel, installed into a new environment and run from another folder, carries all that it needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from irpo.resources import configs_dir, embedded_dir, project_dir, prompts_dir, report_dir, serve_dir

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = {
    "prompts": prompts_dir(),
    "configs": configs_dir(),
    "embedded": embedded_dir(),
    "report": report_dir(),
    "project": project_dir(),
    "serve": serve_dir(),
}


def files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def run(*command: object, cwd: Path) -> str:
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([str(c) for c in command], cwd=cwd, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built by way of the source distribution, so that this one is complete, too."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT, cwd=out)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The bin folder of a new environment that holds the wheel, and borrows this one's dependencies."""
    home = tmp_path_factory.mktemp("env")
    run(sys.executable, "-m", "venv", "--without-pip", home, cwd=home)
    bin_dir = home / ("Scripts" if os.name == "nt" else "bin")
    run(sys.executable, "-m", "pip", "--python", home, "install", "--no-deps", "--no-index", wheel, cwd=home)
    # A path that comes from a .pth file is not searched for further .pth files, so the checkout stays out of reach.
    site = Path(sysconfig.get_path("purelib", vars={"base": str(home), "platbase": str(home)}))
    (site / "borrowed.pth").write_text("\n".join({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}))
    return bin_dir


def test_the_wheel_holds_the_package_and_its_data_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for kind, folder in SHIPPED.items():
        assert {f"irpo/_data/{kind}/{name}" for name in files(folder)} <= names
    assert {f"irpo/guides/{name}" for name in files(ROOT / "irpo" / "guides")} <= names
    assert "irpo/py.typed" in names
    assert {name.split("/")[0] for name in names} == {"irpo", "irpo-0.1.0.dist-info"}
    assert wheel.stat().st_size < 10 * 2**20


def test_the_installed_package_finds_its_data_from_another_folder(installed, tmp_path):
    code = (
        "import json, irpo, irpo.resources as r\n"
        "found = {'prompts': r.prompts_dir(), 'configs': r.configs_dir(), 'embedded': r.embedded_dir()}\n"
        "found |= {'report': r.report_dir(), 'serve': r.serve_dir()}\n"
        "print(json.dumps({'package': irpo.__file__, **{k: str(v) for k, v in found.items()}}))"
    )
    found = json.loads(run(installed / "python", "-c", code, cwd=tmp_path))
    assert ROOT not in Path(found.pop("package")).parents
    for kind, folder in found.items():
        assert ROOT not in Path(folder).parents
        assert files(Path(folder)) == files(SHIPPED[kind])
        assert files(Path(folder)), f"{kind} is empty"


def test_the_installed_command_runs_from_another_folder(installed, tmp_path):
    assert "quickstart" in run(installed / "irpo", "--help", cwd=tmp_path)
    assert "# Own data" in run(installed / "irpo", "guide", "own_data", cwd=tmp_path)
    run(installed / "irpo", "init", "mine", cwd=tmp_path)
    assert files(tmp_path / "mine") == files(project_dir())
    listed = json.loads(run(installed / "irpo", "list", "objectives", "--json", cwd=tmp_path))
    assert "irpo" in {row["name"] for row in listed["objectives"]}
    code = (
        "from irpo.config import load_config; print(load_config(['quickstart.yaml', 'methods/irpo.yaml']).model.name)"
    )
    assert run(installed / "python", "-c", code, cwd=tmp_path).strip() == "embedded"


def test_the_embedded_model_is_shipped_and_small():
    weights = embedded_dir() / "model.safetensors"
    assert weights.is_file()
    assert weights.stat().st_size <= 8 * 2**20
