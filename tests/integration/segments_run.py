"""A program: a run over nine segments, whose teachers grow from one to three on nodes that Ray's autoscaler brings.

Usage: python segments_run.py FOLDER. It leaves processes behind: run it in a PID namespace of its own. A teacher takes
a second for a block and everything else takes next to none. Prints one JSON object.
"""

import json
import sys
from pathlib import Path
from typing import Any

import ray

from echodfkd.reporting.rows import read_rows
from echodfkd.runtime.distillation_run import run_distillation
from echodfkd.storage.files import RunStorage
from tests.benchmarks.stand_ins import stand_in_config
from tests.conftest import TINY
from tests.integration.autoscaling_run import PLACEMENT, PORT, start_head

RUN = [
    "teacher.max_actors=3", "train.steps=540", "train.checkpoint_every=30", "data.segment_tasks=60",
    "data.source_tasks=4", "data.source_num_cpus=0.05", "data.ahead_mb=1", "evaluation.enabled=false",
    "ray.progress_s=2", "ray.json_lines=true",
]  # fmt: skip


def main(folder: Path) -> None:
    """Start, run, print: the times of the updates, those at which blocks were taught, and the lines of the run."""
    start_head(folder)
    ray.init(address=f"127.0.0.1:{PORT}", log_to_driver=False)
    options = [f"storage={folder}", "name=grown", *TINY, *PLACEMENT, *RUN, f"ray.address=127.0.0.1:{PORT}"]
    config, lines = stand_in_config(options, teach_s=1.0), list[str]()
    found: dict[str, Any] = {"error": None}
    try:
        found["ledger"] = run_distillation(config, lines.append)["ledger"]
    except Exception as error:
        found["error"] = repr(error)
    else:
        rows = read_rows(RunStorage(config.root))
        found["updates"] = {row["step"]: row["time"] for row in rows.training.to_pylist()}
        found["taught"] = sorted(row["end"] for row in rows.spans.to_pylist() if row["stage"] == "teacher")
        found["segment_steps"] = config.segment_steps
    shown = [json.loads(line) for line in lines]
    found["living"] = [(line["elapsed_s"], line["segment"], line["living"]) for line in shown if "segment" in line]
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
