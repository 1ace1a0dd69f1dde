"""A suite of seconds: the embedded model, two methods, a search of two trials, two seeds."""

from __future__ import annotations

from irpo.compare.planning import Planner
from irpo.compare.suite import read_suite

_HEAD = """
title: A suite of seconds
models: [models/embedded.yaml]
tasks: [{name: world, layers: [tasks/world.yaml], set: {task.train_lists: 60, task.eval_lists: 8, task.candidates: 4}}]
methods: [base, {name: SFT, layers: [methods/sft.yaml]}, {name: IRPO, layers: [methods/irpo.yaml]}]
layers: [quickstart.yaml]
set:
  model.lora: {r: 2, alpha: 4, targets: [q_proj]}
"""
SUITE = f"""{_HEAD}  training: {{updates: 2, lists_per_update: 2, max_validation_lists: 4, evaluate_every: 1}}
  evaluation.lists_per_batch: 4
seeds: 2
orders: 2
decoded_lists: 3
search:
  trials: 2
  space:
    rate: {{key: training.learning_rate, values: [0.003, 0.01]}}
    beta: {{key: method.objective.beta, values: [0.1, 1.0]}}
"""
SHORT = f"""{_HEAD}  training: {{updates: 2, lists_per_update: 2, max_validation_lists: 4, evaluate_every: 2}}
  evaluation.modes: [score]
"""  # no search, one seed


def planner(folder, text=SUITE, **changed):
    """The suite in a folder, its lists prepared; `changed` are its fields."""
    (folder / "suite.yaml").write_text(text)
    suite = read_suite(folder / "suite.yaml").model_copy(update=changed)
    made = Planner(suite, folder / "out")
    made.prepare()
    return made
