"""What figures were made with: the commit, the libraries, the machine. No name of a user, a host or a folder."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = ("irpo", "torch", "transformers", "peft", "bitsandbytes", "ir-measures", "pytrec-eval-terrier", "numpy")


@cache
def commit() -> str | None:
    """The commit of this package's source, with a + behind it where it was changed since; None outside a checkout."""
    home = Path(__file__).resolve().parents[2]

    def git(*words: str) -> str:
        asked = ["git", "-C", str(home), *words]
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", "irpo", "configs", "prompts")
        return git("rev-parse", "--short=12", "HEAD") + "+" * bool(changed)
    except (OSError, subprocess.CalledProcessError):
        return None


@cache
def versions() -> dict[str, str]:
    """Of Python and of the packages that figures depend on."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def made() -> dict[str, Any]:
    """All of it, of this process."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else _processor()
    return {"commit": commit(), "versions": versions(), "device": device, "threads": torch.get_num_threads()}


@cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())
