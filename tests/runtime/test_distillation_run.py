"""Whole tiny runs on a real local Ray cluster: everything at once, then what it left behind is checked."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from echodfkd.config.run import RunConfig
from echodfkd.core.errors import ConfigError, RunError
from echodfkd.runtime.distillation_run import run_distillation
from echodfkd.storage.files import RunStorage
from echodfkd.storage.lease import held
from echodfkd.storage.ledger import check_ledger
from tests.runtime.conftest import SHARED, FinishedRun

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]


def weights(config: RunConfig, step: int, student: str = "a") -> dict[str, bytes]:
    path = Path(config.root) / f"checkpoints/step_{step:08d}/{student}/student.safetensors"
    return {name: tensor.tobytes() for name, tensor in load_file(path).items()}


def quiet(line: str) -> None:
    pass


def test_a_run_leaves_everything_it_promises(shared_run: FinishedRun) -> None:
    config, summary = shared_run.config, shared_run.summary
    storage = RunStorage(config.root)
    report = check_ledger(storage, config.plan_slots)
    assert (report.clips, report.lost, report.repeated, report.quarantined) == (16, 0, 0, 0)
    assert not report.problems
    assert summary["ledger"] == {"clips": 16, "lost": 0, "to_come": 0, "repeated": 0, "quarantined": 0}
    assert set(summary["students"]) == {"a", "b", "wide"}
    for name in ("config.yaml", "summary.json", "report.html", "cases.parquet", "run.json"):
        assert storage.exists(name), name
    assert json.loads(storage.read("summary.json"))["run"] == "shared"
    stages = summary["pipeline"]["stages"]
    assert set(stages) == {"source", "teacher", "students", "evaluator"}
    assert stages["source"]["clips"] == stages["teacher"]["clips"] == stages["students"]["clips"] == 16
    assert stages["teacher"]["frames"] == 16 * config.window.frames
    for student in summary["students"].values():
        assert student["steps"] == 4
        assert student["scores"]["dice_all"]["n"] == 2
        assert student["scores"]["judge_score"]["n"] == 2
    assert summary["teacher"]["scores"]["dice_all"]["n"] == 2
    assert any("run shared: 16 clips, 3 students" in line for line in shared_run.lines)


def test_one_teacher_and_one_segment_go_on_bit_for_bit_from_a_run_of_two_and_four(
    shared_run: FinishedRun, tiny_config: Callable[..., RunConfig]
) -> None:
    """A pass of the stream that is over leaves no process behind: the coordinators of two live at most."""
    again = tiny_config(
        *SHARED, "name=shared", "data.segment_tasks=5000", "teacher.min_actors=1", "teacher.max_actors=1"
    )
    assert (shared_run.config.num_segments, again.num_segments) == (4, 1)
    assert (shared_run.config.num_passes, again.num_passes, shared_run.coordinators) == (2, 1, 2)
    shutil.copytree(shared_run.config.root, again.root)
    # the last commit is undone, as if the machine had died before the manifest was written
    (Path(again.root) / "checkpoints/step_00000004/manifest.json").unlink()
    resumed = run_distillation(again, quiet)
    assert resumed["ledger"] == {"clips": 16, "lost": 0, "to_come": 0, "repeated": 0, "quarantined": 0}
    for student in again.students:
        assert weights(again, 4, student) == weights(shared_run.config, 4, student)
    report = check_ledger(RunStorage(again.root), again.plan_slots)
    assert (report.clips, report.lost, report.repeated, report.problems) == (16, 0, 0, [])


def test_a_name_that_exists_is_resumed_or_refused_and_never_overwritten(family_run: FinishedRun) -> None:
    config = family_run.config
    before = Path(config.root, "checkpoints/step_00000007/manifest.json").read_bytes()
    with pytest.raises(ConfigError, match=r"a run family exists in .* and on_exists is refuse"):
        run_distillation(dataclasses.replace(config, on_exists="refuse"), quiet)
    other = dataclasses.replace(config, train=dataclasses.replace(config.train, steps=61))
    with pytest.raises(ConfigError, match=r"train\.steps \(\d+, now 61\); a run gets longer only with"):
        run_distillation(other, quiet)
    with held(RunStorage(config.root), lease_s=2.0, log=quiet), pytest.raises(RunError, match="another run is at work"):
        run_distillation(config, quiet)
    finished = run_distillation(config, quiet)  # nothing left to do: the report is written again
    assert finished["ledger"] == family_run.summary["ledger"]
    assert finished["ledger"]["clips"] == 28
    assert Path(config.root, "checkpoints/step_00000007/manifest.json").read_bytes() == before


def test_a_cluster_too_small_is_one_sentence_before_anything_starts(tiny_config: Callable[..., RunConfig]) -> None:
    with pytest.raises(RunError, match=r"the cluster cannot hold this run: train: 0 of 1 student processes fit"):
        run_distillation(tiny_config("train.num_cpus=64"), quiet)
    with pytest.raises(RunError, match=r"teacher: 0 of 1 teacher processes fit \(1 CPU, 1 GPU each"):
        run_distillation(tiny_config("teacher.num_gpus=1", "name=gpu"), quiet)
    with pytest.raises(RunError, match=r"evaluation: 0 of 1 evaluator processes fit .* labelled pool=eval"):
        run_distillation(tiny_config("evaluation.node_label=pool=eval", "name=label"), quiet)
