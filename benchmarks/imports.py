"""How long a command takes to answer where no model is needed, and what it imports for it: one JSON line a command.

python benchmarks/imports.py [--repetitions 5] [--root ANOTHER_CHECKOUT]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TRAIN = ["train", "models/embedded.yaml", "tasks/world.yaml", "methods/irpo.yaml", "--out", "run"]
COMMANDS = {
    "help": ["--help"],
    "prepare": ["prepare", "--task", "world", "--out", "lists"],
    "guide": ["guide", "own_data"],
    "list": ["list"],
    "a file that is not there": [*TRAIN, "models/embeded.yaml"],
    "an unknown key": [*TRAIN, "training.learning_rat=1"],
    "an unknown option": [*TRAIN, "method.objective.bta=1"],
    "a wrong model": [*TRAIN, "model.name=./nowhere"],
    "a wrong folder to write": [*TRAIN[:-1], "taken/run"],
    "evaluate a wrong run": ["evaluate", "--model", "./nowhere", "--out", "found"],
    "rank without a query": ["rank", "--model", "embedded", "", "a", "b"],
    "rank by a wrong model": ["rank", "--model", "./nowhere", "q", "a", "b"],
}
HEAVY = ("torch", "transformers", "transformers.trainer", "peft", "bitsandbytes", "accelerate", "datasets", "scipy")
CODE = """
import atexit, sys
atexit.register(lambda: print(*[m for m in {heavy} if m in sys.modules], file=open('imported', 'w')))
sys.argv = ['irpo', *{words}]
from irpo.cli import main
main()
"""


def main() -> None:
    """Time every command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[1], help="which checkout's irpo")
    options = parser.parse_args()
    environment = os.environ | {"PYTHONPATH": str(options.root), "HF_HUB_OFFLINE": "1"}
    for name, words in COMMANDS.items():
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "taken").write_text("a file")
            runs = [once(words, Path(folder), environment) for _ in range(options.repetitions)]
            imported = (Path(folder) / "imported").read_text().split()
        best = {key: round(min(run[key] for run in runs), 2) for key in ("seconds", "cpu_seconds")}
        print(json.dumps({"command": name, **best, "imports": imported}), flush=True)


def once(words: list[str], folder: Path, environment: dict[str, str]) -> dict[str, float]:
    """One run of a command in a fresh Python: by the clock, and of the processor, where others use it too."""
    code = CODE.format(heavy=HEAVY, words=words)
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, check=False)
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if b"Traceback" in done.stderr:
        print(done.stderr.decode().splitlines()[-1], file=sys.stderr)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": seconds, "cpu_seconds": used}


if __name__ == "__main__":
    main()
