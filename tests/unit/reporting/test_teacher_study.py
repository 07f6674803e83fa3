"""Teachers compared over runs: the arithmetic on made-up rows, by another route; and which runs a study has."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy import special, stats

from echodfkd.config.file import load_config
from echodfkd.core.errors import InputError
from echodfkd.reporting.rows import RunRows
from echodfkd.reporting.study.teacher_study import build_teacher_study, teachers_markdown
from echodfkd.storage import schemas
from tests.unit.reporting.test_study import STUDENTS

DOMAINS = ("clear", "handheld")


def value(teacher: str, student: str, seed: int, case: int) -> float:
    """Hard cases, a lucky run, a student below its teacher, and an ensemble that is better on handheld alone."""
    hard = np.random.default_rng([seed, case]).normal(0, 0.05)
    own = np.random.default_rng([seed, case, len(teacher), len(student)]).normal(0, 0.002)
    better = 0.1 if teacher == "all" and case % 2 else 0.0
    return 0.7 + hard + own + 0.02 * seed - (0.1 if student else 0.0) + better


def fake_run(teacher: str, seed: int, *, without: str = "no one") -> RunRows:
    rows = []
    for student, step in (("", -1), ("paper", 5), ("paper", 10)):
        for case in range(6):
            row = dict.fromkeys(schemas.SCORE_SCHEMA.names)
            row |= {"clip_id": f"s{seed}-c{case}", "teacher_id": teacher, "student": student, "step": step, "n": 1}
            row |= {"metric": "dice_all", "reference": "truth", "unit": "", "threshold": 0.5}
            if student != without:
                rows.append({**row, "value": 0.0 if step == 5 else value(teacher, student, seed, case)})
    config: dict[str, Any] = {
        "name": f"lim-{teacher}-seed{seed}",
        "seed": seed,
        "students": {"paper": STUDENTS["paper"]},
    }
    config |= {"window": {"size": 16, "frames": 4}, "train": {"steps": 10, "global_batch": 2}}
    empty = pa.table({})
    scores = pa.Table.from_pylist(rows, schema=schemas.SCORE_SCHEMA)
    cases = pa.table(
        {"clip_id": [f"s{seed}-c{case}" for case in range(6)], "domain": [DOMAINS[case % 2] for case in range(6)]}
    )
    training = pa.table({"student": pa.array([], "str")})
    return RunRows(config, {}, {}, (), scores, empty, empty, empty, training, cases)


def test_teachers_and_their_students_are_compared_by_scanner_over_the_same_cases() -> None:
    runs = {teacher: [fake_run(teacher, seed) for seed in range(3)] for teacher in ("one", "all")}
    study = build_teacher_study(runs)
    json.dumps(study, allow_nan=False)
    assert (study["study"], study["seeds"], study["baseline"]) == ("lim", [0, 1, 2], "one")
    assert study["cases_per_run"] == 6
    for who, student in (("teacher", ""), ("paper", "paper")):
        for domain, cases in (("all", range(6)), ("clear", (0, 2, 4)), ("handheld", (1, 3, 5))):
            found = study["teachers"]["all"][who][domain]
            means = [np.mean([value("all", student, seed, case) for case in cases]) for seed in range(3)]
            others = [np.mean([value("one", student, seed, case) for case in cases]) for seed in range(3)]
            logits = special.logit(means)  # Dice lies in 0 .. 1, and so does its interval
            low, high = special.expit(stats.t.interval(0.95, 2, np.mean(logits), stats.sem(logits)))
            assert (found["mean"], found["low"], found["high"]) == pytest.approx((np.mean(means), low, high), rel=1e-9)
            difference = found["difference"]["over_runs"]["mean"]
            assert difference == pytest.approx(np.mean(means) - np.mean(others), abs=1e-12)
            assert found["difference"]["clear"] == (domain != "clear")
    assert study["teachers"]["one"]["paper"]["all"]["difference"]["over_runs"]["mean"] == 0

    lines = teachers_markdown(study).splitlines()
    assert lines[0] == "| who | taught by | all | clear | handheld | all - one |"
    assert [line.split(" | ")[:2] for line in lines[2:6]] == [
        ["| the teacher itself", "one"],
        ["| the teacher itself", "all"],
        ["| paper", "one"],
        ["| paper", "all"],
    ]
    assert lines[3].endswith("* |")
    assert "6 held-out cases per seed" in lines[-1]


@pytest.mark.parametrize(
    ("without", "words"), [("", "its teacher has no scores"), ("paper", "student paper has no scores")]
)
def test_a_run_without_scores_is_named(without: str, words: str) -> None:
    runs = {"one": [fake_run("one", seed) for seed in range(2)]}
    runs["all"] = [fake_run("all", 0), fake_run("all", 1, without=without)]
    with pytest.raises(InputError, match=f"run lim-all-seed1: {words}"):
        build_teacher_study(runs)


def test_a_study_of_teachers_has_a_run_per_teacher_and_seed() -> None:
    from echodfkd.config.study import study_configs

    config = load_config(
        None, ["name=s", "students.a.blocks=1", "study.seeds=2", "study.teachers.x.kind=embedded_chambers"]
    )
    found = study_configs(config)
    assert [(run.name, run.seed, run.teacher.kind) for run in found["x"]] == [
        ("s-x-seed0", 0, "embedded_chambers"),
        ("s-x-seed1", 1, "embedded_chambers"),
    ]
    assert not config.train.same_start
    assert all(run.train.same_start for run in found["x"])
    plain = dataclasses.replace(config, study=dataclasses.replace(config.study, teachers={}))
    assert [run.name for run in study_configs(plain)[""]] == ["s-seed0", "s-seed1"]
