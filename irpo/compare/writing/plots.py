"""A report's figures as SVG that stands in an HTML page: a drawing a panel, its words left as words.

Colours become CSS variables, so that the page's light and dark turn the drawings too; series differ by marker and
dashes as well as by colour. Equal data give equal bytes.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET  # nosec B405 # reads what matplotlib wrote a moment ago
from collections.abc import Mapping, Sequence
from typing import Any

from irpo.compare.page import Figure, Panel, Series
from irpo.compare.writing.wording import line
from irpo.drawing import INK, MUTED, RULE, SERIES, drawing, saved, stroke

# By which CSS variable the page replaces each colour.
_VARIABLES = {colour: f"var(--series-{i})" for i, colour in enumerate(SERIES)}
_VARIABLES |= {INK: "var(--ink)", MUTED: "var(--muted)", RULE: "var(--rule)"}
_SVG, _LINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"


def names_of(figures: Sequence[Figure]) -> dict[str, int]:
    """Each series' number, by which it looks the same in every figure of a report."""
    names = (series.name for figure in figures for panel in figure.panels for series in panel.series)
    return {name: number for number, name in enumerate(dict.fromkeys(names))}


def panel_svg(figure: Figure, panel: Panel, numbers: Mapping[str, int], id: str) -> str:
    """A panel as an `<svg>` element; `numbers` are of `names_of`, `id` begins the ids within."""
    words = _words(panel.series)
    slanted = sum(map(len, words)) > 48
    with drawing((4.6, 3.1)) as whole:
        # Fixed margins: finding them costs more than drawing does, and panels stand in line with each other.
        bottom = 0.27 if slanted else 0.15
        axes = whole.add_axes((0.14, bottom, 0.845, 0.9 - bottom))
        _points(axes, panel.series, numbers, words, joined=figure.kind == "line")
        if words:
            turn: dict[str, Any] = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if slanted else {}
            axes.set_xticks(range(len(words)), [_short(word) for word in words], **turn)
        axes.set(xlabel=_short(figure.x), ylabel=_short(figure.y), title=_short(panel.title))
        axes.grid(axis="both", linewidth=0.6)
        axes.set_axisbelow(True)
        return _inline(saved(whole), id)


def swatch(kind: str, number: int, id: str) -> str:
    """How a series looks, for a legend: an `<svg>` element; `id` begins the ids within."""
    with drawing((0.46, 0.17)) as whole:
        axes = whole.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, 2), ylim=(0, 1))
        axes.set_axis_off()
        if kind == "line":
            axes.plot([0, 1, 2], [0.5, 0.5, 0.5], markevery=[1], **stroke(number))
        else:
            axes.plot([1], [0.5], **stroke(number))
        return _inline(saved(whole), id)


def _words(all_series: Sequence[Series]) -> list[str]:
    """The places on the x axis where x is a word anywhere, in the order of their first use; else none."""
    places = [x for series in all_series for x, *_ in series.points]
    return list(dict.fromkeys(map(str, places))) if any(isinstance(x, str) for x in places) else []


def _columns(series: Series, words: Sequence[str]) -> tuple[list[float], list[float], list[list[float]]]:
    """x, y, and how far the interval goes below and above (0 where there is none)."""
    x = [float(words.index(str(at))) if words else float(at) for at, *_ in series.points]
    y = [value for _, value, _, _ in series.points]
    below = [0.0 if low is None else max(0.0, value - low) for _, value, low, _ in series.points]
    above = [0.0 if high is None else max(0.0, high - value) for _, value, _, high in series.points]
    return x, y, [below, above]


def _points(
    axes: Any, all_series: Sequence[Series], numbers: Mapping[str, int], words: Sequence[str], *, joined: bool
) -> None:
    for series in all_series:
        x, y, around = _columns(series, words)
        style = stroke(numbers[series.name])
        if not joined:
            style["linestyle"] = "none"
        elif len(x) > 12:
            style["markevery"] = len(x) // 8
        if any(map(any, around)):
            axes.errorbar(x, y, yerr=around, elinewidth=0.8, capsize=1.5, **style)
        else:
            axes.plot(x, y, **style)


def _short(text: str, limit: int = 60) -> str:
    """On one line, and short enough for a drawing; the page's legend and table have the whole."""
    text = line(text)
    return text if len(text) <= limit else text[: limit - 1] + "\u2026"


def _inline(svg: str, id: str) -> str:
    """Matplotlib's file as an element of a page: colours by variable, fonts the page's, ids its own."""
    root = ET.fromstring(svg)  # nosec B314 # what matplotlib wrote a moment ago
    used = set(re.findall(r"(?:url\(#|href=\"#)([^)\"]+)", svg))
    for parent in root.iter():
        for child in list(parent):
            if child.tag == f"{_SVG}style":  # it would hold for the whole page
                parent.remove(child)
        for name, value in list(parent.attrib.items()):
            if name != "id":
                parent.set(name, _attribute(name, value, id))
            elif value in used:
                parent.set(name, f"{id}-{value}")
            else:
                del parent.attrib[name]
    for name in ("width", "height", "version"):
        del root.attrib[name]
    ET.register_namespace("", _SVG[1:-1])
    ET.register_namespace("xlink", "http://www.w3.org/1999/xlink")
    return re.sub(r">\s+<", "><", ET.tostring(root, encoding="unicode"))


def _attribute(name: str, value: str, id: str) -> str:
    if name == _LINK:
        return value.replace("#", f"#{id}-", 1)
    if name in ("d", "x", "y", "transform"):
        return re.sub(r"(\.\d\d)\d+", r"\1", " ".join(value.split()))
    value = re.sub(r"font-family: [^;]+; ?", "", value).replace("url(#", f"url(#{id}-")
    return re.sub(r"#[0-9a-f]{6}", lambda match: _VARIABLES.get(match[0], match[0]), value)
