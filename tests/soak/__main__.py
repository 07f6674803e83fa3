"""Check that memory, handles and threads do not grow with the length of a run."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from typing import Any

from echodfkd.config.file import load_config
from echodfkd.runtime.cluster.environment import prepare_ray
from echodfkd.runtime.command import run_guarded

TINY = [
    "students.tiny={blocks: 1, layers: 1, filters: 2}",
    "window.frames=4",
    "window.size=16",
    "train.global_batch=4",
    "train.accumulation=4",
    "train.checkpoint_every=100",
    "data.segment_tasks=80",  # a pass of the stream every 200 steps; with the next line some 800 tasks are kept
    "data.ahead_mb=1",
    *("evaluation.cases=2", "evaluation.frames=32"),
    "evaluation.overlays=1",
    "ray.address=local",
    "ray.progress_s=30",
]


def pipeline(steps: int) -> dict[str, Any]:
    """Watch the processes of a real run of several passes of the stream."""
    os.environ.setdefault("RAY_task_events_max_num_task_in_gcs", "1000")  # reach this bound in the first third
    prepare_ray("local")
    from tests.soak.soak_run import soak_pipeline

    with tempfile.TemporaryDirectory() as folder:
        config = load_config(None, [f"storage={folder}", "name=soak", *TINY, f"train.steps={steps}"])
        return soak_pipeline(config, lambda line: print(line, flush=True), every_s=5.0)


def main() -> int:
    """Parse the arguments, soak, and print a table and one JSON object. Returns the exit code: 1 if anything grows."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--steps", type=int, default=20_000, help="updates (default: 20000)")
    parser.add_argument(
        "--pipeline", action="store_true", help="the whole pipeline on a local Ray, not only the training loop"
    )
    args = parser.parse_args()

    def work() -> dict[str, Any]:
        if args.pipeline:
            found = pipeline(args.steps)
        else:
            from tests.soak.soak import soak_loop

            found = soak_loop(args.steps, lambda line: print(line, flush=True))
        return {"case": "soak", **found, "ok": found["holds"]}

    return run_guarded(work)


if __name__ == "__main__":
    sys.exit(main())
