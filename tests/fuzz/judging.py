"""Whether what `irpo prepare` made of damaged data is right: what is wrong with it, in words."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.fuzz.cases import Case
from tests.fuzz.damage import Damage
from tests.fuzz.rows import Row
from tests.fuzz.running import LIMIT, Outcome

LONGEST = 1500  # characters of a message
Lists = dict[str, dict[str, dict[str, Any]]]  # split -> id -> list
Reference = Callable[[str, int | None], Outcome]  # (file, the row that it lacks or None) -> undamaged data's outcome


def wrong(
    case: Case, damage: Damage, strict: Outcome, skip: Outcome, reference: Reference, data: Path
) -> Iterator[str]:
    """What is wrong with the two runs, without and with `--skip-bad-rows`; nothing where all is well."""
    whole = reference(damage.file, None)
    for name, outcome in (("strict", strict), ("skip", skip)):
        for fault in _ended(case, damage, outcome, sound=whole.code == 0):
            yield f"{name}: {fault}"
    if None in (strict.code, skip.code):
        return
    if strict.code == 0 and skip.files != strict.files:
        yield "skip: a run without a bad row differs from the strict one"
    if damage.sound and strict.lists != whole.lists:
        yield f"strict: the data mean the same as before, and the outcome does not: {strict.said.strip()[:300]}"
    if whole.code == 0 and damage.contained and skip.code != 0:
        yield f"skip: one bad row, and no list of the others: {skip.said.strip()[:300]}"
    if case.task == "prepared":
        yield from _as_prepared(skip, whole)
    elif whole.code == 0 == skip.code:
        kept, made = _rows_kept(case, damage, skip, reference), _made_of_the_data(case, damage, skip, whole, data)
        yield from (f"skip: {fault}" for fault in (*kept, *made))


def _as_prepared(skip: Outcome, whole: Outcome) -> Iterator[str]:
    """What was prepared is told to be changed, or is what it was; a card may have forgotten a split."""
    for split, lists in skip.lists.items():
        if lists != whole.lists[split]:
            yield f"skip: {split} is not what was prepared, and nothing is said of it"


def _ended(case: Case, damage: Damage, outcome: Outcome, *, sound: bool) -> Iterator[str]:
    """How a command may end; `sound` data were so before the damage."""
    if outcome.code not in (0, 2):
        yield f"exit code {outcome.code}: {outcome.said}"
        return
    if outcome.seconds > LIMIT:
        yield f"took {outcome.seconds:.1f} s"
    if outcome.left:
        yield f"left {', '.join(outcome.left)}"
    if outcome.code == 0:
        yield from _well_formed(outcome)
        return
    if outcome.files:
        yield f"an error, and files: {', '.join(outcome.files)}"
    yield from _clear(case, damage, outcome.said, sound=sound)


def _clear(case: Case, damage: Damage, said: str, *, sound: bool) -> Iterator[str]:
    """Whether a message is one line that names file and line."""
    if not (said.startswith("error: ") and said.count("\n") == 1 and said.endswith("\n")):
        yield f"not one line: {said[:500]!r}"
    elif len(said) > LONGEST:
        yield f"a message of {len(said)} characters: {said[:200]!r}"
    elif re.search(r"Traceback|Error\(|<class|object at 0x", said):
        yield f"not a user's words: {said[:500]!r}"
    elif not sound or _about_all(damage, said):
        return
    elif damage.file not in said:
        yield f"{damage.file} is not named: {said.strip()!r}"
    elif damage.lines is not None and not _taken(case, damage):
        found = re.search(rf"{re.escape(damage.file)}(?:/\w+)?:(\d+)", said)
        # Where two rows contradict each other, the message names both.
        named = [found[1], *re.findall(r"\bin line (\d+)", said)] if found else []
        if found is None and damage.lines[0] > 0:
            yield f"no line is named: {said.strip()!r}"
        elif found is not None and not any(damage.lines[0] <= int(line) <= damage.lines[1] for line in named):
            yield f"another line than {damage.lines} is named: {said.strip()!r}"


def _about_all(damage: Damage, said: str) -> bool:
    """Whether a message is about a file that is not there, or one from which no list could be made."""
    if "which column is" in said or "the columns are" in said:  # a file of Parquet has the columns of all its rows
        return True
    return "no list could be made" in said or "no file here" in said or (damage.lines is None and "/data: " in said)


def _well_formed(outcome: Outcome) -> Iterator[str]:
    """What every prepared list is."""
    names = {"card.json", *(f"{split}.jsonl" for split in outcome.lists)}
    if set(outcome.files) != names or not outcome.lists:
        yield f"files {', '.join(outcome.files)}"
    for split, lists in outcome.lists.items():
        if len({each["id"] for each in lists}) != len(lists):
            yield f"{split}: an id twice"
        if outcome.card["splits"][split]["lists"] != len(lists):
            yield f"{split}: the card counts {outcome.card['splits'][split]['lists']} of {len(lists)} lists"
        for each in lists:
            if not _is_list(each):
                yield f"{split}: no list: {json.dumps(each)[:300]}"


def _is_list(each: Mapping[str, Any]) -> bool:
    candidates = each["candidates"]
    labels = [c["relevance"] for c in candidates]
    return (
        {"id", "query", "candidates"} <= each.keys() <= {"id", "query", "candidates", "group", "unlisted"}
        and len(candidates) >= 2
        and len({c["id"] for c in candidates}) == len(candidates)
        and all(isinstance(c[key], str) and c[key] for c in candidates for key in ("id", "text"))
        and all(c["text"].strip() and isinstance(c["source"], str) for c in candidates)
        and all(type(label) in (int, float) and 0 <= label <= 1000 for label in labels)
        and (any(labels) or "unlisted" in each or all("teacher" in c for c in candidates))
    )


# ---- rows that nothing was done to -----------------------------------------------------------------------------------


def _rows_kept(case: Case, damage: Damage, skip: Outcome, reference: Reference) -> Iterator[str]:
    """Whether the untouched rows' lists are what they would be without the damage."""
    if damage.touched is None:
        return
    if skip.card["bad_rows"]["count"] and _one_row(case, damage) and not _unlisted(case):
        (row,) = damage.touched
        without = reference(damage.file, row)
        if without.code == 0 and {**skip.files, "card.json": b""} != {**without.files, "card.json": b""}:
            said = "the row is bad, and the others' lists are not those of the data without it"
            yield f"{said}: {_differing(skip, without)}"
        return
    hurt = set() if _unlisted(case) else _ids(case, damage)
    now = _by_id(skip)
    for split, lists in _by_id(reference(damage.file, None)).items():
        for name, each in lists.items():
            found = now.get(split, {}).get(name)
            if name not in hurt and found is None:
                yield f"{split}: the list {name} of a sound row is gone"
            elif name not in hurt and _own(case, found or {}) != _own(case, each):
                yield f"{split}: the list {name} of a sound row changed"


def _one_row(case: Case, damage: Damage) -> bool:
    """Whether the damage is one row's, in one line: what stands in two may be two rows now."""
    lone = damage.lines is not None and damage.lines[0] == damage.lines[1] and len(damage.touched or ()) == 1
    return lone and damage.contained and not _taken(case, damage)


def _taken(case: Case, damage: Damage) -> bool:
    """Whether the damaged row has another row's id now: the second of them is the one that is told, or left out."""
    rows = [row for file in case.files if file.name == damage.file for row in file.rows]
    others = [row for r, row in enumerate(rows) if r not in (damage.touched or ())]
    return damage.value is not None and bool(
        _ids_of_value(damage.value) & {i for row in others for i in _ids_of_value(row)}
    )


def _unlisted(case: Case) -> bool:
    """Whether the damaged file holds no lists' rows, but suggestions or films."""
    return bool(case.damaged)


def _differing(one: Outcome, other: Outcome) -> str:
    mine, theirs = _by_id(one), _by_id(other)
    names = [
        f"{split}/{name}"
        for split in mine.keys() | theirs.keys()
        for name in mine.get(split, {}).keys() | theirs.get(split, {}).keys()
        if mine.get(split, {}).get(name) != theirs.get(split, {}).get(name)
    ]
    return ", ".join(sorted(names)[:5])


def _ids(case: Case, damage: Damage) -> set[str]:
    """The ids of the lists that the touched rows make or may now be said to make."""
    file = next(file for file in case.files if file.name == damage.file)
    touched = [file.rows[r] for r in damage.touched or ()]
    if any("full_situation" in row for row in touched):  # rows in turn, of which one may go on where the last ended
        touched += [row for r in damage.touched or () for row in file.rows[max(0, r - 1) : r + 2]]
    named = [damage.value] if damage.value is not None else []
    keys = ("id", "_id", "conversationId", "dialog_id")
    found = {str(row[key]) for row in (*touched, *named) for key in keys if key in row}
    return found | {_derived(case, row) for row in (*touched, *named)}


def _derived(case: Case, row: Row) -> str:
    """The id of a list whose row has none of its own."""
    from irpo.tasks import Refused
    from irpo.tasks.preferences import Preferences
    from irpo.tasks.preferences import Row as FileRow
    from irpo.types import UserError

    if case.task == "preferences":
        try:
            return Preferences("", eval_fraction=0)._example(FileRow(row, "", 1)).id
        except (UserError, Refused):
            return ""
    return f"situation-{row.get('')}"


def _by_id(outcome: Outcome) -> Lists:
    return {split: {each["id"]: each for each in lists} for split, lists in outcome.lists.items()}


def _own(case: Case, each: Mapping[str, Any]) -> object:
    """What of a list comes from its row; its group names other rows, too."""
    if case.alone:
        return {key: value for key, value in each.items() if key != "group"}
    given = sorted((c["text"], c["relevance"]) for c in each["candidates"] if c["source"] in ("own", "ground_truth"))
    return each["query"], given


# ---- rows that something was done to ---------------------------------------------------------------------------------


def _made_of_the_data(case: Case, damage: Damage, skip: Outcome, whole: Outcome, data: Path) -> Iterator[str]:
    """Whether lists are made of words that the data hold, and a changed row's labels are those that it says."""
    before = _by_id(whole)
    words = _words_of(case, damage, data)
    for split, lists in skip.lists.items():
        for each in lists:
            if each == before.get(split, {}).get(each["id"]):
                continue
            said = " ".join(c["text"] for c in each["candidates"])
            strange = set(re.findall(r"\w+", said)) - words if words is not None else set()
            if strange:
                yield f"{split}: the list {each['id'][:60]} holds {sorted(strange)[:3]}, which the data do not"
            if damage.value is not None and not _unlisted(case) and each["id"] in _ids_of_value(damage.value):
                yield from _labels(case, damage.value, each)


def _ids_of(case: Case, row: Row) -> set[str]:
    return _ids_of_value(row) | {_derived(case, row)}


def _ids_of_value(row: Row) -> set[str]:
    return {str(row[key]) for key in ("id", "_id", "conversationId") if key in row}


def _words_of(case: Case, damage: Damage, data: Path) -> set[str] | None:
    """All words of the data as they lie there; None for bytes that only a reader of parquet can tell."""
    found: list[str] = []
    for file in case.files:
        if file.form in ("parquet", "hub"):
            if damage.file == file.name and damage.value is None:
                return None
            rows = [*file.rows, *(damage.rows or ()), *([damage.value] if damage.file == file.name else [])]
            found.append(_texts(rows))
            continue
        path = data / file.name
        content = path.read_bytes().decode("utf-8", "replace") if path.is_file() else ""
        found += [content, _unescaped(content)]
    return set(re.findall(r"\w+", "\n".join(found)))


def _unescaped(content: str) -> str:
    """A text with JSON's escapes as what they mean, wherever they stand."""
    marks = {"n": " ", "t": " ", "r": " ", "b": " ", "f": " "}
    simple = re.sub(r'\\([ntrbf"/\\])', lambda found: marks.get(found[1], found[1]), content)
    pairs = re.sub(
        r"\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})",
        lambda found: chr(0x10000 + ((int(found[1], 16) - 0xD800) << 10) + int(found[2], 16) - 0xDC00),
        simple,
    )
    return re.sub(r"\\u([0-9a-fA-F]{4})", lambda found: chr(int(found[1], 16)), pairs)


def _texts(value: Any) -> str:
    """Every text inside, however deep."""
    found, rest = [], [value]
    while rest:
        one = rest.pop()
        if isinstance(one, dict):
            rest += [*one.keys(), *one.values()]
        elif isinstance(one, list):
            rest += one
        else:
            found.append(str(one))
    return " ".join(found)


def _labels(case: Case, row: Row, each: Mapping[str, Any]) -> Iterator[str]:
    """Whether a candidate's label is what the row says, by the task's own words."""
    for c in each["candidates"]:
        said = _SAID[case.task](row, c, tidy(c["text"]))
        if said is not None and bool(said) != bool(
            c["relevance"] >= (2 if case.task in ("redial", "inspired") else 0.5)
        ):
            yield f"{each['id'][:60]}: {c['text'][:60]!r} has label {c['relevance']}, and the row says {said}"


def tidy(text: str) -> str:
    """A text with its blanks tidied."""
    return " ".join(text.split())


def _own_said(row: Row, c: Mapping[str, Any], text: str) -> Any:
    return any(
        o["id"] == c["id"] and o["text"] == c["text"] and o.get("relevance", 0) >= 0.5 for o in row["candidates"]
    )


def _choice_said(row: Row, c: Mapping[str, Any], text: str) -> Any:
    if c["source"] not in ("own", "ground_truth"):
        return False
    asked = row["question"] if isinstance(row["question"], dict) else row
    table = asked["choices"]
    pairs = (
        zip(table["label"], table["text"], strict=True)
        if isinstance(table, dict)
        else [(o["label"], o["text"]) for o in table]
    )
    return any(tidy(t).casefold() == text.casefold() and label == row["answerKey"].strip() for label, t in pairs)


def _hotpot_said(row: Row, c: Mapping[str, Any], text: str) -> Any:
    facts = row["supporting_facts"]
    titles = facts["title"] if isinstance(facts, dict) else [title for title, _ in facts]
    named = [title for title in titles if text.startswith(tidy(title)[:200])]
    return None if named else False  # a title may be of several paragraphs; without it nothing supports


def _musique_said(row: Row, c: Mapping[str, Any], text: str) -> Any:
    fitting = [p for p in row["paragraphs"] if p["is_supporting"] is True or row.get("question_decomposition")]
    return None if fitting else False


def _film_said(row: Row, c: Mapping[str, Any], text: str) -> Any:
    table = row["movieMentions"]
    titles = table.values() if isinstance(table, dict) else [film.get("movieName") for film in table]
    return None if text in [tidy(title) for title in titles if title] else False


def _preference_said(row: Row, c: Mapping[str, Any], text: str) -> Any:
    if "chosen" in row:
        return None if not isinstance(row["chosen"], str) or "Human:" in row["chosen"] else text == tidy(row["chosen"])
    found = row.get("completions") or row.get("responses") or []
    texts = [o["response"] if isinstance(o, dict) and "response" in o else o for o in found]
    if not texts or not all(isinstance(each, str) for each in texts):
        return None
    scores = row["scores"] if "scores" in row else [o.get("overall_score", o.get("score")) for o in found]
    first = {
        tidy(each): float(score) for each, score in reversed(list(zip(texts, scores, strict=True))) if each.strip()
    }
    return first[text] > min(first.values())


def _nothing_said(row: Row, c: Mapping[str, Any], text: str) -> Any:
    return None


def _listed_said(row: Row, c: Mapping[str, Any], text: str) -> Any:
    good = row.get("positives")
    return text in [tidy(str(one)) for one in good] if isinstance(good, list) else None


_SAID: dict[str, Callable[[Row, Mapping[str, Any], str], Any]] = {
    "jsonl": _own_said,
    "arc": _choice_said,
    "commonsenseqa": _choice_said,
    "hotpotqa": _hotpot_said,
    "musique": _musique_said,
    "redial": _film_said,
    "inspired": _nothing_said,
    "preferences": _preference_said,
    "table": _listed_said,
    "beir": _nothing_said,
}
