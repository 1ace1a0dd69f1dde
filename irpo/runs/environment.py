"""On what a run was made: the machine's kind, the versions, our own commit. No name of a user, a host or a path.

`environment.json` is of the process that began or last went on with the run; under `earlier` are those before it that
were another.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess  # nosec B404 # one command of ours, git, without a shell
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from irpo.runs.key import read_json

ENVIRONMENT = "environment.json"
PACKAGES = (
    *("torch", "transformers", "peft", "bitsandbytes", "datasets", "accelerate"),
    *("ir-measures", "pytrec-eval-terrier", "irpo"),
)
_CHECKOUT = Path(__file__).parents[2]


def environment() -> dict[str, Any]:
    """This process's; a package that is not installed is None."""
    import torch

    gpu = torch.cuda.is_available()
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if gpu else None,
        "cuda": torch.version.cuda if gpu else None,
        "packages": {name: _version(name) for name in PACKAGES},
        "commit": commit(_CHECKOUT),
    }


def cpu_model() -> str:
    """What the CPU calls itself; its architecture where it has no name."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    elif sys.platform == "darwin":
        return _said(["sysctl", "-n", "machdep.cpu.brand_string"]) or platform.machine()
    return platform.processor() or platform.machine()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def commit(checkout: Path) -> str | None:
    """The commit that a checkout is at, with a + where what it runs has been changed; None where it is no checkout."""
    if not (checkout / ".git").exists():  # an installed package may lie inside somebody else's repository
        return None
    head = _said(["git", "-C", str(checkout), "rev-parse", "HEAD"])
    changed = _said(["git", "-C", str(checkout), "status", "--porcelain", "--", "irpo", "prompts", "configs"])
    if not head or changed is None:
        return None
    return head + ("+" if changed else "")


def _said(command: list[str]) -> str | None:
    """What a command writes, None where it fails or is not there."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}  # as in a git hook
    try:
        done = subprocess.run(  # nosec B603 # git
            command, capture_output=True, text=True, env=clean, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def environment_file(folder: Path) -> str:
    """The text of `environment.json` for this process, after those that the folder tells of."""
    now, there = environment(), read_json(folder / ENVIRONMENT)
    before = there.pop("earlier", [])
    earlier: list[Any] = []
    for each in [*(before if isinstance(before, list) else []), there]:
        if each and each != now and each not in earlier:
            earlier.append(each)
    return json.dumps(now | ({"earlier": earlier} if earlier else {}), indent=2) + "\n"
