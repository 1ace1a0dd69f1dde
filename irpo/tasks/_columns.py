"""Which column of a table holds what: as the options say, else by the names that such columns bear."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from irpo.tasks._cells import named
from irpo.types import UserError

LONG = ("document", "label")
WIDE = ("positives", "negatives")
# Roles and the names by which a column is known, blanks, "_" and "-" being alike, and capitals too.
NAMES: Mapping[str, tuple[str, ...]] = {
    "query": ("query", "question", "search query", "query text", "prompt", "anchor", "full situation", "q"),
    "document": (
        "document",
        "doc",
        "passage",
        "text",
        "candidate",
        "item",
        "content",
        "product title",
        "answer",
        "document text",
        "doc text",
        "passage text",
        "response",
    ),
    "label": ("label", "relevance", "rel", "grade", "rating", "judgment", "judgement", "relevance label"),
    "query_id": ("query id", "qid", "queryid", "question id", "topic id"),
    "document_id": ("document id", "doc id", "docid", "did", "pid", "passage id", "corpus id", "item id", "product id"),
    "group": ("group", "group id", "user id", "session id"),
    "positives": ("positives", "positive", "pos", "preferred", "chosen", "relevant", "relevant list"),
    "negatives": (
        "negatives",
        "negative",
        "neg",
        "rejected",
        "irrelevant",
        "irrelevant list",
        "irelevant list",
        "hard negatives",
    ),
}


def columns_of(given: Mapping[str, str], header: Sequence[str]) -> dict[str, str]:
    """The column of each role that has one: query and either document and label, or positives and negatives.

    `given` are the options, "" where one is not given. `UserError` where a column is not there, is missing or could be
    one of several; it lists the columns. Blanks around a name in the header need not be given.
    """
    given = {role: _in_header(role, column, header) if column else "" for role, column in given.items()}
    taken = {column for column in given.values() if column}
    free = [column for column in header if column not in taken]
    likely = {
        role: [given[role]] if given.get(role) else [column for column in free if _plain(column) in names]
        for role, names in NAMES.items()
    }
    wide = _is_wide(given, likely, header)
    wanted = ("query", *(WIDE if wide else LONG))
    found = {}
    for role in (*wanted, "query_id", "group", *(() if wide else ("document_id",))):
        if len(likely[role]) > 1:
            several = " or ".join(map(repr, likely[role]))
            raise UserError(f"which column is the {role}, {several}? give {role}=COLUMN")
        if likely[role]:
            found[role] = likely[role][0]
        elif role in wanted:
            raise UserError(f"which column is the {role}? give {role}=COLUMN; the columns are {named(list(header))}")
    return found


def _in_header(role: str, column: str, header: Sequence[str]) -> str:
    """The column that the user names, as the header has it."""
    fitting = [name for name in header if name == column] or [name for name in header if name.strip() == column.strip()]
    if not fitting:
        raise UserError(f"{role}={column}: there is no such column; the columns are {named(list(header))}")
    if len(fitting) > 1:
        raise UserError(f"{role}={column}: several columns are so named: {named(fitting)}")
    return fitting[0]


def _is_wide(given: Mapping[str, str], likely: Mapping[str, Sequence[str]], header: Sequence[str]) -> bool:
    """Whether a row is a whole list, with its positives and negatives."""
    asked = {form: any(given.get(role) for role in form) for form in (LONG, WIDE)}
    there = {form: all(likely[role] for role in form) for form in (LONG, WIDE)}
    if all(asked.values()):
        raise UserError("a row has document and label, or positives and negatives; give the columns of one form")
    if any(asked.values()):
        return asked[WIDE]
    if there[LONG] == there[WIDE]:
        which = "either" if there[LONG] else "neither"
        raise UserError(
            f"the columns are {named(list(header))}: {which} form is found in them; give query=COLUMN and "
            "document=COLUMN label=COLUMN (a row for each document), or positives=COLUMN negatives=COLUMN (lists)"
        )
    return there[WIDE]


def _plain(column: str) -> str:
    return re.sub(r"[\s_-]+", " ", column).strip().casefold()
