"""From a task to files: lists, as JSON lines or as Parquet shards, and a card that says what is in them.

It says what was left out, too.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import inspect
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from irpo import __version__
from irpo.chance import fingerprint
from irpo.disk import NoRoom, free_at, lies_under, size
from irpo.files import atomic_file, put_in_place, require_place
from irpo.progress import say
from irpo.tasks import (
    TASKS,
    Intake,
    Lists,
    Task,
    as_given,
    build_lists,
    measures_of,
    note_order,
    note_shared,
    relevant_from,
    require_some,
    words_of,
)
from irpo.tasks._batches import line_of
from irpo.tasks._ledger import Ledger
from irpo.tasks._making import Layout, Making, add_account, work_folder, work_folder_of
from irpo.tasks._statistics import Statistics, numbers_of
from irpo.tasks._workers import Workers
from irpo.tasks.jsonl import Jsonl
from irpo.tasks.shards import CARD, FILES, is_shard
from irpo.types import RankingExample, UserError

__all__ = ["CARD", "FILES", "Layout", "build", "card_of", "files_named", "prepare", "read_lists", "summary"]

_FORM = 1  # of the card; a reader may refuse one that it does not know
_LEAST = 1_000_000  # bytes; what the smallest job works with takes a part of them
_MOST_LABELS = 8  # in a summary
_MAY_NAME = (
    "str",
    "str | None",
    "Path",
    "Path | None",
)  # types of options that may name files; no choice of words does


def prepare(
    task: Task,
    out: Path,
    *,
    task_spec: Mapping[str, Any],
    skip_bad_rows: bool = False,
    layout: Layout | None = None,
) -> dict[str, Any]:
    """Build a task's lists and write them, with their card, into the folder `out`; returns the card.

    The files appear together when all are written; an older run's are replaced, and on an error nothing is left. The
    same on the same data after a process that was killed goes on with what that had written.
    The same task on the same data writes the same bytes on every machine, by any number of processes: the card names
    files, never folders. `task_spec` is what the user asked for (`{"name": "arc", "data": ...}`). `UserError` for an
    `out` that is the data's folder, lies in it, or holds files under a name of ours that are not: what it did not write
    it never replaces.
    """
    layout = layout or Layout()
    _require_apart(task, out)
    _require_room(task, out)
    owned = (*FILES.values(), CARD, *_shards_in(out))
    require_place(out, owned, CARD)
    with work_folder(out, _key(task, task_spec, skip_bad_rows, layout)) as (folder, ledger):
        names, card = _made(task, task_spec, folder, ledger, (Intake(skip_bad_rows), layout))
        with atomic_file(folder / CARD) as file:
            file.write(json.dumps(card, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
        put_in_place(folder, out, [*names, CARD], owned, CARD)
    return card


def _made(
    task: Task, task_spec: Mapping[str, Any], folder: Path, ledger: Ledger, how: tuple[Intake, Layout]
) -> tuple[list[str], dict[str, Any]]:
    """Make a task's lists in a folder: the files' names, and the card."""
    intake, layout = how
    found = task.build(intake)
    with Workers(layout.processes) as workers:
        making = Making(folder, ledger, workers, layout, as_given(task), intake)
        # Training lists are compared with evaluation lists, which come first.
        made = {split: making.split(split, found[split]) for split in sorted(found)}
    for split in found:
        add_account(intake, made[split].progress.account)
        if making.given:
            statistics = made[split].progress.statistics
            note_order(split, statistics.best_first, statistics.lists, intake)
    if "train" in made:
        note_shared(made["train"].progress.shared, made["train"].progress.least, intake)
    require_some({split: made[split].progress.statistics.lists for split in found}, intake)
    card = _card(task, task_spec, {split: made[split].card for split in found}, intake)
    if layout.format != "jsonl":
        card["format"] = layout.format
    return [name for one in made.values() for name in one.names], card


def _shards_in(out: Path) -> list[str]:
    """The shards that an earlier run wrote into the folder."""
    return sorted(path.name for path in out.iterdir() if is_shard(path.name)) if out.is_dir() else []


def _key(task: Task, task_spec: Mapping[str, Any], skip_bad_rows: bool, layout: Layout) -> str:
    """What the lists and their files depend on; files are known by name, size and time."""
    options = _options(task)
    read = {name: _state(path) for name, path in files_named(task).items()}
    code = inspect.getsourcefile(type(task))
    parts = [__version__, dict(task_spec), options, skip_bad_rows, layout.format, layout.shard_lists, read]
    return fingerprint(json.dumps([*parts, _state(Path(code)) if code else None], default=str, sort_keys=True))


def _require_room(task: Task, out: Path) -> None:
    """`NoRoom` where even a small part of the lists would not fit, a note where they may not.

    What an earlier process has made of them lies there already.
    """
    read, free = _size_of_input(task), free_at(out)
    least = max(_LEAST, read // 100 - lies_under(work_folder_of(out)))
    if free < least:
        raise NoRoom(out, errno.ENOSPC, needed=least)
    if read > free:
        say(f"note: {size(read)} are read and {size(free)} are free in {out}; the lists may not fit")


def _state(path: Path) -> list[Any] | None:
    """A file, or all files below a folder, by name, size and time; None where there is none."""
    try:
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        stats = [(str(file.relative_to(path.parent)), file.stat()) for file in files if file.is_file()]
    except OSError:
        return None
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]


def _require_apart(task: Task, out: Path) -> None:
    target = out.resolve()
    for option, value in files_named(task).items():
        read = value.resolve()
        inside = read.is_dir() and (target == read or read in target.parents)
        if inside or read in [target / name for name in (*FILES.values(), CARD)]:
            raise UserError(f"--out {out}: would write where {option} ({value}) is read; give a folder apart from it")


def _size_of_input(task: Task) -> int:
    """Bytes of the files and folders that a task's options name."""
    return sum(map(lies_under, set(files_named(task).values())))


def build(spec: Mapping[str, Any], *, skip_bad_rows: bool = False) -> tuple[Lists, dict[str, Any]]:
    """A task's lists and their card, in memory."""
    task, intake = TASKS.build(spec), Intake(skip_bad_rows=skip_bad_rows)
    lists = build_lists(task, intake)
    return lists, card_of(task, spec, lists, intake)


def card_of(task: Task, task_spec: Mapping[str, Any], lists: Lists, intake: Intake) -> dict[str, Any]:
    """The card of lists that were built: what is in them, what was left out, and the hashes of what they came from."""
    return _card(task, task_spec, {split: _split_card(examples) for split, examples in lists.items()}, intake)


def _card(task: Task, task_spec: Mapping[str, Any], splits: Mapping[str, Any], intake: Intake) -> dict[str, Any]:
    return {
        "card": _FORM,
        "task": _portable(task_spec),
        "options": _portable(_options(task)),
        "relevant_from": relevant_from(task),  # the label from which an item counts in Recall, P, MRR and MAP
        **({"also_measured": list(measures)} if (measures := measures_of(task)) else {}),
        "splits": dict(splits),
        **_account(intake),
    }


def _split_card(examples: Sequence[RankingExample]) -> dict[str, Any]:
    statistics, digest = Statistics(), hashlib.sha256()
    for example in examples:
        statistics.add(numbers_of(example))
        digest.update(line_of(example))
    return statistics.card(len({example.unit for example in examples}), digest.hexdigest())


def summary(card: Mapping[str, Any]) -> str:
    """What a card says, in a few lines."""
    lines = [_summary_of(split, part) for split, part in card["splits"].items()]
    if card["relevant_from"] != 1:
        lines.append(f"relevant from label {card['relevant_from']:g} (Recall, P, MRR, MAP)")
    lines += left_out(card["dropped"])
    bad = card["bad_rows"]
    if bad["count"]:
        lines.append(f"{_many(bad['count'], 'bad row')} left out: {bad['first'][0]}" + (", ..." * (bad["count"] > 1)))
    return "\n".join([*lines, *(f"note: {note}" for note in card["notes"]), f"{CARD} says all of it"])


def left_out(dropped: Mapping[str, Mapping[str, int]]) -> list[str]:
    """A line a split of what a task left out, and why; none where it left out nothing."""
    return [
        f"{split}, left out: " + "; ".join(f"{count} x {reason}" for reason, count in sorted(reasons.items()))
        for split, reasons in sorted(dropped.items())
    ]


def _summary_of(split: str, part: Mapping[str, Any]) -> str:
    sizes = sorted(map(int, part["candidates_per_list"]))
    each = f"{sizes[0]} to {sizes[-1]}" if len(sizes) > 1 else str(sizes[0])
    labels = [f"{label} ({count})" for label, count in part["labels"].items()]
    shown = ", ".join(labels if len(labels) <= _MOST_LABELS else [*labels[:_MOST_LABELS], "..."])
    groups = f" in {_many(part['groups'], 'group')}" if part["groups"] < part["lists"] else ""
    return f"{split}: {_many(part['lists'], 'list')}{groups}, {each} candidates each, labels {shown}"


def _many(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def read_lists(path: Path, *, split: str = "train") -> list[RankingExample]:
    """The lists of a file in the `jsonl` task's form, in its order."""
    task = Jsonl(str(path), split="eval" if split == "eval" else "train")
    return build_lists(task, Intake())[task.split or "train"]


def _options(task: Task) -> dict[str, Any]:
    fields: tuple[dataclasses.Field[Any], ...] = dataclasses.fields(cast(Any, task))
    return {field.name: getattr(task, field.name) for field in fields}


def files_named(task: Task) -> dict[str, Path]:
    """The files and folders that a task's options name, in its folder `data` or else as paths; what is there alone."""
    options, words = _options(task), words_of(task)
    fields = {f.name: str(getattr(f.type, "__name__", f.type)) for f in dataclasses.fields(cast(Any, task))}
    named = {name: options[name] for name, kind in fields.items() if kind in _MAY_NAME and name not in words}
    folder = str(options.get("data") or "")
    found = {}
    for name, value in named.items():
        if value and str(value):
            within = os.path.join(folder, value) if folder and name != "data" else str(value)
            found[name] = Path(within if os.path.exists(within) else value)
    return {name: path for name, path in found.items() if os.path.exists(path)}


def _portable(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with files and folders by their last name: where they lie differs between machines."""
    return {key: _last_name(key, value) for key, value in options.items()}


def _last_name(key: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return _portable(value)
    if isinstance(value, Path) or (isinstance(value, str) and (key == "data" or value.startswith(("/", ".", "~")))):
        return Path(value).resolve().name or "/"
    return value


def _account(intake: Intake) -> dict[str, Any]:
    """What was read and what was left out."""
    dropped = {split: dict(sorted(reasons.items())) for split, reasons in sorted(intake.dropped.items()) if reasons}
    return {
        "dropped": dropped,
        "bad_rows": {"count": intake.bad_count, "first": intake.bad_rows},
        "sources": dict(sorted(intake.sources.items())),
        "notes": list(intake.notes),
    }
