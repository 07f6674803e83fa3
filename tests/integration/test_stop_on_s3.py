"""A run with a thousand parts of scores on a store that answers 30 ms later: resumed, and stopped within its grace."""

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from echodfkd.core.errors import STOPPED
from echodfkd.core.records import CaseScore
from echodfkd.storage.files import RunStorage
from echodfkd.storage.manifests import latest_checkpoint
from echodfkd.storage.schemas import SCORE_SCHEMA
from tests.conftest import TINY
from tests.helpers.s3 import FaultyProxy, S3Server, environment

pytestmark = [pytest.mark.ray, pytest.mark.slow]  # two starts of a run

ROOT = Path(__file__).parents[2]
PARTS = 992
"""Of configs/conditional_million.yaml: 62 checkpoints of sixteen students."""
GRACE_S = 25.0
LONG = [
    "name=long", "train.steps=100000", "train.checkpoint_every=50000", f"train.stop_grace_s={GRACE_S}",
    "evaluation.overlays=0", "ray.address=local", "ray.num_cpus=4", "ray.object_store_mb=128", "ray.progress_s=0.5",
]  # fmt: skip


def stop_at_its_first_update(root: str, port: int) -> tuple[float, float]:
    """Start the run and send SIGTERM at its first update. Seconds to that update, and from there to the end."""
    here = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "jobs/distill.py", *TINY, *LONG, f"storage={root}"]
    began = time.monotonic()
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env={**here, **environment(port)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as run:
        assert run.stdout is not None
        lines = []
        for line in run.stdout:
            lines.append(line)
            if re.search(r"\| update [1-9]", line):
                break
        shown = time.monotonic()
        run.send_signal(signal.SIGTERM)
        lines += run.stdout
    assert run.returncode == STOPPED, "".join(lines[-20:])
    return shown - began, time.monotonic() - shown


def write_parts(storage: RunStorage) -> None:
    """Scores of checkpoints that are long over, as `EvaluatorPool` writes them."""
    for number in range(PARTS):
        step, student = divmod(number, 16)
        row = CaseScore("case-0", "teacher", f"s{student:02}", step, "dice_all", "truth", "", 0.5, 0.0, 48)
        name = f"scores/part-step{step:08d}-s{student:02}.parquet"
        storage.write_table(name, [asdict(row)], SCORE_SCHEMA)


def test_a_long_run_starts_and_stops_on_a_far_store_in_seconds(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment(s3_server.port).items():
        monkeypatch.setenv(name, value)
    root = f"s3://{s3_server.bucket()}"
    storage = RunStorage(f"{root}/long")
    proxy = FaultyProxy(s3_server.port, lambda number, method, path: "delay 0.03")
    try:
        took = [stop_at_its_first_update(root, proxy.port)]
        steps, requests = [latest_checkpoint(storage).step], [len(proxy.seen)]  # type: ignore[union-attr]
        write_parts(storage)
        took.append(stop_at_its_first_update(root, proxy.port))
        steps.append(latest_checkpoint(storage).step)  # type: ignore[union-attr]
        requests.append(len(proxy.seen) - requests[0])
    finally:
        proxy.close()
    print(f"start and stop without and with {PARTS} parts: {took}, requests {requests}, published at {steps}")
    assert 1 <= steps[0] < steps[1]
    assert max(stop_s for _, stop_s in took) < GRACE_S
    assert requests[1] < requests[0] + PARTS // 2, "a start and a stop ask no store about each part"
