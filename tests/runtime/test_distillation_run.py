"""Whole tiny runs on a real local Ray cluster: everything at once, then what it left behind is checked."""

import contextlib
import json
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from safetensors.numpy import load_file

from echodfkd.config.run import RunConfig
from echodfkd.core.errors import ConfigError, RunError
from echodfkd.runtime.distillation_run import run_distillation
from echodfkd.storage.files import RunStorage
from echodfkd.storage.lease import held
from echodfkd.storage.ledger import check_ledger

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]


def weights(config: RunConfig, step: int, student: str = "a") -> dict[str, bytes]:
    path = Path(config.root) / f"checkpoints/step_{step:08d}/{student}/student.safetensors"
    return {name: tensor.tobytes() for name, tensor in load_file(path).items()}


def quiet(line: str) -> None:
    pass


def test_a_run_leaves_everything_it_promises_and_repeats_bit_for_bit(tiny_config: Callable[..., RunConfig]) -> None:
    """Two workers, two students, two teacher actors; then again with one teacher actor, and resumed half way."""
    many = [
        "students.b={blocks: 1, layers: 2, filters: 4, norm: group}",
        "train.workers=2",
        "train.engine=plain",
        "teacher.max_actors=2",
        "teacher.min_actors=2",
        "teacher.num_cpus=0.5",
    ]
    config = tiny_config(*many)
    lines: list[str] = []
    summary = run_distillation(config, lines.append)
    storage = RunStorage(config.root)

    report = check_ledger(storage, config.plan_slots)
    assert (report.clips, report.lost, report.repeated, report.quarantined) == (24, 0, 0, 0)
    assert not report.problems
    assert summary["ledger"] == {"clips": 24, "lost": 0, "repeated": 0, "quarantined": 0}
    assert set(summary["students"]) == {"a", "b"}
    for name in ("config.yaml", "summary.json", "report.html", "cases.parquet", "run.json"):
        assert storage.exists(name), name
    assert json.loads(storage.read("summary.json"))["run"] == "tiny"
    stages = summary["pipeline"]["stages"]
    assert set(stages) == {"source", "teacher", "students", "evaluator"}
    assert stages["source"]["clips"] == stages["teacher"]["clips"] == stages["students"]["clips"] == 24
    assert stages["teacher"]["frames"] == 24 * config.window.frames
    for student in summary["students"].values():
        assert student["steps"] == 6
        assert student["scores"]["dice_all"]["n"] == 2
        assert student["scores"]["judge_score"]["n"] == 2
    assert summary["teacher"]["scores"]["dice_all"]["n"] == 2
    assert any("run tiny: 24 clips, 2 students" in line for line in lines)

    # once more from the start with one teacher actor; then its last commit is undone, as if the machine had died
    # before the manifest was written, and the run is resumed with two
    again = tiny_config(*many, "name=again", "evaluation.enabled=false", "teacher.min_actors=1", "teacher.max_actors=1")
    run_distillation(again, quiet)
    assert weights(again, 6) == weights(config, 6)
    assert weights(again, 6, "b") == weights(config, 6, "b")
    (Path(again.root) / "checkpoints/step_00000006/manifest.json").unlink()
    resumed = run_distillation(tiny_config(*many, "name=again", "evaluation.enabled=false"), quiet)
    assert resumed["ledger"] == {"clips": 24, "lost": 0, "repeated": 0, "quarantined": 0}
    assert weights(again, 6) == weights(config, 6)
    assert weights(again, 6, "b") == weights(config, 6, "b")


def test_legs_change_nothing_and_a_leg_that_is_over_leaves_no_process(tiny_config: Callable[..., RunConfig]) -> None:
    """Four updates in one dataset pass, and in four of them; no more than three coordinators ever live."""
    plain = ["train.engine=plain", "train.workers=2", "train.steps=4", "train.checkpoint_every=1"]
    plain.append("evaluation.enabled=false")
    one, four = tiny_config("name=one", *plain), tiny_config("name=four", *plain, "data.segment_tasks=2")
    assert (one.num_segments, four.num_segments) == (1, 4)
    run_distillation(one, quiet)
    living, ended = [0], threading.Event()

    def count() -> None:
        while not ended.wait(0.2):
            found = 0
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):  # it has just ended
                    found += any("SplitCoordinator" in word for word in process.cmdline())
            living.append(found)

    watch = threading.Thread(target=count)
    watch.start()
    try:
        run_distillation(four, quiet)
    finally:
        ended.set()
        watch.join()
    assert 1 <= max(living) <= 3, living
    assert weights(four, 4) == weights(one, 4)
    report = check_ledger(RunStorage(four.root), four.plan_slots)
    assert (report.clips, report.lost, report.repeated, report.problems) == (16, 0, 0, [])


def test_a_name_that_exists_is_resumed_or_refused_and_never_overwritten(tiny_config: Callable[..., RunConfig]) -> None:
    config = tiny_config("train.steps=2", "evaluation.enabled=false")
    run_distillation(config, quiet)
    before = Path(config.root, "checkpoints/step_00000002/manifest.json").read_bytes()
    with pytest.raises(ConfigError, match=r"a run tiny exists in .* and on_exists is refuse"):
        run_distillation(tiny_config("train.steps=2", "on_exists=refuse"), quiet)
    with pytest.raises(ConfigError, match=r"has another config_hash .* give this run another name"):
        run_distillation(tiny_config("train.steps=3", "evaluation.enabled=false"), quiet)
    with held(RunStorage(config.root), lease_s=2.0, log=quiet), pytest.raises(RunError, match="another run is at work"):
        run_distillation(config, quiet)
    finished = run_distillation(config, quiet)  # nothing left to do: the report is written again
    assert finished["ledger"]["clips"] == 8
    assert Path(config.root, "checkpoints/step_00000002/manifest.json").read_bytes() == before


def test_a_cluster_too_small_is_one_sentence_before_anything_starts(tiny_config: Callable[..., RunConfig]) -> None:
    with pytest.raises(RunError, match=r"the cluster cannot hold this run: train: 0 of 1 student processes fit"):
        run_distillation(tiny_config("train.num_cpus=64"), quiet)
    with pytest.raises(RunError, match=r"teacher: 0 of 1 teacher processes fit \(1 CPU, 1 GPU each"):
        run_distillation(tiny_config("teacher.num_gpus=1", "name=gpu"), quiet)
    with pytest.raises(RunError, match=r"evaluation: 0 of 1 evaluator processes fit .* labelled pool=eval"):
        run_distillation(tiny_config("evaluation.node_label=pool=eval", "name=label"), quiet)
