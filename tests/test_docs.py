"""`make docs`: README and guides as a site that loads nothing from elsewhere."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from told import PAGES, ROOT

GUIDES = [page for page in PAGES if page != "README.md"]

pytest.importorskip("material", reason="mkdocs-material is of the extra docs")


@pytest.mark.skipif(not shutil.which("make"), reason="no make here")
def test_the_site_is_whole_and_loads_nothing_from_elsewhere(tmp_path):
    for name in ("Makefile", "README.md", "configs/docs.yml", "benchmarks/README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "irpo" / "guides", tmp_path / "irpo" / "guides")
    done = subprocess.run(
        ["make", "docs", "READY=", f"BIN={Path(sys.executable).parent}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    site = tmp_path / "build" / "site"
    for name in PAGES:
        page = site / ("index.html" if name == "README.md" else f"irpo/guides/{name.removesuffix('.md')}.html")
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(https?://[^"]+)"', text)
        assert [url for url in loaded if not url.startswith("https://squidfunk")] == [], name
        assert [guide for guide in GUIDES if f"{guide.removesuffix('.md')}.html" not in text] == [], name
