"""A report's Markdown, LaTeX and CSV on disk."""

from __future__ import annotations

from pathlib import Path

from irpo.compare.page import Plain, Report, Table
from irpo.compare.writing.csvs import csv, stems
from irpo.compare.writing.latex import document, latex
from irpo.compare.writing.markdown import markdown
from irpo.files import atomic_file

MARKDOWN, TABLES, DOCUMENT = "report.md", "tables", "report.tex"


def write_texts(folder: Path, report: Report) -> list[Path]:
    """`report.md`, and in `tables/` every table's LaTeX and CSV and `report.tex` with all of them; their paths."""
    texts = {folder / MARKDOWN: markdown(report), folder / TABLES / DOCUMENT: document(report)}
    tables: tuple[Table | Plain, ...] = (*report.tables, *report.more)
    names = stems([table.id for table in tables])
    texts |= {folder / TABLES / f"{stem}.tex": latex(table) for stem, table in zip(names, tables, strict=True)}
    texts |= {folder / TABLES / name: text for name, text in csv(report).items()}
    for path, text in texts.items():
        with atomic_file(path) as file:
            file.write(text)
    return list(texts)
