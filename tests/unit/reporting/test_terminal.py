"""The table at the end of a run."""

from typing import Any

import pytest

from echodfkd.config.file import load_config
from echodfkd.reporting.page.terminal import summary_lines
from echodfkd.runtime import distillation_run, study_run
from jobs import distill, study

SCORE = {"mean": 0.9512, "low": 0.9, "high": 0.99, "n": 24}


def summary_of_a_run() -> dict[str, Any]:
    return {
        "run": "demo", "report": "report.html", "stopped": "",
        "teacher": {"scores": {"dice_all": SCORE}, "dropped": {}, "routes": {}},
        "pipeline": {"stages": {}},
        "students": {"c31": {"parameters": 174721, "scores": {"dice_ed": SCORE, "judge_score": {"mean": None}}}},
        "ledger": {"clips": 8, "lost": 0, "to_come": 0, "repeated": 1, "quarantined": 2},
    }  # fmt: skip


@pytest.mark.parametrize("json_lines", [False, True])
def test_programs_get_no_table(
    json_lines: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = load_config(None, ["students.a.blocks=1", f"ray.json_lines={json_lines}".lower()])
    monkeypatch.setattr(distillation_run, "run_distillation", lambda *args: summary_of_a_run())
    monkeypatch.setattr(study_run, "run_study", lambda *args: {"study": "s", "seeds": 2, "root": "r", "stopped": ""})
    monkeypatch.setattr(study_run, "study_table", lambda found: "a table")
    assert distill.work(config)["report"] == "report.html"
    assert study.work(config)["root"] == "r"
    printed = capsys.readouterr().out
    assert ("c31" in printed, "a table" in printed) == (not json_lines, not json_lines)
    assert not (json_lines and printed)


def test_the_table_shows_means_intervals_and_dashes() -> None:
    summary = summary_of_a_run()
    header, teacher, student, ledger = summary_lines(summary)
    assert header.split() == ["model", "weights", "Dice", "Dice", "ED", "Dice", "ES", "judge"]
    assert teacher.split() == ["teacher", "0.951", "[0.900,", "0.990]", "n=24", "-", "-", "-"]
    assert student.split() == ["c31", "174,721", "-", "0.951", "[0.900,", "0.990]", "n=24", "-", "-"]
    assert ledger == "8 clips trained, 0 lost, 1 repeated, 2 quarantined"
    summary["ledger"]["to_come"] = 12
    assert summary_lines(summary)[-1] == "8 clips trained, 12 to come, 0 lost, 1 repeated, 2 quarantined"


def test_times_early_stops_and_left_out_members_stand_below() -> None:
    summary = {
        "teacher": {"scores": {}, "dropped": {"b": 3, "c": 1}, "routes": {}},
        "pipeline": {"stages": {}},
        "students": {
            "c31": {"parameters": 174721, "scores": {}, "steps": 1200, "stopped_early": True, "step_s": 0.0123},
            "c11": {"parameters": 5701, "scores": {}, "steps": 2000, "step_s": None},
            "c21": {"parameters": 39577, "scores": {}, "steps": 600, "stopped_early": True, "step_s": None},
        },
        "ledger": {"clips": 8, "lost": 0, "to_come": 0, "repeated": 0, "quarantined": 0},
    }
    lines = summary_lines(summary)
    assert lines[7].split("  ") == ["c31", "1,200 updates (stopped early)", "12.3 ms an update"]
    assert lines[8].split("  ") == ["c21", "600 updates (stopped early)"]
    assert not any(line.startswith("c11") for line in lines[7:])  # its time is not known
    assert lines[-2:] == [
        "3 clips were taught without b, which had no usable mask.",
        "1 clip was taught without c, which had no usable mask.",
    ]
