"""The start of a run of a thousand million clips, beside that of a million.

Students, ledger and Ray are real; source and teacher are stand-ins. A run is stopped as its first update is shown.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from echodfkd.runtime.distillation_run import run_distillation
from tests.benchmarks.processes import cpu_seconds, memory_of
from tests.benchmarks.stand_ins import stand_in_config
from tests.benchmarks.timing import Report
from tests.benchmarks.whole_run import HEAD

ROOT = Path(__file__).parents[2]
CLIPS = (10**6, 10**9)
TARGET = 1.2
"""Most that the long run's start may take of the short one's, in time and in memory."""


def start(clips: int, folder: Path) -> dict[str, float]:
    """Seconds to the first update, CPU seconds of all processes, and MiB of the head's processes at that moment."""
    config = stand_in_config(
        [f"storage={folder}", f"name=clips{clips}", "train.global_batch=16", f"train.steps={clips // 16}",
         "train.checkpoint_every=1000", "window.frames=4", "window.size=16", "evaluation.enabled=false",
         "students.a={blocks: 1, layers: 1, filters: 2}", "ray.address=local", "ray.num_cpus=4",
         "ray.object_store_mb=128", "ray.progress_s=0.5"]
    )  # fmt: skip
    began, found = time.monotonic(), dict[str, float]()

    def watch(line: str) -> None:
        if "| update " in line and not found:
            memory, spent = memory_of(), cpu_seconds()
            found.update(start_s=time.monotonic() - began, cpu_s=sum(spent.values()))
            found.update(head_mb=sum(memory[role] for role in HEAD))
            os.kill(os.getpid(), signal.SIGTERM)

    run_distillation(config, watch)
    return found


def long_start(report: Report, *, quick: bool) -> dict[str, Any]:
    """The start of a run of 10^9 clips takes no longer and no more memory than that of 10^6."""
    runs: dict[int, list[dict[str, float]]] = {clips: [] for clips in CLIPS}
    report(f"{'clips':>14}{'first update, s':>18}{'CPU, s':>10}{'head, MiB':>12}")
    for _ in range(1 if quick else 3):
        for clips, found in runs.items():
            command = [sys.executable, "-m", "tests.benchmarks.long_start", str(clips)]
            done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
            row = json.loads(done.stdout.splitlines()[-1])
            found.append(row)
            report(f"{clips:14,}{row['start_s']:18.1f}{row['cpu_s']:10.1f}{row['head_mb']:12.0f}")
    rows = {
        clips: {key: statistics.median(one[key] for one in found) for key in found[0]} for clips, found in runs.items()
    }
    short, long = rows.values()
    ratios = {key: round(long[key] / short[key], 3) for key in short}
    return {"value": max(ratios.values()), "target": TARGET, "holds": max(ratios.values()) <= TARGET, "ratios": ratios}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="echo-", ignore_cleanup_errors=True) as temporary:
        print(json.dumps(start(int(sys.argv[1]), Path(temporary))))
