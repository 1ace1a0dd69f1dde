"""A report as one HTML file that needs nothing else: `write_html`.

Whatever comes from outside (names, queries, candidates, errors) is text to the page and never a part of it: the
template escapes, names stand in `<bdi>`, what no eye can see is shown as a sign, the lists travel as compressed JSON in
base64, and the page's own rule (its Content-Security-Policy) runs no script but the one that is written here.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from irpo.compare.page import Report, Viewed
from irpo.compare.writing import html_parts as parts
from irpo.compare.writing.wording import number, plain
from irpo.files import atomic_file
from irpo.resources import report_dir
from irpo.types import printable


def write_html(path: Path, report: Report, viewed: Sequence[Viewed]) -> None:
    """The report, with the lists for its viewer, as one file."""
    with atomic_file(path) as file:
        file.write(page(report, viewed))


def page(report: Report, viewed: Sequence[Viewed]) -> str:
    """The file's text; equal arguments give equal text."""
    folder = report_dir()
    css, *scripts = ((folder / name).read_text(encoding="utf-8") for name in ("report.css", "report.js", "viewer.js"))
    script = "\n".join(scripts)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    text = _template().render(
        report=report,
        css=Markup(css),  # nosec B704 # a file of the package's
        script=Markup(script),  # nosec B704 # a file of the package's
        digest=digest,
        tables=[parts.laid_out(table) for table in report.tables],
        drawings=parts.drawings(report.figures),
        provenance=parts.provenance(report),
        lists=[_packed(task) for task in viewed],
        cells=_packed(report.tables),
    )
    # Blanks between tags are half of what a browser would hold in memory; a text's own < and > are escaped.
    return re.sub(r">\s*\n\s*<", "><", text)


@cache
def _template() -> Any:
    environment = Environment(
        loader=FileSystemLoader(report_dir()),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: seen(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"bdi": bdi, "number": number, "pretty": pretty, "told": told}
    return environment.get_template("report.html.jinja")


def seen(text: str) -> str:
    r"""The text with a sign for all that cannot be seen, or would turn what follows it; line ends stay.

    >>> seen("a\x00b\u202ec\r\nd")
    'a\\x00b\\u202ec\nd'
    """
    return printable(text.replace("\r\n", "\n"))


def bdi(value: object) -> Markup:
    """A text from outside that is apart from what stands around it, whichever way it is written."""
    return Markup('<bdi dir="auto">{}</bdi>').format(seen(str(value)))


def pretty(value: object) -> str:
    """A value of any kind as a person reads it."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, indent=1, default=str)


def _packed(value: object) -> Markup:
    """Dataclasses and what they hold as JSON, compressed, in base64: letters, digits, +, / and = alone."""
    text = json.dumps(_all_seen(value), allow_nan=False, separators=(",", ":"))
    return Markup(base64.b64encode(gzip.compress(text.encode(), 6, mtime=0)).decode())  # nosec B704 # base64


def _all_seen(value: Any) -> Any:
    if isinstance(value, str):
        return seen(value)
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, list | tuple):
        whole = bool(value) and isinstance(value[0], int)  # an order: most of what there is
        return value if whole else [_all_seen(part) for part in value]
    if is_dataclass(value):
        return {name: _all_seen(part) for name, part in vars(value).items()}
    if isinstance(value, Mapping):
        return {name: _all_seen(part) for name, part in value.items()}
    return value


def told(value: str | float | None) -> Markup:
    """A cell of any kind of table: a text apart, a number as it is."""
    return bdi(plain(value)) if isinstance(value, str) else Markup(plain(value))  # nosec B704 # a number
