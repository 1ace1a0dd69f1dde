"""A check as a picture: candidates a list, labels, lengths against the budget, and where the best candidate stands."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping
from typing import Any

from irpo.checking.looking import Check, Split
from irpo.drawing import MUTED, SERIES, drawing
from irpo.tasks._statistics import spread

_BARS = 24  # of a histogram
_MOST = 12  # labels, or places, drawn one by one


def picture(check: Check) -> bytes:
    """Four panels as PNG, 1350 x 900; a colour a split."""
    with drawing((9.0, 6.0)) as whole:
        panels = whole.subplots(2, 2)
        _sizes(panels[0][0], check.splits)
        _labels(panels[0][1], check.splits)
        _lengths(panels[1][0], check)
        _places(panels[1][1], check.splits)
        whole.tight_layout(pad=1.4)
        out = io.BytesIO()
        whole.savefig(out, format="png", dpi=150, facecolor="white", metadata={"Software": None})
    return out.getvalue()


def _sizes(axes: Any, splits: Mapping[str, Split]) -> None:
    counted = {name: split.counts.statistics.counts["candidates_per_list"] for name, split in splits.items()}
    _histogram(axes, counted)
    axes.set(title="Candidates a list", xlabel="candidates", ylabel="share of lists")


def _labels(axes: Any, splits: Mapping[str, Split]) -> None:
    counted = {name: split.counts.statistics.counts["labels"] for name, split in splits.items()}
    every = sorted({label for counts in counted.values() for label in counts})
    if len(every) <= _MOST:
        for number, (name, counts) in enumerate(counted.items()):
            heights = [counts[label] / max(1, counts.total()) for label in every]
            _bars(axes, number, len(counted), heights, name)
        axes.set_xticks(range(len(every)), [f"{label:g}" for label in every])
    else:
        _histogram(axes, counted)
    _percent(axes)
    axes.set(title="Labels", xlabel="label", ylabel="share of candidates")
    if len(counted) > 1:
        _legend(axes)


def _lengths(axes: Any, check: Check) -> None:
    budget = check.budget
    if budget is None:
        words = {name: split.counts.statistics.counts["candidate_words"] for name, split in check.splits.items()}
        _histogram(axes, words)
        axes.set(title="Length of candidates", xlabel="words", ylabel="share of candidates")
        return
    _histogram(axes, {name: Counter(split.tokens) for name, split in check.splits.items()})
    _line_at(axes, budget.max_tokens)
    fits = ", ".join(f"{name} {split.fit(budget.max_tokens):.0%}" for name, split in check.splits.items())
    title = f"Length of lists; {budget.max_tokens:,} tokens fit: {fits}"
    axes.set(title=title, xlabel=f"tokens of prompt and answer ({budget.style})", ylabel="share of lists")


def _line_at(axes: Any, tokens: int) -> None:
    """The budget as a line; where it is so far from the bars that they would shrink, an arrow on its side."""
    low, high = axes.get_xlim()
    if low - (high - low) / 2 <= tokens <= high + (high - low) / 2:
        axes.axvline(tokens, color=MUTED, linestyle="--", linewidth=1)
    else:
        right = tokens > high
        text, place = (f"{tokens:,} \u2192", 1) if right else (f"\u2190 {tokens:,}", 0)
        side = "right" if right else "left"
        axes.text(place, 0.9, text, transform=axes.transAxes, ha=side, va="top", color=MUTED, size=8)


def _places(axes: Any, splits: Mapping[str, Split]) -> None:
    shown = {name: split.counts for name, split in splits.items() if split.counts.decided}
    most = min(_MOST, max((len(counts.places) for counts in shown.values()), default=0))
    for number, (name, counts) in enumerate(shown.items()):
        places = [counts.places.get(place) for place in range(most)]
        heights = [place.found / counts.decided if place else 0.0 for place in places]
        mixed = [place.expected / counts.decided if place else 0.0 for place in places]
        _bars(axes, number, len(shown), heights, name)
        axes.plot(_at(number, len(shown), most), mixed, "_", color="black", label="_" if number else "if mixed")
    axes.set_xticks(range(most), range(1, most + 1))
    _percent(axes)
    longest = max((len(counts.places) for counts in shown.values()), default=0)
    what = "place" if longest <= most else f"place (the first {most} of {longest})"
    axes.set(title="Where the best candidate stands", xlabel=what, ylabel="share of lists")
    if shown:
        _legend(axes)


def _at(number: int, of: int, count: int) -> list[float]:
    """Where the bars of one split stand."""
    return [place + (number - (of - 1) / 2) * 0.8 / of for place in range(count)]


def _bars(axes: Any, number: int, of: int, heights: list[float], name: str) -> None:
    axes.bar(_at(number, of, len(heights)), heights, 0.8 / of, color=SERIES[number], label=name)


def _histogram(axes: Any, counted: Mapping[str, Counter[Any]]) -> None:
    """Shares of values, a line a split, all between the same borders; what is far out joins the last bar."""
    counted = {name: counts for name, counts in counted.items() if counts}
    if not counted:
        return
    values = [value for counts in counted.values() for value in counts]
    low = min(values)
    high = min(max(values), max(2 * spread(counts)["p95"] for counts in counted.values()) or max(values))
    whole = all(float(value).is_integer() for value in values)
    step = max(1, -(-(high - low + 1) // _BARS)) if whole else (high - low) / _BARS
    bars = int((high - low) // step) + 1
    edges = [low - (0.5 if whole else 0) + step * bar for bar in range(bars + 1)]
    for number, (name, counts) in enumerate(counted.items()):
        weights = [count / max(1, counts.total()) for count in counts.values()]
        style: dict[str, Any] = {"edgecolor": SERIES[number], "facecolor": SERIES[number] + "30", "linewidth": 1.3}
        axes.hist(
            [min(value, high) for value in counts],
            bins=edges,
            weights=weights,
            histtype="stepfilled",
            label=name,
            **style,
        )
    _percent(axes)
    if high == low:
        axes.set_xticks([low])
    elif whole:
        axes.locator_params(axis="x", integer=True)
    if low < high < max(values):
        axes.text(1, 1, "last bar: and more", transform=axes.transAxes, ha="right", va="top", color=MUTED, size=8)


def _legend(axes: Any) -> None:
    """Above what is drawn, in one line."""
    axes.set_ylim(top=1.2 * axes.get_ylim()[1])
    axes.legend(frameon=False, loc="upper right", ncols=3)


def _percent(axes: Any) -> None:
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g} %")
