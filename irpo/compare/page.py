"""What a report says, before it is HTML, Markdown, LaTeX or CSV: `report.json` is these dataclasses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

RankerKind = Literal["trained", "untrained", "baseline", "external"]
REPORT, VIEWED = "report.json", "lists.json"


@dataclass(frozen=True)
class Test:
    """A paired permutation test of two methods by group."""

    against: str
    difference: float  # of the means, own - other
    low: float  # 95 % interval of the difference, over seeds and groups
    high: float
    p: float
    q: float  # corrected for the table (Benjamini & Hochberg 1995)
    effect: float  # mean over standard deviation of the groups' differences (Cohen's d_z)

    @property
    def star(self) -> str:
        """Up or down where the corrected p says so and the interval, which draws seeds too, leaves 0 out."""
        if self.q >= 0.05 or self.low <= 0 <= self.high:
            return ""
        return "+" if self.difference > 0 else "-"


@dataclass(frozen=True)
class Cell:
    """A figure of a table: a mean with its interval, and where it comes from."""

    value: float | None  # None: not measured
    low: float | None = None
    high: float | None = None
    deviation: float | None = None  # standard deviation between seeds
    seeds: int = 1
    best: bool = False  # highest of its column among the rows of one model, as printed
    second: bool = False
    printed: float | None = None  # the paper's figure of this cell, in 0..1
    tests: tuple[Test, ...] = ()
    keys: tuple[str, ...] = ()  # of the cells that it is the mean of


@dataclass(frozen=True)
class TableRow:
    """A ranker's row; `group` is the model's name, "" for those that need none."""

    name: str
    group: str
    cells: tuple[Cell, ...]
    kind: RankerKind = "trained"
    strength: str = "1"
    marks: tuple[str, ...] = ()  # why it is not like the others: "12 trials, others 8"; "3 of 5 seeds"


@dataclass(frozen=True)
class Column:
    """A measure on a task."""

    task: str
    measure: str


@dataclass(frozen=True)
class Table:
    """A task family's table in the layout of the paper's Tables 1 to 3: models in groups, tasks side by side."""

    id: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[TableRow, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plain:
    """Any other table: the first column names the rows."""

    id: str
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str | float | None, ...], ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Series:
    """Points (x, y, low, high) of one name; x may be a word, low and high may be None."""

    name: str
    points: tuple[tuple[float | str, float, float | None, float | None], ...]


@dataclass(frozen=True)
class Panel:
    """Axes of a figure."""

    title: str
    series: tuple[Series, ...]


@dataclass(frozen=True)
class Figure:
    """A plot's data; `alt` says in words what it shows."""

    id: str
    title: str
    alt: str
    kind: Literal["line", "scatter"]
    x: str
    y: str
    panels: tuple[Panel, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """Where figures come from: one cell."""

    key: str
    name: str  # model, task, method, seed in words
    state: Literal["done", "failed", "missing"]
    error: str = ""
    made: Mapping[str, Any] = field(default_factory=dict)  # versions, commit, digests, configuration
    seconds: float | None = None


@dataclass(frozen=True)
class Report:
    """All of it: a function of the results alone."""

    title: str
    about: str
    found: str  # one sentence: what was found
    tables: tuple[Table, ...]
    more: tuple[Plain, ...] = ()
    figures: tuple[Figure, ...] = ()
    sources: tuple[Source, ...] = ()
    cards: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # data cards by task
    notes: tuple[str, ...] = ()  # how intervals and tests are made, the power line, what is missing

    def as_dict(self) -> dict[str, Any]:
        """As `report.json` has it."""
        return asdict(self)


@dataclass(frozen=True)
class Ranked:
    """How a ranker put the viewer's lists of one task in order."""

    name: str  # method, strength
    model: str
    orders: tuple[tuple[int, ...], ...]  # by list: candidates best first, only those that were named
    values: tuple[float | None, ...]  # by list: the main measure; None: it did not rank this one
    problems: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Viewed:
    """A task's lists for the viewer: `lists.json` is a list of these."""

    task: str
    measure: str
    ids: tuple[str, ...]
    queries: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...]
    relevance: tuple[tuple[float, ...], ...]
    rankers: tuple[Ranked, ...]
    left_out: int = 0  # lists beyond what the viewer holds
