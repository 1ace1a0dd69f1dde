"""Tables for people: one evaluation, or several side by side, as Markdown, for a terminal and for a log file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from irpo.measures import GAINS, measure_of
from irpo.processes import is_first
from irpo.ranking.modes import at_rankers_strength
from irpo.types import printable

if TYPE_CHECKING:
    from irpo.evaluation.results import Answers, Measured, Summary

STRICT = (
    "strict: a candidate that the answer does not name earns nothing; "
    "repaired: such candidates follow in a fixed random order"
)
NAMED = "named: share of a list's candidates that the answer names, or prompts about parts placed (coverage)"
PROMPTS = "prompts: that the model was given for a list, on average; not 1 where a mode asks about parts of it"
_UNBROKEN = 10_000  # columns: more than a line of ours has


@dataclass(frozen=True)
class Grid:
    """A table: the first column names the rows. `best` are the (row, column) cells to stress."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    best: frozenset[tuple[int, int]] = frozenset()
    ruled: frozenset[int] = frozenset()  # rows that begin a section

    def markdown(self) -> str:
        """A GitHub table, numbers to the right, notes below."""
        lines = [self.header, ("---", *("---:" for _ in self.header[1:]))]
        lines += [
            tuple(f"**{cell}**" if (i, j) in self.best else _escaped(cell) for j, cell in enumerate(row))
            for i, row in enumerate(self.rows)
        ]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return "\n".join([table, *([""] if self.notes else []), *(f"- {note}" for note in self.notes)])

    def table(self) -> Table:
        """The same for a terminal, without its notes."""
        table = Table(title=self.title, title_justify="left", title_style="bold")
        for j, name in enumerate(self.header):
            table.add_column(name, justify="right" if j else "left", no_wrap=j > 0)
        for i, row in enumerate(self.rows):
            if i in self.ruled:
                table.add_section()
            cells = (Text(printable(cell), style="bold" if (i, j) in self.best else "") for j, cell in enumerate(row))
            table.add_row(*cells)
        return table

    def show(self, console: Console | None = None) -> None:
        """Print table and notes on stdout, by one process: at a terminal's width; elsewhere no line is broken."""
        if not is_first():
            return
        console = console or Console()
        if not console.is_terminal:
            console = Console(file=console.file, width=_UNBROKEN)
        console.print(self.table())
        for note in self.notes:
            console.print(Text(printable(note)))


def _escaped(cell: str) -> str:
    return printable(cell).replace("|", "\\|")


def gains(measures: Sequence[str], relevant_from: float) -> str:
    """What the measures of a table count.

    >>> gains(["Recall@5", "MRR"], 2.0)
    'Recall and MRR count labels from 2 as relevant'
    """
    names = list(dict.fromkeys(measure_of(text).name for text in measures))
    binary = [name for name in names if name not in GAINS]
    listed = " and ".join([", ".join(binary[:-1]), *binary[-1:]] if binary[1:] else binary)
    return "; ".join(
        [
            *(["NDCG has the gain 2^y - 1 (trec_eval's own, on qrels.txt, is linear)"] if "NDCG" in names else []),
            *(["LNDCG has the gain y: it is trec_eval's, BEIR's and MTEB's nDCG"] if "LNDCG" in names else []),
            *(
                [f"{listed} count{'' if binary[1:] else 's'} labels from {relevant_from:g} as relevant"]
                if binary
                else []
            ),
        ]
    )


def grouping(summary: Summary) -> str:
    """What intervals and tests draw, where lists depend on each other; else nothing."""
    if summary.groups == summary.lists:
        return ""
    return f"intervals and tests draw {summary.groups} groups of lists that share a query, not {summary.lists} lists"


def overview(summary: Summary) -> Grid:
    """A row for every way of ranking; the best are stressed, a baseline where it is."""
    columns = _columns(summary)
    rows = summary.rows
    answered = any(row.answers.problems is not None for row in rows)
    several = any(row.prompts not in (None, 1) for row in rows)
    more = {
        **({"named": _named} if answered or any(row.answers.coverage < 1 for row in rows) else {}),
        **({"prompts": _prompts} if several else {}),
    }
    cells = tuple(
        (row.name, *(number(row.measures[c]) for c in columns), *(tell(row) for tell in more.values())) for row in rows
    )
    best = frozenset(cell for j, c in enumerate(columns, 1) for cell in _best(rows, c, j))
    first = next((i for i, row in enumerate(rows) if row.baseline), 0)
    mean_size = summary.candidates / max(1, summary.lists)
    title = f"{summary.lists} lists of {mean_size:.3g} candidates on average"
    cut = [] if summary.setting is None or not summary.setting.prompts_cut else [cuts(summary)]
    told = (*at_strength(summary), *by_engine(summary), *cut)
    about = [*([STRICT] if answered else []), *([NAMED] if "named" in more else []), *([PROMPTS] if several else [])]
    notes = (*about, gains(columns, summary.relevant_from), *told)
    header = ("ranking", *columns, *more)
    return Grid(title, header, cells, notes, best, frozenset({first} - {0}))


def at_strength(summary: Summary) -> list[str]:
    """How scores were made of policy and reference, where they are not the policy's own."""
    modes = dict.fromkeys(row.mode for row in summary.rows if row.mode is not None and at_rankers_strength(row.mode))
    if not modes or summary.setting is None or summary.setting.strength == summary.setting.protocol.strength:
        return []
    value = summary.setting.strength.partition(" ")[0]
    formula = "log pi - log pi_ref" if value == "reward" else f"log pi_ref + {value} (log pi - log pi_ref)"
    told = f"the adapter {value} times as large" if summary.setting.strength.endswith("adapter") else formula
    return [f"{', '.join(modes)} at strength {summary.setting.strength}: {told}"]


def by_engine(summary: Summary) -> list[str]:
    """What ran the model, where that was another program than the one that trains."""
    engine = "transformers" if summary.setting is None else summary.setting.engine
    if engine.startswith("transformers"):
        return []
    return [f"ranked by {engine}: its dtype, kernels and batches round otherwise than transformers' in training"]


def cuts(summary: Summary) -> str:
    """What did not fit the prompts, and what helps; nothing where all fitted."""
    of = summary.setting
    if of is None or not of.prompts_cut:
        return ""
    return (
        f"{of.prompts_cut} of {summary.lists} prompts were cut to {of.max_tokens} tokens ({of.candidate_tokens_cut} of "
        f"candidates, {of.query_tokens_cut} of queries): give more with --max-tokens"
    )


def markdown(summary: Summary) -> str:
    """The whole report of an evaluation."""
    setting = {} if summary.setting is None else asdict(summary.setting)
    table = overview(summary)
    parts = [
        "# Evaluation",
        "\n".join(f"- {key.replace('_', ' ')}: {_told(value)}" for key, value in {**summary.about, **setting}.items()),
        "## Overview",
        table.title + ".",
        table.markdown(),
        "## Every measure",
        _every_measure(summary).markdown(),
        f"## {summary.main_measure} with 95 % bootstrap intervals, and the time taken",
        _intervals(summary).markdown(),
    ]
    answered = [row for row in summary.rows if row.answers.problems is not None]
    if answered:
        parts += ["## What was wrong with the free answers", _problems(answered[0].answers).markdown()]
    return "\n\n".join(parts)


def _told(value: object) -> str:
    return "chosen by size" if value is None else printable(str(value))


def _every_measure(summary: Summary) -> Grid:
    rows = summary.rows
    cells = tuple((m, *(number(row.measures[m]) for row in rows)) for m in _telling(summary))
    notes = (gains(_telling(summary), summary.relevant_from),)
    return Grid("Every measure", ("measure", *(row.name for row in rows)), cells, notes)


def _intervals(summary: Summary) -> Grid:
    main = summary.main_measure
    cells = tuple(
        (
            row.name,
            number(row.measures[main]),
            "-" if summary.groups < 2 else f"{number(row.interval[0])} to {number(row.interval[1])}",
            str(row.tied_lists),
            "-" if row.seconds is None else f"{row.seconds:.1f}",
            "-" if row.lists_per_second is None else f"{row.lists_per_second:.3g}",
        )
        for row in summary.rows
    )
    header = ("ranking", main, "95 % interval", "lists with ties", "seconds", "lists/s")
    tied = any(row.tied_lists for row in summary.rows)
    ties = ["equal scores are put in a fixed random order, never in the input's"] if tied else []
    return Grid("Intervals", header, cells, (*ties, *filter(None, [grouping(summary)])))


def _problems(answers: Answers) -> Grid:
    shares = (
        ("candidates named", answers.coverage),
        ("answers that are exact permutations", answers.exact_permutations),
    )
    counts = (answers.problems or {}).items()
    cells = (*((name, percent(value)) for name, value in shares), *((name, str(count)) for name, count in counts))
    notes = (
        "missing: candidates not named; repeated: named again; unknown: names that no candidate has; "
        "unparseable: answers in which nothing could be read",
    )
    return Grid("Answers", ("what", "share or count"), cells, notes)


def _telling(summary: Summary) -> list[str]:
    """The measures without those that a shorter cut-off has already said: one behind the end of the longest list."""
    found = []
    for text in summary.measures:
        measure = measure_of(text)
        same = [other.k for other in map(measure_of, summary.measures) if other.name == measure.name and other.k]
        enough = min((k for k in same if k >= summary.longest), default=None)
        if measure.k is None or enough is None or measure.k <= enough or text == summary.main_measure:
            found.append(text)
    return found


def _columns(summary: Summary) -> list[str]:
    """What has room in 80 columns: NDCG@1, 5 (or LNDCG@10), 10, Recall@5 and MRR, as far as they were measured."""
    measures = _telling(summary)
    few = ("NDCG@1", "LNDCG@10" if "LNDCG@10" in measures else "NDCG@5", "NDCG@10", "Recall@5", "MRR")
    wanted: list[str] = [m for m in few if m in measures]
    return wanted if len(wanted) > 2 else measures[:4]


def _best(rows: Sequence[Measured], measure: str, column: int) -> list[tuple[int, int]]:
    """The cells of the rows that are highest as printed, where not all are."""
    shown = [number(row.measures[measure]) for row in rows]
    return [(i, column) for i, text in enumerate(shown) if text == max(shown) != min(shown)]


def number(value: float) -> str:
    """A measure, as every table has it."""
    return f"{value:.3f}"


def p_value(p: float | None) -> str:
    """A p-value as a table of a terminal has it, plain or corrected; nothing where there was no test.

    >>> p_value(0.0312), p_value(0.0001), p_value(None)
    ('0.031', '<.001', '')
    """
    if p is None:
        return ""
    return "<.001" if p < 0.001 else number(p)


def percent(value: float) -> str:
    """Whole percent, but never 100 % where something is missing, nor 0 % where something is there."""
    whole = f"{100 * value:.0f}"
    if whole == "0" and value > 0:
        return "< 1 %"
    if whole == "100" and value < 1:
        return "> 99 %"
    return f"{whole} %"


def _named(row: Measured) -> str:
    return "" if row.baseline else percent(row.answers.coverage)


def _prompts(row: Measured) -> str:
    return "" if row.prompts is None else f"{row.prompts:.4g}"
