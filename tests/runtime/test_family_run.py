"""A family on a real local Ray cluster: one student stops while the others go on; then all stop and the run ends."""

import pytest

from echodfkd.storage.files import RunStorage
from echodfkd.storage.ledger import check_ledger
from echodfkd.storage.manifests import list_checkpoints
from tests.runtime.conftest import FinishedRun

pytestmark = pytest.mark.ray


def test_one_student_stops_and_is_scored_no_more(family_run: FinishedRun) -> None:
    summary, storage = family_run.summary, RunStorage(family_run.config.root)
    commits = list_checkpoints(storage)
    assert [commit.step for commit in commits] == [2, 4, 6, 7]
    assert [commits[-2].stopped_at(student) for student in ("a", "b", "c")] == [None, 2, None]
    assert {name: student["steps"] for name, student in summary["students"].items()} == {"a": 7, "b": 2, "c": 7}
    assert all(student["step_s"] > 0 for student in summary["students"].values())
    rows = [row for part in storage.list("scores") for row in storage.read_table(part).to_pylist()]
    assert {row["step"] for row in rows if row["student"] == "b"} == {2}
    assert {row["step"] for row in rows if row["student"] == "a"} == {2, 4, 6, 7}


def test_the_run_ends_cleanly_when_all_have_stopped(family_run: FinishedRun) -> None:
    storage = RunStorage(family_run.config.root)
    newest = list_checkpoints(storage)[-1]
    assert newest.ended
    assert [newest.stopped_at(student) for student in ("a", "b", "c")] == [7, 2, 7]
    assert family_run.summary["ledger"] == {"clips": 28, "lost": 0, "to_come": 0, "repeated": 0, "quarantined": 0}
    assert check_ledger(storage, family_run.config.plan_slots).problems == []
