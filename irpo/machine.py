"""What this machine's memory is, on every system."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil

_CONTAINER = Path("/sys/fs/cgroup/memory.max")


def memory() -> int:
    """Bytes of memory that this machine, or the container it is, has."""
    whole = int(psutil.virtual_memory().total)
    text = _CONTAINER.read_text(encoding="ascii").strip() if _CONTAINER.is_file() else ""
    return min(whole, int(text)) if text.isdigit() else whole


def peak_of_process() -> int:
    """Bytes of memory that this process has held at most."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return int(psutil.Process().memory_info().peak_wset)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
