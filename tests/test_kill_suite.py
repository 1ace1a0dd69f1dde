"""The benchmark that kills suites sees a difference where there is one, and none where times alone differ."""

import importlib.util
import json
import random
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "kill_suite.py"
STAND_IN = """
import json, sys, time
from pathlib import Path
out = Path(sys.argv[-1])
out.mkdir(exist_ok=True)
for step in range(4):
    if not (done := out / str(step)).exists():
        time.sleep(0.3)
        done.touch()
tables = [{"id": "world", "rows": [0.5, len(list(out.iterdir()))]}]
told = {"tables": tables, "more": [{"id": "cost", "rows": [time.time()]}]}
told["sources"] = [{"seconds": time.time()}]
(out / "report.json").write_text(json.dumps(told))
"""


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("kill_suite", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_differences_are_named_and_times_are_none(script):
    one = {"tables": [{"id": "world", "rows": [0.5, 1]}], "sources": [{"seconds": 3.0, "state": "done"}]}
    other = {"tables": [{"id": "world", "rows": [0.5, 2]}], "sources": [{"seconds": 4.0, "state": "failed"}]}
    took, longer = ({"more": [{"id": "cost-modes", "rows": [ms]}]} for ms in (7, 9))
    assert list(script.differences(one | took, one | longer)) == []
    assert list(script.differences(one, other)) == ["sources/0/state: done, failed", "tables/world/rows/1: 1, 2"]
    assert list(script.differences({"a": [1]}, {"a": [1, 2]})) == ["a: [1], [1, 2]"]
    assert list(script.differences({"a": 1}, {})) == ["a: 1, None"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no process groups of this kind")
def test_a_stand_in_that_goes_on_is_killed_and_equal(script, tmp_path):
    suite = tmp_path / "suite.py"
    suite.write_text(STAND_IN, encoding="utf-8")
    found = script.both(
        [sys.executable, str(suite)], tmp_path, 3, random.Random(3)
    )  # below the calm time in all: work is left for each
    calm, killed = (json.loads((tmp_path / name / "report.json").read_text()) for name in ("calm", "killed"))
    assert 1 <= len(found["kills"]) <= 3  # fewer where the calm run was held up
    assert list(script.differences(calm, killed)) == []
