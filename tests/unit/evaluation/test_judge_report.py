"""The report of what the embedded judge reads: its numbers on readings that are known, and its table."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from echodfkd.evaluation.judge_report import (
    MARKS,
    Finding,
    embed_questions,
    findings,
    insert_table,
    markdown_table,
    read_patient,
)
from echodfkd.metrics.summary import Interval
from echodfkd.models.judges.embedded import JudgeTowers, embedded_judge
from echodfkd.training.judge.captions import NUMBERS
from echodfkd.training.judge.patients import JudgedPatients
from jobs import judge_report


def known_readings(count: int = 40) -> list[dict[str, float]]:
    """Quality and view are read without a fault, age and sex by a coin, ES always 3 frames late."""
    rng = np.random.default_rng(0)
    readings = []
    for number in range(count):
        true = {kind.fact: float(rng.uniform(20, 100)) for kind in NUMBERS}
        true["ef_percent"] = float(rng.uniform(20, 70))
        read = {**true, "ef_percent": true["ef_percent"] + (2 if number % 2 else -2)}
        read["age_years"] = float(rng.uniform(20, 100))
        read |= {"two_chamber": 1.0, "male": float(number % 2), "valve_open frames": 0.9, "valve_open commoner": 0.6}
        for curve in ("valve", "captions"):
            read |= {f"{curve} ed hits": 3, f"{curve} ed detected": 4, f"{curve} ed events": 3, f"{curve} ed late": 0.0}
            read |= {f"{curve} es hits": 0, f"{curve} es detected": 3, f"{curve} es events": 3, f"{curve} es late": 3.0}
            read[f"{curve} rate"] = true["heart_rate_bpm"]
        readings.append({**read, **{f"true {name}": value for name, value in true.items()}})
    return readings


def test_the_report_says_what_was_read_and_what_was_not():
    found = {(line.condition, line.measure.split(",")[0]): line for line in findings(known_readings())}
    assert found["ejection fraction", "mean absolute error"].found.mean == pytest.approx(2)
    assert found["ejection fraction", "Pearson r"].found.low > 0.95
    assert found["image quality", "Spearman"].found.mean == pytest.approx(1)
    assert found["view", "share of patients right"].found.mean == 1
    sex = found["sex", "share of patients right"]
    assert sex.found.low < sex.chance == 0.5 < sex.found.high
    assert abs(found["age", "Pearson r"].found.mean) < 0.4  # a coin: 2.5 standard errors of 40 pairs
    assert found["ED frame by the valve prompts", "precision within 2 frames"].found.mean == pytest.approx(0.75)
    assert found["ED frame by the valve prompts", "recall within 2 frames"].found.mean == 1
    late = "ES frame by the valve prompts"
    assert found[late, "recall within 2 frames"].found.mean == 0
    assert found[late, "lateness in frames at 32 frames/s"].found.mean == 3
    table = markdown_table({"56 px": findings(known_readings())})
    row = next(line for line in table.splitlines() if line.startswith("| sex |"))
    assert row.startswith("| sex | share of patients right | 0.50 [0.")
    assert row.endswith(", chance | 0.50 |")
    assert "1.00 [1.00, 1.00] | 0.50 |" in table  # the view is no chance


def test_a_patient_s_reading_is_that_of_the_product():
    """Towers with drawn weights: the report asks the same judge as a run does."""
    torch.manual_seed(0)
    towers = JudgeTowers(embedding=8)
    judge = embedded_judge(towers)
    patient = JudgedPatients(seed=5, num_frames=40, fps=32.0, size=32).patient(1)
    found = read_patient(towers, judge, embed_questions(towers), patient)
    assert found["ef_percent"] == judge.read_video(patient.video.numpy()).ef_percent
    assert found["true ef_percent"] == pytest.approx(patient.facts["ef_percent"][0].item())
    assert found["valve ed events"] <= len(patient.ed_frames)
    view = towers.embed_captions(["APICAL FOUR-CHAMBER VIEW", "APICAL TWO-CHAMBER VIEW"])
    nearer = (towers.embed_frames(patient.video) @ view.T).mean(0).argmax().item()
    assert found["two_chamber"] == float(nearer == patient.facts["two_chamber"][0].item())


def test_the_table_goes_between_its_marks():
    line = Finding("view", "share", Interval(0.9, 0.8, 1.0, 10), 0.5)
    table = markdown_table({"56 px": [line], "112 px": [line]})
    assert table.splitlines()[0] == "| condition | measure | 56 px | 112 px | chance |"
    assert table.splitlines()[2] == "| view | share | 0.90 [0.80, 1.00] | 0.90 [0.80, 1.00] | 0.50 |"
    page = f"before\n{MARKS[0]}\nold\n{MARKS[1]}\nafter\n"
    assert insert_table(page, table) == f"before\n{MARKS[0]}\n{table}\n{MARKS[1]}\nafter\n"
    for broken in ("nothing", f"{MARKS[1]}\n{MARKS[0]}"):
        with pytest.raises(ValueError, match="expected the lines"):
            insert_table(broken, table)


def test_the_job_refuses_what_makes_no_report(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["judge_report.py", "--patients", "1"])
    assert judge_report.main() == 2
    assert "--patients: got 1, must be at least 2" in capsys.readouterr().err
