"""What the audit makes of pip-audit's answers."""

import importlib.util
from pathlib import Path

import pytest

SPEC = importlib.util.spec_from_file_location("audit", Path(__file__).parents[3] / ".ci" / "audit.py")
assert SPEC is not None
assert SPEC.loader is not None
audit = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(audit)

FAULT = {"id": "PYSEC-1", "aliases": ["CVE-2026-1"], "fix_versions": ["2.1"]}
SAFE = {"name": "numpy", "version": "2.4.6", "vulns": []}


def test_a_known_fault_fails_unless_it_is_ignored_with_a_reason() -> None:
    report = {"dependencies": [SAFE, {"name": "x", "version": "2.0", "vulns": [FAULT]}]}
    code, lines = audit.judge(report, {})
    assert code == 1
    assert lines[0] == "KNOWN     x 2.0: PYSEC-1, fixed in ['2.1']"
    for name in ("PYSEC-1", "CVE-2026-1"):
        code, lines = audit.judge(report, {name: "we do not call it"})
        assert code == 0
        assert lines[0].endswith("(we do not call it)")


def test_a_database_out_of_reach_is_said_and_does_not_fail() -> None:
    assert audit.judge({"dependencies": [], "fault": "no network"}, {}) == (
        0,
        ["audit: NOT DONE, the advisory database cannot be asked here (no network)"],
    )
    skipped = {"dependencies": [{"name": "x", "skip_reason": "not found"}]}
    assert "NOT DONE" in audit.judge(skipped, {})[1][0]
    assert audit.judge({"dependencies": [SAFE, *skipped["dependencies"]]}, {}) == (
        0,
        ["audit: 1 packages asked for, 1 not known there: x"],
    )


def test_every_ignored_advisory_has_a_reason() -> None:
    assert audit.read_ignored("# words\n\nCVE-1  we do not call it\n") == {"CVE-1": "we do not call it"}
    with pytest.raises(SystemExit, match="CVE-1 has no reason"):
        audit.read_ignored("CVE-1\n")
    audit.read_ignored((Path(__file__).parents[3] / ".audit-ignore").read_text())
