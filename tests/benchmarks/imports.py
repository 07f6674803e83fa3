"""What a user waits for before anything happens: the import of the losses, and a job that only prints its config."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import echodfkd
from tests.benchmarks.timing import Report

TARGETS = {"import echodfkd.losses.targets, torch apart": 1.5, "jobs/distill.py --dry-run": 3.0}
"""Seconds."""
ROOT = Path(echodfkd.__file__).parents[1]


def own_import_seconds(module: str, apart: str = "torch") -> float:
    """Seconds that importing a module takes in a fresh interpreter, less those of ``apart`` and all it brings in."""
    listed = _python("-X", "importtime", "-c", f"import {module}").stderr
    total = {}
    for line in listed.splitlines():
        own, _, rest = line.removeprefix("import time:").partition("|")
        cumulative, _, name = rest.partition("|")
        if own.strip().isdigit():
            total[name.strip()] = int(cumulative) / 1e6
    return total[module] - total.get(apart, 0.0)


def imports(report: Report, *, quick: bool) -> dict[str, Any]:
    """Seconds of `import echodfkd.losses.targets` without torch's own, and of a dry run of the main job."""
    found: dict[str, list[float]] = {name: [] for name in TARGETS}
    losses, dry_run = found
    config = str(ROOT / "configs" / "demo.yaml")
    for _ in range(2 if quick else 7):
        found[losses].append(own_import_seconds("echodfkd.losses.targets"))
        start = time.perf_counter()
        _python(str(ROOT / "jobs" / "distill.py"), "--config", config, "--dry-run")
        found[dry_run].append(time.perf_counter() - start)
    report(f"{'seconds':<40} {'median':>8} {'worst':>8} {'target':>8}")
    for name, seconds in found.items():
        report(f"{name:<40} {statistics.median(seconds):>8.3f} {max(seconds):>8.3f} {TARGETS[name]:>8.1f}")
    medians = {name: round(statistics.median(seconds), 4) for name, seconds in found.items()}
    return {
        "value": medians,
        "unit": "seconds, median",
        "target": TARGETS,
        "holds": all(medians[name] < target for name, target in TARGETS.items()),
    }


def _python(*arguments: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
