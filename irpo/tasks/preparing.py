"""From a task to files: `train.jsonl`, `eval.jsonl` and a card that says what is in them and what was left out."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from irpo.files import atomic_file, atomic_folder, json_line, require_ours
from irpo.tasks import TASKS, Intake, Lists, Task, build_lists, relevant_from
from irpo.tasks.jsonl import Jsonl, list_as_json
from irpo.types import RankingExample, UserError

CARD = "card.json"
FILES = {"train": "train.jsonl", "eval": "eval.jsonl"}
_FORM = 1  # of the card; a reader may refuse one that it does not know
_FIRST_BAD_ROWS = 20
_MOST_LABELS = 8  # in a summary


def prepare(task: Task, out: Path, *, task_spec: Mapping[str, Any], skip_bad_rows: bool = False) -> dict[str, Any]:
    """Build a task's lists and write them, with their card, into the folder `out`; returns the card.

    The files appear together when all are written; an older run's are replaced, and on an error nothing is left.
    The same task on the same data writes the same bytes on every machine: the card names files, never folders.
    `task_spec` is what the user asked for (`{"name": "arc", "data": ...}`). `UserError` for an `out` that is the data's
    folder, lies in it, or holds files under a name of ours that are not: what it did not write it never replaces.
    """
    _require_apart(task, out)
    require_ours(out, (*FILES.values(), CARD), CARD)
    intake = Intake(skip_bad_rows=skip_bad_rows)
    lists = build_lists(task, intake)
    card = card_of(task, task_spec, lists, intake)
    with atomic_folder(out, owned=(*FILES.values(), CARD), last=CARD) as work:
        for split, examples in lists.items():
            with atomic_file(work / FILES[split]) as file:
                file.writelines(_lines(examples))
        with atomic_file(work / CARD) as file:
            file.write(json.dumps(card, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    return card


def _require_apart(task: Task, out: Path) -> None:
    target = out.resolve()
    for option, value in _options(task).items():
        if not isinstance(value, (str, Path)) or not Path(value).exists():
            continue
        read = Path(value).resolve()
        inside = read.is_dir() and (target == read or read in target.parents)
        if inside or read in [target / name for name in (*FILES.values(), CARD)]:
            raise UserError(f"--out {out}: would write where {option} ({value}) is read; give a folder apart from it")


def build(spec: Mapping[str, Any], *, skip_bad_rows: bool = False) -> tuple[Lists, dict[str, Any]]:
    """A task's lists and their card, in memory."""
    task, intake = TASKS.build(spec), Intake(skip_bad_rows=skip_bad_rows)
    lists = build_lists(task, intake)
    return lists, card_of(task, spec, lists, intake)


def card_of(task: Task, task_spec: Mapping[str, Any], lists: Lists, intake: Intake) -> dict[str, Any]:
    """The card of lists that were built: what is in them, what was left out, and the hashes of what they came from."""
    return {
        "card": _FORM,
        "task": _portable(task_spec),
        "options": _portable(_options(task)),
        "relevant_from": relevant_from(task),  # the label from which an item counts in Recall, P, MRR and MAP
        "splits": {split: _split_card(examples) for split, examples in lists.items()},
        **_account(intake),
    }


def summary(card: Mapping[str, Any]) -> str:
    """What a card says, in a few lines."""
    lines = [_summary_of(split, part) for split, part in card["splits"].items()]
    if card["relevant_from"] != 1:
        lines.append(f"relevant from label {card['relevant_from']:g} (Recall, P, MRR, MAP)")
    for split, reasons in card["dropped"].items():
        lines.append(f"{split}, left out: " + "; ".join(f"{count} x {reason}" for reason, count in reasons.items()))
    bad = card["bad_rows"]
    if bad["count"]:
        lines.append(f"{_many(bad['count'], 'bad row')} left out: {bad['first'][0]}" + (", ..." * (bad["count"] > 1)))
    return "\n".join([*lines, *(f"note: {note}" for note in card["notes"]), f"{CARD} says all of it"])


def _summary_of(split: str, part: Mapping[str, Any]) -> str:
    sizes = sorted(map(int, part["candidates_per_list"]))
    each = f"{sizes[0]} to {sizes[-1]}" if len(sizes) > 1 else str(sizes[0])
    labels = [f"{label} ({count})" for label, count in part["labels"].items()]
    shown = ", ".join(labels if len(labels) <= _MOST_LABELS else [*labels[:_MOST_LABELS], "..."])
    groups = f" in {_many(part['groups'], 'group')}" if part["groups"] < part["lists"] else ""
    return f"{split}: {_many(part['lists'], 'list')}{groups}, {each} candidates each, labels {shown}"


def _many(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _lines(examples: Sequence[RankingExample]) -> Iterable[str]:
    return (json_line(list_as_json(example)) + "\n" for example in examples)


def read_lists(path: Path, *, split: str = "train") -> list[RankingExample]:
    """The lists of a file in the `jsonl` task's form, in its order."""
    task = Jsonl(str(path), split="eval" if split == "eval" else "train")
    return build_lists(task, Intake())[task.split or "train"]


def _options(task: Task) -> dict[str, Any]:
    fields: tuple[dataclasses.Field[Any], ...] = dataclasses.fields(cast(Any, task))
    return {field.name: getattr(task, field.name) for field in fields}


def _portable(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with files and folders by their last name: where they lie differs between machines."""
    return {key: _last_name(key, value) for key, value in options.items()}


def _last_name(key: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return _portable(value)
    if isinstance(value, Path) or (isinstance(value, str) and (key == "data" or value.startswith(("/", ".", "~")))):
        return Path(value).resolve().name or "/"
    return value


def _split_card(examples: Sequence[RankingExample]) -> dict[str, Any]:
    candidates = [c for example in examples for c in example.candidates]
    content = "".join(_lines(examples)).encode("utf-8", "backslashreplace")
    relevant = [sum(label > 0 for label in example.relevance) for example in examples]
    return {
        "lists": len(examples),
        "groups": len({example.unit for example in examples}),
        "sha256": hashlib.sha256(content).hexdigest(),  # of the split's file
        "candidates": len(candidates),
        "candidates_per_list": _counts(len(example.candidates) for example in examples),
        "relevant_per_list": _counts(relevant),
        "lists_with_only_relevant_candidates": sum(
            n == len(example.candidates) for n, example in zip(relevant, examples, strict=True)
        ),
        "labels": _counts(c.relevance for c in candidates),
        "sources": _counts(c.source for c in candidates),
        "query_characters": _spread(len(example.query) for example in examples),
        "query_words": _spread(len(example.query.split()) for example in examples),
        "candidate_characters": _spread(len(c.text) for c in candidates),
        "candidate_words": _spread(len(c.text.split()) for c in candidates),
    }


def _account(intake: Intake) -> dict[str, Any]:
    """What was read and what was left out."""
    dropped = {split: dict(sorted(reasons.items())) for split, reasons in sorted(intake.dropped.items()) if reasons}
    return {
        "dropped": dropped,
        "bad_rows": {"count": len(intake.bad_rows), "first": intake.bad_rows[:_FIRST_BAD_ROWS]},
        "sources": dict(sorted(intake.sources.items())),
        "notes": list(intake.notes),
    }


def _counts(values: Iterable[Any]) -> dict[str, int]:
    """How often each value occurs, in the values' order."""
    found = Counter(values)
    return {f"{value:g}" if isinstance(value, float) else str(value): found[value] for value in sorted(found)}


def _spread(values: Iterable[int]) -> dict[str, float]:
    """Least, median, 95th percentile, greatest (values that occur: nearest rank), and the mean to two digits."""
    ordered = sorted(values)
    if not ordered:
        return {}
    count = len(ordered)

    def rank(percent: int) -> int:
        return ordered[max(0, -(-percent * count // 100) - 1)]

    hundredths = (200 * sum(ordered) + count) // (2 * count)
    return {
        "min": ordered[0],
        "median": rank(50),
        "p95": rank(95),
        "max": ordered[-1],
        "mean": hundredths / 100,
    }
