"""A whole run with a stand-in source and teacher: its memory and disk use.

Students, ledger, checkpoints and evaluators are real. `tests.benchmarks.scale` starts it in a process of its own, with
the arguments STEPS SEGMENT; it prints one JSON object.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from echodfkd.reporting.rows import read_rows
from echodfkd.runtime.distillation_run import run_distillation
from echodfkd.storage.files import RunStorage
from tests.benchmarks.processes import memory_of, object_store_mb
from tests.benchmarks.stand_ins import stand_in_config
from tests.helpers.repeated import repeated

CHECKPOINTS_PER_SEGMENT = 3

HEAD = ("driver", "controller", "coordinator", "ray")
"""Roles whose processes are on the head node of a cluster."""


@contextlib.contextmanager
def peaks_of(checkpoints: Path) -> Iterator[Counter[str]]:
    """The peak memory of each role and of the object store, from the first checkpoint until the block ends."""
    peaks: Counter[str] = Counter()

    def look() -> None:
        nonlocal peaks
        if checkpoints.exists():  # memory of the start does not grow with the run
            now = memory_of()
            now["head"] = sum(now[role] for role in HEAD)
            now["object_store"] = object_store_mb()
            peaks |= now

    with repeated(look, every_s=1.0):
        yield peaks


def run(folder: Path, steps: int, segment: int) -> dict[str, Any]:
    """Run ``steps`` updates in segments of ``segment`` read tasks.

    Returns:
        ``ledger`` of the run; ``peak_mb`` of each role (USS), of the object store, and of ``head``, the sum over the
        roles of a head node; bytes of ledger and logs per clip; ``update_s``: median seconds of an update;
        ``between_segments_s``: from the last update of each segment to the first of the next; ``lag_s``: from a
        manifest to its last score.
    """
    every = max(1, segment // CHECKPOINTS_PER_SEGMENT)
    config = stand_in_config(
        [f"storage={folder}", "name=scale", "train.global_batch=4", "window.frames=16", "window.size=64",
         f"train.steps={steps}", f"train.checkpoint_every={every}", f"data.segment_tasks={segment}", "data.ahead_mb=16",
         "teacher.min_actors=2", "teacher.max_actors=2", "teacher.num_cpus=0.5", "evaluation.cases=2",
         "evaluation.frames=32", "evaluation.overlays=0", "students.a={blocks: 1, layers: 1, filters: 2}",
         "ray.address=local", "ray.num_cpus=8", "ray.object_store_mb=256", "ray.progress_s=0"]
    )  # fmt: skip
    started = time.monotonic()
    with peaks_of(folder / "scale" / "checkpoints") as peaks:
        summary = run_distillation(config, lambda line: None)
    root = folder / "scale"
    lags = [
        max(part.stat().st_mtime for part in root.glob(f"scores/part-{step.name.replace('_', '')}-*"))
        - (step / "manifest.json").stat().st_mtime
        for step in sorted(root.glob("checkpoints/step_*"))
    ]
    at = {row["step"]: row["time"] for row in read_rows(RunStorage(config.root)).training.to_pylist()}
    took = {step: at[step] - at[step - 1] for step in at if step - 1 in at}
    between = [seconds for step, seconds in took.items() if (step - 1) % config.segment_steps == 0]
    size = {name: sum(file.stat().st_size for file in root.glob(f"{name}/*.parquet")) for name in ("ledger", "logs")}
    return {
        "steps": steps,
        "clips": config.plan_slots,
        "segments": config.num_segments,
        "wall_s": round(time.monotonic() - started, 1),
        "ledger": summary["ledger"],
        "peak_mb": {role: round(mb, 1) for role, mb in sorted(peaks.items())},
        "ledger_bytes_per_clip": round(size["ledger"] / config.plan_slots, 1),
        "log_bytes_per_clip": round(size["logs"] / config.plan_slots, 1),
        "checkpoints": len(lags),
        "update_s": round(statistics.median(took.values()), 3),
        "between_segments_s": [round(seconds, 1) for seconds in between],
        "lag_s": {"median": round(statistics.median(lags), 2), "most": round(max(lags), 2)},
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="echo-", ignore_cleanup_errors=True) as temporary:
        print(json.dumps(run(Path(temporary), int(sys.argv[1]), int(sys.argv[2]))))
