"""A newcomer's first hour, from `git clone` to the first picture and the first report, by stage."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.timing import Report

ROOT = Path(__file__).parents[2]
COMMAND = ".venv/bin/echodfkd"
STAGES = {
    "clone": ["git", "clone", "--quiet", str(ROOT), "."],
    "packages": ["make", "--silent", ".venv/demo-installed"],
    "command": [COMMAND, "--help"],
    "picture": [COMMAND, "phantom-sheet", "--domain", "wild", "--teacher", "embedded_wild", "--out", "hearts.png"],
    "report": [COMMAND, "distill", "--config", "configs/demo.yaml"],
}
"""README's way: the checkout, its packages, the commands' list, a row of drawn hearts with contours, the demo."""

QUICK = ["train.steps=3", "train.checkpoint_every=3", "evaluation.cases=2", "evaluation.judge=none"]
HOUR_S = 3600.0


def first_picture(report: Report, *, quick: bool) -> dict[str, Any]:
    """From git clone to the first picture and the demo's report, by stage; the packages come from pip's own index.

    PYTHON names the interpreter, as for `make`. The run of ``quick`` has 3 updates. ``value``: seconds to the report.
    """
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for stage, words in STAGES.items():
            began = time.perf_counter()
            more = QUICK if quick and stage == "report" else []
            done = subprocess.run([*words, *more], cwd=folder, capture_output=True, text=True, env=_environment())
            seconds[stage] = round(time.perf_counter() - began, 1)
            report(f"{stage:<10}{seconds[stage]:8.1f} s   {sum(seconds.values()):8.1f} s in all")
            if done.returncode:
                raise SystemExit(f"{' '.join(words)}: {done.stdout[-1000:]}{done.stderr[-1000:]}")
        made = all(Path(folder, name).is_file() for name in ("hearts.png", "runs/demo/report.html"))
    value = sum(seconds.values())
    return {"value": value, "target": HOUR_S, "holds": made and value < HOUR_S, "seconds": seconds}


def _environment() -> dict[str, str]:
    """This one without a checkout of its own on the import path."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
