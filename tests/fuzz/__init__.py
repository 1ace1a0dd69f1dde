"""Damaged inputs by seed: data of every task, answers of models, configurations.

`python -m tests.fuzz` runs all of them and prints counts (`--help` says what can be chosen); the tests run a share.
A failure has a number, and `--only NUMBER` runs it again.
"""
