"""Options of tasks as a command's words, most of them wrong."""

from __future__ import annotations

import random

OPTIONS = "options"
_TASKS = (
    "world",
    "arc",
    "commonsenseqa",
    "hotpotqa",
    "musique",
    "redial",
    "inspired",
    "jsonl",
    "preferences",
    "table",
    "trec",
    "beir",
    "mteb",
)
_NAMES = (
    "train_lists", "eval_lists", "candidates", "world_seed", "seed", "list_size", "max_words", "unit", "level", "miner",
    "eval_split", "ground_truth", "llm_suggested", "years", "suggestions", "suggestion_column", "llm_endpoint",
    "labels",
    "llm_model", "llm_cache", "eval_fraction", "hub", "hub_config", "split", "shuffle", "relevant_from", "data", "name",
    "dense_model", "query", "label", "positives", "group", "run", "qrels", "dataset", "top_k", "train_candidates",
)  # fmt: skip
_VALUES = (
    "-1", "0", "1", "3", "4", "40", "41", "2.5", "1e3", "1e400", "-1e400", ".nan", ".inf", "null", "~", "true", "yes",
    "[]",
    "[1]", "{}", "{a: 1}", "''", "' '", "x", "9" * 30, "9" * 5000, "0x_", "0b2", "1_0", "2001-99-99", "2001-01-01",
    "!!binary x",
    "!!python/object:os.system x", "&a [*a]", "*a", "[" * 2000, "{" * 300, "\ud800", "\x00", "a\nb", "\u2028", "%",
    "@", "`",
    '"\\ud800"', '"\\U00110000"', "<<: x", "? x", "- x", ": ", "1:2:3", "x" * 100_000, "paragraph", "sentence", "../..",
)  # fmt: skip


def damaged_options(chance: random.Random) -> list[str]:
    """`irpo prepare` of a task, a few of its options wrong; the data are not there, or the world, a small one."""
    task = chance.choice([*_TASKS, "world", "world", "world"])
    words = ["prepare", "--task", task]
    if task == "world":
        words += ["train_lists=20", "eval_lists=5"]
    elif chance.random() < 0.9:
        words += ["--data", chance.choice(["nowhere", ".", "/", "/dev/null", "", "\udcff", "a\x00b", "x" * 5000, "~"])]
    for _ in range(chance.choice([1, 1, 2, 4])):
        name = chance.choice(_NAMES) if chance.random() < 0.9 else chance.choice(["", "=", "a.b", "\u202e", "x" * 3000])
        value = chance.choice(_VALUES)
        words.append(chance.choice([f"{name}={value}", f"{name}={value}", f"{name} = {value}", name]))
    if chance.random() < 0.2:
        words += ["--seed", chance.choice(["-1", "x", "9" * 40, "0", "1e3"])]
    return words
