"""The main job in miniature: the suite `suites/quickstart.yaml`, on the model and the data that the package has."""

from __future__ import annotations

import os
import time
from pathlib import Path

from irpo.compare.comparing import HTML, compare
from irpo.compare.engine.running import Options
from irpo.compare.page import Report
from irpo.compare.suite import Suite, read_suite
from irpo.progress import lasting, say

SUITE = "suites/quickstart.yaml"


def run(out: Path, config_file: Path | None = None) -> Report:
    """Train and measure every method that is not done in `out` yet, and write the report.

    `config_file` takes the place of `configs/quickstart.yaml`: other data, another length, another prompt.
    """
    began = time.perf_counter()
    suite = read_suite(SUITE)
    if config_file is not None:
        suite = _of(suite, config_file)
    report = compare(suite, out, options=Options(jobs=min(2, os.cpu_count() or 1)))
    say(f"{lasting(time.perf_counter() - began)}; open {out / HTML} in a browser")
    return report


def _of(suite: Suite, config_file: Path) -> Suite:
    """The suite with a layer of the user's, called after what that layer says."""
    suite = suite.model_copy(
        update={"layers": (str(config_file),), "about": f"With the settings of {config_file.name}."}
    )
    (model,), (task,) = suite.models, suite.tasks
    config = suite.config(model, task, suite.methods[0], {}, suite.seeds[0])
    named = {"models": (model, Path(config.model.name).name), "tasks": (task, str(config.task["name"]))}
    changed = {what: (entry.model_copy(update={"name": name}),) for what, (entry, name) in named.items()}
    return suite.model_copy(update=changed)
