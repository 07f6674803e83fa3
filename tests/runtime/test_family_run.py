"""A family on a real local Ray cluster: one student stops while the others go on; then all stop and the run ends."""

from collections.abc import Callable

import pytest

from echodfkd.config.run import RunConfig
from echodfkd.runtime.distillation_run import run_distillation
from echodfkd.storage.files import RunStorage
from echodfkd.storage.ledger import check_ledger
from echodfkd.storage.manifests import list_checkpoints

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]

FAMILY = [
    "students.b={blocks: 1, layers: 1, filters: 2}",
    "students.c={blocks: 1, layers: 2, filters: 8}",
    "train.engine=plain",
    "train.checkpoint_every=2",
    "train.early_stop_window=1",
    "train.early_stop_patience=1",
]


def test_one_student_stops_and_is_scored_no_more(tiny_config: Callable[..., RunConfig]) -> None:
    """b's loss is higher at its second update than at its first (by 0.3 %); those of a and c fall at every update."""
    config = tiny_config(*FAMILY, "evaluation.overlays=0", "ray.progress_s=0.2")
    lines: list[str] = []
    summary = run_distillation(config, lines.append)
    storage = RunStorage(config.root)
    commits = list_checkpoints(storage)
    assert [commit.step for commit in commits] == [2, 4, 6]
    assert [commits[-1].stopped_at(student) for student in ("a", "b", "c")] == [None, 2, None]
    assert {name: student["steps"] for name, student in summary["students"].items()} == {"a": 6, "b": 2, "c": 6}
    assert all(student["step_s"] > 0 for student in summary["students"].values())
    assert check_ledger(storage, config.plan_slots).problems == []
    rows = [row for part in storage.list("scores") for row in storage.read_table(part).to_pylist()]
    assert {row["step"] for row in rows if row["student"] == "b"} == {2}
    assert {row["step"] for row in rows if row["student"] == "a"} == {2, 4, 6}
    assert any("memory per worker, MB" in line for line in lines)


def test_the_run_ends_cleanly_when_all_have_stopped(tiny_config: Callable[..., RunConfig]) -> None:
    config = tiny_config(*FAMILY, "train.early_stop_min_delta=0.9", "train.steps=60", "evaluation.enabled=false")
    summary = run_distillation(config, lambda line: None)
    storage = RunStorage(config.root)
    assert [commit.step for commit in list_checkpoints(storage)] == [2]
    assert summary["ledger"] == {"clips": 8, "lost": 0, "repeated": 0, "quarantined": 0}
    assert check_ledger(storage, config.plan_slots).problems == []
    again = run_distillation(config, lambda line: None)  # nothing is left to do
    assert again["ledger"] == summary["ledger"]
