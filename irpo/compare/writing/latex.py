r"""A report's tables as LaTeX in the layout of the IRPO paper's Tables 1 to 3, in percent.

A table is a fragment for `\input`; it needs `booktabs` and `graphicx`, and brings what else it needs. Any engine takes
it; XeLaTeX (tectonic) and LuaLaTeX show every script for which the document's font, or one of `FALLBACKS`, has the
letters, and what no font has, and pdfLaTeX beyond Latin letters, stands as its code points: "[U+4E2D U+6587]".
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from itertools import pairwise

from irpo.compare.page import Cell, Plain, Report, Table, TableRow
from irpo.compare.writing import wording

MOST_ROWS = 45  # of one table environment: what stands on a page
# Tried in this order for letters that the document's font does not have. No name of one word: TeX would have
# METAFONT look for it.
FALLBACKS = ("DejaVu Sans", "Noto Sans CJK SC", "Noto Sans", "Noto Emoji", "Arial Unicode MS")

_SPECIAL = {char: f"\\{char}" for char in "{}$&#_%"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\char34{}",
    "`": r"\textasciigrave{}",
    "[": "{[}",  # or it would be an option of the line break before it
    "]": "{]}",
    "±": r"\textpm{}",
    "\x00": "{}",
}
# What every engine's default fonts have: ASCII, Latin letters with accents, a few signs.
_KNOWN = "\x20-\x7e\u00b1\u00c0-\u0131\u0134-\u0148\u014a-\u017e\u2013\u2014\u2018\u2019\u201c\u201d\u2026"
_FOREIGN = re.compile(f"[^{_KNOWN}]+(?: [^{_KNOWN}]+)*")

# \irpotext{letters}{code points}: the letters in the first font that has them all, else their code points.
_MACROS = r"""% To be read by \input; needs \usepackage{booktabs,graphicx}.
\ifdefined\irpotext\else
\csname newif\expandafter\endcsname\csname ifirpohas\endcsname
\def\irpocheck#1,{\ifx\relax#1\relax\else
  \expandafter\iffontchar\irpofont"#1 \else\irpohasfalse\fi\expandafter\irpocheck\fi}
\def\irpotry#1#2#3{\ifirpohas\else
  \edef\irponame{irpo #1 \fontname\font}% each font is looked for once in a size
  \ifcsname\irponame\endcsname\else
    \expandafter\global\expandafter\font\csname\irponame\endcsname="#1" at \fontdimen6\font\relax
  \fi
  \expandafter\let\expandafter\irpofound\csname\irponame\endcsname
  \def\irpofont{\irpofound}\irpohastrue\irpocheck#3,,\ifirpohas{\irpofound#2}\fi\fi}
\protected\def\irpotext#1#2{\begingroup
  \irpohasfalse
  \ifdefined\Umathchar
    \suppressfontnotfounderror=1
    \def\irpofont{\font}\irpohastrue\irpocheck#2,,\ifirpohas#1\fi
    FALLBACKS
  \fi
  \ifirpohas\else\irpocodes#2,,\fi
  \endgroup}
\def\irpocodes#1,{{[}U+#1\irpomore}
\def\irpomore#1,{\ifx\relax#1\relax{]}\else\ U+#1\expandafter\irpomore\fi}
\protected\def\irpoleft#1{\ifdefined\XeTeXversion\TeXXeTstate=1 \beginR#1\endR\else#1\fi}
\fi
""".replace("FALLBACKS", "\n    ".join(f"\\irpotry{{{name}}}{{#1}}{{#2}}%" for name in FALLBACKS))

_PREAMBLE = r"""% Compile with tectonic, xelatex or lualatex; with pdflatex only Latin letters are shown as they are.
\documentclass[10pt]{article}
\ifdefined\Umathchar\else\usepackage[T1]{fontenc}\IfFileExists{lmodern.sty}{\usepackage{lmodern}}{}\fi
\usepackage[margin=2cm]{geometry}
\usepackage{booktabs}
\usepackage{graphicx}
\usepackage{textcomp}
"""


def document(report: Report) -> str:
    """A document of all tables of a report, to be compiled as it is."""
    head = rf"""\begin{{document}}
\section*{{{escaped(report.title)}}}
{escaped(report.about)}

\medskip\noindent\textbf{{{escaped(report.found)}}}
"""
    tables = [*map(_of_rankers, report.tables), *map(_of_values, report.more)]
    notes = _items(report.notes)
    return "\n".join([_PREAMBLE, _MACROS, head, *tables, r"\clearpage", notes, r"\end{document}", ""])


def latex(table: Table | Plain) -> str:
    """One table: models in groups, methods as rows, tasks side by side, the paper's figures in a row below ours."""
    return f"{_MACROS}\n{_of_rankers(table) if isinstance(table, Table) else _of_values(table)}"


def _of_rankers(table: Table) -> str:
    against, marks = wording.compared(table), wording.marks_of(table)
    columns = 2 * len(table.columns) + 1
    lines: list[tuple[str, str]] = []
    for group, rows in wording.grouped(table):
        name = rf"\multicolumn{{{columns}}}{{l}}{{\textit{{{escaped(group)}}}}} \\" if group else ""
        lines += [(name, line) for row in rows for line in [_row(row, against, marks, indented=bool(group))]]
    footnotes = [rf"\textsuperscript{{{i}}} {escaped(mark)}" for i, mark in enumerate(marks, start=1)]
    notes = [*footnotes, "In percent.", *map(escaped, wording.notes_of(table))]
    return _environments(table, "l" + "r@{}l" * len(table.columns), _header(table), lines, notes)


def _of_values(table: Plain) -> str:
    header = " & ".join(rf"\textbf{{{escaped(name)}}}" for name in table.header) + r" \\"
    lines = [("", " & ".join(escaped(wording.plain(value)) for value in row) + r" \\") for row in table.rows]
    layout = "l" + "".join("r" if _numeric(table, j) else "l" for j in range(1, len(table.header)))
    return _environments(table, layout, [header], lines, [escaped(note) for note in table.notes])


def escaped(text: str) -> str:
    r"""Any text on one line as LaTeX shows it.

    >>> escaped("50 % of a_b"), escaped("中文")
    ('50 \\% of a\\_b', '\\irpotext{中文}{4E2D,6587}')
    """
    told = unicodedata.normalize("NFC", wording.line(text))  # letters with their accents as one
    found, end = [], 0
    for match in _FOREIGN.finditer(told):
        found += [_ascii(told[end : match.start()]), _foreign(match[0])]
        end = match.end()
    return "".join([*found, _ascii(told[end:])])


def _ascii(text: str) -> str:
    apart = re.sub(r"([-',])(?=\1)", "\\1\x00", text)  # or two of them would be drawn as another sign
    return "".join(_SPECIAL.get(char, char) for char in apart)


def _foreign(run: str) -> str:
    # No font has a picture for joiners and variation selectors: what is to be seen are the others.
    seen = [
        char for char in run if not (char == " " or unicodedata.category(char) == "Cf" or "\ufe00" <= char <= "\ufe0f")
    ]
    codes = ",".join(f"{ord(char):04X}" for char in seen or run)
    left = any(unicodedata.bidirectional(char) in ("R", "AL") for char in run)
    letters = rf"\irpoleft{{{run}}}" if left else run
    return rf"\irpotext{{{letters}}}{{{codes}}}"


def _header(table: Table) -> list[str]:
    tasks = wording.tasks_of(table)
    above = (
        " & ".join(["", *(rf"\multicolumn{{{2 * count}}}{{c}}{{{escaped(task)}}}" for task, count in tasks)]) + r" \\"
    )
    ends = [2 + sum(2 * count for _, count in tasks[:i]) for i in range(len(tasks) + 1)]
    rules = " ".join(rf"\cmidrule(lr){{{start}-{end - 1}}}" for start, end in pairwise(ends))
    below = (
        " & ".join(["", *(rf"\multicolumn{{2}}{{c}}{{{escaped(column.measure)}}}" for column in table.columns)])
        + r" \\"
    )
    return [above, rules, below]


def _row(row: TableRow, against: tuple[str, ...], marks: tuple[str, ...], *, indented: bool) -> str:
    quad = r"\quad " if indented else ""
    numbers = wording.numbers_of(row, marks)
    name = quad + escaped(wording.name_of(row)) + (rf"\textsuperscript{{{numbers}}}" if numbers else "")
    lines = [" & ".join([name, *(_cell(cell, against) for cell in row.cells)]) + r" \\"]
    if any(cell.printed is not None for cell in row.cells):
        figures = (
            " & " if cell.printed is None else rf"{{\footnotesize\itshape {_number(cell.printed)}}} &"
            for cell in row.cells
        )
        lines.append(" & ".join([quad + r"\quad {\footnotesize\itshape paper}", *figures]) + r" \\")
    return "\n".join(lines)


def _cell(cell: Cell, against: tuple[str, ...]) -> str:
    """Two columns, so that figures stand under each other: the figure, and what belongs to it."""
    text = _number(cell.value)
    text = rf"\textbf{{{text}}}" if cell.best else rf"\underline{{{text}}}" if cell.second else text
    signs = wording.signs(cell, against).replace("-", "$-$")
    spread = wording.deviation(cell, percent=True)
    spread = rf"{{\scriptsize\,{_ascii(spread)}}}" if spread else ""
    return f"{text} & {spread}" + (rf"\textsuperscript{{{signs}}}" if signs else "")


def _number(value: float | None) -> str:
    text = wording.number(value, percent=True)
    return text if value is None else text.replace("-", "$-$")


def _numeric(table: Plain, column: int) -> bool:
    return not any(isinstance(row[column], str) for row in table.rows)


def _environments(
    table: Table | Plain, layout: str, header: list[str], lines: list[tuple[str, str]], notes: list[str]
) -> str:
    """As many table environments as the rows need, each with the header; `lines` are (group's title, row)."""
    parts = [lines[at : at + MOST_ROWS] for at in range(0, max(1, len(lines)), MOST_ROWS)]
    found = []
    for i, part in enumerate(parts):
        title = escaped(table.title) + (" (continued)" if i else "")
        label = rf"\label{{tab:{re.sub(r'[^A-Za-z0-9]+', '-', table.id).strip('-')}}}" if i == 0 else ""
        body = "\n".join([r"\toprule", *header, r"\midrule", *_ruled(part), r"\bottomrule"])
        under = "\\\\\n".join(notes) if i == len(parts) - 1 else ""
        found.append(_environment(rf"\caption{{{title}}}{label}", layout, body, under))
    return "\n".join(found)


def _environment(caption: str, layout: str, body: str, under: str) -> str:
    notes = rf"\par\smallskip\parbox{{\linewidth}}{{\raggedright\footnotesize {under}}}" if under else "%"
    return rf"""\begin{{table}}[!htbp]
\centering
\setlength{{\belowcaptionskip}}{{4pt}}
{caption}
\setlength{{\tabcolsep}}{{4pt}}
\resizebox{{\ifdim\width>\linewidth\linewidth\else\width\fi}}{{!}}{{%
\begin{{tabular}}{{{layout}}}
{body}
\end{{tabular}}}}
{notes}
\end{{table}}
"""


def _ruled(lines: Sequence[tuple[str, str]]) -> list[str]:
    """The rows with a group's title over its first one, and a rule between groups."""
    found: list[str] = []
    for i, (title, row) in enumerate(lines):
        if i == 0 or title != lines[i - 1][0]:
            found += [r"\midrule"] * (i > 0) + [title] * bool(title)
        found.append(row)
    return found


def _items(notes: Sequence[str]) -> str:
    if not notes:
        return ""
    items = "\n".join(rf"\item {escaped(note)}" for note in notes)
    return f"\\begin{{itemize}}\n{items}\n\\end{{itemize}}"
