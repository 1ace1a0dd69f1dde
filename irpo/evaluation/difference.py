"""What changed from one evaluation to another of the same lists: which queries, by how much, and whether by chance."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from irpo.evaluation.report import Grid, number, p_value
from irpo.evaluation.significance import benjamini_hochberg, mean_interval, paired_p_value
from irpo.evaluation.writing import RESULTS, trec_id
from irpo.files import read_text
from irpo.measures import mean, measure_of
from irpo.rows import read_rows
from irpo.types import UserError

EVALUATION = "evaluation"  # of a run's folder, where its evaluation lies
PER_QUERY = "per_query.jsonl"
_SAME = 1e-9  # values of a measure that are nearer are equal
_SHOWN = 5  # candidates of an order in a terminal; JSON has all
_NAMED = 4  # ids or settings in a note


@dataclass(frozen=True)
class Change:
    """A query that was ranked otherwise; orders are candidates' ids, best first."""

    query: str
    before: float
    after: float
    order_before: tuple[str, ...]
    order_after: tuple[str, ...]
    relevant: tuple[str, ...]  # candidates with a label above 0

    @property
    def difference(self) -> float:
        """After - before."""
        return self.after - self.before


@dataclass(frozen=True)
class ModeDifference:
    """A mode in both evaluations, over the queries that both have."""

    mode: str
    before: float  # means
    after: float
    interval: tuple[float, float]  # 95 %, of after - before, groups drawn whole
    p: float  # paired permutation test, groups swapped whole
    q: float  # p corrected over the modes (Benjamini & Hochberg 1995)
    better: int  # queries
    worse: int
    equal: int
    most: tuple[Change, ...]  # those that changed most, the largest change first

    @property
    def difference(self) -> float:
        """After - before."""
        return self.after - self.before


@dataclass(frozen=True)
class Difference:
    """Two evaluations side by side, the first as before, the second as after."""

    before: str
    after: str
    measure: str
    lists: int  # that both have
    units: int  # of which intervals and tests draw
    modes: tuple[ModeDifference, ...]
    only_before: tuple[str, ...] = ()  # queries that the other has not; not compared
    only_after: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()  # in what else the two differ

    def as_dict(self) -> dict[str, Any]:
        """As `--json` prints it."""
        told = asdict(self)
        for mode, of in zip(told["modes"], self.modes, strict=True):
            mode["difference"] = of.difference
            for change, ours in zip(mode["most"], of.most, strict=True):
                change["difference"] = ours.difference
        return told

    def grids(self) -> list[Grid]:
        """The modes, then for each mode the queries that changed most, where any did."""
        return [self._overview(), *(_changes(mode, self.measure) for mode in self.modes if mode.most)]

    def _overview(self) -> Grid:
        header = ("mode", "before", "after", "change", "95 %", "q", "+ - =")
        cells = tuple(
            (
                m.mode,
                *(number(value) for value in (m.before, m.after)),
                f"{m.difference:+.3f}",
                f"{m.interval[0]:+.3f}, {m.interval[1]:+.3f}",
                p_value(m.q),
                f"{m.better} {m.worse} {m.equal}",
            )
            for m in self.modes
        )
        drawn = f"{self.units} groups of {self.lists} lists" if self.units < self.lists else f"{self.lists} lists"
        told = (
            f"change: after - before, its interval by bootstrap; q: p of a paired permutation test; both draw {drawn}"
        )
        corrected = (
            f"q is corrected over the {len(self.modes)} modes (Benjamini-Hochberg); + - =: lists better, worse, equal"
        )
        apart = [
            f"{len(ids)} lists are only in {where} and are not compared: {_some(ids)}"
            for ids, where in ((self.only_before, self.before), (self.only_after, self.after))
            if ids
        ]
        notes = (f"before: {self.before}; after: {self.after}", told, corrected, *apart, *self.notes)
        return Grid(f"{self.measure} on {self.lists} lists", header, cells, notes)


@dataclass(frozen=True)
class _Query:
    """A line of per_query.jsonl."""

    id: str
    group: str | None
    rows: Mapping[str, Mapping[str, Any]]  # by name: `order` and `measures`


@dataclass(frozen=True)
class _Folder:
    """An evaluation as `irpo evaluate` wrote it."""

    path: Path
    results: Mapping[str, Any]
    queries: Mapping[str, _Query]
    labels: Mapping[str, Mapping[str, str]]  # of qrels.txt: query -> candidate -> label

    @property
    def modes(self) -> list[str]:
        """The rows that are of a model, in their order."""
        return [str(row["name"]) for row in self.results["rows"] if row["mode"] is not None]

    def values(self, mode: str, measure: str, ids: Sequence[str]) -> dict[str, float]:
        """The measure of these queries."""
        return {id: float(self.queries[id].rows[mode]["measures"][measure]) for id in ids}

    def order(self, mode: str, id: str) -> tuple[str, ...]:
        """The candidates, best first."""
        return tuple(self.queries[id].rows[mode]["order"])


def difference(a: Path, b: Path, *, measure: str | None = None, most: int = 10) -> Difference:
    """What changed from evaluation `a` to evaluation `b`: folders of `irpo evaluate`, or of runs that hold one.

    `measure` is the main one of `a` by default; `most` queries a mode are listed. `UserError` where a folder is no
    evaluation, the same id means other candidates or labels, or there is no common query, mode or measure.
    """
    one, other = _read(a), _read(b)
    ids = [id for id in one.queries if id in other.queries]
    if not ids:
        raise UserError(f"{one.path} and {other.path} have no list in common")
    for id in ids:
        if one.labels.get(trec_id(id)) != other.labels.get(trec_id(id)):
            raise UserError(f"list {id!r} has other candidates or labels in {one.path} than in {other.path}")
    chosen = _measure(one, other, measure)
    modes = [mode for mode in one.modes if mode in other.modes]
    if not modes:
        told = " and ".join(f"{', '.join(f.modes) or 'none'} in {f.path}" for f in (one, other))
        raise UserError(f"the evaluations have no mode in common: {told}")
    units = {id: one.queries[id].group or other.queries[id].group or id for id in ids}
    return Difference(
        before=str(one.path),
        after=str(other.path),
        measure=chosen,
        lists=len(ids),
        units=len(set(units.values())),
        modes=_modes(one, other, modes, chosen, units, most),
        only_before=tuple(id for id in one.queries if id not in other.queries),
        only_after=tuple(id for id in other.queries if id not in one.queries),
        notes=_notes(one, other, units),
    )


def _modes(
    one: _Folder, other: _Folder, modes: Sequence[str], measure: str, units: Mapping[str, str], most: int
) -> tuple[ModeDifference, ...]:
    ids = list(units)
    before = [one.values(mode, measure, ids) for mode in modes]
    after = [other.values(mode, measure, ids) for mode in modes]
    p_values = [paired_p_value(new, old, units) for old, new in zip(before, after, strict=True)]
    corrected = benjamini_hochberg(p_values)
    found = []
    for i, mode in enumerate(modes):
        changes = {id: after[i][id] - before[i][id] for id in ids}
        moved = sorted((id for id in ids if abs(changes[id]) > _SAME), key=lambda id: (-abs(changes[id]), id))
        better = sum(changes[id] > 0 for id in moved)
        found.append(
            ModeDifference(
                mode=mode,
                before=mean(before[i]),
                after=mean(after[i]),
                interval=mean_interval(changes, units),
                p=p_values[i],
                q=corrected[i],
                better=better,
                worse=len(moved) - better,
                equal=len(ids) - len(moved),
                most=tuple(_change(one, other, mode, id, (before[i][id], after[i][id])) for id in moved[:most]),
            )
        )
    return tuple(found)


def _change(one: _Folder, other: _Folder, mode: str, id: str, values: tuple[float, float]) -> Change:
    orders = one.order(mode, id), other.order(mode, id)
    labels = one.labels.get(trec_id(id), {})
    seen = dict.fromkeys([*orders[0], *orders[1]])
    relevant = tuple(name for name in seen if labels.get(trec_id(name), "0") != "0")
    return Change(id, *values, *orders, relevant)


def _changes(mode: ModeDifference, measure: str) -> Grid:
    cells = tuple(
        (
            change.query,
            *(number(value) for value in (change.before, change.after)),
            *(_order(order, change.relevant) for order in (change.order_before, change.order_after)),
        )
        for change in mode.most
    )
    header = ("list", "before", "after", "order before", "order after")
    note = f"the first {_SHOWN} candidates of each order; *: relevant"
    moved = mode.better + mode.worse
    return Grid(f"{mode.mode}: {len(cells)} of {moved} lists whose {measure} changed", header, cells, (note,))


def _order(order: Sequence[str], relevant: Sequence[str]) -> str:
    shown = [f"*{id}" if id in relevant else id for id in order[:_SHOWN]]
    return " ".join(shown + (["..."] if len(order) > _SHOWN else [])) or "(none)"


def _some(names: Sequence[str]) -> str:
    return ", ".join([*names[:_NAMED], *(["..."] if len(names) > _NAMED else [])])


def _measure(one: _Folder, other: _Folder, wanted: str | None) -> str:
    """The measure's name; `UserError` where it is not in both."""
    both = [name for name in one.results["measures"] if name in other.results["measures"]]
    chosen = str(measure_of(wanted)) if wanted else str(one.results["main_measure"])
    if chosen not in both:
        raise UserError(f"{chosen} is not measured in both; both have: {', '.join(both) or 'none'}")
    return chosen


def _notes(one: _Folder, other: _Folder, units: Mapping[str, str]) -> tuple[str, ...]:
    """What else is not the same, and what the files do not say."""
    was, now = one.results["setting"], other.results["setting"]
    apart = [f"{key} {value!r} and {now.get(key)!r}" for key, value in was.items() if value != now.get(key)]
    notes = [f"settings differ: {_some(apart)}"] if apart else []
    digests = {folder.results["about"].get("lists_sha256") for folder in (one, other)}
    if len(digests) > 1:
        notes.append("the files of lists are not the same: texts may differ where ids and labels do not")
    if len(set(units.values())) == len(units) and any(f.results["groups"] < f.results["lists"] for f in (one, other)):
        notes.append("the evaluations were written without their lists' groups: every list was drawn by itself")
    return tuple(notes)


def _read(path: Path) -> _Folder:
    """The evaluation in a folder, or in its folder `evaluation`; `UserError` where there is none, or a broken one."""
    folder = next((place for place in (path, path / EVALUATION) if (place / RESULTS).is_file()), None)
    if folder is None:
        if any((path / name).is_file() for name in ("suite.json", "cell.json")):
            raise UserError(
                f"{path}: this is of a suite, whose report.html shows its lists; give folders of `irpo evaluate`"
            )
        raise UserError(f"{path}: holds no {RESULTS}; measure first: irpo evaluate --model MODEL --out {path}")
    try:
        results = json.loads(read_text(folder / RESULTS))
        _require_told(results)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{folder / RESULTS}: not as `irpo evaluate` writes it; measure again") from None
    found = _Folder(folder, results, _queries(folder / PER_QUERY), _labels(folder / "qrels.txt"))
    for query in found.queries.values():
        if lacking := [mode for mode in found.modes if mode not in query.rows]:
            raise UserError(f"{folder / PER_QUERY}: list {query.id!r} has no row {lacking[0]!r}; measure again")
    return found


def _require_told(results: Any) -> None:
    """`KeyError` or `TypeError` where the object is not as `Summary.as_dict` tells it."""
    _ = [row["name"] + (row["mode"] or "") for row in results["rows"]]
    _ = results["measures"][0] + results["main_measure"], results["groups"] < results["lists"]
    _ = {**results["setting"]}, {**results["about"]}


def _queries(path: Path) -> dict[str, _Query]:
    found = {}
    for row in read_rows(path):
        if row.problem:
            raise UserError(f"{row.where}: {row.problem}")
        try:
            query = _Query(row.value["id"], row.value.get("group"), row.value["rows"])
            _ = [(of["order"][:1], {**of["measures"]}) for of in query.rows.values()]
        except (KeyError, TypeError, AttributeError):
            raise UserError(f"{row.where}: not a line as `irpo evaluate` writes it; measure again") from None
        found[query.id] = query
    return found


def _labels(path: Path) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for count, line in enumerate(read_text(path).split("\n"), start=1):
        if not line:
            continue
        columns = line.split(" ")
        if len(columns) != 4:
            raise UserError(f"{path}:{count}: {len(columns)} columns; a line of qrels has 4")
        query, _, candidate, label = columns
        found.setdefault(query, {})[candidate] = label
    return found
