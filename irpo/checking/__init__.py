"""What lists are like and what is wrong with them, said before a model is trained on them.

`look` goes through a task's lists once, a list at a time: running counts are held in memory, what lists have in common
(ids, queries, texts) as hashes in a temporary file of SQLite. `findings` says what is to be done about it; `show` and
`write` are the table, the picture and `check.json`.
"""

from __future__ import annotations

from irpo.checking.findings import Finding
from irpo.checking.looking import Check, Split, look
from irpo.checking.measuring import Budget
from irpo.checking.writing import CHECK, PICTURE, show, write

__all__ = ["CHECK", "PICTURE", "Budget", "Check", "Finding", "Split", "look", "show", "write"]
