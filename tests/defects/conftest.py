"""What several tests of defects start from."""

from __future__ import annotations

import pytest

from irpo import cli


@pytest.fixture
def irpo(monkeypatch, capsys, tmp_path):
    """Runs `irpo ...` in an empty folder; gives exit code, stdout, stderr."""
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
