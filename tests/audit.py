"""`make audit`: what bandit finds in irpo/, and which of the pinned packages have known vulnerabilities.

Exit code 1 where a finding is not explained. Bandit's are explained where they stand, `# nosec B603 # why`; a package's
in `EXPLAINED`. Where the service of vulnerabilities does not answer, that is said, and is no failure; where pip-audit
itself fails, that is one.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
EXPLAINED: dict[str, str] = {}  # a vulnerability's id: why it does not concern us
SECONDS = 300  # that the service of vulnerabilities is given
_NOSEC = re.compile(r"#\s*nosec\b(?P<rest>.*)", re.IGNORECASE)
_UNREACHED = "packages: the service of vulnerabilities cannot be reached; nothing was asked"
_NO_CONNECTION = re.compile(
    r"Connection\w*Error|ConnectTimeout|ReadTimeout|Max retries|timed out|ServiceError|Name or service not known"
    r"|Temporary failure in name resolution|Network is unreachable|ProxyError|No route to host|Connection refused"
)
_REASONED = re.compile(r" (B\d{3}, )*B\d{3} # \S")


def findings(folder: Path) -> list[str]:
    """What bandit finds below a folder, and `nosec` without a test's number and a reason; none: all is explained."""
    done = subprocess.run(
        [sys.executable, "-m", "bandit", "-q", "-r", str(folder), "-f", "json"], capture_output=True, text=True
    )
    told = json.loads(done.stdout)
    found = [f"{row['filename']}:{row['line_number']}: {row['test_id']} {row['issue_text']}" for row in told["results"]]
    found += [f"{row['filename']}: {row['reason']}" for row in told["errors"]]
    return found + [place for path in sorted(folder.rglob("*.py")) for place in _unreasoned(path)]


def _unreasoned(path: Path) -> list[str]:
    lines = enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
    said = [(number, match["rest"]) for number, line in lines if (match := _NOSEC.search(line))]
    return [f"{path}:{number}: nosec without a reason" for number, rest in said if not _REASONED.match(rest)]


def vulnerabilities(report: Mapping[str, Any], explained: Mapping[str, str]) -> tuple[list[str], int, int]:
    """(unexplained ones, packages that were asked about, all packages) of pip-audit's JSON."""
    packages = report["dependencies"]
    asked = [package for package in packages if "skip_reason" not in package]
    found = [
        f"{package['name']} {package['version']}: {one['id']}, mended in {', '.join(one['fix_versions']) or 'none'}"
        for package in asked
        for one in package["vulns"]
        if explained.keys().isdisjoint([one["id"], *one.get("aliases", ())])
    ]
    return found, len(asked), len(packages)


def audit_packages(command: Sequence[str]) -> tuple[list[str], str]:
    """(unexplained vulnerabilities of the pinned packages, what to tell of it); none where nobody answers."""
    pinned = ["-r", str(ROOT / "constraints.txt"), "--no-deps", "--disable-pip"]
    quiet = ["--progress-spinner", "off", "--timeout", "15", "-f", "json"]
    try:
        done = subprocess.run([*command, *pinned, *quiet], capture_output=True, text=True, timeout=SECONDS)
        found, asked, all_ = vulnerabilities(json.loads(done.stdout), EXPLAINED)
    except subprocess.TimeoutExpired:
        return [], _UNREACHED
    except (ValueError, KeyError, TypeError):  # no report, or another one
        if _NO_CONNECTION.search(done.stderr):
            return [], _UNREACHED
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}, without a report"])[-1]
        return [f"pip-audit failed: {last}"], "packages: nothing was asked"
    if not asked:
        return [], f"packages: the service of vulnerabilities knows none of the {all_}; nothing was asked"
    return found, f"packages: {asked} of {all_} asked about, {len(found)} vulnerabilities unexplained"


def main() -> int:
    """Print what was found; 1 where something is not explained."""
    code = findings(ROOT / "irpo")
    packages, said = audit_packages([sys.executable, "-m", "pip_audit"])
    for line in (*code, *packages):
        print(line)
    print(f"irpo/: {len(code)} finding(s) unexplained")
    print(said)
    return 1 if code or packages else 0


if __name__ == "__main__":
    sys.exit(main())
