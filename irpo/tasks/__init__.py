"""Tasks: a module a dataset, each building ranking examples from the authors' files or from the hub's rows.

A task is a frozen dataclass whose fields are its options (`data`: a folder, a file, "hub" or "hub@REVISION"; `seed`;
...) and whose one method `build(intake)` gives the lists of "train" and "eval", one for each split that the data hold:
as a list, or as anything that can be gone through once, whose lists are then made as they are written.

`jsonl`, `prepared`, `preferences` and `world` make each list by itself, and `irpo prepare` holds a few of them at once
(of `world` also 16 bytes a list). `hotpotqa` and `musique` hold their lists, since those that ask one question are put
into one group, but not the files that they come from; `arc` and `commonsenseqa` hold all questions, `redial` and
`inspired` all dialogues, for distractors are drawn from the whole of them. `table` makes each list by itself where the
rows of a query stand together (of a query 8 bytes are held), and holds the rows where they do not. `trec`, `beir`,
`ir_datasets` and `mteb` hold queries, judgements, the first stage and the texts that lists need, and make the lists as
they are written; without a run they hold the whole collection once, to search it.

A new module in this package registers itself; a module whose name begins with `_` holds what several tasks share.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Mapping
from typing import Protocol

from irpo.chance import fingerprint
from irpo.registry import Registry
from irpo.rows import Row
from irpo.sameness import text_key
from irpo.tasks._intake import (
    Collected,
    Elsewhere,
    Intake,
    Refused,
    Release,
    Rows,
    name_words,
    split_files,
    split_of,
)
from irpo.types import RankingExample, UserError

__all__ = [
    "TASKS",
    "Collected",
    "Elsewhere",
    "Intake",
    "Lists",
    "Refused",
    "Release",
    "Rows",
    "Task",
    "build_lists",
    "groups_of",
    "measures_of",
    "name_words",
    "relevant_from",
    "split_files",
    "split_of",
    "validation_shares",
    "words_of",
]

Lists = dict[str, list[RankingExample]]  # "train", "eval" -> its lists


class Task(Protocol):
    """What a task plug-in does; see the package's docstring."""

    def build(self, intake: Intake) -> Mapping[str, Iterable[RankingExample]]:
        """The lists of each split that the data hold; what is dropped on the way is counted in `intake`.

        What is no list (a generator, `intake.collect(...)`) is gone through once, "eval" perhaps before "train".
        """
        ...


TASKS: Registry[Task] = Registry("task")


def relevant_from(task: object) -> float:
    """The label from which an item of a task counts as relevant in Recall, P, MRR and MAP; 1 unless the task says."""
    return float(getattr(task, "relevant_from", 1.0))


def measures_of(task: object) -> tuple[str, ...]:
    """The measures that a task's lists are evaluated by, beside those that are asked for."""
    return tuple(getattr(task, "also_measured", ()))


def words_of(task: object) -> tuple[str, ...]:
    """The options of a task that name no file that it reads: words (a column's name, say), or what it keeps itself."""
    return tuple(getattr(task, "words", ()))


def validation_shares(task: object) -> tuple[float, ...]:
    """The shares of training lists that may validate without holding what training lists hold; () is any share."""
    return tuple(getattr(task, "validation_shares", ()))


def as_given(task: object) -> bool:
    """Whether a task's lists are the user's own as they were written: an id that comes twice is then a mistake."""
    return bool(getattr(task, "as_given", False))


def build_lists(task: Task, intake: Intake) -> Lists:
    """The task's lists, checked: no id twice in a split, no training id that is also an evaluation id, not nothing."""
    given = as_given(task)
    lists = {split: _without_repeats(split, found, intake, given) for split, found in task.build(intake).items()}
    evaluated = {example.id for example in lists.get("eval", ())}
    kept = [example for example in lists.get("train", ()) if example.id not in evaluated]
    if "train" in lists:
        intake.drop("train", IN_EVALUATION, len(lists["train"]) - len(kept))
        lists["train"] = kept
    for split, examples in lists.items():
        if given:
            note_order(split, sum(map(best_first, examples)), len(examples), intake)
    shared = {example.unit for example in lists.get("eval", ())} & {example.unit for example in kept}
    note_shared(len(shared), min(shared, default=""), intake)
    require_some({split: len(examples) for split, examples in lists.items()}, intake)
    return lists


IN_EVALUATION = "id is also in the evaluation split"
REPEATED = "id was there before"


def repeated(example: RankingExample, line: int, intake: Intake) -> None:
    """An id of the user's own lists that comes again; it came first in that line."""
    path, _, place = example.where.rpartition(":")
    row = Row({}, path, int(place))
    intake.bad(row, f"id {example.id!r} stands in line {line} already; ids are unique")


def line_of(example: RankingExample) -> int:
    """The line that an example of the user's own lists stands in."""
    return int(example.where.rpartition(":")[2])


def best_first(example: RankingExample) -> bool:
    """Whether the best candidate stands first, and not all are as good."""
    return example.relevance[0] == max(example.relevance) > min(example.relevance)


def note_order(split: str, first: int, lists: int, intake: Intake) -> None:
    """Warn where the best candidate nearly always stands first: a model would learn the position."""
    if lists >= 10 and first > 0.9 * lists:
        intake.note(
            f"{split}: a best candidate stands first in {first} of {lists} lists, which a model learns as a "
            "position; mix them with task.shuffle=true (train), shuffle=true (prepare, evaluate)"
        )


def note_shared(count: int, name: str, intake: Intake) -> None:
    """Say that both splits hold lists of so many groups, one of which has the name."""
    if count:
        intake.note(f"train and eval share {count} groups, such as {name!r}: they are not independent")


def require_some(lists: Mapping[str, int], intake: Intake) -> None:
    """`UserError` where a split has no list, or where there is no split; it says why."""
    empty = [split for split, count in lists.items() if not count]
    if lists and not empty:
        return
    split = empty[0] if empty else "any split"
    why = "; ".join(f"{count} x {reason}" for reason, count in sorted(intake.dropped.get(split, {}).items()))
    why += f"; {intake.bad_count} bad rows" if intake.bad_count else ""
    read = ", ".join(sorted(intake.sources)) or "what was given"
    raise UserError(f"no list could be made for {split} from {read}: {why.strip('; ') or 'there are no rows'}")


def groups_of(asked: Iterable[tuple[str, str]]) -> dict[str, str]:
    """From (id, question) of lists: the group of each id whose question others ask too, a name for the question."""
    ids: dict[str, set[str]] = {}
    for name, question in asked:
        ids.setdefault(text_key(question), set()).add(name)
    return {name: fingerprint(key) for key, names in ids.items() if len(names) > 1 for name in names}


def _without_repeats(
    split: str, examples: Iterable[RankingExample], intake: Intake, given: bool
) -> list[RankingExample]:
    kept: dict[str, RankingExample] = {}
    for example in examples:
        if example.id not in kept:
            kept[example.id] = example
        elif given:
            repeated(example, line_of(kept[example.id]), intake)
        else:
            intake.drop(split, REPEATED)
    return list(kept.values())


for _module in sorted(found.name for found in pkgutil.iter_modules(__path__)):
    importlib.import_module(f"{__name__}.{_module}")
