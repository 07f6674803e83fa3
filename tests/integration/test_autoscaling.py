"""Ray's own autoscaler brings what a run needs to a cluster that has a head alone, and takes it away again."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow]  # some two minutes: nodes must come, work, and idle

ROOT = Path(__file__).parents[2]


def why_not() -> str:
    """Why this machine cannot give a cluster a process and network namespace of its own; "" where it can."""
    if os.geteuid() != 0:
        return "needs root, to make namespaces"
    if not shutil.which("unshare") or not shutil.which("ip"):
        return "needs unshare and ip (util-linux, iproute2)"
    tried = subprocess.run(
        ["unshare", "--net", "--pid", "--fork", "--mount", "--mount-proc", "true"], capture_output=True, check=False
    )
    return "" if tried.returncode == 0 else f"namespaces are not allowed here: {tried.stderr.decode().strip()}"


def test_nodes_come_when_a_run_asks_and_go_when_it_is_over(tmp_path: Path) -> None:
    if reason := why_not():
        pytest.skip(reason)
    program = (
        "ip link set lo up && mount -t tmpfs tmpfs /dev/shm &&"
        f" exec {sys.executable} tests/integration/autoscaling_run.py {tmp_path}"
    )
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
        timeout=540,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["error"] is None, found
    assert found["ledger"] == {"clips": 24, "lost": 0, "repeated": 0, "quarantined": 0}
    seen = [types for _, types in found["events"]]
    assert seen[0] == ["head"]
    assert any({"head", "teacher", "student", "eval"} <= set(types) for types in seen)
    assert all(types.count("teacher") <= 2 for types in seen)
    assert found["last_nodes"] == ["head"]
    assert found["lines"][0].startswith("waiting up to 120 s for nodes: train: 0 of 1 student processes fit")
    assert found["lines"][1].startswith("the cluster holds every role after")
    print(json.dumps(found["events"]), found["ended_s"])
