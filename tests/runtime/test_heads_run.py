"""A run whose students ask one teacher for different things: it trains, and scores what each has learned."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from ray.data.block import BlockAccessor

from echodfkd.config.run import RunConfig
from echodfkd.core.errors import ConfigError
from echodfkd.core.records import DistillationBatch
from echodfkd.evaluation.against_truth import RELIABILITY
from echodfkd.runtime.distillation_run import check_inputs
from echodfkd.runtime.evaluator_pool import Evaluator, ScoringTask
from echodfkd.runtime.stream.builders import load_teacher, slot_rules, training_source
from echodfkd.runtime.stream.plan import block_of, blocks_of, remaining_slots
from echodfkd.storage.files import RunStorage
from echodfkd.storage.manifests import latest_checkpoint
from echodfkd.teaching.blocks import make_block, teach_block
from echodfkd.teaching.clip_block import ClipBlock
from echodfkd.training.loop import WorkerContext, train
from tests.runtime.conftest import FinishedRun

RUN = [
    "students.wide={blocks: 2, layers: 1, filters: 4, classes: [LV, myocardium, LA, RV, RA], tasks: [phase, ef]}",
    "teacher.kind=embedded_chambers",
    "train.engine=plain",
    "window.frames=24",
    "window.fps=24",
    "evaluation.frames=40",
]
CHAMBERS = {"dice_myocardium", "dice_la", "dice_rv", "dice_ra"}
HEADS = CHAMBERS | {"phase_ed_error_frames", "phase_es_error_frames", "phase_pearson", "ef_head_abs_error"}


@pytest.mark.ray
def test_students_learn_different_things_from_one_stream(shared_run: FinishedRun) -> None:
    config, summary = shared_run.config, shared_run.summary
    assert summary["ledger"] == {"clips": 16, "lost": 0, "to_come": 0, "repeated": 0, "quarantined": 0}
    assert summary["teacher"]["id"].startswith("embedded_chambers-")
    wide, narrow = summary["students"]["wide"]["scores"], summary["students"]["a"]["scores"]
    assert set(wide) == set(narrow) | HEADS | {f"dice_teacher_{name[5:]}" for name in CHAMBERS}
    assert set(narrow) == set(summary["teacher"]["scores"]) - HEADS | {"dice_teacher"}
    assert all(summary["teacher"]["scores"][name]["n"] == 2 for name in CHAMBERS)
    assert summary["teacher"]["scores"]["dice_la"]["mean"] > 0.5  # at 32 x 32 pixels, far below its training's 56
    assert 0 <= wide["ef_head_abs_error"]["mean"] <= 100
    rows = [row for part in sorted(Path(config.root, "scores").iterdir()) for row in pq.read_table(part).to_pylist()]
    assert {row["unit"] for row in rows if row["metric"] == "ef_head_abs_error"} == {"percent"}


def test_blocks_cross_arrow_and_an_evaluator_reads_what_they_have_trained(
    tiny_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same run in one process without a cluster: every column as Arrow carries it, then one evaluator's task."""
    config = tiny_config(*RUN, "train.steps=2", "train.checkpoint_every=2")
    storage, rules, source = RunStorage(config.root), slot_rules(config), training_source(config)
    teacher = load_teacher(config, "cpu")
    batches = []
    for slots in blocks_of(config, remaining_slots(config)):
        block = block_of(make_block(source, slots, rules, actor="source").to_columns())
        made = ClipBlock.from_columns(to_numpy(block))
        taught = teach_block(teacher, made, lambda: source, rules, actor="teacher")
        arrived = DistillationBatch.from_columns(to_numpy(block_of(taught.to_columns())))
        assert arrived.teacher_prob.shape == (4, 24, 5, 32, 32)
        assert np.array_equal(arrived.teacher_prob, taught.teacher_prob)
        assert np.array_equal(arrived.teacher_phase, taught.teacher_phase, equal_nan=True)
        assert np.array_equal(arrived.teacher_ef, taught.teacher_ef, equal_nan=True)
        assert (arrived.teacher_phase.dtype, arrived.teacher_ef.dtype) == (np.float32, np.float32)
        batches.append(arrived)
    worker = WorkerContext(rank=0, world_size=1, device="cpu", name="w", attempt="a", report=lambda values: None)
    result = train(worker, iter(batches), config, storage, teacher.teacher_id)
    assert all(np.isfinite(loss) for loss in result["losses"].values())

    monkeypatch.setattr("echodfkd.runtime.evaluator_pool.actor_name", lambda kind: kind)  # which asks a cluster
    evaluator = Evaluator(dataclasses.replace(config, evaluation=dataclasses.replace(config.evaluation, num_cpus=1)))
    newest = latest_checkpoint(storage)
    metrics = {
        name: {row["metric"] for row in evaluator.score(ScoringTask(commit, name, 0, (0, 1)))["scores"]}
        for name, commit in (("a", newest), ("wide", newest), ("", None))
    }
    for found in metrics.values():  # which bins of the reliability curve hold a pixel differs between networks
        assert any(name.startswith(RELIABILITY) for name in found)
        found -= {name for name in found if name.startswith(RELIABILITY)}
    assert metrics["wide"] == metrics["a"] | HEADS | {f"dice_teacher_{name[5:]}" for name in CHAMBERS}
    readings = {"judge_ef", "judge_phase_gap", "judge_phase_ed_error_frames", "judge_phase_es_error_frames"}
    readings |= {"judge_truth_score", "judge_truth_motion"}
    assert metrics[""] == metrics["a"] - {"dice_teacher"} | HEADS | readings  # of the videos: once, with the teacher
    name, video = evaluator.overlay(newest, "wide", 0)
    assert name == "overlays/wide-0000.mp4"
    assert len(video) > 1000


def to_numpy(block: object) -> dict[str, np.ndarray]:
    return BlockAccessor.for_block(block).to_batch_format("numpy")


def test_a_class_that_the_teacher_does_not_give_is_named_before_anything_starts(
    tiny_config: Callable[..., RunConfig],
) -> None:
    words = r"students.wide.classes: got myocardium, LA, RV, RA, but the teacher \(teacher.kind embedded\) gives LV"
    with pytest.raises(ConfigError, match=words):
        check_inputs(tiny_config(*RUN, "teacher.kind=embedded"))
