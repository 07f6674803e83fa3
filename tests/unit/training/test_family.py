"""A whole family in one loop: all sixteen (k, n), each stopped on its own, resumed anywhere."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from echodfkd.config.file import config_to_yaml
from echodfkd.config.sections.training import TrainConfig
from echodfkd.core.records import PublishedCheckpoint
from echodfkd.reporting.summary import build_summary
from echodfkd.storage.files import RunStorage
from echodfkd.storage.ledger import check_ledger
from echodfkd.storage.manifests import latest_checkpoint, list_checkpoints
from echodfkd.training.early_stopping import EarlyStopping
from tests.helpers.reports import render_report
from tests.helpers.training import FAMILY, loss_curve, run_training, small_config, training_rows

STEPS, WINDOW, PATIENCE, DELTA = 12, 2, 1, 0.0125
EARLY = {"early_stop_window": WINDOW, "early_stop_patience": PATIENCE, "early_stop_min_delta": DELTA}


def family_config(**options):
    students = options.pop("students", FAMILY)
    train = {"steps": STEPS, "global_batch": 4, "checkpoint_every": 5, "keep_resume": 1, **options}
    return small_config(students=students, size=16, **train)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """The family without early stopping, a commit per step; and with it, unbroken."""
    folder = tmp_path_factory.mktemp("family")
    assert run_training(family_config(checkpoint_every=1), folder / "whole")["steps"] == STEPS
    assert run_training(family_config(**EARLY), folder / "early")["steps"] == STEPS
    return folder


def newest(root: Path) -> PublishedCheckpoint:
    commit = latest_checkpoint(RunStorage(str(root)))
    assert commit is not None
    return commit


def digest(commit: PublishedCheckpoint, student: str, file: str = "student") -> object:
    return commit.files[f"{student}/{file}.safetensors"]["sha256"]


def stop_by_hand(losses: list[float]) -> int | None:
    """The rule again, on a whole curve: PATIENCE windows in a row that gain less than DELTA on the best one."""
    means = np.reshape(losses, (-1, WINDOW)).mean(axis=1)
    best, since = means[0], 0
    for number, mean in enumerate(means[1:], 2):
        best, since = (mean, 0) if mean < best * (1 - DELTA) else (best, since + 1)
        if since == PATIENCE:
            return number * WINDOW
    return None


@pytest.mark.parametrize("student", ["c13", "c44"])
def test_a_member_of_the_family_is_what_a_run_of_its_own_gives(runs, tmp_path, student):
    alone = family_config(students={student: FAMILY[student]}, **EARLY)
    run_training(alone, tmp_path / "alone")
    ours, theirs = newest(runs / "early"), newest(tmp_path / "alone")
    assert loss_curve(runs / "early", student) == loss_curve(tmp_path / "alone", student)
    assert digest(ours, student) == digest(theirs, student)
    assert digest(ours, student, "resume") == digest(theirs, student, "resume")
    assert ours.stopped_at(student) == theirs.stopped_at(student)


def test_students_stop_by_the_rule_and_keep_the_weights_of_that_step(runs):
    every, early = list_checkpoints(RunStorage(str(runs / "whole"))), newest(runs / "early")
    stops = {student: stop_by_hand(loss_curve(runs / "whole", student)) for student in FAMILY}
    assert {student: early.stopped_at(student) for student in FAMILY} == stops
    stopped = {student: step for student, step in stops.items() if step is not None and step < STEPS}
    assert 0 < len(stopped) < len(FAMILY)  # some stop while others go on
    for student in FAMILY:
        steps = stops[student] or STEPS
        assert early.steps_of(student) == steps
        assert loss_curve(runs / "early", student) == loss_curve(runs / "whole", student)[:steps]
        assert digest(early, student) == digest(every[steps - 1], student)


def test_a_run_killed_inside_a_window_goes_on_as_if_it_had_not_been(runs, tmp_path):
    """Step 5 lies inside the window of the steps 5 and 6, and some students have stopped before it."""
    config = family_config(**EARLY)
    cut = run_training(config, tmp_path / "run", stop=8)
    assert cut["error"].startswith("the clip stream ended early")
    at_five = newest(tmp_path / "run")
    states = dict(at_five.meta["early_stopping"])
    assert at_five.step == 5
    assert {state["window_steps"] for state in states.values()} == {0, 1}
    assert run_training(config, tmp_path / "run", attempt="second")["start_step"] == 5
    ours, theirs = newest(tmp_path / "run"), newest(runs / "early")
    assert ours.files == {**theirs.files, "meta.json": ours.files["meta.json"]}  # which names the attempt
    assert ours.meta["early_stopping"] == theirs.meta["early_stopping"]
    assert check_ledger(RunStorage(str(tmp_path / "run")), STEPS * 4).problems == []


def test_when_all_have_stopped_the_run_ends_and_its_plan_is_what_it_consumed(tmp_path):
    config = family_config(
        students={name: FAMILY[name] for name in ("c11", "c21")},
        **{**EARLY, "early_stop_window": 1, "early_stop_min_delta": 0.99},
    )
    result = run_training(config, tmp_path / "run")
    assert (result["steps"], result["clips"]) == (2, 8)
    storage = RunStorage(str(tmp_path / "run"))
    assert newest(tmp_path / "run").ended
    report = check_ledger(storage, config.plan_slots)
    assert (report.clips, report.lost, report.repeated, report.problems) == (8, 0, 0, [])
    again = run_training(config, tmp_path / "run", attempt="second")
    assert (again["start_step"], again["steps"], again["clips"]) == (2, 2, 0)

    storage.write("config.yaml", config_to_yaml(config).encode())
    storage.write("run.json", json.dumps({"plan_slots": config.plan_slots, "wall_s": 1.0}).encode())
    summary = build_summary(storage)
    assert summary["ledger"] == {"clips": 8, "lost": 0, "to_come": 0, "repeated": 0, "quarantined": 0}
    page = render_report(storage)
    assert "each of the 8 slots of the plan was trained exactly once. Early stopping has ended all students." in page
    assert "2 of at most 12 steps of 4 clips = 8 slots" in page


def test_the_summary_says_how_long_each_student_trained(runs, tmp_path):
    shutil.copytree(runs / "early", tmp_path / "run")
    storage = RunStorage(str(tmp_path / "run"))
    storage.write("config.yaml", config_to_yaml(family_config(**EARLY)).encode())
    students, commit = build_summary(storage)["students"], newest(runs / "early")
    rows = training_rows(runs / "early")
    assert all(row["busy_s"] > 0 for row in rows)
    for name in FAMILY:
        assert students[name]["steps"] == (commit.stopped_at(name) or STEPS)
        assert students[name]["stopped_early"] == (commit.stopped_at(name) is not None)
        busy = [row["busy_s"] for row in rows if row["student"] == name]
        assert students[name]["step_s"] == pytest.approx(np.median(busy))
    assert "stopped early" in render_report(storage)


def test_the_checker_sees_a_stopped_student_that_changed(runs, tmp_path):
    shutil.copytree(runs / "early", tmp_path / "run")
    storage, plan = RunStorage(str(tmp_path / "run")), STEPS * 4
    assert check_ledger(storage, plan).problems == []
    first, last = list_checkpoints(storage)[0], newest(tmp_path / "run")
    student = next(name for name in FAMILY if first.stopped_at(name) is not None)
    step = first.stopped_at(student)
    values = json.loads(storage.read(f"{last.folder}/manifest.json"))
    values["files"][f"{student}/student.safetensors"]["sha256"] = "0" * 64
    storage.write(f"{last.folder}/manifest.json", json.dumps(values).encode())
    assert check_ledger(storage, plan).problems == [
        f"{student} stopped at step {step}, but {last.folder} has other weights of it"
    ]
    values["files"] = last.files
    values["meta"]["early_stopping"][student]["stopped_at"] = None
    storage.write(f"{last.folder}/manifest.json", json.dumps(values).encode())
    middle = list_checkpoints(storage)[-2]
    assert check_ledger(storage, plan).problems == [
        f"{student} stopped at step {step} in {middle.folder}, at None in {last.folder}"
    ]


def test_a_checkpoint_from_before_early_stopping_is_resumed(tmp_path):
    """Its manifest says nothing of it: windows begin where the run goes on."""
    config = family_config(students={"c11": FAMILY["c11"]})
    run_training(config, tmp_path / "run", stop=7)
    commit = newest(tmp_path / "run")
    assert "early_stopping" not in commit.meta
    assert commit.stopped_at("c11") is None
    assert not commit.ended
    assert run_training(config, tmp_path / "run", attempt="second")["start_step"] == 5
    assert EarlyStopping.from_meta(commit.meta, "c11") == EarlyStopping()


@pytest.mark.parametrize(
    ("losses", "options", "stopped"),
    [
        ([3, 2, 1, 1, 1], (1, 2, 0.0), 5),  # equal is not better
        ([3, 1, 2, 2, 2, 2], (2, 2, 0.0), 6),  # means 2, 2, 2
        ([3, 1, 2, 2, 2, 1], (2, 2, 0.0), None),  # 2, 2, 1.5
        ([10, 9.5, 9.1, 8.9, 8.9], (1, 2, 0.1), 3),  # 9.1 has not gained a tenth on 10
        ([10, 9.5, 8.9, 8.9, 8.9], (1, 2, 0.1), 5),
        ([-1, -1.05, -1.2], (1, 1, 0.1), 2),  # a share of the size, also below zero
        ([5, 5, 5], (0, 1, 0.0), None),
    ],
)
def test_windows_patience_and_gain(losses, options, stopped):
    train = TrainConfig(early_stop_window=options[0], early_stop_patience=options[1], early_stop_min_delta=options[2])
    state = EarlyStopping()
    for step, loss in enumerate(losses, 1):
        if state.stopped_at is None:
            state.add(float(loss), step, train)
    assert state.stopped_at == stopped
