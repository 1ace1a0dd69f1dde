"""From a model's free answer to a ranking and typed problems, and from a partial ranking to a complete one.

Total: no string makes it raise. What an answer holds is read from the strictest likeness to the loosest, and a likeness
that two different candidates share names neither of them.
"""

from __future__ import annotations

from collections.abc import Sequence

from irpo.chance import random_order
from irpo.prompting.parsing.labels import read_labels
from irpo.prompting.parsing.lines import read_lines
from irpo.types import Missing, Problem, Ranking, Style, Unparseable

__all__ = ["parse_ranking", "repair"]


def parse_ranking(text: str, names: Sequence[str], style: Style) -> tuple[Ranking, tuple[Problem, ...]]:
    """The candidates that an answer names, in its order, and what is wrong with it.

    Problems come in reading order, then a `Missing` for each candidate that was not named, by index; `Unparseable`
    where the answer holds neither a candidate nor anything that stands for one. Of candidates with the same name the
    first unplaced one is meant. Chatter around a list ("Here is the ranking:") is no problem.

    >>> parse_ranking("[B] > [D] > [B]", ["A", "B", "C"], "label")
    (Ranking(order=(1,)), (Unknown(text='D'), Repeated(index=1), Missing(index=0), Missing(index=2)))
    """
    reading = read_labels(text, names) if style == "label" else read_lines(text, names)
    problems = list(reading.problems)
    if not reading.order and not problems:
        problems.append(Unparseable(text))
    named = set(reading.order)
    problems += [Missing(j) for j in range(len(names)) if j not in named]
    return Ranking(tuple(reading.order)), tuple(problems)


def repair(ranking: Ranking, count: int, example_id: str, seed: int) -> Ranking:
    """The ranking, and behind it the candidates that it lacks, in a random order fixed by (seed, example id).

    Not in the order of the prompt: that would lend a model that says nothing the merit of the input's order.
    """
    named = set(ranking.order)
    rest = (j for j in random_order(count, "repair", seed, example_id) if j not in named)
    return Ranking((*ranking.order, *rest))
