"""What lists have in common, asked of a database of hashes on disk: memory does not grow with their number.

Texts, queries and ids are kept as 8 bytes of their SHA-256: of 10^7 different ones two are taken for one with a
probability of 3 in 10^6.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from irpo.chance import number_of
from irpo.sameness import singular, text_key, words_of
from irpo.types import RankingExample, UserError

SHOWN = 3  # examples of a finding
_NAME = 60  # characters of a list's name
_ARTICLES = frozenset({"a", "an", "the"})
_SPLITS = {"train": 0, "eval": 1}
_TABLES = """
CREATE TABLE lists (n INTEGER PRIMARY KEY, split INTEGER, id INTEGER, unit INTEGER, query INTEGER, near INTEGER,
    content INTEGER, name TEXT, missed TEXT);
CREATE TABLE candidates (list INTEGER, text INTEGER, label REAL);
"""
_ANSWERS = """
CREATE INDEX by_id ON lists (id, split);
CREATE INDEX by_unit ON lists (unit, split);
CREATE INDEX by_query ON lists (query, split);
CREATE INDEX by_near ON lists (near, split);
CREATE INDEX by_content ON lists (content, split);
CREATE TABLE judged AS SELECT split, query, text, n, min(label) AS low, max(label) AS high
    FROM candidates JOIN lists ON n = list GROUP BY query, text, n;
CREATE INDEX by_text ON judged (query, text, split);
"""


class Shared(NamedTuple):
    """How many lists have something in common with another one, and the names of the first, with that other one's."""

    lists: int
    first: tuple[tuple[str, str], ...]


class Labelled(NamedTuple):
    """A list as a table of labels sees it."""

    name: str
    labels: tuple[float, ...]
    missed: tuple[float, ...]  # labels of what is no candidate
    means: tuple[float | None, ...]  # of each text's labels in training lists; None: not seen there


class Notebook:
    """The lists' ids, queries, texts and labels. `add` them all, then `close` the book to ask."""

    def __init__(self) -> None:
        self._base = sqlite3.connect("", isolation_level=None)  # a temporary file that goes with the connection
        self._lists = 0
        with _telling():
            self._base.execute("PRAGMA journal_mode=OFF")
            self._base.execute("PRAGMA cache_size=-32000")  # kB
            self._base.executescript(_TABLES)
            self._base.execute("BEGIN")

    def add(self, split: str, example: RankingExample) -> None:
        """Note one list."""
        self._lists += 1
        query = text_key(example.query)
        texts = [(_hash(text_key(c.text)), c.relevance) for c in example.candidates]
        unit = None if example.group is None else _hash(example.group)
        content = _hash(f"{query}\0{sorted(texts)}")
        row = (self._lists, _SPLITS[split], _hash(example.id), unit, _hash(query), _near(example.query), content)
        told = (name_of(example), json.dumps(example.missed))
        with _telling():
            self._base.execute("INSERT INTO lists VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", (*row, *told))
            found = [(self._lists, text, label) for text, label in texts]
            self._base.executemany("INSERT INTO candidates VALUES (?, ?, ?)", found)

    def close(self) -> None:
        """Make the book ready to be asked."""
        with _telling():
            self._base.execute("COMMIT")
            self._base.executescript(_ANSWERS)

    def groups(self, split: str) -> int:
        """How many groups a split has; a list without one is its own."""
        query = "SELECT count(DISTINCT unit) + sum(unit IS NULL) FROM lists WHERE split = ?"
        return int(self._one(query, (_SPLITS[split],)) or 0)

    def twice(self, split: str, column: str) -> Shared:
        """Lists of a split with the `id` or `content` of an earlier one."""
        again = f"""SELECT l.name, o.name FROM lists l JOIN lists o ON o.n =
            (SELECT min(n) FROM lists f WHERE f.{column} = l.{column} AND f.split = l.split)
            WHERE l.split = {_SPLITS[split]} AND o.n < l.n ORDER BY l.n"""  # nosec B608 # names of ours
        return self._shared(again)

    def in_both(self, column: str) -> Shared:
        """Training lists with the `id`, `unit`, `query` or `near` query of an evaluation list.

        What has more in common is left to that: the same query is no near one, the same id no other list.
        """
        but = {"near": "AND t.query NOT IN (SELECT query FROM lists WHERE split = 1)"}.get(column, "")
        if column != "id":
            but += " AND t.id NOT IN (SELECT id FROM lists WHERE split = 1)"
        both = f"""SELECT t.name, (SELECT e.name FROM lists e WHERE e.{column} = t.{column} AND e.split = 1 LIMIT 1)
            FROM lists t WHERE t.split = 0 AND t.{column} IN (SELECT {column} FROM lists WHERE split = 1) {but}
            ORDER BY t.n"""  # nosec B608 # names of ours
        return self._shared(both)

    def answered(self, relevant_from: float) -> Shared:
        """Evaluation lists whose query a training list shows with a text that is relevant in both, after that one."""
        both = f"""SELECT l.name, o.name FROM (
                SELECT min(first) AS answers, e.n AS asks FROM (
                    SELECT query, text, min(n) AS first FROM judged
                    WHERE split = 0 AND high >= {float(relevant_from)} GROUP BY query, text) t
                JOIN judged e ON e.query = t.query AND e.text = t.text
                WHERE e.split = 1 AND e.high >= {float(relevant_from)} GROUP BY e.n)
            JOIN lists l ON l.n = answers JOIN lists o ON o.n = asks ORDER BY asks"""  # nosec B608 # a number
        return self._shared(both)

    def contradicted(self) -> Shared:
        """Pairs of query and text that two lists label differently: a list of the lowest label, one of the highest.

        A list that gives one text two labels contradicts itself, not another one: it is left out here.
        """
        both = """SELECT l.name, o.name FROM (
                SELECT min(CASE WHEN j.low = e.low THEN j.n END) AS lowest,
                    min(CASE WHEN j.low = e.high THEN j.n END) AS highest
                FROM (SELECT query, text, min(low) AS low, max(low) AS high FROM judged
                    WHERE low = high GROUP BY query, text HAVING min(low) < max(low)) e
                JOIN judged j ON j.query = e.query AND j.text = e.text AND j.low = j.high GROUP BY e.query, e.text)
            JOIN lists l ON l.n = min(lowest, highest) JOIN lists o ON o.n = max(lowest, highest) ORDER BY l.n, o.n"""
        return self._shared(both)

    def ungrouped(self) -> Shared:
        """Training lists without a group whose query an earlier one asks."""
        again = """SELECT l.name, o.name FROM lists l JOIN lists o ON o.n =
            (SELECT min(n) FROM lists f WHERE f.query = l.query AND f.split = 0)
            WHERE l.split = 0 AND l.unit IS NULL AND o.n < l.n ORDER BY l.n"""
        return self._shared(again)

    def labelled(self) -> Iterator[Labelled]:
        """The evaluation lists by a table of the training lists' labels, which never reads a query."""
        with _telling():
            self._base.execute("DROP TABLE IF EXISTS means")
            self._base.execute(
                "CREATE TABLE means AS SELECT text, avg(label) AS mean FROM candidates JOIN lists ON n = list "
                "WHERE split = 0 GROUP BY text"
            )
            self._base.execute("CREATE INDEX by_mean ON means (text, mean)")
            rows = self._base.execute(
                "SELECT n, name, missed, label, mean FROM lists JOIN candidates ON list = n "
                "LEFT JOIN means ON means.text = candidates.text WHERE split = 1 ORDER BY n, candidates.rowid"
            )
            for _, found in groupby(rows, key=lambda row: row[0]):
                several = list(found)
                _, name, missed, *_ = several[0]
                labels, means = (tuple(row[column] for row in several) for column in (3, 4))
                yield Labelled(name, labels, tuple(json.loads(missed)), means)

    def mean_label(self) -> float:
        """Of all candidates of training lists."""
        return float(self._one("SELECT avg(label) FROM candidates JOIN lists ON n = list WHERE split = 0", ()) or 0)

    def _shared(self, query: str) -> Shared:
        with _telling():
            first = self._base.execute(f"{query} LIMIT {SHOWN}").fetchall()
        count = int(self._one(f"SELECT count(*) FROM ({query})", ()) or 0) if len(first) == SHOWN else len(first)  # nosec B608 # a query of ours
        return Shared(count, tuple(first))

    def _one(self, query: str, values: Iterable[object]) -> float | None:
        with _telling():
            (found,) = self._base.execute(query, tuple(values)).fetchone()
        return None if found is None else float(found)


def name_of(example: RankingExample) -> str:
    """Where a list stands (`file:line`) where that is known, else its id."""
    return Path(example.where).name if example.where else example.id[:_NAME]


def _hash(text: str) -> int:
    """8 bytes of SHA-256 as a whole number of SQLite's, which has a sign."""
    return number_of(text) - 2**63


def _near(query: str) -> int | None:
    """What two queries have in common that differ in case, accents, punctuation, articles, plurals or order alone."""
    words = sorted({singular(word) for word in words_of(query) if word not in _ARTICLES})
    return _hash(" ".join(words)) if words else None


@contextmanager
def _telling() -> Iterator[None]:
    """A temporary file that cannot be written is one line."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise UserError(
            f"--check keeps hashes in a temporary file, which cannot be written ({error}); set SQLITE_TMPDIR to a "
            "folder with room"
        ) from None
