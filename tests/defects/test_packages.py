"""Packages: those that ours needs, those that bring plug-ins, and ours as others import it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from commands import TRAIN

from irpo.types import UserError

# Other libraries import them for us; trackio is imported by its name in a string.
NOT_IMPORTED = {"deepspeed", "dev", "docs"}  # extras that are run, or imported by other libraries for us
IMPLIED = {"accelerate", "pytrec-eval-terrier", "bitsandbytes", "tensorboard", "trackio"}


def test_m3_what_is_imported_is_declared_and_nothing_else():
    import ast
    import re
    import tomllib

    root = Path(__file__).parents[2]
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    extras = {name: wanted for name, wanted in project["optional-dependencies"].items() if name not in NOT_IMPORTED}
    wanted = project["dependencies"] + [line for lines in extras.values() for line in lines]
    declared = {re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0].lower().replace("_", "-") for line in wanted}
    names = {"yaml": "pyyaml", "pydantic_core": "pydantic", "llama_index": "llama-index-core"}
    imported = set()
    for path in (root / "irpo").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                imported.add(node.module.partition(".")[0])
    foreign = {names.get(name, name.replace("_", "-")) for name in imported - set(sys.stdlib_module_names) - {"irpo"}}
    assert foreign - declared == set()
    assert declared - foreign - IMPLIED == set()


def test_m3_memory_is_known_where_unix_is_not(monkeypatch):
    from types import SimpleNamespace

    import psutil

    from irpo import processes as machine

    assert machine.memory() > 2**28
    assert machine.peak_of_process() > 2**24
    monkeypatch.setitem(sys.modules, "resource", None)  # Windows has none
    monkeypatch.delattr("os.sysconf", raising=False)
    monkeypatch.setattr(psutil, "Process", lambda: SimpleNamespace(memory_info=lambda: SimpleNamespace(peak_wset=7)))
    assert machine.peak_of_process() == 7
    assert machine.memory() > 2**28


def package(folder: Path, name: str, module: str, text: str) -> None:
    """An installed package with one plug-in module."""
    (folder / f"{module}.py").write_text(text)
    about = folder / f"{name}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[irpo.plugins]\nmine = {module}\n")


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """A folder of installed packages, which are looked for anew; the second is a kind of plug-in of theirs."""
    from irpo.registry import load_installed

    (tmp_path / "kinds_of_theirs.py").write_text("from irpo.registry import Registry\nKIND = Registry('thing')\n")
    monkeypatch.syspath_prepend(tmp_path)
    load_installed.cache_clear()
    yield tmp_path
    load_installed.cache_clear()
    for name in ("kinds_of_theirs", "plugin_of_theirs"):
        sys.modules.pop(name, None)


PLUGIN = """
from dataclasses import dataclass
from kinds_of_theirs import KIND

@KIND.register('theirs')
@dataclass(frozen=True)
class Theirs:
    k: int = 1
"""


@pytest.mark.parametrize("first", ["build", "list", "contains"])
def test_b12_plugins_of_installed_packages_are_found(installed, first):
    package(installed, "irpo-theirs", "plugin_of_theirs", PLUGIN)
    from kinds_of_theirs import KIND  # type: ignore[import-not-found]

    assert {
        "build": lambda: KIND.build({"name": "theirs", "k": 3}).k == 3,
        "list": lambda: list(KIND) == ["theirs"],
        "contains": lambda: "theirs" in KIND,
    }[first]()


def test_b12_an_installed_plugin_that_is_broken_is_named(installed):
    package(installed, "irpo-theirs", "plugin_of_theirs", "import no_such_module_at_all\n")
    from kinds_of_theirs import KIND  # type: ignore[import-not-found]

    with pytest.raises(UserError, match="'plugin_of_theirs' of the installed package 'irpo-theirs' cannot be imported"):
        KIND.build("theirs")


def test_b12_the_commands_are_functions(monkeypatch, tmp_path):
    import types
    from inspect import signature

    import irpo

    card = irpo.prepare({"name": "world", "train_lists": 20, "eval_lists": 5}, tmp_path / "lists")
    assert card["splits"]["eval"]["lists"] == 5
    calls = []
    fake = types.ModuleType("irpo.pipeline")
    fake.train = lambda *args, **kwargs: calls.append((args, kwargs)) or {}
    fake.evaluate = lambda *args, **kwargs: calls.append((args, kwargs)) or {}
    monkeypatch.setitem(sys.modules, "irpo.pipeline", fake)
    monkeypatch.setattr(irpo, "pipeline", fake, raising=False)
    irpo.train([*TRAIN[1:], "training.updates=3"], tmp_path / "run", resume=True)
    ((config, out), given) = calls.pop()
    assert (config.training.updates, out, given) == (3, tmp_path / "run", {"resume": True})
    with pytest.raises(UserError, match=r"override 'method\.objective\.bta=1': unknown option 'bta'"):
        irpo.train([*TRAIN[1:], "method.objective.bta=1"], tmp_path / "run")
    irpo.evaluate("embedded", tmp_path / "e", task={"name": "world", "world_seed": 2}, modes=["score"], max_lists=4)
    ((model, task, out, settings), _) = calls.pop()
    assert (model, task, settings.max_lists, len(settings.modes)) == (
        "embedded",
        {"name": "world", "world_seed": 2},
        4,
        1,
    )
    assert all(signature(f).return_annotation for f in (irpo.prepare, irpo.train, irpo.evaluate))
