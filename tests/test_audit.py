"""`make audit`: no finding without an explanation, and none passed over."""

from __future__ import annotations

import sys

import audit
import pytest


def test_bandit_finds_nothing_unexplained_in_irpo():
    assert audit.findings(audit.ROOT / "irpo") == []


def test_it_finds_what_is_there(tmp_path):
    (tmp_path / "bad.py").write_text(
        "import pickle\nimport subprocess  # nosec\nimport marshal  # nosec B302, B403 # why not\n"
        "pickle.loads(b'')  # nosec B301\nimport os  # nosec B404 # a reason\n"
    )
    found = [line.removeprefix(str(tmp_path)) for line in audit.findings(tmp_path)]
    assert found[0].startswith("/bad.py:1: B403 ")
    assert found[1:] == ["/bad.py:2: nosec without a reason", "/bad.py:4: nosec without a reason"]


REPORT = {
    "dependencies": [
        {"name": "a", "version": "1", "vulns": [{"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["2"]}]},
        {"name": "b", "version": "1", "vulns": []},
        {"name": "c", "skip_reason": "not found"},
    ]
}


def test_a_vulnerability_is_told_unless_it_is_explained():
    assert audit.vulnerabilities(REPORT, {}) == (["a 1: PYSEC-1, mended in 2"], 2, 3)
    for name in ("PYSEC-1", "CVE-1"):
        assert audit.vulnerabilities(REPORT, {name: "only on Windows"}) == ([], 2, 3)


@pytest.mark.parametrize(
    ("program", "says"),
    [
        ("import sys; sys.exit('ConnectionError')", "cannot be reached; nothing was asked"),
        ("import time; time.sleep(60)", "cannot be reached; nothing was asked"),
        ("""print('{"dependencies": [{"name": "a", "skip_reason": "not found"}]}')""", "knows none of the 1; nothing"),
        ("""print('{"dependencies": [{"name": "a", "version": "1", "vulns": []}]}')""", "1 of 1 asked about"),
    ],
)
def test_a_service_that_does_not_answer_is_said_and_no_failure(monkeypatch, program, says):
    monkeypatch.setattr(audit, "SECONDS", 2 if "sleep" in program else 20)
    found, said = audit.audit_packages([sys.executable, "-c", program])
    assert found == []
    assert says in said


@pytest.mark.parametrize(
    ("program", "says"),
    [
        ("import sys; sys.exit('Usage: ...\\nno such option: --deps')", "pip-audit failed: no such option: --deps"),
        ("import sys; sys.exit(3)", "pip-audit failed: exit code 3, without a report"),
        ("print('{}')", "pip-audit failed: exit code 0, without a report"),
    ],
)
def test_an_asker_that_fails_is_a_finding(program, says):
    assert audit.audit_packages([sys.executable, "-c", program]) == ([says], "packages: nothing was asked")
