"""What is wrong with lists, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

from irpo.checking.counting import Counts
from irpo.checking.notebook import Notebook, Shared
from irpo.mine.asking import RANKED
from irpo.tasks._statistics import spread

Level = Literal["error", "warning", "note"]  # error: rows or lists that `prepare` refuses or leaves out
BAD_ROWS = "bad rows"
_SURPRISE = 5.0  # standard deviations; of 200 places one in 10^5 checks of mixed lists
_COMMON = {"near": "near query", "unit": "group"}
_LARGEST_LABEL = 5.0  # 2^y - 1 is 31 there


class Table(NamedTuple):
    """NDCG@10 of the evaluation lists by their texts' mean label in training lists, the query unread."""

    ndcg: float
    random: float
    error: float  # standard error of the difference
    known: float  # share of candidates whose text training lists show


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong or odd: how often, which are the first, and what to do about it."""

    level: Level
    kind: str
    text: str
    advice: str
    count: int = 0
    first: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "first": list(self.first)}


@dataclass(frozen=True)
class Seen:
    """All that was counted of a task's lists."""

    splits: Mapping[str, Counts]
    too_long: Mapping[str, float]  # share of lists that do not fit the budget; {} without one
    longest: int  # tokens
    refused: Mapping[str, tuple[str, ...]]  # lists that have no prompt, and why
    book: Notebook
    table: Table | None
    relevant_from: float
    given: bool  # the lists are the user's own as they were written


def judge(seen: Seen) -> tuple[Finding, ...]:
    """The findings, the worst first."""
    found = [*_of_lists(seen), *_of_leaks(seen)]
    for name, counts in seen.splits.items():
        if counts.statistics.lists:
            found += [*_of_labels(name, counts, seen), *_of_texts(name, counts), *_of_places(name, counts)]
    found += _of_budget(seen)
    levels = ("error", "warning", "note")
    return tuple(sorted(found, key=lambda finding: levels.index(finding.level)))


def _of_lists(seen: Seen) -> Iterator[Finding]:
    for name, counts in seen.splits.items():
        if not counts.statistics.lists:
            yield Finding(
                "error",
                "no list",
                f"{name}: no list could be made",
                "what was left out, and why, stands below the table",
            )
        ids, contents = seen.book.twice(name, "id"), seen.book.twice(name, "content")
        advice = "give each list an id of its own" if seen.given else "only the first is kept"
        level: Level = "error" if seen.given else "note"
        yield from _shared(level, "id twice", ids, f"{name}: lists that bear the id of an earlier one: {{}}", advice)
        what = f"{name}: lists that repeat an earlier one, query, texts and labels: {{}}"
        yield from _shared(
            "warning", "list twice", contents, what, "leave them out; they count twice, and nothing more"
        )
    asks = seen.book.ungrouped()
    what = "train: lists that ask what an earlier one asks, and have no group: {}"
    advice = 'give lists of one query the same "group": validation lists are set aside by it, and would leak'
    yield from _shared("warning", "query twice without a group", asks, what, advice)
    both = seen.book.contradicted()
    what = "pairs of query and text that two lists label differently: {}"
    yield from _shared("warning", "contradiction", both, what, "decide on one label; the model is taught both")


def _of_leaks(seen: Seen) -> Iterator[Finding]:
    if len(seen.splits) < 2:
        return
    what = {
        "id": ("training lists that bear an id of evaluation: {}", "they are left out of training; rename other lists"),
        "query": ("training lists that ask what an evaluation list asks: {}", "take them out of one split"),
        "near": (
            "training lists that ask what one of evaluation asks but for case, order, plurals, articles: {}",
            "look at the first ones; take out what says the same",
        ),
        "unit": ("training lists that are of a group of evaluation: {}", "split the data by group, not by list"),
    }
    for column, (text, advice) in what.items():
        yield from _shared(
            "warning", f"{_COMMON.get(column, column)} in both splits", seen.book.in_both(column), text, advice
        )
    both = seen.book.answered(max(seen.relevant_from, 1e-9))
    text = "evaluation lists whose query training answers by the same relevant text: {}"
    yield from _shared("warning", "answer in both splits", both, text, "take them out of training: it is the test")
    table = seen.table
    if table and table.ndcg - table.random > max(0.03, 3 * table.error):
        text = (
            f"texts' mean training labels alone rank evaluation at NDCG@10 {table.ndcg:.3f} (random "
            f"{table.random:.3f}): lists tell by their texts what is relevant, the query unread"
        )
        advice = "draw negatives that are relevant elsewhere (`irpo mine`), and compare results with this figure"
        yield Finding("warning", "label table", text, advice)


def _of_labels(name: str, counts: Counts, seen: Seen) -> Iterator[Finding]:
    statistics, border = counts.statistics, f"{seen.relevant_from:g}"
    labels = sorted(statistics.counts["labels"])
    below = f"{name}: lists without a relevant candidate (relevant_from={border}): {{}}"
    mend = (
        "a larger top_k may find one" if _is_measured(name, counts) else "add a relevant candidate, or leave them out"
    )
    advice = f"Recall, P, MRR and MAP of them are 0; {_scale(counts) or mend}"
    yield from _counted("warning", "without_relevant", counts, below, advice)
    every = f"{name}: lists in which all candidates are relevant (relevant_from={border}): {{}}"
    advice = _scale(counts) or "add candidates that are not: `irpo mine`; where labels are equal any order is right"
    yield from _counted("warning", "all_relevant", counts, every, advice)
    if labels[-1] > _LARGEST_LABEL:
        text = f"{name}: labels go up to {labels[-1]:g}, whose gain in NDCG, 2^y - 1, is {2.0 ** labels[-1] - 1:.3g}"
        yield Finding("warning", "label scale", text, "bring labels to a scale of 0 to 4: one grade doubles the gain")


def _scale(counts: Counts) -> str:
    """What label to count as relevant from, where the border in use parts the candidates badly; else nothing."""
    labels = counts.statistics.counts["labels"]
    total, steps = labels.total(), sorted(label for label in labels if label > 0)
    share = counts.relevant / total
    if len(steps) < 2 or 0 < share <= 0.5:
        return ""
    fitting = [y for y in steps if sum(count for label, count in labels.items() if label >= y) <= total / 2]
    border = min(fitting, default=steps[-1])
    return f"relevant_from={border:g} would part these labels" if border != counts.relevant_from else ""


def _of_texts(name: str, counts: Counts) -> Iterator[Finding]:
    statistics = counts.statistics
    again = f"{name}: lists that hold a text twice (blanks and case aside): {{}}"
    yield from _counted("warning", "repeated", counts, again, "keep each text once; a text cannot stand at two ranks")
    both = f"{name}: lists that hold a text twice, with two labels: {{}}"
    yield from _counted("warning", "contradicted", counts, both, "keep it once, with the label that is right")
    if counts.cut > max(1, statistics.candidates // 1000):
        text = f"{name}: candidates that end in an ellipsis: {counts.cut}"
        yield Finding("warning", "cut texts", text, "they look cut; take the whole texts where they are", counts.cut)
    length, piled = counts.piled
    if piled:
        text = f"{name}: candidates of {length} characters, the most that any has: {piled}"
        yield Finding("warning", "cut texts", text, "they look cut at that length; take the whole texts", piled)
    if counts.wordless:
        text = f"{name}: candidates without a letter or a digit: {counts.wordless}"
        yield Finding("warning", "no words", text, "leave them out; there is nothing to read", counts.wordless)
    words = statistics.counts["candidate_words"]
    middle = spread(words)["median"]
    long = sum(count for length, count in words.items() if length > max(300, 10 * middle))
    if long:
        text = f"{name}: candidates of more than {max(300, 10 * middle)} words (median {middle}): {long}"
        yield Finding("warning", "long texts", text, "cut them to what matters: a prompt cuts them blindly", long)


def _of_places(name: str, counts: Counts) -> Iterator[Finding]:
    if not counts.places or counts.decided < 10 or _is_measured(name, counts):
        return
    place, worst = max(counts.places.items(), key=lambda item: item[1].surprise)
    if worst.surprise > _SURPRISE and worst.found > 1.2 * worst.expected:
        text = (
            f"{name}: the best candidate stands at place {place + 1} in {worst.found / counts.decided:.0%} of lists "
            f"(mixed: {worst.expected / counts.decided:.0%}), which a model learns instead of reading"
        )
        yield Finding(
            "warning", "position", text, "mix candidates: shuffle=true (tasks that have it)", round(worst.found)
        )


def _is_measured(name: str, counts: Counts) -> bool:
    """Whether these are evaluation lists of a first stage, whose order and misses are part of what is measured."""
    return name == "eval" and not RANKED.isdisjoint(counts.statistics.counts["sources"])


def _of_budget(seen: Seen) -> Iterator[Finding]:
    for name, refused in seen.refused.items():
        if refused:
            text = f"{name}: lists for which there is no prompt, at which training, or ranking, stops: {len(refused)}"
            advice = "mend them by what stands beside each, leave them out, or take another prompt.style or labels"
            yield Finding("warning", "no prompt", text, advice, len(refused), refused[:3])
    for name, share in seen.too_long.items():
        if share:
            text = f"{name}: {share:.1%} of lists do not fit prompt.max_tokens; their candidates would be cut"
            advice = f"give prompt.max_tokens={seen.longest} (the longest seen), shorter texts or fewer candidates"
            yield Finding("warning", "budget", text, advice)


def _counted(level: Level, kind: str, counts: Counts, text: str, advice: str) -> Iterator[Finding]:
    if count := int(getattr(counts, kind)):
        yield Finding(level, kind.replace("_", " "), text.format(count), advice, count, tuple(counts.first[kind]))


def _shared(level: Level, kind: str, shared: Shared, text: str, advice: str) -> Iterator[Finding]:
    if shared.lists:
        first = tuple(f"{one} and {other}" for one, other in shared.first)
        yield Finding(level, kind, text.format(shared.lists), advice, shared.lists, first)
