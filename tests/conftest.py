"""Set before anything is imported: tests run offline, draw without a screen, and leave the cores to xdist's workers."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "*"  # servers of tests stand on this machine

import shutil
from pathlib import Path

import pytest
from hypothesis import settings

# A time limit would fail where others share the cores; what only one machine drew, no other could show again.
settings.register_profile("busy machine", deadline=None, derandomize=True, database=None)
settings.load_profile("busy machine")


@pytest.fixture
def irpo(monkeypatch, capsys, tmp_path):
    """Runs `irpo ...` in an empty folder; gives exit code, stdout, stderr."""
    from irpo import cli

    monkeypatch.chdir(tmp_path)

    def run(*words):
        monkeypatch.setattr("sys.argv", ["irpo", *map(str, words)])
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        return (code, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def chromium():
    """A headless Chromium: playwright's own, or the machine's; skips where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        path = shutil.which("chromium") or shutil.which("google-chrome")
        if path is None and not Path(playwright.chromium.executable_path).exists():
            pytest.skip("no Chromium is installed")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()
