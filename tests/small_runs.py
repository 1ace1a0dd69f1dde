"""A run of seconds on the embedded model, and its log."""

import json

from irpo.config.schema import load_config

SMALL = [
    *("task.train_lists=60", "task.eval_lists=4", "model.lora.r=2", "prompt.style=label", "prompt.max_tokens=512"),
    *("method.scorer=label", "training.updates=4", "training.lists_per_update=2", "training.evaluate_every=2"),
    *("training.max_validation_lists=4", "training.learning_rate=0.01", "model.lora.targets=[q_proj]"),
    "ranking.strength=1",
]


def config_of(*overrides):
    return load_config(["models/embedded.yaml", "tasks/world.yaml", "methods/irpo.yaml"], [*SMALL, *overrides])


def lines(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
