"""Programs that start clusters, in network, mount and process namespaces of their own: nothing outlives them."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.ray_command import ray_python

ROOT = Path(__file__).parents[2]


def run_apart(program: str, folder: Path, *, prepare: str = "true", timeout_s: float) -> dict[str, Any]:
    """The JSON object that `program FOLDER` prints last. Skips the test where this machine allows no namespaces.

    ``prepare`` is a shell command that runs before it, inside.
    """
    if reason := why_not():
        pytest.skip(reason)
    python = ray_python(folder)
    inside = f"{prepare} && mount -t tmpfs tmpfs /dev/shm && exec {python} {program} {folder}"
    done = subprocess.run(
        ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--mount", "sh", "-c", inside],
        cwd=ROOT,
        env={
            **os.environ,
            "PATH": f"{python.parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": "a" * 64,
        },
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


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
