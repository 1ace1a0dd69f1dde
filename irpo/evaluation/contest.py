"""Rankers measured alike: which stand above which beyond chance, as a table and in three sentences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from irpo.evaluation.report import Grid, number, percent
from irpo.evaluation.results import Evaluation, Measured, Summary
from irpo.evaluation.significance import paired_tests
from irpo.types import UserError

LEVEL = 0.05  # of the corrected p-values, below which a difference is told
WITHOUT_MODEL = ("random", "BM25")  # the baselines of the table; reports have all
OPTIONAL: dict[str, Callable[[float], str]] = {"constrained": number, "named": percent}  # columns, where measured


@dataclass(frozen=True)
class Entrant:
    """A row: the mean of the measure by the first mode, its 95 % interval, and what else the table has room for."""

    name: str
    value: float
    interval: tuple[float, float]
    constrained: float | None = None
    named: float | None = None  # coverage of free answers
    strength: str | None = None  # of its scores and constrained lists
    validation: float | None = None  # by which the best is chosen; None: nothing was trained
    over_base: float | None = None  # corrected p of the difference to the base model
    to_best: float | None = None  # to the one that validation lists choose


@dataclass(frozen=True)
class Contest:
    """All rows, baselines first, and what the tests drew."""

    measure: str
    mode: str
    lists: int
    units: int  # what intervals and tests draw
    unit: str  # what these are called, in the plural
    base: str
    rows: tuple[Entrant, ...]

    @property
    def trained(self) -> tuple[Entrant, ...]:
        """The methods."""
        return tuple(row for row in self.rows if row.over_base is not None)

    @property
    def best(self) -> str | None:
        """The method that validation lists choose, the first of equals; None where there were none."""
        return _best({row.name: row.validation for row in self.trained})

    @property
    def tests(self) -> int:
        """How many p-values are corrected together."""
        return sum(p is not None for row in self.rows for p in (row.over_base, row.to_best))

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it; `read` takes it back."""
        return asdict(self)

    @classmethod
    def read(cls, told: Mapping[str, Any]) -> Contest:
        """What `as_dict` told."""
        rows = tuple(Entrant(**row | {"interval": tuple(row["interval"])}) for row in told["rows"])
        return cls(**dict(told) | {"rows": rows})

    def grid(self) -> Grid:
        """The table, 77 columns wide with names of 11, and its notes."""
        shown = [name for name in OPTIONAL if name in self._headed]
        header = ("ranked by", self.mode, "95 %", *shown, "p base", "p best")
        cells = tuple(
            (
                row.name,
                number(row.value),
                f"{number(row.interval[0])}-{number(row.interval[1])}",
                *("" if (told := getattr(row, name)) is None else OPTIONAL[name](told) for name in shown),
                p_value(row.over_base),
                "best" if row.name == self.best else p_value(row.to_best),
            )
            for row in self.rows
        )
        first = next(i for i, row in enumerate(self.rows) if row.over_base is not None)
        marked = frozenset((i, 0) for i, row in enumerate(self.rows) if row.name == self.best)
        of = "" if self.units == self.lists else f" of {self.units} {self.unit}"
        title = f"{self.measure} on {self.lists} lists{of}"
        return Grid(title, header, cells, self.notes, marked, frozenset({first}))

    @property
    def notes(self) -> tuple[str, ...]:
        """What the table answers, in the order in which a newcomer asks, and what its columns are."""
        return (self._helps(), *self._which(), self._sure(), self._columns())

    def _helps(self) -> str:
        sides = self._sides([(row, row.over_base) for row in self.trained], self.base)
        if set(sides) == {"above"}:
            return f"Does fine-tuning help? Yes: all {len(self.trained)} methods stand above the {self.base}."
        answer = "" if "above" in sides else "These lists do not show it. "
        return f"Does fine-tuning help? {answer}{_told(sides, f'the {self.base}')}"

    def _which(self) -> list[str]:
        if self.best is None:
            return []
        sides = self._sides([(row, row.to_best) for row in self.trained if row.name != self.best], self.best)
        return [f"Which method? Validation lists choose {self.best}. {_told(sides, 'it in this run')}"]

    def _sides(self, rows: Sequence[tuple[Entrant, float | None]], to: str) -> dict[str, list[str]]:
        """The names beyond chance above and below a row, and those of which the tests say neither."""
        value = next(row.value for row in self.rows if row.name == to)
        sides: dict[str, list[str]] = {"above": [], "below": [], "not told apart from": []}
        for row, p in rows:
            beyond = p is not None and p < LEVEL
            sides["not told apart from" if not beyond else "above" if row.value > value else "below"].append(row.name)
        return {side: names for side, names in sides.items() if names}

    def _sure(self) -> str:
        grouped = self.units < self.lists
        drawn = f"the {self.units} {self.unit}, not the {self.lists} lists" if grouped else f"the {self.unit}"
        return (
            f"How sure? Intervals (95 %) and p draw {drawn}. p: paired permutation tests against the {self.base} and "
            f"against the best, Holm-corrected for all {self.tests}; above and below mean p < {LEVEL:g}. One seed: "
            "another one moves the figures, too."
        )

    def _columns(self) -> str:
        told = {
            "score": f"candidates sorted by log-probability{self._strengths()}",
            "constrained": "an answer that can only be a permutation",
            "named": "share of the candidates in free answers",
        }
        return "; ".join(f"{name}: {text}" for name, text in told.items() if name in self._headed)

    def _strengths(self) -> str:
        """At which strength, where it is not the policy's own for all."""
        own = {row.strength for row in self.trained}
        return "" if own <= {"1", None} else " at each run's own strength"

    @property
    def _headed(self) -> set[str]:
        return {self.mode, *(name for name in OPTIONAL if any(getattr(row, name) is not None for row in self.rows))}


def contest_of(
    found: Mapping[str, Evaluation], base: str, validation: Mapping[str, float | None], unit: str
) -> Contest:
    """The contest of evaluations of the same lists by one protocol; `UserError` where they are not.

    All of `found` but the base model was trained; `validation` says how well each of it did where the choice was made.
    """
    summaries = {name: evaluation.summary for name, evaluation in found.items()}
    require_one_protocol(summaries)
    first = summaries[base]
    main, mode = first.main_measure, first.rows[0].name
    best = _best(validation)
    pairs = [(name, base) for name in validation]
    pairs += [(name, best) for name in validation if best is not None and name != best]
    values = {name: evaluation.values[mode][main] for name, evaluation in found.items()}
    p = paired_tests(pairs, values, found[base].units)
    without = [_entrant(row.name, row, main) for row in first.rows if row.baseline and row.name in WITHOUT_MODEL]
    rows = [
        _entrant(name, summary.rows[0], main, summary)
        | {"validation": validation.get(name), "over_base": p.get((name, base)), "to_best": p.get((name, best or ""))}
        for name, summary in summaries.items()
    ]
    entrants = tuple(Entrant(**row) for row in (*without, *rows))
    units = "lists" if first.groups == first.lists else unit
    return Contest(main, mode, first.lists, first.groups, units, base, entrants)


def require_one_protocol(summaries: Mapping[str, Summary]) -> None:
    """`UserError` where rankers were not measured alike; the strength of a run is its own."""
    protocols = {str(s.setting and s.setting.protocol) for s in summaries.values()}
    if len(protocols) > 1:
        raise UserError(f"methods measured by different protocols cannot stand in one table: {sorted(protocols)}")


def _entrant(name: str, row: Measured, measure: str, summary: Summary | None = None) -> dict[str, Any]:
    constrained = summary and summary.row("constrain")
    free = summary and next((r for r in summary.rows if r.part == "strict"), None)
    return {
        "name": name,
        "value": row.measures[measure],
        "interval": row.interval,
        "constrained": constrained.measures[measure] if constrained and constrained is not row else None,
        "named": free.answers.coverage if free else None,
        "strength": summary and summary.setting and summary.setting.strength,
    }


def _best(validation: Mapping[str, float | None]) -> str | None:
    measured = {name: value for name, value in validation.items() if value is not None}
    return max(measured, key=measured.__getitem__) if measured else None


def _told(sides: Mapping[str, Sequence[str]], what: str) -> str:
    """One sentence.

    >>> _told({"below": ["SFT", "DPO"], "not told apart from": ["S-DPO"]}, "it")
    'Below it: SFT, DPO; not told apart from it: S-DPO.'
    """
    told = "; ".join(f"{side} {what}: {', '.join(names)}" for side, names in sides.items())
    return f"{told[:1].upper()}{told[1:]}." if told else ""


def p_value(p: float | None) -> str:
    """As a table has it; nothing where there was no test."""
    if p is None:
        return ""
    return "<.001" if p < 0.001 else f"{p:.3f}"
