"""The stages of a newcomer's first hour, without the hour."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks import first_picture


@pytest.mark.parametrize(("fails", "holds"), [("", True), ("packages", False)])
def test_stages_run_in_order_and_a_failed_one_ends_it(fails: str, holds: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def stand_in(words: list[str], *, cwd: str, **options: Any) -> subprocess.CompletedProcess[str]:
        stage = next(name for name, known in first_picture.STAGES.items() if words[: len(known)] == known)
        ran.append(stage)
        if stage == "picture":
            Path(cwd, "hearts.png").touch()
        if stage == "report":
            Path(cwd, "runs/demo").mkdir(parents=True)
            Path(cwd, "runs/demo/report.html").touch()
        return subprocess.CompletedProcess(words, int(stage == fails), "", "no network")

    monkeypatch.setattr(subprocess, "run", stand_in)
    lines: list[str] = []
    if fails:
        with pytest.raises(SystemExit, match=r"make --silent \.venv/demo-installed: no network"):
            first_picture.first_picture(lines.append, quick=True)
    else:
        found = first_picture.first_picture(lines.append, quick=True)
        assert found["holds"] is holds
        assert set(found["seconds"]) == set(first_picture.STAGES)
    assert ran == list(first_picture.STAGES)[: 2 if fails else None]
    assert [line.split()[0] for line in lines] == ran
