"""Bytes of a clip in the object store, and the copies of its pixels on the way from source to students."""

from __future__ import annotations

from typing import Any

from echodfkd.config.run import RunConfig
from echodfkd.config.sections.student import StudentConfig
from echodfkd.config.sections.training import TrainConfig
from echodfkd.models.teachers.build import build_teacher
from echodfkd.runtime.stream.parts import slot_rules, training_source
from echodfkd.teaching.blocks import make_block, teach_block
from tests.benchmarks.block_bytes import measure_block
from tests.benchmarks.timing import Report

TARGET = 1.05
"""Bytes in the store over those of the pixels and masks alone (256 levels each): the rest is ids and bookkeeping."""


def clip_bytes(report: Report, *, quick: bool) -> dict[str, Any]:
    """Bytes of the demo's clips in the object store over those of pixels and masks, and the copies on their way."""
    train = TrainConfig(steps=1, global_batch=4 if quick else 8)
    config = RunConfig(students={"a": StudentConfig()}, train=train)
    rules, source = slot_rules(config), training_source(config)
    made = make_block(source, range(train.global_batch), rules, actor="source-0")
    teacher = build_teacher(kind="embedded", weights="", device="cpu", batch_frames=64)
    taught = teach_block(teacher, made, lambda: source, rules, actor="teacher-0")
    clips, window = train.global_batch, config.window
    plane = window.frames * window.size**2
    rows = {}
    report(
        f"{'block':<18} {'pixels, bytes a clip':>21} {'in the store':>13} {'copied to make it':>18} {'to read it':>11}"
    )
    for name, columns, planes in (("source, teacher", made, 1), ("teacher, students", taught, 2)):
        found = measure_block(columns)
        rows[name] = {
            "pixels": planes * plane,
            "stored": (found.buffers + found.in_band) / clips,
            "build_copies": sum(found.build_copies.values()),
            "read_copies": sum(found.read_copies.values()),
        }
        values = [f"{rows[name][key]:.0f}" for key in ("pixels", "stored", "build_copies", "read_copies")]
        report(f"{name:<18} {values[0]:>21} {values[1]:>13} {values[2]:>18} {values[3]:>11}")
    last = rows["teacher, students"]
    worst = max(row["stored"] / row["pixels"] for row in rows.values())
    report(f"the bound of memory counts {config.clip_bytes} bytes for a taught clip")
    return {
        "value": round(worst, 4),
        "unit": "bytes in the store over bytes of pixels and masks, the larger of the two blocks",
        "target": TARGET,
        "holds": worst <= TARGET and last["stored"] <= config.clip_bytes * TARGET and not last["read_copies"],
        "blocks": rows,
        "counted": config.clip_bytes,
    }
