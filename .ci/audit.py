"""Hold every pinned version against the advisory database: known faults fail, a database out of reach does not.

python .ci/audit.py    reads constraints.txt and .audit-ignore (a line: an advisory's id, blanks, the reason)
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def main() -> int:
    """Ask pip-audit, print what it says, and return the exit code."""
    ignored = read_ignored((ROOT / ".audit-ignore").read_text())
    command = [sys.executable, "-m", "pip_audit", "-r", str(ROOT / "constraints.txt"), "--no-deps", "--disable-pip"]
    command += ["--format", "json", "--progress-spinner", "off", "--timeout", "10"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 no word comes from outside
    try:
        report = json.loads(done.stdout)
    except ValueError:
        report = {"dependencies": [], "fault": (done.stderr.strip().splitlines() or ["no answer"])[-1]}
    code, lines = judge(report, ignored)
    print("\n".join(lines))
    return code


def read_ignored(text: str) -> dict[str, str]:
    """Advisory id -> reason. Raises `SystemExit` where a reason is missing."""
    ignored = {}
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        advisory, _, reason = line.strip().partition(" ")
        if not reason.strip():
            raise SystemExit(f".audit-ignore: {advisory} has no reason")
        ignored[advisory] = reason.strip()
    return ignored


def judge(report: dict[str, Any], ignored: dict[str, str]) -> tuple[int, list[str]]:
    """Exit code and lines: 1 for a vulnerability that is not ignored, else 0."""
    known = [package for package in report["dependencies"] if "vulns" in package]
    skipped = [package["name"] for package in report["dependencies"] if "vulns" not in package]
    if not known:
        reason = report.get("fault") or f"it knows none of {len(skipped)} packages"
        return 0, [f"audit: NOT DONE, the advisory database cannot be asked here ({reason[:300]})"]
    code, lines = 0, []
    for package in known:
        for fault in package["vulns"]:
            names = {fault["id"], *fault.get("aliases", ())}
            line = (
                f"{package['name']} {package['version']}: {fault['id']}, fixed in {fault.get('fix_versions') or 'none'}"
            )
            if reasons := [ignored[name] for name in sorted(names) if name in ignored]:
                lines.append(f"ignored   {line} ({reasons[0]})")
            else:
                code = 1
                lines.append(f"KNOWN     {line}")
    lines.append(
        f"audit: {len(known)} packages asked for, {len(skipped)} not known there: {', '.join(skipped) or 'none'}"
    )
    return code, lines


if __name__ == "__main__":
    sys.exit(main())
