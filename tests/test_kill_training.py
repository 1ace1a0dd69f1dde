"""A run that is killed ends as if it had not been: some of what `benchmarks/kill_training.py` does whole."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "kill_training.py"
NAMES = (
    "rename run.json",  # among the first files
    "half of optimizer.pt",  # a checkpoint being written
    "rename checkpoint-4",
    "half of a line of log.jsonl",  # the last validation's
    "rename strength.json",
    "rename adapter",  # the final save
)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the script forks")
def test_a_run_that_is_killed_at_these_moments_goes_on_to_the_same():
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parents[1])}
    words = [sys.executable, str(SCRIPT), "--kinds", "offline", "--random", "1", "--names", *NAMES]
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    found = json.loads(done.stdout)
    assert found["differ"] == []
    assert (done.returncode, found["equal"], found["places"]) == (0, len(NAMES) + 1, dict.fromkeys(NAMES, 1))
