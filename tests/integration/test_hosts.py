"""A run across several hosts with addresses of their own, one of which is cut off and connected again."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from echodfkd.records import PublishedCheckpoint
from echodfkd.storage import RunStorage
from echodfkd.training.checkpoints import list_checkpoints
from echodfkd.training.ledger import check_ledger
from tests.integration.fault_rows import record
from tests.integration.test_autoscaling import why_not

pytestmark = [pytest.mark.ray, pytest.mark.slow]  # some two minutes: four nodes start, one has to be given up

ROOT = Path(__file__).parents[2]
SLOTS = 240


def test_a_run_goes_on_without_a_host_that_is_cut_off(tmp_path: Path) -> None:
    if reason := why_not():
        pytest.skip(reason)
    program = f"mount -t tmpfs tmpfs /dev/shm && exec {sys.executable} tests/integration/hosts_run.py {tmp_path}"
    done = subprocess.run(
        ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--mount", "sh", "-c", program],
        cwd=ROOT,
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": "a" * 64,
        },
        capture_output=True,
        text=True,
        timeout=590,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["exit"] == 0, found
    assert json.loads(found["last"])["ledger"] == {"clips": SLOTS, "lost": 0, "repeated": 0, "quarantined": 0}
    assert found["apart"], "teachers and students have nodes of their own"
    storage = RunStorage(f"{tmp_path}/runs/hosts")
    report = check_ledger(storage, SLOTS)
    assert (report.lost, report.repeated, report.problems) == (0, 0, [])
    newest: PublishedCheckpoint = list_checkpoints(storage)[-1]
    assert newest.step == 60
    record(
        report,
        "a host with teachers is cut off the network",
        "its node is given up after some 10 s of silence; its blocks are made again elsewhere",
        detected_s=found["given_up_s"],
        extra_s=found["went_on_s"],
    )
