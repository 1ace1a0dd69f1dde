"""Measuring a ranker: its modes and the baselines under one protocol, and the files that tell what came out."""

from irpo.evaluation.results import Evaluation, Measured, RankerResult, Setting, Summary
from irpo.evaluation.running import EvaluationOptions, evaluate
from irpo.evaluation.writing import RESULTS, write_results

__all__ = [
    "RESULTS",
    "Evaluation",
    "EvaluationOptions",
    "Measured",
    "RankerResult",
    "Setting",
    "Summary",
    "evaluate",
    "write_results",
]
