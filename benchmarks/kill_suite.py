"""A suite that is killed again and again ends in the report of one that was left alone, but for times: one JSON line.

python benchmarks/kill_suite.py SUITE.yaml [--kills 10] [--jobs 2] [--seed 0] [--out FOLDER] [--command "irpo compare"]

`compare SUITE --out FOLDER/calm` runs undisturbed; `--out FOLDER/killed` gets SIGKILL, its whole process group, at
random moments, and is started anew each time. With --out, a calm run that is finished there is used again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

# What times and the machine's load decide, wherever it stands in report.json.
KEYS = ("seconds", "joules", "peak_bytes", "tokens_per_s", "lists_per_s")
PARTS = ("more/cost", "figures/cost")  # and what begins so; a table or figure by its id
SHOWN = 10  # differences in the line


def main() -> None:
    """Run both, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, help="a folder to keep; else a temporary one")
    parser.add_argument("--command", default=f"{shlex.quote(sys.executable)} -m irpo compare")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        out = options.out or Path(temporary)
        words = [*shlex.split(options.command), options.suite, "--jobs", str(options.jobs), "--out"]
        found = both(words, out, options.kills, random.Random(options.seed))
        reports = [json.loads((out / name / "report.json").read_text(encoding="utf-8")) for name in ("calm", "killed")]
    unlike = list(differences(*reports))
    line = {"benchmark": "kill_suite", "suite": options.suite, "jobs": options.jobs, **found}
    line |= {"equal": not unlike, "differences": unlike[:SHOWN], "not_compared": [*KEYS, *PARTS]}
    print(json.dumps(line), flush=True)
    sys.exit(bool(unlike) or len(found["kills"]) < options.kills)


def both(words: list[str], out: Path, kills: int, chance: random.Random) -> dict[str, Any]:
    """The calm run and the killed one; how long they took, and when the kills were, in seconds since each start."""
    out.mkdir(parents=True, exist_ok=True)
    noted = out / "calm.json"
    if not noted.exists():
        noted.write_text(json.dumps(to_the_end(words, out / "calm")))
    calm = json.loads(noted.read_text())
    # On average the killed run is given the calm one's time before the last kill; as each start has its imports and
    # each kill undoes something, there is work left for every kill.
    moments, began = [], time.perf_counter()
    for _ in range(kills):
        seconds = chance.uniform(0, 2 * calm / kills)
        if not killed_after(words, out / "killed", seconds):
            break
        moments.append(round(seconds, 1))
    to_the_end(words, out / "killed")
    return {"calm_seconds": round(calm), "killed_seconds": round(time.perf_counter() - began), "kills": moments}


def begin(words: list[str], out: Path) -> subprocess.Popen[bytes]:
    """A suite's process, the head of a group of its own; what it says goes to a file beside its folder."""
    with out.with_name(f"{out.name}.log").open("ab") as log:
        return subprocess.Popen([*words, str(out)], stdout=log, stderr=log, start_new_session=True)


def to_the_end(words: list[str], out: Path) -> float:
    """Seconds of a run that is left alone."""
    began = time.perf_counter()
    if code := begin(words, out).wait():
        raise SystemExit(f"{shlex.join([*words, str(out)])} ended with {code}; see {out}.log")
    return time.perf_counter() - began


def killed_after(words: list[str], out: Path, seconds: float) -> bool:
    """Begin a run and kill its group; False where it had ended by itself. Nobody of the group is left afterwards."""
    suite = begin(words, out)
    try:
        suite.wait(seconds)
        return False
    except subprocess.TimeoutExpired:
        os.killpg(suite.pid, signal.SIGKILL)
    suite.wait()
    while alive := group(suite.pid):
        psutil.wait_procs(alive, timeout=1)
    return True


def group(number: int) -> list[psutil.Process]:
    """The processes of a group that still run."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == number and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def differences(one: Any, other: Any, path: str = "") -> Iterator[str]:
    """Where two reports differ, but for times: "tables/redial/rows/3/cells/0/value: 0.41, 0.42"."""
    if path.startswith(PARTS) or path.rpartition("/")[2] in KEYS:
        return
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted(one.keys() | other.keys()):
            yield from differences(one.get(key), other.get(key), _under(path, key))
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for number, (a, b) in enumerate(zip(one, other, strict=True)):
            name = a["id"] if isinstance(a, dict) and "id" in a else number
            yield from differences(a, b, _under(path, name))
    elif one != other:
        yield f"{path}: {str(one)[:60]}, {str(other)[:60]}"


def _under(path: str, name: object) -> str:
    return f"{path}/{name}" if path else str(name)


if __name__ == "__main__":
    main()
