"""Whether a report's LaTeX compiles, by which engine and how long: one JSON line an engine.

python benchmarks/latex.py [SUITE_FOLDER] [--engine xelatex] [--keep DIR]

The folder holds a `report.json`; without one, a made-up report is taken whose names are texts that break out of what
quotes them badly, with letters of many scripts among them. All engines that are found are tried: tectonic, or those of
`apt-get install texlive-latex-recommended texlive-xetex texlive-luatex lmodern`.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from irpo.compare.page import REPORT, Plain, Report
from irpo.compare.writing.latex import document
from irpo.compare.writing.reading import read_report

ENGINES = ("tectonic", "xelatex", "lualatex", "pdflatex")
SCRIPTS = (
    "é ü ß Ł ő",
    "αβγ Ω λ",
    "中文 ランキング 한국어",
    "👍🏽 👩‍👩‍👧",
    "№ ½ ² → ≥ ∑",
    "-- --- ``x'' ?` ,, \\\\ [2ex] \\input{x}",
)


def main() -> None:
    """Compile with every engine that is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help=f"of a suite: holds {REPORT}")
    parser.add_argument("--engine", choices=ENGINES, help="this one only")
    parser.add_argument("--keep", type=Path, help="folder for the PDFs")
    options = parser.parse_args()
    report = hostile() if options.folder is None else read_report(json.loads((options.folder / REPORT).read_text()))
    found = [name for name in ENGINES if shutil.which(name) and options.engine in (None, name)]
    if not found:
        sys.exit(f"error: none of {options.engine or ', '.join(ENGINES)} is installed")
    told = [compiled(engine, document(report), options.keep) for engine in found]
    for one in told:
        print(json.dumps(one), flush=True)
    sys.exit(any(one["errors"] or one["missing letters"] for one in told))


def hostile() -> Report:
    """A report of hostile names, and a table of them one by one."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    import compare_reports

    texts = (*compare_reports.HOSTILE, *SCRIPTS)
    report = compare_reports.report()
    table = report.tables[0]
    rows = tuple(
        replace(row, name=texts[i % len(texts)], marks=(texts[-1 - i % len(texts)],))
        for i, row in enumerate(table.rows)
    )
    named = replace(table, id=texts[5], title=texts[5], rows=rows)
    every = Plain("every", "Every text", ("number", "text"), tuple((str(i), text) for i, text in enumerate(texts)))
    return replace(report, tables=(*report.tables, named), more=(*report.more, every), notes=texts)


def compiled(engine: str, source: str, keep: Path | None) -> dict[str, Any]:
    """Compile twice, as references need, and read the log; `seconds` are of both."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.tex"
        path.write_text(source, encoding="utf-8")
        command = [engine, "--keep-logs", path.name]
        if engine != "tectonic":
            command = [engine, "-interaction=nonstopmode", "-no-shell-escape", path.name]
        start = time.perf_counter()
        for _ in range(1 if engine == "tectonic" else 2):
            code = subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode
        seconds = time.perf_counter() - start
        log = path.with_suffix(".log").read_text(encoding="utf-8", errors="replace")
        pdf = path.with_suffix(".pdf")
        if keep is not None and pdf.exists():
            keep.mkdir(parents=True, exist_ok=True)
            shutil.copy(pdf, keep / f"{engine}.pdf")
        return {
            "engine": engine,
            "pages": int(found[1]) if (found := re.search(r"\((\d+) pages?", log)) else None,
            "seconds": round(seconds, 2),
            "bytes": pdf.stat().st_size if pdf.exists() else 0,
            "errors": len(re.findall(r"^!", log, re.MULTILINE)) or int(code != 0),
            "missing letters": log.count("Missing character"),
            "overfull": log.count("Overfull"),
            "warnings": len(re.findall(r"^(?:LaTeX|Package).* Warning", log, re.MULTILINE)),
        }


if __name__ == "__main__":
    main()
