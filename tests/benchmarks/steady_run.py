"""A whole run with sleeping teachers: its wall time over its busiest stage's busy time.

`tests.benchmarks.scale` starts it in a process of its own; it prints one JSON object.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from echodfkd.reporting.rows import read_rows
from echodfkd.runtime.distillation_run import run_distillation
from echodfkd.storage.files import RunStorage
from tests.benchmarks.data_wait import steady
from tests.benchmarks.stand_ins import stand_in_config

TEACHERS, TEACH_S, STEPS = 4, 1.0, 240


def run(folder: Path) -> dict[str, Any]:
    """Run it, with real students that are faster than the teachers. Returns the result of `steady`."""
    config = stand_in_config(
        [f"storage={folder}", "name=steady", "train.global_batch=4", "window.frames=16", "window.size=64",
         f"train.steps={STEPS}", f"train.checkpoint_every={STEPS}", "evaluation.enabled=false",
         f"teacher.min_actors={TEACHERS}", f"teacher.max_actors={TEACHERS}", "teacher.num_cpus=0.5",
         "students.a={blocks: 1, layers: 1, filters: 2}", "ray.address=local", "ray.num_cpus=8",
         "ray.object_store_mb=256", "ray.progress_s=0"],
        teach_s=TEACH_S,
    )  # fmt: skip
    run_distillation(config, lambda line: None)
    return steady(read_rows(RunStorage(config.root)))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="echo-", ignore_cleanup_errors=True) as temporary:
        print(json.dumps(run(Path(temporary))))
